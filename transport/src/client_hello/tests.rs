//! The parser against whole, cut, odd and foreign hellos, and the reader over real sockets.

use super::*;
use proptest::prelude::*;
use rustls::{ClientConfig, ClientConnection, RootCertStore, pki_types::ServerName};
use std::{sync::Arc, time::Duration};
use tokio::io::AsyncWriteExt;

const NAME: &str = "any.80.payments.shop.west.gw.mesh.internal";

/// What rustls sends first when it dials `name`.
fn hello_for(name: &str) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut sent = Vec::new();
    client.write_tls(&mut sent).unwrap();
    sent
}

/// The same handshake message, cut into records of at most `n` bytes.
fn in_records(hello: &[u8], n: usize) -> Vec<u8> {
    hello[RECORD_HEADER..]
        .chunks(n)
        .flat_map(|part| {
            let length = u16::try_from(part.len()).unwrap().to_be_bytes();
            [&[22, 3, 1], &length[..], part].concat()
        })
        .collect()
}

/// A hello with these extensions and nothing to speak of besides.
fn made_of(extensions: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0x13, 0x01, 1, 0]);
    let list: Vec<u8> = extensions
        .iter()
        .flat_map(|(kind, content)| {
            let length = u16::try_from(content.len()).unwrap();
            [&kind.to_be_bytes()[..], &length.to_be_bytes(), content].concat()
        })
        .collect();
    body.extend(u16::try_from(list.len()).unwrap().to_be_bytes());
    body.extend(list);
    wrap(&body)
}

fn wrap(body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    let message = [&[1], &length[1..], body].concat();
    in_records(&[&[0; RECORD_HEADER], &message[..]].concat(), MAX_RECORD)
}

fn server_names(all: &[(u8, &[u8])]) -> Vec<u8> {
    let list: Vec<u8> = all
        .iter()
        .flat_map(|(kind, name)| {
            let length = u16::try_from(name.len()).unwrap().to_be_bytes();
            [&[*kind], &length[..], name].concat()
        })
        .collect();
    let length = u16::try_from(list.len()).unwrap().to_be_bytes();
    [&length[..], &list].concat()
}

#[test]
fn a_real_hello_is_read_whole_and_no_earlier() {
    let hello = hello_for(NAME);
    assert!(hello.len() > 1200, "has the hybrid key share");
    for cut in 0..hello.len() {
        assert_eq!(parse(&hello[..cut]), Hello::Incomplete, "{cut}");
    }
    assert_eq!(parse(&hello), Hello::Name(NAME.into()));
    let followed = [&hello[..], b"more"].concat();
    assert_eq!(parse(&followed), Hello::Name(NAME.into()));
    assert_eq!(parse(&hello_for("127.0.0.1")), Hello::NoName);
}

#[test]
fn a_hello_in_many_records_is_put_together() {
    let hello = hello_for(NAME);
    for n in [1, 2, 3, 4, 5, 100, 1000] {
        let cut = in_records(&hello, n);
        assert_eq!(parse(&cut), Hello::Name(NAME.into()), "records of {n}");
        for end in 0..cut.len().min(400) {
            assert_eq!(
                parse(&cut[..end]),
                Hello::Incomplete,
                "records of {n} to {end}"
            );
        }
    }
}

#[test]
fn other_bytes_are_refused_at_once() {
    for bytes in [
        &b"G"[..],
        b"\x15",
        b"\x16\x02",
        b"\x16\x03\x01\x00\x00",
        b"\x16\x03\x01\x40\x01",
        b"\x16\x03\x01\x00\x05\x02",
        b"\x80\x2e\x01",
    ] {
        assert_eq!(parse(bytes), Hello::NotTls, "{bytes:?}");
    }
}

