//! W3C Trace Context: which trace a request belongs to, and what becomes of it at a proxy. Pure: whoever calls brings the
//! random numbers and the rule.
//!
//! A valid context is never replaced: it goes on as it is, or with the proxy's own span as the parent where that span is
//! recorded. An invalid one counts as none. Nothing is allocated unless a header is written.

mod ratio;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    num::{NonZeroU64, NonZeroU128},
};

use http::{HeaderMap, HeaderName, HeaderValue};

pub use ratio::{InvalidRatio, Ratio};

/// The trace, the parent's span and the flags.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// What tracing systems add for themselves.
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// `00-<32>-<16>-<2>`.
const LENGTH: usize = 55;
/// A version that never will be.
const NO_VERSION: u8 = 0xff;
/// The caller may have recorded its part.
const SAMPLED: u8 = 0b01;
/// The trace's id is random (level 2 of the standard).
const RANDOM: u8 = 0b10;
/// Members of a tracestate; with more it is dropped whole, as the standard has it.
const MAX_MEMBERS: usize = 32;
/// Longest key and longest value of one, in bytes.
const MAX_PART: usize = 256;

/// A trace's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceId(NonZeroU128);

impl TraceId {
    /// As it travels.
    pub const fn bytes(self) -> [u8; 16] {
        self.0.get().to_be_bytes()
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// A span's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SpanId(NonZeroU64);

impl SpanId {
    /// As it travels.
    pub const fn bytes(self) -> [u8; 8] {
        self.0.get().to_be_bytes()
    }

    fn random(random: &mut impl FnMut() -> u64) -> Self {
        Self(NonZeroU64::new(random()).unwrap_or(NonZeroU64::MIN))
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// What a traceparent says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Context {
    /// The trace.
    pub trace: TraceId,
    /// The span that whoever gets this is below.
    pub parent: SpanId,
    flags: u8,
}

impl Context {
    /// Reads a traceparent of any version; `None` where it is invalid.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let (known, rest) = value.split_at_checked(LENGTH)?;
        let [version_text, trace, parent, flags_text] = fields(known)?;
        let version = u8::try_from(hex(version_text)?).ok()?;
        // What later versions add begins with a dash; the first has nothing to add.
        let well_ended = rest.is_empty() || (version != 0 && rest.first() == Some(&b'-'));
        if version == NO_VERSION || !well_ended {
            return None;
        }
        let flags = u8::try_from(hex(flags_text)?).ok()?;
        Some(Self {
            trace: TraceId(NonZeroU128::new(hex(trace)?)?),
            parent: SpanId(NonZeroU64::new(u64::try_from(hex(parent)?).ok()?)?),
            flags: flags & (SAMPLED | RANDOM),
        })
    }

    /// The context of a request; `None` where there is none, an invalid one or several.
    pub fn of(fields: &HeaderMap) -> Option<Self> {
        let mut values = fields.get_all(&TRACEPARENT).iter();
        match (values.next(), values.next()) {
            (Some(value), None) => Self::parse(value.as_bytes()),
            _ => None,
        }
    }

    /// Whether the caller may have recorded its part.
    pub const fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// The flags as they travel.
    pub const fn flags(&self) -> u8 {
        self.flags
    }

    /// As a traceparent of version 00.
    pub fn value(&self) -> HeaderValue {
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
        write_hex(&mut text, 3, &self.trace.bytes());
        write_hex(&mut text, 36, &self.parent.bytes());
        write_hex(&mut text, 53, &[self.flags]);
        // Digits, letters and dashes.
        HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static(""))
    }
}

/// The four fields of a traceparent's first 55 bytes.
fn fields(known: &[u8]) -> Option<[&[u8]; 4]> {
    let mut parts = known.split(|b| *b == b'-');
    let parts = [parts.next()?, parts.next()?, parts.next()?, parts.next()?];
    let lengths = parts.map(<[u8]>::len);
    (lengths == [2, 32, 16, 2]).then_some(parts)
}

/// Lower-case digits alone, at most 32 of them.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0u128, |sum, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(sum << 4 | u128::from(digit))
    })
}

