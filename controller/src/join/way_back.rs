//! The way back: the joiner answers with a nonce on its gateway addresses, and the member dials them to see it.
//!
//! The line is `tradewind-way-back <hex nonce>`. The nonce is no secret: it only tells the joiner from whoever else may
//! listen at that address.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, lookup_host},
};
use tradewind_runtime::{TaskSet, listen};

use crate::raft_net::within;

const WORD: &str = "tradewind-way-back ";
/// Bytes of a nonce, exactly.
pub(super) const NONCE_BYTES: usize = 16;
/// The word, the nonce in hex and the line's end.
const LINE_BYTES: usize = WORD.len() + 2 * NONCE_BYTES + 1;
/// How long one address may take, all steps together.
const DEADLINE: Duration = Duration::from_secs(2);
/// After an accept error (out of files) the listener rests this long rather than spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Which step of the way back failed, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failed {
    /// `resolve`, `connect` or `answer`.
    pub(super) layer: &'static str,
    /// What happened, with the address.
    pub(super) error: String,
}

/// Listens on every address and answers each connection with the nonce, until dropped.
#[derive(Debug)]
pub(super) struct Answering {
    tasks: TaskSet,
}

impl Answering {
    /// Binds all addresses, or none.
    pub(super) fn start(addresses: &[SocketAddr], nonce: &[u8]) -> Result<Self, listen::BindError> {
        let line = line(nonce);
        let listeners: Vec<TcpListener> = addresses
            .iter()
            .map(|a| listen::bind_tcp(*a, false))
            .collect::<Result<_, _>>()?;
        let mut tasks = TaskSet::new();
        for listener in listeners {
            tasks.spawn("way-back", answer(listener, line.clone()));
        }
        Ok(Self { tasks })
    }

    /// Stops, and returns once the addresses are free again: the gateway takes them next.
    pub(super) async fn stop(mut self) {
        self.tasks.abort_all().await;
    }
}

async fn answer(listener: TcpListener, line: Vec<u8>) {
    loop {
        let Ok((mut stream, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        // One line fits any socket's buffer: a peer that never reads cannot hold the listener up.
        let told = within(DEADLINE, async {
            stream.write_all(&line).await?;
            stream.shutdown().await
        });
        if let Err(error) = told.await {
            tracing::debug!(%error, "a way-back caller went away");
        }
    }
}

fn line(nonce: &[u8]) -> Vec<u8> {
    format!("{WORD}{}\n", data_encoding::HEXLOWER.encode(nonce)).into_bytes()
}

/// Dials every address and compares the answer.
pub(super) async fn check(addresses: &[String], nonce: &[u8]) -> Result<(), Failed> {
    for address in addresses {
        match tokio::time::timeout(DEADLINE, one(address, nonce)).await {
            Ok(checked) => checked?,
            Err(_) => {
                let error = format!("{address}: nothing within {} s", DEADLINE.as_secs());
                return Err(Failed {
                    layer: "connect",
                    error,
                });
            }
        }
    }
    Ok(())
}

async fn one(address: &str, nonce: &[u8]) -> Result<(), Failed> {
    let failed = |layer| {
        move |error: std::io::Error| Failed {
            layer,
            error: format!("{address}: {error}"),
        }
    };
    let resolved: Vec<_> = lookup_host(address)
        .await
        .map_err(failed("resolve"))?
        .collect();
    let stream = TcpStream::connect(resolved.as_slice())
        .await
        .map_err(failed("connect"))?;
    let mut said = Vec::new();
    let limit = u64::try_from(LINE_BYTES).unwrap_or(u64::MAX);
    let mut stream = stream.take(limit);
    within(DEADLINE, stream.read_to_end(&mut said))
        .await
        .map_err(failed("answer"))?;
    if said == line(nonce) {
        return Ok(());
    }
    let error = format!("{address}: somebody else answers there, not the joining cluster");
    Err(Failed {
        layer: "answer",
        error,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn listener() -> (TcpListener, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        (listener, address)
    }

    #[tokio::test]
    async fn the_joiner_is_told_from_everybody_else() {
        let (held, address) = listener().await;
        let socket = held.local_addr().unwrap();
        // Held: the port is in use, and nothing is bound.
        assert!(Answering::start(&[socket], &[7; NONCE_BYTES]).is_err());
        drop(held);
        let failed = check(std::slice::from_ref(&address), &[7; NONCE_BYTES])
            .await
            .unwrap_err();
        assert_eq!(failed.layer, "connect");
        assert!(failed.error.starts_with(&address));

        let _answering = Answering::start(&[socket], &[7; NONCE_BYTES]).unwrap();
        check(std::slice::from_ref(&address), &[7; NONCE_BYTES])
            .await
            .unwrap();
        check(&[address.clone(), address.clone()], &[7; NONCE_BYTES])
            .await
            .unwrap();
        let failed = check(&[address], &[8; NONCE_BYTES]).await.unwrap_err();
        assert_eq!(failed.layer, "answer");
        let failed = check(&["no.such.host.invalid:1".to_owned()], &[8; NONCE_BYTES])
            .await
            .unwrap_err();
        assert_eq!(failed.layer, "resolve");
    }
}
