//! Bounds on what peers can make a gateway hold: half-open handshakes, connections that are carried, and those between
//! controllers. Each is a stock of its own, counted over all threads, so that strangers who say nothing take nothing from
//! members, and a member that takes all it can get takes nothing from the rest of the federation or from its controllers.

mod shares;

use std::{
    collections::BTreeMap,
    fmt,
    hash::Hash,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tradewind_api::ClusterName;
use tradewind_transport::relay::MAX_PIPES;

pub(crate) use shares::Full;
use shares::Shares;

/// Handshakes that may wait for the rest of their ClientHello: 16 KiB each, so at most 32 MiB.
const MAX_HALF_OPEN: u64 = 2_048;
/// Connections between controllers: each keeps a few to each other one, and anybody may ask for one.
const MAX_CONTROLLERS: u64 = 256;
/// Of what descriptors there are, one in so many is for half-open handshakes where that is less than their bound.
const HALF_OPEN_OF: u64 = 16;
/// The same for connections between controllers.
const CONTROLLERS_OF: u64 = 64;
/// Fewer than this many of anything would be no service.
const LEAST: u64 = 16;
/// Descriptors kept for listeners, the controller link, probes of other gateways, admin pages and files, and for the pipes
/// that bytes are spliced through.
const RESERVED_FDS: u64 = 128 + 2 * MAX_PIPES as u64;
/// Descriptors one connection needs: two sockets.
const FDS_PER_CONNECTION: u64 = 2;
/// Beyond this many connections memory is the limit, not descriptors.
const MAX_CONNECTIONS: u64 = 1 << 20;
/// What a member alone may hold, in times of what is free: four fifths of all; two of them four ninths each.
const MEMBERS_GREED: usize = 4;
/// The same for a source address before it is known who calls: a whole cluster may stand behind one address, and one
/// stranger must not take all.
const SOURCES_GREED: usize = 1;

/// How much there is of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sizes {
    half_open: usize,
    controllers: usize,
    carried: usize,
}

impl Sizes {
    /// What the descriptor limit allows, after raising the soft limit to the hard one; `carried` where that is set.
    pub(crate) fn here(carried: Option<usize>) -> Self {
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((1024, 1024));
        let limit = match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
            Ok(()) => hard,
            Err(_) => soft,
        };
        let mut sizes = Self::by_descriptors(limit);
        sizes.carried = carried.unwrap_or(sizes.carried);
        sizes
    }

    fn by_descriptors(limit: u64) -> Self {
        let all = limit.saturating_sub(RESERVED_FDS);
        let half_open = (all / HALF_OPEN_OF).clamp(LEAST, MAX_HALF_OPEN);
        let controllers = (all / CONTROLLERS_OF).clamp(LEAST, MAX_CONTROLLERS);
        let left = all.saturating_sub(half_open + controllers * FDS_PER_CONNECTION);
        let size = |n| usize::try_from(n).unwrap_or(usize::MAX);
        Self {
            half_open: size(half_open),
            controllers: size(controllers),
            carried: size((left / FDS_PER_CONNECTION).clamp(LEAST, MAX_CONNECTIONS)),
        }
    }
}

/// Whose a carried connection is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Holder {
    /// A member's, by its sealed name; the own cluster's for what is passed on.
    Member(ClusterName),
    /// A name in clear does not say whose.
    Source(IpAddr),
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Member(name) => write!(f, "{name}"),
            Self::Source(ip) => write!(f, "{ip}"),
        }
    }
}

/// What all threads of a gateway may hold.
#[derive(Debug)]
pub(crate) struct Limits {
    half_open: Stock<IpAddr>,
    controllers: Stock<IpAddr>,
    carried: Stock<Holder>,
    max: usize,
}

impl Limits {
    pub(crate) fn new(sizes: Sizes) -> Arc<Self> {
        let Sizes {
            half_open,
            controllers,
            carried,
        } = sizes;
        Arc::new(Self {
            half_open: Stock::new(half_open, SOURCES_GREED),
            controllers: Stock::new(controllers, SOURCES_GREED),
            carried: Stock::new(carried, MEMBERS_GREED),
            max: carried,
        })
    }

    /// Most connections that are carried at once.
    pub(crate) fn max(&self) -> usize {
        self.max
    }

    /// Connections of all kinds.
    pub(crate) fn active(&self) -> usize {
        self.half_open.held_of().0 + self.controllers.held_of().0 + self.carried.held_of().0
    }

