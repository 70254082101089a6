//! A client that stays silent: a tunnel is opened, and whoever speaks first is heard first.
//!
//! Owns the tunnel until it is known whether the client's bytes belong into it.

use std::{rc::Rc, time::Duration};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, timeout},
};
use tradewind_api::id::ServicePortRef;
use tradewind_runtime::drain;
use tradewind_transport::{
    detect::{Detected, detect},
    prefixed::Prefixed,
    relay::Side,
};

use super::{
    super::{
        Outbound,
        connection::Client,
        metrics::Outcome,
        streams::{StreamRules, name_of},
    },
    DETECT_DEADLINE, Opened, abort, from, give_up, gone, join, serve_as,
};
use crate::{
    called::Called,
    {standard::Flags, telemetry::Notes},
};

/// A client that has said nothing, and whom only a name or a request would lead anywhere, has this long for it: whoever waits for a
/// server's first words learns by then that there are none.
const LATE_WORDS_DEADLINE: Duration = Duration::from_secs(10);
/// A client that stays silent is led on to another endpoint when its own breaks, this often in a row: where one after the other breaks
/// at once, the client learns of it.
const MAX_BREAKS: u32 = 3;
/// A tunnel that stood for this long is no such row.
const LASTED: Duration = Duration::from_secs(10);
/// What a server that speaks first may say before the client is asked to take it.
const FIRST_WORDS: usize = 16 << 10;

/// For a client that stayed silent: opens the tunnel, and sees who speaks first. When the server does it is a server-first
/// protocol and is served here. When the client does after all, nothing was sent yet: its first bytes decide as usual (whether they are
/// HTTP where that is detected, and to whom they go where rules ask for a name), and a tunnel that leads elsewhere is given back unused.
pub(in crate::outbound) async fn server_first(
    outbound: &Rc<Outbound>,
    mut stream: TcpStream,
    service: &Called,
    detects: bool,
    drain: drain::Watch,
) -> Option<(Detected, Client)> {
    let mut breaks = 0;
    let (rules, ready) = loop {
        // Again at each turn: a silence may be long, and rules change.
        let rules = outbound.stream_rules(service);
        let Some(mut ready) = outbound
            .ready(&stream, service, (&rules, detects), &drain)
            .await?
        else {
            break (rules, None);
        };
        let since = Instant::now();
        match ready.listen(&stream, &drain).await? {
            First::Client => break (rules, Some(ready)),
            First::Server(words) => {
                pass_on(outbound, stream, (ready, Ok(words)), drain).await;
                return None;
            }
            // Neither has said a word, so nobody needs to learn that this endpoint is gone: the next one is as good. What the
            // client says meanwhile is a call like any other, and no reset may cross it.
            First::Broken(error) => {
                if since.elapsed() >= LASTED {
                    breaks = 0;
                }
                breaks += 1;
                if breaks > MAX_BREAKS {
                    pass_on(outbound, stream, (ready, Err(error)), drain).await;
                    return None;
                }
                tracing::debug!(%service, endpoint = %ready.opened.target.endpoint.id, %error, "silent tunnel broke");
                outbound.metrics.tunnel(
                    &ready.service,
                    Some(ready.opened.target.cluster()),
                    Outcome::broken,
                );
            }
        }
    };
    let (found, first) = if detects {
        let found = detect(&mut stream, Instant::now() + DETECT_DEADLINE).await;
        found.ok()?
    } else {
        (Detected::Opaque, Bytes::new())
    };
    let mut client = Prefixed::new(first, stream);
    if found != Detected::Opaque {
        return Some((found, client));
    }
    let mut name = None;
    if rules.ask_for_name() {
        let heard = name_of(client, Instant::now() + DETECT_DEADLINE).await;
        let (told, heard) = heard.map_err(|error| gone(outbound, &error)).ok()?;
        (client, name) = (told, heard.name());
    }
    match ready {
        Some(ready) if rules.decide(name.as_deref()) == rules.decide(None) => {
            ready.join(outbound, client, drain).await;
        }
        other => {
            drop(other);
            serve_as(outbound, client, service, (&rules, name.as_deref()), drain).await;
        }
    }
    None
}