fn write_hex(text: &mut [u8], at: usize, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let halves = bytes.iter().flat_map(|b| [b >> 4, b & 0xf]);
    for (place, half) in text.iter_mut().skip(at).zip(halves) {
        *place = DIGITS.get(usize::from(half)).copied().unwrap_or(b'0');
    }
}

/// Whether a request's tracestate keeps to the standard. Nothing is asked of what keys and values mean.
pub fn state_is_valid(fields: &HeaderMap) -> bool {
    let members = fields
        .get_all(&TRACESTATE)
        .iter()
        .flat_map(|v| v.as_bytes().split(|b| *b == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|m| !m.is_empty());
    let mut count = 0;
    for member in members {
        count += 1;
        if count > MAX_MEMBERS || !member_is_valid(member) {
            return false;
        }
    }
    true
}

fn member_is_valid(member: &[u8]) -> bool {
    let Some(split) = member.iter().position(|b| *b == b'=') else {
        return false;
    };
    let (key, value) = member.split_at(split);
    let value = value.get(1..).unwrap_or_default();
    let begins = key
        .first()
        .is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let in_key = |b: &u8| {
        b.is_ascii_lowercase()
            || b.is_ascii_digit()
            || matches!(b, b'_' | b'-' | b'*' | b'/' | b'@')
    };
    let in_value = |b: &u8| matches!(b, b' '..=b'~') && *b != b'=' && *b != b',';
    begins
        && key.len() <= MAX_PART
        && key.iter().all(in_key)
        && (1..=MAX_PART).contains(&value.len())
        && value.iter().all(in_value)
}

/// What a proxy does about traces.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rule {
    /// It begins a trace for a request without one, and this part of them is sampled.
    pub begin: Option<Ratio>,
    /// It records its own part of sampled ones.
    pub records: bool,
}

impl Rule {
    /// Nothing: headers pass as they are.
    pub const OFF: Self = Self {
        begin: None,
        records: false,
    };
}

/// A request's place in its trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Followed {
    /// What the request goes on with.
    pub context: Context,
    /// The span above the proxy's own; none where the trace began here.
    pub above: Option<SpanId>,
    /// Whether the proxy's own span, which is then the context's parent, is to be recorded.
    pub recorded: bool,
}

/// Follows a request's trace, or begins one, and changes its headers accordingly. `random` is asked three times where a trace
/// begins, once where one is recorded, and else not at all. `None` where there is no trace.
pub fn follow(
    fields: &mut HeaderMap,
    rule: Rule,
    mut random: impl FnMut() -> u64,
) -> Option<Followed> {
    let came = Context::of(fields);
    if rule == Rule::OFF {
        return came.map(|context| Followed {
            context,
            above: None,
            recorded: false,
        });
    }
    if let Some(context) = came {
        if !state_is_valid(fields) {
            fields.remove(&TRACESTATE);
        }
        if !(context.is_sampled() && rule.records) {
            return Some(Followed {
                context,
                above: None,
                recorded: false,
            });
        }
        let own = Context {
            parent: SpanId::random(&mut random),
            ..context
        };
        fields.insert(TRACEPARENT, own.value());
        return Some(Followed {
            context: own,
            above: Some(context.parent),
            recorded: true,
        });
    }
    let ratio = rule.begin?;
    let context = begin(ratio, random);
    // Whatever an invalid context says of its trace is not of this one.
    fields.remove(&TRACESTATE);
    fields.insert(TRACEPARENT, context.value());
    Some(Followed {
        context,
        above: None,
        recorded: context.is_sampled() && rule.records,
    })
}

fn begin(ratio: Ratio, mut random: impl FnMut() -> u64) -> Context {
    let id = u128::from(random()) << 64 | u128::from(random());
    let trace = TraceId(NonZeroU128::new(id).unwrap_or(NonZeroU128::MIN));
    Context {
        trace,
        parent: SpanId::random(&mut random),
        flags: if ratio.samples(trace) { SAMPLED } else { 0 },
    }
}
