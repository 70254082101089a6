//! From a message's bytes to what is to be done with it, and from an answer to bytes. Pure; strangers' bytes meet this
//! code first, and it must never panic or amplify: an answer by UDP is bounded by what the asker said it can take.

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::DNSClass,
    serialize::binary::{BinEncodable as _, BinEncoder},
};
use tradewind_api::snapshot::Snapshot;

use crate::zone::{self, Answer};

/// Largest UDP answer sent, in bytes: what passes every path without fragments (DNS flag day 2020).
const MAX_UDP: u16 = 1232;
/// Largest UDP answer to an asker without EDNS (RFC 1035).
const MIN_UDP: u16 = 512;

/// Why an answer is a failure, or was none of ours to give.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// From the snapshot.
    Answered,
    /// The name exists without that type.
    Empty,
    /// The name does not exist.
    NoName,
    /// The message is broken.
    Malformed,
    /// An operation or class that is not served.
    NotServed,
    /// No snapshot yet.
    NotReady,
    /// Answered by an upstream, whatever it said.
    Forwarded,
    /// There is no upstream.
    NoUpstream,
    /// No upstream answered.
    UpstreamFailed,
    /// Too many questions wait for upstreams.
    TooMany,
}

impl Outcome {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Answered,
        Self::Empty,
        Self::NoName,
        Self::Malformed,
        Self::NotServed,
        Self::NotReady,
        Self::Forwarded,
        Self::NoUpstream,
        Self::UpstreamFailed,
        Self::TooMany,
    ];

    /// The word in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Empty => "empty",
            Self::NoName => "no_name",
            Self::Malformed => "malformed",
            Self::NotServed => "not_served",
            Self::NotReady => "not_ready",
            Self::Forwarded => "forwarded",
            Self::NoUpstream => "no_upstream",
            Self::UpstreamFailed => "upstream_failed",
            Self::TooMany => "too_many",
        }
    }
}

/// What is to be done with a message.
#[derive(Debug)]
pub enum Triage {
    /// Send this.
    Reply(Box<Message>, Outcome),
    /// Ask an upstream this, and complete this response with what it says.
    Forward(Query, Box<Message>),
    /// Say nothing: it is no question, and answering answers makes loops.
    Drop,
}

/// Decides what to do with the bytes of one message.
pub fn triage(bytes: &[u8], snapshot: &Snapshot) -> Triage {
    let Ok(request) = Message::from_vec(bytes) else {
        return malformed(bytes);
    };
    if request.metadata.message_type != MessageType::Query {
        return Triage::Drop;
    }
    let mut response = response_to(&request);
    let refuse = |mut response: Message, code, outcome| {
        response.metadata.response_code = code;
        Triage::Reply(Box::new(response), outcome)
    };
    if request.metadata.op_code != OpCode::Query {
        return refuse(response, ResponseCode::NotImp, Outcome::NotServed);
    }
    if request.edns.as_ref().is_some_and(|e| e.version() > 0) {
        return refuse(response, ResponseCode::BADVERS, Outcome::NotServed);
    }
    let [query] = request.queries.as_slice() else {
        return refuse(response, ResponseCode::FormErr, Outcome::Malformed);
    };
    if query.query_class() != DNSClass::IN {
        return refuse(response, ResponseCode::Refused, Outcome::NotServed);
    }
    let (code, outcome) = match zone::answer(snapshot, query.name(), query.query_type()) {
        Answer::Foreign => return Triage::Forward(query.clone(), Box::new(response)),
        Answer::NotReady => return refuse(response, ResponseCode::ServFail, Outcome::NotReady),
        Answer::Records(records) => {
            response.add_answers(records);
            (ResponseCode::NoError, Outcome::Answered)
        }
        Answer::Empty(soa) => {
            response.add_authority(*soa);
            (ResponseCode::NoError, Outcome::Empty)
        }
        Answer::NoName(soa) => {
            response.add_authority(*soa);
            (ResponseCode::NXDomain, Outcome::NoName)
        }
    };
    response.metadata.authoritative = true;
    response.metadata.response_code = code;
    Triage::Reply(Box::new(response), outcome)
}

fn response_to(request: &Message) -> Message {
    let meta = &request.metadata;
    let mut response = Message::response(meta.id, meta.op_code);
    response.metadata.recursion_desired = meta.recursion_desired;
    response.metadata.recursion_available = true;
    response.metadata.checking_disabled = meta.checking_disabled;
    response.add_queries(request.queries.iter().cloned());
    if request.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(MAX_UDP).set_version(0);
        response.set_edns(edns);
    }
    response
}

/// A broken question is told so where its id can be read and it claims to be a question.
fn malformed(bytes: &[u8]) -> Triage {
    let [high, low, flags, ..] = bytes else {
        return Triage::Drop;
    };
    // A whole header has 12 bytes; the top bit of the third says "response".
    if bytes.len() < 12 || flags & 0x80 != 0 {
        return Triage::Drop;
    }
    let id = u16::from_be_bytes([*high, *low]);
    let response = Message::error_msg(id, OpCode::Query, ResponseCode::FormErr);
    Triage::Reply(Box::new(response), Outcome::Malformed)
}

/// The largest answer that the asker of `bytes` takes by UDP.
pub fn udp_limit(bytes: &[u8]) -> u16 {
    Message::from_vec(bytes)
        .ok()
        .and_then(|m| m.edns.map(|e| e.max_payload()))
        .map_or(MIN_UDP, |asked| asked.clamp(MIN_UDP, MAX_UDP))
}

/// The bytes of a response, cut (and marked as cut) to `limit`.
pub fn encode(response: &Message, limit: u16) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(usize::from(limit.min(MIN_UDP)));
    let mut encoder = BinEncoder::new(&mut bytes);
    encoder.set_max_size(limit);
    match response.emit(&mut encoder) {
        Ok(()) => Some(bytes),
        Err(error) => {
            tracing::warn!(%error, "a DNS answer cannot be encoded");
            None
        }
    }
}
