//! What a DNS server counts. Labels are closed sets.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
};
use tradewind_runtime::metrics::MetricsRegistry;

use crate::respond::Outcome;

/// Over what a question came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Over {
    Udp,
    Tcp,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct QueryLabels {
    over: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DroppedLabels {
    reason: &'static str,
}

/// Why something was dropped without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dropped {
    /// It was no question.
    NoQuestion,
    /// Too many TCP connections.
    TooMany,
    /// A TCP connection that broke the framing or stayed silent.
    BadConnection,
    /// An answer could not be encoded or sent.
    NotSent,
}

impl Dropped {
    const ALL: [Self; 4] = [
        Self::NoQuestion,
        Self::TooMany,
        Self::BadConnection,
        Self::NotSent,
    ];

    const fn as_str(self) -> &'static str {
        match self {
            Self::NoQuestion => "no_question",
            Self::TooMany => "too_many",
            Self::BadConnection => "bad_connection",
            Self::NotSent => "not_sent",
        }
    }
}

/// Every counter of a DNS server; clones share.
#[derive(Clone, Debug)]
pub(crate) struct DnsMetrics {
    queries: Family<QueryLabels, Counter>,
    dropped: Family<DroppedLabels, Counter>,
}

impl DnsMetrics {
    pub(crate) fn new(registry: &MetricsRegistry) -> Self {
        let m = Self {
            queries: Family::default(),
            dropped: Family::default(),
        };
        for over in [Over::Udp, Over::Tcp] {
            for outcome in Outcome::ALL {
                drop(m.queries.get_or_create(&QueryLabels::new(over, outcome)));
            }
        }
        for reason in Dropped::ALL {
            drop(m.dropped.get_or_create(&DroppedLabels {
                reason: reason.as_str(),
            }));
        }
        registry.register(|r| {
            r.register(
                "tradewind_dns_queries",
                "Questions, by outcome",
                m.queries.clone(),
            );
            r.register(
                "tradewind_dns_dropped",
                "What got no answer, by reason",
                m.dropped.clone(),
            );
        });
        m
    }

    pub(crate) fn query(&self, over: Over, outcome: Outcome) {
        self.queries
            .get_or_create(&QueryLabels::new(over, outcome))
            .inc();
    }

    pub(crate) fn dropped(&self, reason: Dropped) {
        self.dropped
            .get_or_create(&DroppedLabels {
                reason: reason.as_str(),
            })
            .inc();
    }
}

impl QueryLabels {
    fn new(over: Over, outcome: Outcome) -> Self {
        let over = match over {
            Over::Udp => "udp",
            Over::Tcp => "tcp",
        };
        Self {
            over,
            outcome: outcome.as_str(),
        }
    }
}
