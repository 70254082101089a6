//! Chains that are accepted and every kind that is refused, and what removing an authority does.

use super::*;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose as Use, SanType, date_time_ymd,
};
use std::collections::BTreeSet;

/// Within the validity of everything made here.
const NOW: u64 = 1_700_000_000;

struct Ca {
    der: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
}

fn ca_params(name: &str, uri: Option<&str>) -> CertificateParams {
    let mut p = CertificateParams::default();
    p.distinguished_name = DistinguishedName::new();
    p.distinguished_name.push(DnType::CommonName, name);
    p.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
    p.key_usages = vec![Use::KeyCertSign, Use::CrlSign];
    p.not_before = date_time_ymd(2020, 1, 1);
    p.not_after = date_time_ymd(2040, 1, 1);
    p.subject_alt_names = uris(uri.as_slice());
    p
}

fn uris(all: &[&str]) -> Vec<SanType> {
    all.iter()
        .map(|u| SanType::URI((*u).try_into().unwrap()))
        .collect()
}

fn root(p: CertificateParams) -> Ca {
    let key = KeyPair::generate().unwrap();
    Ca {
        der: p.self_signed(&key).unwrap().der().to_vec(),
        issuer: Issuer::new(p, key),
    }
}

fn below(up: &Ca, p: CertificateParams) -> Ca {
    let key = KeyPair::generate().unwrap();
    Ca {
        der: p.signed_by(&key, &up.issuer).unwrap().der().to_vec(),
        issuer: Issuer::new(p, key),
    }
}

fn leaf_params(all: &[&str]) -> CertificateParams {
    let mut p = CertificateParams::default();
    p.distinguished_name = DistinguishedName::new();
    p.is_ca = IsCa::ExplicitNoCa;
    p.key_usages = vec![Use::DigitalSignature];
    p.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    p.not_before = date_time_ymd(2020, 1, 1);
    p.not_after = date_time_ymd(2040, 1, 1);
    p.subject_alt_names = uris(all);
    p
}

const ID: &str = "spiffe://west.mesh.internal/ns/shop/sa/payments";

fn trust(roots: &[&Ca], authorities: &[(&str, &[&Ca])]) -> Trust {
    Trust {
        roots: roots.iter().map(|r| r.der.clone()).collect(),
        authorities: authorities
            .iter()
            .map(|(domain, all)| {
                let all: BTreeSet<_> = all.iter().map(|a| a.der.clone()).collect();
                (TrustDomain::new(domain).unwrap(), all)
            })
            .collect(),
        ..Trust::default()
    }
}

/// One root, west's authority below it, and a map that accepts both.
struct World {
    root: Ca,
    west: Ca,
    trust: Trust,
}

fn world() -> World {
    let root = root(ca_params("root", None));
    let west = below(
        &root,
        ca_params("west", Some("spiffe://west.mesh.internal")),
    );
    let trust = trust(&[&root], &[("west.mesh.internal", &[&west])]);
    World { root, west, trust }
}

fn verdict(trust: &Trust, leaf: &Ca) -> Result<PeerIdentity, Refused> {
    let map = TrustMap::compile(trust).unwrap();
    let both = [Usage::Client, Usage::Server].map(|usage| map.verify(&leaf.der, NOW, usage));
    assert_eq!(both[0], both[1]);
    both[0].clone()
}

#[test]
fn a_member_is_accepted_and_named() {
    let w = world();
    let peer = verdict(&w.trust, &below(&w.west, leaf_params(&[ID]))).unwrap();
    assert_eq!(peer.id.as_str(), ID);
    assert_eq!(peer.authority_sha256, sha256(&w.west.der));
    assert!(TrustMap::compile(&w.trust).unwrap().accepts(&peer));
}