    /// What is taken of what there is, for people.
    pub(crate) fn places(&self) -> serde_json::Value {
        let stock = |(held, places)| serde_json::json!({ "held": held, "places": places });
        serde_json::json!({
            "half_open": stock(self.half_open.held_of()),
            "controllers": stock(self.controllers.held_of()),
            "carried": stock(self.carried.held_of()),
            "carried_by": self.carried.by(),
        })
    }

    /// For a connection whose hello is still to come.
    pub(crate) fn half_open(&self, source: IpAddr) -> Result<Place<IpAddr>, Full> {
        self.half_open.take(source)
    }

    /// For a connection to the controller.
    pub(crate) fn controller(&self, source: IpAddr) -> Result<Place<IpAddr>, Full> {
        self.controllers.take(source)
    }

    /// For a connection that is carried.
    pub(crate) fn carried(&self, holder: Holder) -> Result<Place<Holder>, Full> {
        self.carried.take(holder)
    }
}

/// Shares that threads take from.
#[derive(Debug)]
struct Stock<K>(Arc<Mutex<Shares<K>>>);

impl<K: Clone + Eq + Hash> Stock<K> {
    fn new(places: usize, greed: usize) -> Self {
        Self(Arc::new(Mutex::new(Shares::new(places, greed))))
    }

    fn held_of(&self) -> (usize, usize) {
        let shares = lock(&self.0);
        (shares.held(), shares.places())
    }

    fn by(&self) -> BTreeMap<String, usize>
    where
        K: fmt::Display,
    {
        let shares = lock(&self.0);
        shares.holders().map(|(k, n)| (k.to_string(), n)).collect()
    }

    fn take(&self, holder: K) -> Result<Place<K>, Full> {
        lock(&self.0).take(&holder)?;
        Ok(Place {
            stock: Arc::clone(&self.0),
            holder,
        })
    }
}

/// Held for a few instructions a connection, so threads hardly ever meet.
fn lock<K>(shares: &Mutex<Shares<K>>) -> MutexGuard<'_, Shares<K>> {
    shares.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A place; given back on drop.
#[derive(Debug)]
pub(crate) struct Place<K: Clone + Eq + Hash> {
    stock: Arc<Mutex<Shares<K>>>,
    holder: K,
}

impl<K: Clone + Eq + Hash> Drop for Place<K> {
    fn drop(&mut self) {
        lock(&self.stock).give_back(&self.holder);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_come_back_and_strangers_take_none_of_the_members() {
        let limits = Limits::new(Sizes {
            half_open: 4,
            controllers: 2,
            carried: 5,
        });
        let (a, b): (IpAddr, IpAddr) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let member = |name| Holder::Member(ClusterName::new(name).unwrap());
        let strangers: Vec<_> = (0..2).map(|_| limits.half_open(a).unwrap()).collect();
        assert_eq!(limits.half_open(a).unwrap_err(), Full::Share);
        let other = limits.half_open(b).unwrap();
        let east: Vec<_> = (0..4)
            .map(|_| limits.carried(member("east")).unwrap())
            .collect();
        assert_eq!(limits.carried(member("east")).unwrap_err(), Full::Share);
        let south = limits.carried(member("south")).unwrap();
        assert_eq!(limits.carried(Holder::Source(a)).unwrap_err(), Full::All);
        let controller = limits.controller(a).unwrap();
        assert_eq!(limits.controller(a).unwrap_err(), Full::Share);
        assert_eq!(limits.active(), 9);
        drop((strangers, other, east, south, controller));
        assert_eq!(limits.active(), 0);
        assert!(limits.carried(member("east")).is_ok());
    }

    #[test]
    fn what_there_is_fits_into_the_descriptors() {
        for limit in [1_024, 4_096, 20_000, 65_536, 1 << 20, 1 << 30] {
            let sizes = Sizes::by_descriptors(limit);
            let Sizes {
                half_open,
                controllers,
                carried,
            } = sizes;
            let needs = RESERVED_FDS + (half_open + 2 * (controllers + carried)) as u64;
            assert!(needs <= limit, "{limit}: {sizes:?}");
        }
        let little = Sizes::by_descriptors(64);
        assert_eq!(
            [little.half_open, little.controllers, little.carried],
            [16; 3]
        );
        let usual = Sizes::by_descriptors(1 << 20);
        assert_eq!((usual.half_open, usual.controllers), (2_048, 256));
        assert!(usual.carried > 500_000, "{usual:?}");
    }
}
