//! The faults of the matrix: what each is called, which service is called meanwhile, and how long nobody may be answered. Owns
//! nothing.

use std::{fmt, str::FromStr, time::Duration};

/// What a caller may notice of a fault that somebody is told of, by a refusal or a reset.
const TOLD: Duration = Duration::from_millis(100);
/// And of one where nothing comes back.
const SILENT: Duration = Duration::from_millis(1_500);

/// A fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Every local pod is killed: whoever dials is refused.
    Refused,
    /// Every local application is killed; the proxies beside them live.
    Apps,
    /// Every connection with every local pod is reset, and new ones are refused.
    Reset,
    /// Nothing comes back from any local pod.
    Silent,
    /// One local pod of several takes a second for each answer.
    Slow,
    /// Every local pod is reset for a second and well for a second, in turns.
    Flapping,
    /// One local pod of several breaks off every request that it has read; its check is good.
    OneBreaks,
    /// Nothing comes back from one local pod of several.
    OneSilent,
    /// The first choice is a cluster, all of whose processes are killed.
    ClusterGone,
    /// The first choice is a cluster from and to which nothing passes.
    ClusterSilent,
    /// One of the two gateways of the cluster that is the first choice is killed.
    GatewayGone,
    /// Nothing comes back from it.
    GatewaySilent,
    /// The cluster that is the first choice hears everybody and is not heard.
    OneWayBack,
    /// It is heard and hears nobody.
    OneWayThere,
}

/// All of them, in the order in which they are tried: those with the most behind them first.
pub const ALL: [Fault; 14] = [
    Fault::Silent,
    Fault::Refused,
    Fault::Reset,
    Fault::Apps,
    Fault::OneSilent,
    Fault::OneBreaks,
    Fault::Flapping,
    Fault::Slow,
    Fault::ClusterGone,
    Fault::ClusterSilent,
    Fault::GatewayGone,
    Fault::GatewaySilent,
    Fault::OneWayBack,
    Fault::OneWayThere,
];

impl Fault {
    /// The word that names it on the command line and in JSON.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Apps => "apps",
            Self::Reset => "reset",
            Self::Silent => "silent",
            Self::Slow => "slow",
            Self::Flapping => "flapping",
            Self::OneBreaks => "one-breaks",
            Self::OneSilent => "one-silent",
            Self::ClusterGone => "cluster-gone",
            Self::ClusterSilent => "cluster-silent",
            Self::GatewayGone => "gateway-gone",
            Self::GatewaySilent => "gateway-silent",
            Self::OneWayBack => "one-way-back",
            Self::OneWayThere => "one-way-there",
        }
    }

    /// Whether the service that is called has endpoints in the caller's own cluster.
    pub const fn is_local(self) -> bool {
        match self {
            Self::Refused
            | Self::Apps
            | Self::Reset
            | Self::Silent
            | Self::Slow
            | Self::Flapping
            | Self::OneBreaks
            | Self::OneSilent => true,
            Self::ClusterGone
            | Self::ClusterSilent
            | Self::GatewayGone
            | Self::GatewaySilent
            | Self::OneWayBack
            | Self::OneWayThere => false,
        }
    }

    /// The goal: the longest time in which no request is answered.
    pub const fn goal(self) -> Duration {
        match self {
            Self::Silent
            | Self::OneSilent
            | Self::ClusterSilent
            | Self::GatewaySilent
            | Self::OneWayBack
            | Self::OneWayThere => SILENT,
            Self::Refused
            | Self::Apps
            | Self::Reset
            | Self::Slow
            | Self::Flapping
            | Self::OneBreaks
            | Self::ClusterGone
            | Self::GatewayGone => TOLD,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Refused => "refused: all local pods killed",
            Self::Apps => "refused: all local applications killed",
            Self::Reset => "reset: all local pods",
            Self::Silent => "black hole: all local pods",
            Self::Slow => "slow: one local pod of 3, 1 s",
            Self::Flapping => "flapping: all local pods, 1 s",
            Self::OneBreaks => "one bad pod of 3: breaks off",
            Self::OneSilent => "one bad pod of 3: black hole",
            Self::ClusterGone => "whole cluster gone: killed",
            Self::ClusterSilent => "whole cluster gone: black hole",
            Self::GatewayGone => "gateway gone, of 2: killed",
            Self::GatewaySilent => "gateway gone, of 2: black hole",
            Self::OneWayBack => "one-way partition: answers lost",
            Self::OneWayThere => "one-way partition: requests lost",
        })
    }
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let found = ALL.into_iter().find(|f| f.word() == word);
        found.ok_or_else(|| {
            let all: Vec<_> = ALL.iter().map(|f| f.word()).collect();
            format!("no such fault: {word}; there are {}", all.join(", "))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_name_faults_and_no_fault_is_forgotten() {
        for fault in ALL {
            assert_eq!(fault.word().parse(), Ok(fault));
        }
        let mut sorted = ALL.to_vec();
        sorted.sort();
        sorted.dedup();
        assert_eq!(sorted.len(), ALL.len());
        assert!("nothing".parse::<Fault>().is_err());
    }
}
