//! The thread that carries packets: reads what the kernel routed to the device, holds each until its line says that it arrives,
//! and writes it back. Owns the device and the packets under way.
//!
//! A thread of its own with its own timer, so that what is measured over the lines waits for no runtime's next millisecond.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    io,
    os::fd::AsFd as _,
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, ppoll},
    sys::{eventfd::EventFd, time::TimeSpec},
    time::{ClockId, clock_gettime},
};

use super::{Direction, Directions, line::Fate, packet, tun::Tun};

/// Longer than any packet that a device with the usual limit takes.
const BUFFER: usize = 64 << 10;
/// Packets read before those that are due are written: neither side waits for the other for long.
const BATCH: usize = 64;
/// Bytes under way at most: two seconds of 300 Mbit/s. What is more is lost, as in a full queue.
const MAX_UNDER_WAY: usize = 80 << 20;
/// Buffers kept for the next packets.
const MAX_SPARE: usize = 1_024;

/// A packet under way. The earlier it arrives, the greater; among those that arrive together, the one that was sent first.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct UnderWay {
    order: Reverse<(Duration, u64)>,
    bytes: Vec<u8>,
}

/// The running thread.
pub(super) struct Carrier {
    stop: Arc<EventFd>,
    thread: JoinHandle<()>,
}

impl Carrier {
    pub(super) fn start(
        tun: Tun,
        directions: Arc<Mutex<Directions>>,
        prefix: [u8; 2],
        seed: u64,
    ) -> io::Result<Self> {
        let stop = Arc::new(EventFd::new()?);
        let mut work = Work {
            tun,
            stop: Arc::clone(&stop),
            directions,
            prefix,
            rng: fastrand::Rng::with_seed(seed),
            under_way: BinaryHeap::new(),
            bytes_under_way: 0,
            sent: 0,
            spare: Vec::new(),
        };
        let thread = std::thread::Builder::new()
            .name("wan".to_owned())
            .spawn(move || {
                if let Err(error) = work.run() {
                    eprintln!("the lab's network has ended: {error}");
                }
            })?;
        Ok(Self { stop, thread })
    }

    pub(super) fn stop(self) {
        // A thread that ended by itself hears nothing, and has said why.
        let _: nix::Result<usize> = self.stop.write(1);
        drop(self.thread.join());
    }
}

struct Work {
    tun: Tun,
    stop: Arc<EventFd>,
    directions: Arc<Mutex<Directions>>,
    prefix: [u8; 2],
    rng: fastrand::Rng,
    under_way: BinaryHeap<UnderWay>,
    bytes_under_way: usize,
    sent: u64,
    spare: Vec<Vec<u8>>,
}

impl Work {
    fn run(&mut self) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER];
        while !self.wait()? {
            self.take(&mut buffer)?;
            self.give()?;
        }
        Ok(())
    }

    /// Until there is a packet to read or one is due; true when it is time to end.
    fn wait(&self) -> io::Result<bool> {
        let due = match self.under_way.peek() {
            Some(next) => Some(TimeSpec::from_duration(
                next.order.0.0.saturating_sub(now()?),
            )),
            None => None,
        };
        let mut polled = [
            PollFd::new(self.stop.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.tun.as_fd(), PollFlags::POLLIN),
        ];
        match ppoll(&mut polled, due, None) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
        let [stop, _] = polled;
        Ok(stop.any().unwrap_or_default())
    }

    fn take(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        for _ in 0..BATCH {
            let Some(length) = self.tun.receive(buffer)? else {
                break;
            };
            let read = buffer.get(..length).unwrap_or_default();
            let Some(direction) = packet::clusters(read, self.prefix) else {
                continue;
            };
            if let Fate::Arrives(at) = self.decide(direction, length)? {
                let mut bytes = self.spare.pop().unwrap_or_default();
                bytes.clear();
                bytes.extend_from_slice(read);
                self.bytes_under_way += length;
                self.sent += 1;
                self.under_way.push(UnderWay {
                    order: Reverse((at, self.sent)),
                    bytes,
                });
            }
        }
        Ok(())
    }

    fn decide(&mut self, direction: Direction, length: usize) -> io::Result<Fate> {
        let dice = [self.rng.f64(), self.rng.f64()];
        let full = self.bytes_under_way + length > MAX_UNDER_WAY;
        let now = now()?;
        let mut directions = self
            .directions
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let (line, counts) = directions.line(direction);
        let fate = if full {
            Fate::Lost(super::Loss::Queue)
        } else {
            line.send(length, now, dice)
        };
        counts.book(&fate);
        Ok(fate)
    }

    /// Writes what is due.
    fn give(&mut self) -> io::Result<()> {
        let now = now()?;
        while self
            .under_way
            .peek()
            .is_some_and(|next| next.order.0.0 <= now)
        {
            let Some(UnderWay { bytes, .. }) = self.under_way.pop() else {
                break;
            };
            self.bytes_under_way -= bytes.len();
            // What the kernel does not take is lost, as on any network: for want of memory, or since the device is down.
            drop(self.tun.deliver(&bytes));
            if self.spare.len() < MAX_SPARE {
                self.spare.push(bytes);
            }
        }
        Ok(())
    }
}

/// Since the machine started. Not tokio's clock, which a test may pause while packets go on.
fn now() -> io::Result<Duration> {
    let time: Duration = clock_gettime(ClockId::CLOCK_MONOTONIC)?.into();
    Ok(time)
}
