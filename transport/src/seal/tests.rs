//! What must hold of seals, whatever the content: they read back, any change is refused, and no other pair opens them.

use proptest::prelude::*;

use super::{keys::SealKey, *};

fn name(text: &str) -> ClusterName {
    ClusterName::new(text).unwrap()
}

/// A federation's clusters with one seal key each.
struct World {
    domain: Domain,
    clusters: Vec<(ClusterName, SealKey)>,
}

impl World {
    fn new() -> Self {
        let key = |name_of: &str| (name(name_of), SealKey::generate().unwrap());
        Self {
            domain: Domain::default(),
            clusters: ["west", "east", "south"].map(key).into(),
        }
    }

    fn pair(&self, caller: usize, target: usize) -> Pair<'_> {
        Pair {
            domain: &self.domain,
            caller: &self.clusters[caller].0,
            target: &self.clusters[target].0,
        }
    }

    fn minter(&self, caller: usize, target: usize) -> Minter {
        let pair = self.pair(caller, target);
        let (own, other) = (&self.clusters[caller].1, &self.clusters[target].1);
        let key = own.minting(&pair, other.public()).unwrap();
        key.minter(&pair).unwrap()
    }

    fn opener(&self, caller: usize, target: usize) -> Opener {
        let pair = self.pair(caller, target);
        let (other, own) = (&self.clusters[caller].1, &self.clusters[target].1);
        let key = own.opening(&pair, other.public()).unwrap();
        key.opener(&pair).unwrap()
    }
}

/// A moment in 2026.
const NOW: u64 = EPOCH_UNIX_S + 50_000_000;

fn content() -> Content {
    Content {
        service: ServiceId::of(&"shop/payments".parse().unwrap()),
        port: 80,
        expires_unix_s: NOW + 86_400,
    }
}

#[test]
fn a_seal_opens_for_its_own_pair_and_direction_alone() {
    let world = World::new();
    let seal = world.minter(0, 1).mint(&content()).unwrap();
    assert_eq!(world.opener(0, 1).open(&seal, NOW), Ok(content()));
    for (caller, target) in [(1, 0), (0, 2), (2, 1), (2, 0), (1, 2), (0, 0), (1, 1)] {
        let opener = world.opener(caller, target);
        assert_eq!(opener.open(&seal, NOW), Err(Unopened::Broken));
        // Not for want of the right id either.
        let mut forged = seal;
        forged.0[..ID_BYTES].copy_from_slice(&opener.id().0.to_be_bytes());
        assert_eq!(opener.open(&forged, NOW), Err(Unopened::Broken));
    }
    // Another federation with the very same keys.
    let elsewhere = Domain::new("other.example").unwrap();
    let pair = Pair {
        domain: &elsewhere,
        ..world.pair(0, 1)
    };
    let key = world.clusters[1]
        .1
        .opening(&pair, world.clusters[0].1.public());
    let opener = key.unwrap().opener(&pair).unwrap();
    assert_eq!(opener.open(&seal, NOW), Err(Unopened::Broken));
}

#[test]
fn a_seal_ends_with_its_second() {
    let world = World::new();
    let seal = world.minter(0, 1).mint(&content()).unwrap();
    let (opener, end) = (world.opener(0, 1), content().expires_unix_s);
    assert!(opener.open(&seal, end - 1).is_ok());
    assert_eq!(opener.open(&seal, end), Err(Unopened::Expired { ago_s: 0 }));
    assert_eq!(
        opener.open(&seal, end + 60),
        Err(Unopened::Expired { ago_s: 60 })
    );
    // Before the format's clock there is nothing: such a seal was never good.
    let old = Content {
        expires_unix_s: 5,
        ..content()
    };
    let seal = world.minter(0, 1).mint(&old).unwrap();
    assert!(matches!(
        opener.open(&seal, NOW),
        Err(Unopened::Expired { .. })
    ));
}

