//! Keys and boxes, and the vector file: every step of a sealed name with its bytes.

use std::path::Path;

use data_encoding::HEXLOWER;
use serde_json::{Value, json};

use super::*;
use crate::{
    seal::{Content, EPOCH_UNIX_S, Seal, ServiceId},
    server_name::{self, Target},
};

/// Set to write the vector file anew, after a change of format that was meant.
const WRITE: &str = "TRADEWIND_WRITE_VECTORS";

fn key(first: u8) -> SealKey {
    let private: Vec<u8> = (0..32).map(|i| first.wrapping_add(i)).collect();
    SealKey::from_private(Zeroizing::new(private.try_into().unwrap())).unwrap()
}

fn west() -> ClusterName {
    ClusterName::new("west").unwrap()
}

fn for_node(domain: &Domain, cluster: &ClusterName) -> [u8; BOX_BYTES] {
    let to = BoxedFor { domain, cluster };
    key(1).boxed(&to, key(9).public()).unwrap()
}

#[test]
fn a_box_opens_for_its_node_alone() {
    let (domain, west) = (Domain::default(), west());
    let to = BoxedFor {
        domain: &domain,
        cluster: &west,
    };
    let boxed = for_node(&domain, &west);
    let (public, node_key) = (*key(1).public(), key(9));
    let opened = node_key.unboxed(&to, &public, &boxed).unwrap();
    assert_eq!(opened.private(), key(1).private());
    assert!(!boxed.windows(8).any(|w| *w == key(1).private()[..8]));
    assert_ne!(boxed, for_node(&domain, &west), "a key of its own for each");
    assert!(
        key(10).unboxed(&to, &public, &boxed).is_err(),
        "another's key"
    );
    let east = ClusterName::new("east").unwrap();
    let elsewhere = BoxedFor {
        cluster: &east,
        domain: &domain,
    };
    assert!(node_key.unboxed(&elsewhere, &public, &boxed).is_err());
    assert!(
        node_key.unboxed(&to, key(2).public(), &boxed).is_err(),
        "another public key"
    );
    for at in 0..boxed.len() {
        let mut bent = boxed;
        bent[at] ^= 0x40;
        assert!(node_key.unboxed(&to, &public, &bent).is_err(), "byte {at}");
        assert!(
            node_key.unboxed(&to, &public, &boxed[..at]).is_err(),
            "cut at {at}"
        );
    }
}

#[test]
fn both_ends_agree_and_a_point_that_agrees_with_all_is_refused() {
    let (domain, west) = (Domain::default(), west());
    let east = ClusterName::new("east").unwrap();
    let pair = Pair {
        domain: &domain,
        caller: &west,
        target: &east,
    };
    let (caller, target) = (SealKey::generate().unwrap(), SealKey::generate().unwrap());
    let minting = caller.minting(&pair, target.public()).unwrap();
    let opening = target.opening(&pair, caller.public()).unwrap();
    assert_eq!(minting.id(), opening.id());
    assert_eq!(minting.secret(), opening.secret());
    let back = target.minting(&pair, caller.public()).unwrap();
    assert_ne!(back.secret(), minting.secret(), "the other way round");
    assert!(caller.minting(&pair, &[0; 32]).is_err());
    assert!(!format!("{caller:?} {minting:?}").contains(&HEXLOWER.encode(&caller.private()[..4])));
}

/// Every input and every step, as hexadecimal text.
fn vector() -> Value {
    let (domain, west) = (Domain::default(), west());
    let east = ClusterName::new("east").unwrap();
    let pair = Pair {
        domain: &domain,
        caller: &west,
        target: &east,
    };
    let (caller, target, node, once) = (key(1), key(0x41), key(0x81), key(0xc1));
    let pair_key = caller.minting(&pair, target.public()).unwrap();
    let content = Content {
        service: ServiceId::of(&"shop/payments".parse().unwrap()),
        port: 8080,
        expires_unix_s: EPOCH_UNIX_S + 0x0302_0100,
    };
    let seal = pair_key.minter(&pair).unwrap().mint(&content).unwrap();
    let opened = target.opening(&pair, caller.public()).unwrap();
    let opened = opened.opener(&pair).unwrap().open(&seal, EPOCH_UNIX_S);
    assert_eq!(opened, Ok(content));
    let name = server_name::encode(
        &Target::Sealed {
            cluster: east.clone(),
            endpoint: None,
            seal,
        },
        &domain,
    );
    let mut clear = super::super::written(&content).to_vec();
    let salt_key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &*pair_key.salt);
    let salt = aws_lc_rs::hmac::sign(&salt_key, &clear[..14]);
    clear[14..].copy_from_slice(&salt.as_ref()[..5]);
    let to = BoxedFor {
        domain: &domain,
        cluster: &west,
    };
    let boxed = caller.boxed_with(&once, &to, node.public()).unwrap();
    let hex = |bytes: &[u8]| HEXLOWER.encode(bytes);
    json!({
        "about": "A sealed server name, step by step. Bytes are hexadecimal; docs/sealed-names.md explains each.",
        "domain": domain.as_str(),
        "caller": west.as_str(),
        "target": east.as_str(),
        "caller_private": hex(&**caller.private()),
        "caller_public": hex(caller.public()),
        "target_private": hex(&**target.private()),
        "target_public": hex(target.public()),
        "pair_info": hex(&[pair.bound(FOR_PAIR).as_slice(), caller.public(), target.public()].concat()),
        "key": hex(&**pair_key.secret()),
        "salt_key": hex(&*pair_key.salt),
        "key_id": hex(&pair_key.id().0.to_be_bytes()),
        "service": "shop/payments",
        "service_id": hex(&content.service.0.to_be_bytes()),
        "port": content.port,
        "expires_unix_s": content.expires_unix_s,
        "plaintext": hex(&clear),
        "aad": hex(&pair.bound(super::super::PURPOSE)),
        "nonce": hex(&super::super::NONCE),
        "seal": hex(&seal.0),
        "label": seal.label(),
        "server_name": name,
        "box": {
            "node_private": hex(&**node.private()),
            "node_public": hex(node.public()),
            "once_private": hex(&**once.private()),
            "info": hex(&[
                Pair { target: &west, ..pair }.bound(FOR_BOX).as_slice(),
                once.public(), node.public(),
            ].concat()),
            "boxed": hex(&boxed),
        },
    })
}

#[test]
fn the_vector_file_is_what_is_written() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors/sealed-names.json");
    let now = vector();
    if std::env::var_os(WRITE).is_some() {
        let text = serde_json::to_string_pretty(&now).unwrap();
        std::fs::write(&path, format!("{text}\n")).unwrap();
    }
    let file = std::fs::read(&path).unwrap();
    let written: Value = serde_json::from_slice(&file).unwrap();
    assert_eq!(now, written);
    // And it reads back from the file alone.
    let label = written["label"].as_str().unwrap();
    let seal = Seal::parse(label).unwrap();
    assert_eq!(HEXLOWER.encode(&seal.0), written["seal"].as_str().unwrap());
}
