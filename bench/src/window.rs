//! A window of load: clients run for a warm-up and then for a time, and what the measured processes used within that time
//! is divided by what came through. Owns nothing but the clients, which end with the window.

use std::{
    cell::{Cell, RefCell},
    time::Duration,
};

use futures::{StreamExt as _, stream::FuturesUnordered};
use tokio::time::{Instant, sleep, sleep_until};

use crate::usage;

/// What is left out at the start of every window.
const WARM_UP: Duration = Duration::from_millis(300);

/// What one window showed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Window {
    /// Bytes, connections or messages.
    pub(crate) units: u64,
    pub(crate) seconds: f64,
    /// Of the measured processes.
    pub(crate) cpu_s: f64,
    /// Each message's time, sorted, where that was asked for.
    pub(crate) times: Vec<Duration>,
}

impl Window {
    /// Microseconds of processor time for one unit.
    pub(crate) fn cpu_us_per_unit(&self) -> f64 {
        self.cpu_s * 1e6 / self.units.max(1) as f64
    }

    pub(crate) fn rate(&self) -> f64 {
        self.units as f64 / self.seconds
    }

    /// Microseconds below which `share` of the messages were answered.
    pub(crate) fn quantile_us(&self, share: f64) -> f64 {
        let last = self.times.len().saturating_sub(1);
        let place = (last as f64 * share).round() as usize;
        self.times.get(place).map_or(0.0, |t| t.as_secs_f64() * 1e6)
    }
}

/// What clients count.
#[derive(Debug, Default)]
pub(crate) struct Counted {
    units: Cell<u64>,
    times: RefCell<Vec<Duration>>,
}

impl Counted {
    pub(crate) fn add(&self, units: u64) {
        self.units.set(self.units.get() + units);
    }
}

fn cpu_s(pids: &[u32]) -> Result<f64, String> {
    pids.iter().map(|pid| usage::cpu_s(*pid)).sum()
}

/// Lets the clients run and measures the processes. A client that ends within the window is an error.
pub(crate) async fn measure<C>(
    clients: impl IntoIterator<Item = C>,
    counted: &Counted,
    pids: &[u32],
    time: Duration,
) -> Result<Window, String>
where
    C: Future<Output = Result<(), String>>,
{
    let mut clients: FuturesUnordered<C> = clients.into_iter().collect();
    let window = async {
        sleep(WARM_UP).await;
        counted.times.borrow_mut().clear();
        let (first, cpu, began) = (counted.units.get(), cpu_s(pids)?, Instant::now());
        sleep(time).await;
        Ok(Window {
            units: counted.units.get() - first,
            seconds: began.elapsed().as_secs_f64(),
            cpu_s: cpu_s(pids)? - cpu,
            times: Vec::new(),
        })
    };
    let window: Result<Window, String> = tokio::select! {
        window = window => window,
        Some(ended) = clients.next() => Err(match ended {
            Ok(()) => "a client ended before its time".to_owned(),
            Err(error) => error,
        }),
    };
    drop(clients);
    let mut window = window?;
    window.times = counted.times.take();
    window.times.sort_unstable();
    Ok(window)
}

/// When one of several clients that share a rate sends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    next: Instant,
    every: Duration,
}

impl Pace {
    /// For client number `place` of `clients`, which together send `rate` a second from `start` on.
    pub(crate) fn new(start: Instant, rate: u32, (place, clients): (usize, usize)) -> Self {
        let every = Duration::from_secs_f64(clients as f64 / f64::from(rate));
        Self {
            next: start + every.mul_f64(place as f64 / clients as f64),
            every,
        }
    }

    /// Sends at that pace for ever.
    pub(crate) async fn run(
        mut self,
        counted: &Counted,
        mut exchange: impl AsyncFnMut() -> Result<(), String>,
    ) -> Result<(), String> {
        loop {
            sleep_until(self.next).await;
            // tokio's timers are a millisecond wide: counted from when it was sent, and from when it was due if late.
            let late = self.next.elapsed() > self.every;
            let began = if late { self.next } else { Instant::now() };
            exchange().await?;
            counted.add(1);
            counted.times.borrow_mut().push(began.elapsed());
            self.next += self.every;
        }
    }
}