#[test]
fn there_is_one_way_to_write_a_seal() {
    let world = World::new();
    let seal = world.minter(0, 1).mint(&content()).unwrap();
    let label = seal.label();
    assert_eq!(label.len(), LABEL_CHARS);
    assert!(tradewind_api::id::is_label(&label), "{label}");
    assert_eq!(Seal::parse(&label), Some(seal));
    assert_eq!(Seal::parse(&label.to_ascii_uppercase()), Some(seal));
    // Three bits at the end say nothing, so they must be zero.
    let symbols = "abcdefghijklmnopqrstuvwxyz234567";
    let last = symbols.find(label.chars().last().unwrap()).unwrap();
    for bent in (0..8).map(|low| last | low).filter(|bent| *bent != last) {
        let mut other = label.clone();
        other.pop();
        other.push(symbols.as_bytes()[bent].into());
        assert_eq!(Seal::parse(&other), None, "{other}");
    }
    for other in [
        "",
        "any",
        label.get(1..).unwrap(),
        &format!("{label}a"),
        &label.replace(char::is_alphabetic, "1"),
    ] {
        assert_eq!(Seal::parse(other), None, "{other}");
    }
}

#[test]
fn controllers_of_one_cluster_mint_the_same_names() {
    let world = World::new();
    let one = world.minter(0, 1).mint(&content()).unwrap();
    assert_eq!(world.minter(0, 1).mint(&content()), Ok(one));
    let later = Content {
        expires_unix_s: content().expires_unix_s + 1,
        ..content()
    };
    assert_ne!(world.minter(0, 1).mint(&later), Ok(one));
}

/// How long one seal takes to open. Run it with `--release --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn what_opening_costs() {
    const ROUNDS: u32 = 1_000_000;
    let world = World::new();
    let (minter, opener) = (world.minter(0, 1), world.opener(0, 1));
    let label = minter.mint(&content()).unwrap().label();
    let clock = tradewind_runtime::clock::system();
    let per = |begun| {
        let whole: std::time::Duration = clock.now() - begun;
        whole.as_nanos() / u128::from(ROUNDS)
    };
    let begun = clock.now();
    for _ in 0..ROUNDS {
        let seal = Seal::parse(std::hint::black_box(&label)).unwrap();
        std::hint::black_box(opener.open(&seal, NOW)).unwrap();
    }
    println!("read and open: {} ns", per(begun));
    let begun = clock.now();
    for _ in 0..ROUNDS {
        std::hint::black_box(minter.mint(std::hint::black_box(&content()))).unwrap();
    }
    println!("mint: {} ns", per(begun));
}

proptest! {
    #[test]
    fn what_is_minted_reads_back(service: u64, port: u16, expiry: u32, at: u32) {
        let world = World::new();
        let content = Content {
            service: ServiceId(service),
            port,
            expires_unix_s: EPOCH_UNIX_S + u64::from(expiry),
        };
        let label = world.minter(2, 0).mint(&content).unwrap().label();
        prop_assert_eq!(label.len(), LABEL_CHARS);
        let seal = Seal::parse(&label).unwrap();
        let now = EPOCH_UNIX_S + u64::from(at);
        match world.opener(2, 0).open(&seal, now) {
            Ok(opened) => prop_assert!(opened == content && at < expiry),
            Err(error) => {
                prop_assert_eq!(error, Unopened::Expired { ago_s: u64::from(at) - u64::from(expiry) });
            }
        }
    }

    #[test]
    fn any_bit_flipped_is_refused(bit in 0..SEAL_BYTES * 8, service: u64) {
        let world = World::new();
        let sealed = Content { service: ServiceId(service), ..content() };
        let mut seal = world.minter(0, 1).mint(&sealed).unwrap();
        seal.0[bit / 8] ^= 1 << (bit % 8);
        prop_assert_eq!(world.opener(0, 1).open(&seal, NOW), Err(Unopened::Broken));
    }

    #[test]
    fn any_label_is_answered(label in "[a-zA-Z2-9.-]{0,70}", bytes: [u8; 32]) {
        let world = World::new();
        let _ = Seal::parse(&label).map(|seal| world.opener(0, 1).open(&seal, NOW));
        // As many bytes as a seal has.
        let mut all = bytes.to_vec();
        all.extend_from_slice(&bytes[..7]);
        let seal = Seal::parse(&ENCODING.encode(&all)).unwrap();
        prop_assert_eq!(world.opener(0, 1).open(&seal, NOW), Err(Unopened::Broken));
    }
}