/// A tunnel for a client that has said nothing yet.
struct Ready {
    opened: Opened,
    /// Whom it leads to.
    service: ServicePortRef,
    notes: Notes,
}

/// Who is heard first.
enum First {
    /// The client spoke, or closed.
    Client,
    /// The server spoke, or closed where there are no words.
    Server(BytesMut),
    /// The tunnel broke, for a reason that is none of the client's.
    Broken(std::io::Error),
}

impl Ready {
    /// Waits for the first word of either. `None` where the drain is over.
    async fn listen(&mut self, client: &TcpStream, drain: &drain::Watch) -> Option<First> {
        let mut words = BytesMut::with_capacity(FIRST_WORDS);
        let mut stopping = drain.clone();
        let read = tokio::select! {
            biased;
            read = self.opened.tunnel.read_buf(&mut words) => read,
            // Readable, or closed: either way the client comes first.
            _ = client.readable() => return Some(First::Client),
            () = stopping.forced() => return None,
        };
        Some(match read {
            Ok(_) => First::Server(words),
            Err(error) => First::Broken(error),
        })
    }

    async fn join(self, outbound: &Outbound, client: Client, drain: drain::Watch) {
        let live = self.opened.pair.tunnel(Flags::None).noting(self.notes);
        join(outbound, client, (self.opened, live), &self.service, drain).await;
    }
}

impl Outbound {
    /// Has a tunnel ready for a silent client, as the rules say of one that asks for no name. Where that leads nowhere there is nobody who
    /// could speak first, but the client may still ask for a name that somebody has, or make a request: no tunnel, once it has said
    /// something. None where it is over.
    async fn ready(
        &self,
        stream: &TcpStream,
        service: &Called,
        (rules, detects): (&StreamRules, bool),
        drain: &drain::Watch,
    ) -> Option<Option<Ready>> {
        let mut notes = self.connection_notes(service, stream);
        let nowhere = match rules.follow(rules.decide(None), self.balancer.random()) {
            Ok(to) => {
                let opened = tokio::select! {
                    biased;
                    opened = self.tunnel(to.callee(), from(stream), &mut notes) => opened,
                    // Whoever speaks meanwhile is heard at once: the bytes may lead elsewhere, and nothing of them was sent.
                    _ = stream.readable() => return Some(None),
                };
                let service = to.service;
                return match opened {
                    Ok(opened) => Some(Some(Ready {
                        opened,
                        service,
                        notes,
                    })),
                    Err(error) => {
                        give_up(self, stream, &service, (&error, notes));
                        None
                    }
                };
            }
            Err(nowhere) => nowhere,
        };
        let mut stopping = drain.clone();
        let spoke = async {
            let waiting = timeout(LATE_WORDS_DEADLINE, stream.readable());
            (detects || rules.ask_for_name()) && waiting.await.is_ok()
        };
        tokio::select! {
            biased;
            spoke = spoke => if spoke {
                return Some(None);
            },
            // Nothing was asked yet, nothing is lost.
            () = stopping.triggered() => return None,
        }
        let error = self.no_way(service, nowhere);
        give_up(self, stream, service, (&error, notes));
        None
    }
}

/// Serves a client whose server spoke first.
async fn pass_on(
    outbound: &Rc<Outbound>,
    mut stream: TcpStream,
    (ready, told): (Ready, std::io::Result<BytesMut>),
    drain: drain::Watch,
) {
    let live = ready.opened.pair.tunnel(Flags::None).noting(ready.notes);
    let passed = match told {
        Ok(words) => {
            live.count(Side::B, words.len() as u64);
            stream.write_all(&words).await
        }
        Err(e) => Err(e),
    };
    if passed.is_err() {
        return abort(&stream);
    }
    // A server that closed without a word is seen again by the relay, at once.
    let client = Prefixed::new(Bytes::new(), stream);
    join(
        outbound,
        client,
        (ready.opened, live),
        &ready.service,
        drain,
    )
    .await;
}