#[test]
fn leaves_that_break_a_rule_are_refused_for_it() {
    let w = world();
    type Change = fn(&mut CertificateParams);
    let cases: &[(Change, Refused)] = &[
        (|p| p.subject_alt_names.clear(), Refused::NoSpiffeId),
        (
            |p| p.subject_alt_names = uris(&["https://west.mesh.internal/x"]),
            Refused::NoSpiffeId,
        ),
        (
            |p| p.subject_alt_names = uris(&["spiffe://west.mesh.internal"]),
            Refused::NoSpiffeId,
        ),
        (
            |p| p.subject_alt_names = uris(&[ID, "spiffe://west.mesh.internal/ns/a/sa/b"]),
            Refused::ManyNames,
        ),
        (
            |p| p.subject_alt_names = uris(&["https://example.com/", ID]),
            Refused::ManyNames,
        ),
        (
            |p| p.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)),
            Refused::MaySign,
        ),
        (|p| p.key_usages.push(Use::KeyCertSign), Refused::MaySign),
        (|p| p.key_usages.push(Use::CrlSign), Refused::MaySign),
        (|p| p.key_usages.clear(), Refused::WrongKeyUsage),
        (
            |p| p.key_usages = vec![Use::KeyAgreement],
            Refused::WrongKeyUsage,
        ),
        (
            |p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth],
            Refused::WrongKeyUsage,
        ),
        (
            |p| p.not_after = date_time_ymd(2021, 1, 1),
            Refused::Expired,
        ),
        (
            |p| p.not_before = date_time_ymd(2039, 1, 1),
            Refused::NotYetValid,
        ),
    ];
    for (at, (change, expected)) in cases.iter().enumerate() {
        let mut p = leaf_params(&[ID]);
        change(&mut p);
        let got = verdict(&w.trust, &below(&w.west, p));
        assert_eq!(got, Err(*expected), "case {at}");
    }
    // Other kinds of names are allowed beside the one id.
    let mut p = leaf_params(&[ID]);
    p.subject_alt_names
        .push(SanType::DnsName("payments.shop".try_into().unwrap()));
    assert!(verdict(&w.trust, &below(&w.west, p)).is_ok());
}

#[test]
fn a_key_usage_that_is_not_critical_is_refused() {
    let w = world();
    let mut p = leaf_params(&[ID]);
    p.key_usages.clear();
    // keyUsage, digitalSignature alone, without the critical flag.
    p.custom_extensions = vec![rcgen::CustomExtension::from_oid_content(
        &[2, 5, 29, 15],
        vec![3, 2, 7, 0x80],
    )];
    let got = verdict(&w.trust, &below(&w.west, p));
    assert_eq!(got, Err(Refused::WrongKeyUsage));
}

#[test]
fn an_authority_speaks_for_its_own_domain_only() {
    let w = world();
    let east = below(
        &w.root,
        ca_params("east", Some("spiffe://east.mesh.internal")),
    );
    let both = trust(
        &[&w.root],
        &[
            ("west.mesh.internal", &[&w.west]),
            ("east.mesh.internal", &[&east]),
        ],
    );
    let posing = below(&east, leaf_params(&[ID]));
    assert_eq!(verdict(&both, &posing), Err(Refused::UnknownAuthority));
    // Standing under another's domain in the map does not help either: its own name is checked.
    let planted = trust(&[&w.root], &[("west.mesh.internal", &[&east])]);
    assert_eq!(verdict(&planted, &posing), Err(Refused::UnknownTrustDomain));
    let map = TrustMap::compile(&planted).unwrap();
    assert_eq!(map.left_out()[0].sha256, sha256(&east.der));
}

#[test]
fn removing_an_authority_revokes_what_it_signed() {
    let w = world();
    let leaf = below(&w.west, leaf_params(&[ID]));
    let cell = TrustCell::new(&w.trust).unwrap();
    let peer = cell.load().verify(&leaf.der, NOW, Usage::Client).unwrap();
    let watch = cell.watch();
    // The successor's certificates are accepted, the former one's are not.
    let next = below(
        &w.root,
        ca_params("west 2", Some("spiffe://west.mesh.internal")),
    );
    cell.set(&trust(&[&w.root], &[("west.mesh.internal", &[&next])]))
        .unwrap();
    assert!(watch.has_changed().unwrap());
    assert!(!cell.load().accepts(&peer));
    let refused = cell.load().verify(&leaf.der, NOW, Usage::Client);
    assert_eq!(refused, Err(Refused::UnknownAuthority));
    let renewed = below(&next, leaf_params(&[ID]));
    assert!(cell.load().verify(&renewed.der, NOW, Usage::Client).is_ok());
    // No authority at all: the cluster is gone.
    cell.set(&trust(&[&w.root], &[])).unwrap();
    let refused = cell.load().verify(&renewed.der, NOW, Usage::Client);
    assert_eq!(refused, Err(Refused::UnknownTrustDomain));
}