#[test]
fn server_names_are_read_strictly() {
    let name = |b: &[u8]| (0, server_names(&[(0, b)]));
    assert_eq!(parse(&made_of(&[])), Hello::NoName);
    assert_eq!(parse(&made_of(&[(43, vec![1])])), Hello::NoName);
    assert_eq!(
        parse(&made_of(&[(43, vec![1]), name(b"a.b")])),
        Hello::Name("a.b".into())
    );
    let long = vec![b'a'; 254];
    for (why, extensions) in [
        ("twice", vec![name(b"a"), name(b"b")]),
        (
            "two in one list",
            vec![(0, server_names(&[(0, b"a"), (0, b"b")]))],
        ),
        ("another kind", vec![(0, server_names(&[(1, b"a")]))]),
        ("no bytes", vec![name(b"")]),
        ("too long", vec![name(&long)]),
        ("not ASCII", vec![name("é".as_bytes())]),
        ("control characters", vec![name(b"a\0b")]),
        ("a list that is cut", vec![(0, vec![0, 9, 0, 0, 1, b'a'])]),
        ("empty content", vec![(0, vec![])]),
        (
            "something after the list",
            vec![(0, [server_names(&[(0, b"a")]), vec![0]].concat())],
        ),
    ] {
        assert_eq!(parse(&made_of(&extensions)), Hello::NotTls, "{why}");
    }
}

#[test]
fn what_does_not_fit_is_too_large() {
    // Says at once that it is too long.
    assert_eq!(parse(&[22, 3, 1, 0x40, 0, 1, 0, 0x40, 0]), Hello::TooLarge);
    // Stays below the bound, but not with its record headers.
    let body = made_of(&[(0xff01, vec![0; 14 << 10])]);
    let many = in_records(&body, 8);
    assert_eq!(parse(&many), Hello::TooLarge);
    assert_eq!(parse(&many[..MAX_HELLO - 1]), Hello::Incomplete);
}

proptest! {
    #[test]
    fn never_panics_and_never_changes_its_mind(
        garbage in prop::collection::vec(any::<u8>(), 0..400),
        at in 0usize..400,
        records in 1usize..300,
    ) {
        let _ = parse(&garbage);
        // A good hello with something wrong in the middle.
        let mut bent = in_records(&made_of(&[(0, server_names(&[(0, NAME.as_bytes())]))]), records);
        let start = at.min(bent.len());
        let end = (start + garbage.len().min(8)).min(bent.len());
        bent[start..end].copy_from_slice(&garbage[..end - start]);
        let mut before = Hello::Incomplete;
        for cut in 0..=bent.len() {
            let now = parse(&bent[..cut]);
            if before != Hello::Incomplete {
                prop_assert_eq!(&now, &before, "at {}", cut);
            }
            before = now;
        }
    }

    #[test]
    fn the_answer_does_not_depend_on_the_records(records in 1usize..2000) {
        prop_assert_eq!(parse(&in_records(&hello_for(NAME), records)), Hello::Name(NAME.into()));
    }
}

#[tokio::test]
async fn reading_puts_packets_together_and_returns_every_byte() {
    let hello = hello_for(NAME);
    let (mut near, mut far) = tokio::io::duplex(100);
    let send = async { far.write_all(&hello).await.unwrap() };
    let deadline = Instant::now() + Duration::from_secs(5);
    let (read, ()) = tokio::join!(read_hello(&mut near, deadline), send);
    let (bytes, found) = read.unwrap();
    assert_eq!(found, Hello::Name(NAME.into()));
    assert_eq!(&bytes[..], &hello[..]);
}

#[tokio::test(start_paused = true)]
async fn slow_and_cut_connections_are_errors() {
    let hello = hello_for(NAME);
    let (mut near, mut far) = tokio::io::duplex(4096);
    far.write_all(&hello[..100]).await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(1);
    let slow = read_hello(&mut near, deadline).await.unwrap_err();
    assert_eq!(slow.kind(), io::ErrorKind::TimedOut);
    far.write_all(&hello[..100]).await.unwrap();
    drop(far);
    let deadline = Instant::now() + Duration::from_secs(1);
    let cut = read_hello(&mut near, deadline).await.unwrap_err();
    assert_eq!(cut.kind(), io::ErrorKind::UnexpectedEof);
}
