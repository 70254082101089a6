//! Bounds on what peers can make a gateway hold: connections in all, half-open handshakes, and one source's share.
//! Counts are exact per thread for handshakes and sources, exact in all for connections.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    net::IpAddr,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tradewind_transport::relay::MAX_PIPES;

/// Handshakes per thread that may wait for the rest of their ClientHello: 16 KiB each, so at most 16 MiB a thread.
const MAX_HALF_OPEN: usize = 1024;
/// The same for one source address: a whole cluster may stand behind one address, one stranger must not take all.
const MAX_HALF_OPEN_PER_SOURCE: usize = 256;
/// Descriptors kept for listeners, the controller link, probes of other gateways, admin pages and files, and for the pipes
/// that bytes are spliced through.
const RESERVED_FDS: u64 = 128 + 2 * MAX_PIPES as u64;
/// Descriptors one connection needs: two sockets.
const FDS_PER_CONNECTION: u64 = 2;
/// Beyond this many connections memory is the limit, not descriptors.
const MAX_CONNECTIONS: u64 = 1 << 20;

/// What the descriptor limit allows, after raising the soft limit to the hard one.
pub(crate) fn connections_by_fds() -> usize {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((1024, 1024));
    let limit = match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => hard,
        Err(_) => soft,
    };
    let connections = limit.saturating_sub(RESERVED_FDS) / FDS_PER_CONNECTION;
    usize::try_from(connections.clamp(16, MAX_CONNECTIONS)).unwrap_or(16)
}

/// The bound on connections in all threads.
#[derive(Debug)]
pub(crate) struct Limits {
    max: usize,
    active: AtomicUsize,
}

impl Limits {
    pub(crate) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self {
            max,
            active: AtomicUsize::new(0),
        })
    }

    pub(crate) fn max(&self) -> usize {
        self.max
    }

    pub(crate) fn active(&self) -> usize {
        self.active.load(Ordering::Relaxed)
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Source {
    half_open: usize,
    connections: usize,
}

/// One thread's counts.
#[derive(Debug)]
pub(crate) struct ThreadLimits {
    shared: Arc<Limits>,
    half_open: Cell<usize>,
    // Entries go when their counts reach 0, so this is bounded by the connections.
    sources: RefCell<HashMap<IpAddr, Source>>,
}

impl ThreadLimits {
    pub(crate) fn new(shared: Arc<Limits>) -> Rc<Self> {
        Rc::new(Self {
            shared,
            half_open: Cell::new(0),
            sources: RefCell::default(),
        })
    }

    /// Takes a place for a connection from `source` whose hello is still to come; none when a bound is reached.
    pub(crate) fn admit(self: &Rc<Self>, source: IpAddr) -> Option<(Place, HalfOpen)> {
        if self.half_open.get() >= MAX_HALF_OPEN {
            return None;
        }
        let mut sources = self.sources.borrow_mut();
        let counts = sources.get(&source).copied().unwrap_or_default();
        // One source may hold at most half of all places.
        if counts.half_open >= MAX_HALF_OPEN_PER_SOURCE
            || counts.connections >= (self.shared.max / 2).max(1)
        {
            return None;
        }
        if self.shared.active.fetch_add(1, Ordering::Relaxed) >= self.shared.max {
            self.shared.active.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        let entry = sources.entry(source).or_default();
        entry.half_open += 1;
        entry.connections += 1;
        self.half_open.set(self.half_open.get() + 1);
        let limits = Rc::clone(self);
        Some((
            Place {
                limits: Rc::clone(self),
                source,
            },
            HalfOpen { limits, source },
        ))
    }

    fn release(&self, source: IpAddr, change: impl FnOnce(&mut Source)) {
        let mut sources = self.sources.borrow_mut();
        if let Some(entry) = sources.get_mut(&source) {
            change(entry);
            if entry.connections == 0 && entry.half_open == 0 {
                sources.remove(&source);
            }
        }
    }
}

/// A connection's place; given back on drop.
#[derive(Debug)]
pub(crate) struct Place {
    limits: Rc<ThreadLimits>,
    source: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.limits.shared.active.fetch_sub(1, Ordering::Relaxed);
        self.limits.release(self.source, |s| {
            s.connections = s.connections.saturating_sub(1)
        });
    }
}

/// A handshake's place; given back on drop.
#[derive(Debug)]
pub(crate) struct HalfOpen {
    limits: Rc<ThreadLimits>,
    source: IpAddr,
}

impl Drop for HalfOpen {
    fn drop(&mut self) {
        let left = self.limits.half_open.get().saturating_sub(1);
        self.limits.half_open.set(left);
        self.limits
            .release(self.source, |s| s.half_open = s.half_open.saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_come_back_and_one_source_cannot_take_all() {
        let shared = Limits::new(4);
        let t = ThreadLimits::new(Arc::clone(&shared));
        let (a, b): (IpAddr, IpAddr) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let held: Vec<_> = (0..2).map(|_| t.admit(a).unwrap()).collect();
        assert!(t.admit(a).is_none(), "half of all is one source's bound");
        let other: Vec<_> = (0..2).map(|_| t.admit(b).unwrap()).collect();
        assert!(t.admit([10, 0, 0, 3].into()).is_none(), "the bound in all");
        drop((held, other));
        assert_eq!(shared.active(), 0);
        assert_eq!(t.half_open.get(), 0);
        assert!(t.sources.borrow().is_empty());
        assert!(t.admit(a).is_some());
    }

    #[test]
    fn half_open_handshakes_of_one_source_are_bounded() {
        let t = ThreadLimits::new(Limits::new(100_000));
        let a: IpAddr = [10, 0, 0, 1].into();
        let mut held: Vec<_> = (0..MAX_HALF_OPEN_PER_SOURCE)
            .map(|_| t.admit(a).unwrap())
            .collect();
        assert!(t.admit(a).is_none());
        let (_place, half_open) = held.pop().unwrap();
        drop(half_open);
        assert!(t.admit(a).is_some());
    }
}