#[test]
fn other_roots_and_longer_or_shorter_chains_are_refused() {
    let w = world();
    let elsewhere = world();
    let foreign = below(&elsewhere.west, leaf_params(&[ID]));
    assert_eq!(verdict(&w.trust, &foreign), Err(Refused::UnknownAuthority));
    // An authority in the map, but of another root.
    let mixed = trust(&[&w.root], &[("west.mesh.internal", &[&elsewhere.west])]);
    assert_eq!(verdict(&mixed, &foreign), Err(Refused::UnknownAuthority));
    // Signed by the root itself.
    let direct = below(&w.root, leaf_params(&[ID]));
    assert_eq!(verdict(&w.trust, &direct), Err(Refused::UnknownAuthority));
    // Below a CA that the authority made: not in the map, and two between leaf and root if it were.
    let sub = below(
        &w.west,
        ca_params("sub", Some("spiffe://west.mesh.internal")),
    );
    let deep = below(&sub, leaf_params(&[ID]));
    assert_eq!(verdict(&w.trust, &deep), Err(Refused::UnknownAuthority));
    let with_sub = trust(&[&w.root], &[("west.mesh.internal", &[&w.west, &sub])]);
    assert_eq!(verdict(&with_sub, &deep), Err(Refused::UnknownAuthority));
}

#[test]
fn a_root_past_its_end_vouches_for_nobody() {
    let mut p = ca_params("root", None);
    p.not_after = date_time_ymd(2022, 1, 1);
    let root = root(p);
    let west = below(
        &root,
        ca_params("west", Some("spiffe://west.mesh.internal")),
    );
    let trust = trust(&[&root], &[("west.mesh.internal", &[&west])]);
    let leaf = below(&west, leaf_params(&[ID]));
    assert_eq!(verdict(&trust, &leaf), Err(Refused::Expired));
}

#[test]
fn a_map_without_roots_is_not_taken_and_the_former_stays() {
    let w = world();
    let cell = TrustCell::new(&w.trust).unwrap();
    assert_eq!(cell.set(&Trust::default()), Err(TrustError::NoRoot));
    let mut broken = w.trust.clone();
    broken.roots = [vec![1, 2, 3]].into();
    assert_eq!(cell.set(&broken), Err(TrustError::NoUsableRoot(1)));
    let leaf = below(&w.west, leaf_params(&[ID]));
    assert!(cell.load().verify(&leaf.der, NOW, Usage::Server).is_ok());
    assert!(TrustCell::empty().load().is_empty());
}

#[test]
fn an_authority_that_may_not_sign_certificates_is_left_out() {
    let w = world();
    let mut p = ca_params("west", Some("spiffe://west.mesh.internal"));
    p.key_usages = vec![Use::CrlSign];
    let weak = below(&w.root, p);
    let trust = trust(&[&w.root], &[("west.mesh.internal", &[&weak])]);
    let leaf = below(&weak, leaf_params(&[ID]));
    assert_eq!(verdict(&trust, &leaf), Err(Refused::UnknownTrustDomain));
}

#[test]
fn damaged_certificates_never_panic() {
    let w = world();
    let map = TrustMap::compile(&w.trust).unwrap();
    let leaf = below(&w.west, leaf_params(&[ID])).der;
    for cut in 0..leaf.len() {
        assert!(map.verify(&leaf[..cut], NOW, Usage::Client).is_err());
    }
    for at in 0..leaf.len() {
        let mut bent = leaf.clone();
        bent[at] ^= 0x55;
        assert!(map.verify(&bent, NOW, Usage::Client).is_err(), "byte {at}");
    }
    let mut long = leaf;
    long.push(0);
    let refused = map.verify(&long, NOW, Usage::Client);
    assert_eq!(refused, Err(Refused::Malformed));
}

#[test]
fn labels_are_distinct() {
    let labels: BTreeSet<_> = Refused::ALL.iter().map(|r| r.as_str()).collect();
    assert_eq!(labels.len(), Refused::ALL.len());
}
