//! Why a connection was not carried, as a closed set: one word for metrics and one TLS alert for the caller each.
//! Pure. The alert is a courtesy that saves the caller a timeout; it must never say more than the reason's class.

use tradewind_api::{ClusterName, ServicePortRef};

/// Why a connection was not carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Refusal {
    /// The first bytes are no TLS ClientHello.
    NotTls,
    /// The ClientHello has no server name.
    NoName,
    /// The server name is none of ours.
    BadName,
    /// It says the service in clear, which anybody can write.
    NoSeal,
    /// Its seal was made with a key that is none of those agreed with a member: a stranger's, or one that has ended.
    SealUnknown,
    /// Its seal does not open with the key it names: made up, bent on its way, or of another pair of clusters.
    SealBroken,
    /// Its seal was good once.
    SealExpired,
    /// It names another cluster, and this gateway does not pass on, or not such names.
    OtherCluster,
    /// It names another cluster and came back to where it was passed on.
    Circle,
    /// None of the gateways of the cluster that it names could be reached.
    ClusterUnreached,
    /// This cluster does not export the service, or not that port.
    NotExported,
    /// The service is exported, but no endpoint here serves the port.
    NoEndpoint,
    /// The ClientHello is larger than the bound.
    TooLarge,
    /// The ClientHello did not arrive in time.
    Timeout,
    /// The peer went away before its ClientHello was complete.
    Cut,
    /// Nothing that was dialled answered.
    DialFailed,
    /// A bound on connections is reached.
    TooMany,
    /// The caller has its share of the connections there may be, and others must find room.
    OverShare,
    /// No snapshot has arrived yet.
    NotReady,
}

/// TLS alert `certificate_expired`: what ended is the name, and the caller has to get a new one just the same.
const CERTIFICATE_EXPIRED: u8 = 45;
/// TLS alert `access_denied`.
const ACCESS_DENIED: u8 = 49;
/// TLS alert `handshake_failure`.
const HANDSHAKE_FAILURE: u8 = 40;
/// TLS alert `certificate_unobtainable`: the certificate that the caller wants to see is on the other side of a broken way.
const CERTIFICATE_UNOBTAINABLE: u8 = 111;
/// TLS alert `internal_error`.
const INTERNAL_ERROR: u8 = 80;
/// TLS alert `unrecognized_name`.
const UNRECOGNIZED_NAME: u8 = 112;

impl Refusal {
    /// Every reason, for tables and for metrics that start at 0.
    pub const ALL: [Self; 19] = [
        Self::NotTls,
        Self::NoName,
        Self::BadName,
        Self::NoSeal,
        Self::SealUnknown,
        Self::SealBroken,
        Self::SealExpired,
        Self::OtherCluster,
        Self::Circle,
        Self::ClusterUnreached,
        Self::NotExported,
        Self::NoEndpoint,
        Self::TooLarge,
        Self::Timeout,
        Self::Cut,
        Self::DialFailed,
        Self::TooMany,
        Self::OverShare,
        Self::NotReady,
    ];

    /// The label in metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotTls => "not_tls",
            Self::NoName => "no_name",
            Self::BadName => "bad_name",
            Self::NoSeal => "no_seal",
            Self::SealUnknown => "seal_unknown",
            Self::SealBroken => "seal_broken",
            Self::SealExpired => "seal_expired",
            Self::OtherCluster => "other_cluster",
            Self::Circle => "circle",
            Self::ClusterUnreached => "cluster_unreached",
            Self::NotExported => "not_exported",
            Self::NoEndpoint => "no_endpoint",
            Self::TooLarge => "too_large",
            Self::Timeout => "timeout",
            Self::Cut => "cut",
            Self::DialFailed => "dial_failed",
            Self::TooMany => "too_many",
            Self::OverShare => "over_share",
            Self::NotReady => "not_ready",
        }
    }

    /// The fatal TLS alert record to send before closing; none to a peer that spoke no TLS or said nothing.
    pub const fn alert(self) -> Option<[u8; 7]> {
        let description = match self {
            Self::NotTls | Self::Timeout | Self::Cut => return None,
            Self::NoName | Self::BadName | Self::NotExported => UNRECOGNIZED_NAME,
            Self::NoSeal | Self::SealUnknown | Self::SealBroken | Self::OtherCluster => {
                ACCESS_DENIED
            }
            Self::Circle | Self::ClusterUnreached => CERTIFICATE_UNOBTAINABLE,
            Self::SealExpired => CERTIFICATE_EXPIRED,
            Self::TooLarge => HANDSHAKE_FAILURE,
            Self::NoEndpoint
            | Self::DialFailed
            | Self::TooMany
            | Self::OverShare
            | Self::NotReady => INTERNAL_ERROR,
        };
        // Record: alert (21), version 3.3, length 2; fatal (2), description.
        Some([21, 3, 3, 0, 2, 2, description])
    }
}

/// A refusal, with what was known by then of the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Why.
    pub reason: Refusal,
    /// The member that called.
    pub peer: Option<ClusterName>,
    /// What it called; an exported service.
    pub to: Option<ServicePortRef>,
}

impl From<Refusal> for Refused {
    fn from(reason: Refusal) -> Self {
        Self {
            reason,
            peer: None,
            to: None,
        }
    }
}

impl Refusal {
    /// This one, of a connection whose caller is known.
    pub const fn of(self, peer: Option<ClusterName>) -> Refused {
        Refused {
            reason: self,
            peer,
            to: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn labels_are_distinct_and_alerts_are_fatal_records() {
        let labels: BTreeSet<_> = Refusal::ALL.iter().map(|r| r.as_str()).collect();
        assert_eq!(labels.len(), Refusal::ALL.len());
        for r in Refusal::ALL {
            if let Some(a) = r.alert() {
                assert_eq!(a[..6], [21, 3, 3, 0, 2, 2]);
            }
        }
        assert_eq!(Refusal::NotExported.alert().unwrap()[6], 112);
        // Callers tell these from a service that is not there, and one that ended from one that is not known.
        assert_eq!(Refusal::SealUnknown.alert().unwrap()[6], 49);
        assert_eq!(Refusal::SealExpired.alert().unwrap()[6], 45);
    }
}
