//! What a pod asks for, by annotations over the cluster's settings.
//!
//! A wish that cannot be read is an error and never left out: a pod whose owner excluded a port, by a mistyped number, must not run
//! with that port captured. All errors of a pod are told at once.

use std::{fmt, net::IpAddr};

use tradewind_api::traffic::{MAX_LABELS, is_label};

use super::{
    INJECT, PROXY_PORTS,
    pod::Pod,
    quantity::Quantity,
    settings::{Inbound, Settings},
};

const CPU: &str = "tradewind.io/proxy-cpu";
const MEMORY: &str = "tradewind.io/proxy-memory";
const CPU_LIMIT: &str = "tradewind.io/proxy-cpu-limit";
const MEMORY_LIMIT: &str = "tradewind.io/proxy-memory-limit";
const INBOUND: &str = "tradewind.io/inbound";
const EXCLUDE_OUTBOUND_PORTS: &str = "tradewind.io/capture-exclude-outbound-ports";
const EXCLUDE_OUTBOUND_CIDRS: &str = "tradewind.io/capture-exclude-outbound-cidrs";
const EXCLUDE_INBOUND_PORTS: &str = "tradewind.io/capture-exclude-inbound-ports";
const KNOWN: [&str; 8] = [
    CPU,
    MEMORY,
    CPU_LIMIT,
    MEMORY_LIMIT,
    INBOUND,
    EXCLUDE_OUTBOUND_PORTS,
    EXCLUDE_OUTBOUND_CIDRS,
    EXCLUDE_INBOUND_PORTS,
];
/// Annotations that begin so are ours to read: another one is a mistyped one.
const OURS: [&str; 2] = ["tradewind.io/proxy-", "tradewind.io/capture-"];

/// Most entries of one list: as many as the rules take.
const MAX_LISTED: usize = 1024;
/// How much of what stands there an error repeats, in characters.
const MAX_SHOWN: usize = 60;

/// An annotation that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("tradewind: {key} is {value:?}: expected {expected}")]
pub struct BadWish {
    key: &'static str,
    value: String,
    expected: String,
}

impl BadWish {
    fn new(key: &'static str, value: &str, expected: impl fmt::Display) -> Self {
        Self {
            key,
            value: value.chars().take(MAX_SHOWN).collect(),
            expected: expected.to_string(),
        }
    }
}

/// Whether a pod asks for a proxy, or for none, by label or annotation.
pub(super) fn inject(pod: &Pod<'_>) -> Result<Option<bool>, BadWish> {
    let Some(told) = pod.label(INJECT).or_else(|| pod.annotation(INJECT)) else {
        return Ok(None);
    };
    match told {
        "true" => Ok(Some(true)),
        "false" => Ok(Some(false)),
        other => Err(BadWish::new(INJECT, other, "\"true\" or \"false\"")),
    }
}

/// How this pod's proxy is to be.
#[derive(Clone, Debug, Default)]
pub(super) struct Wishes {
    pub(super) cpu: Option<Quantity>,
    pub(super) memory: Option<Quantity>,
    pub(super) cpu_limit: Option<Quantity>,
    pub(super) memory_limit: Option<Quantity>,
    pub(super) inbound: Inbound,
    /// Where plaintext callers are caught; empty for nowhere.
    pub(super) inbound_ports: Vec<u16>,
    pub(super) exclude_ports: Vec<u16>,
    pub(super) exclude_cidrs: Vec<String>,
    /// `key=value`, what the pod is labelled with: rules may be for such callers alone.
    pub(super) labels: Vec<String>,
    pub(super) warnings: Vec<String>,
}

/// As the API server has them when the pod is made. Those that the proxy would refuse, or that are too many for it, it is not told of.
fn labels(pod: &Pod<'_>) -> Vec<String> {
    let all = pod.labels().into_iter();
    let told = all.filter(|(key, value)| is_label(key, value));
    told.take(MAX_LABELS)
        .map(|(key, value)| format!("{key}={value}"))
        .collect()
}

impl Wishes {
    pub(super) fn read(pod: &Pod<'_>, settings: &Settings) -> Result<Self, Vec<BadWish>> {
        let mut reader = Reader {
            pod,
            bad: Vec::new(),
        };
        let of = &settings.resources;
        let (cpu, cpu_limit) = reader.amounts(CPU, CPU_LIMIT, &of.cpu, &of.cpu_limit);
        let (memory, memory_limit) =
            reader.amounts(MEMORY, MEMORY_LIMIT, &of.memory, &of.memory_limit);
        let mut wishes = Self {
            cpu,
            memory,
            cpu_limit,
            memory_limit,
            inbound: reader.inbound(settings.inbound),
            inbound_ports: Vec::new(),
            exclude_ports: reader.ports(EXCLUDE_OUTBOUND_PORTS),
            exclude_cidrs: reader.cidrs(EXCLUDE_OUTBOUND_CIDRS),
            labels: labels(pod),
            warnings: unknown(pod),
        };
        let excluded = reader.ports(EXCLUDE_INBOUND_PORTS);
        wishes.catch(pod, &excluded);
        wishes.warn_of_ports(pod);
        if reader.bad.is_empty() {
            Ok(wishes)
        } else {
            Err(reader.bad)
        }
    }

    /// Where plaintext callers are caught: at the ports that the pod declares, without those excluded and, where callers are
    /// refused, without those that the kubelet asks: it has no proxy, and a pod whose probes are refused is killed.
    fn catch(&mut self, pod: &Pod<'_>, excluded: &[u16]) {
        if self.inbound == Inbound::Off {
            return;
        }
        // The rules take what is excluded out of both directions; here it is left out of what is asked for, so that both agree.
        let free = |port: &u16| {
            !excluded.contains(port)
                && !self.exclude_ports.contains(port)
                && !PROXY_PORTS.contains(port)
        };
        let declared: Vec<u16> = pod.tcp_ports().into_iter().filter(free).collect();
        let probed = pod.probed_ports();
        let (open, caught): (Vec<u16>, Vec<u16>) = declared
            .into_iter()
            .partition(|port| self.inbound == Inbound::Strict && probed.contains(port));
        if !open.is_empty() {
            self.warnings.push(format!(
                "tradewind: port {} stays open to callers without a proxy, although inbound is strict: the kubelet probes it; give probes a port of their own",
                listed(&open)
            ));
        }
        if caught.is_empty() {
            self.warnings.push(format!(
                "tradewind: inbound is {}, but there is no port to catch callers at: only TCP ports that containers declare are caught",
                self.inbound.as_str()
            ));
        }
        self.inbound_ports = caught;
    }

    fn warn_of_ports(&mut self, pod: &Pod<'_>) {
        let declared = pod.tcp_ports();
        let taken: Vec<u16> = declared
            .into_iter()
            .filter(|port| PROXY_PORTS.contains(port))
            .collect();
        if !taken.is_empty() {
            self.warnings.push(format!(
                "tradewind: a container declares port {}, where the proxy listens: only one of the two can",
                listed(&taken)
            ));
        }
    }
}

/// Ports as flags and warnings list them.
pub(super) fn listed(ports: &[u16]) -> String {
    let ports: Vec<String> = ports.iter().map(ToString::to_string).collect();
    ports.join(",")
}

fn unknown(pod: &Pod<'_>) -> Vec<String> {
    let is_unknown =
        |key: &&str| OURS.iter().any(|ours| key.starts_with(ours)) && !KNOWN.contains(key);
    pod.annotation_keys()
        .filter(is_unknown)
        .map(|key| {
            let key: String = key.chars().take(MAX_SHOWN).collect();
            format!("tradewind: the annotation {key} is not known and does nothing")
        })
        .collect()
}

struct Reader<'a> {
    pod: &'a Pod<'a>,
    bad: Vec<BadWish>,
}

impl Reader<'_> {
    /// What is requested and the limit. Where a pod names one of them, the cluster's other one gives way: nobody should have to
    /// know both.
    fn amounts(
        &mut self,
        request: &'static str,
        limit: &'static str,
        default_request: &Option<String>,
        default_limit: &Option<String>,
    ) -> (Option<Quantity>, Option<Quantity>) {
        let (told, told_limit) = (self.amount(request), self.amount(limit));
        let default = |text: &Option<String>| text.as_deref().and_then(|text| text.parse().ok());
        let (default_request, default_limit) = (default(default_request), default(default_limit));
        match (told, told_limit) {
            (Some(told), Some(most)) => {
                if told > most {
                    let expected = format!("no more than {limit}, which is {most}");
                    let bad = BadWish::new(request, &told.to_string(), expected);
                    self.bad.push(bad);
                }
                (Some(told), Some(most))
            }
            (Some(told), None) => {
                let most = default_limit.map(|most: Quantity| most.max(told.clone()));
                (Some(told), most)
            }
            (None, Some(most)) => {
                let told = default_request.map(|told: Quantity| told.min(most.clone()));
                (told, Some(most))
            }
            (None, None) => (default_request, default_limit),
        }
    }

    fn amount(&mut self, key: &'static str) -> Option<Quantity> {
        let told = self.pod.annotation(key)?;
        match told.parse() {
            Ok(amount) => Some(amount),
            Err(error) => {
                let expected = error.to_string();
                let expected = expected.strip_prefix("expected ").unwrap_or(&expected);
                self.bad.push(BadWish::new(key, told, expected));
                None
            }
        }
    }

    fn inbound(&mut self, default: Inbound) -> Inbound {
        let Some(told) = self.pod.annotation(INBOUND) else {
            return default;
        };
        Inbound::read(told).unwrap_or_else(|| {
            let bad = BadWish::new(INBOUND, told, "off, permissive or strict");
            self.bad.push(bad);
            default
        })
    }

    fn ports(&mut self, key: &'static str) -> Vec<u16> {
        let one = |text: &str| text.parse::<u16>().ok().filter(|port| *port != 0);
        let mut ports = self.list(key, "ports from 1 to 65535, such as 5432,6379", one);
        ports.sort_unstable();
        ports.dedup();
        ports
    }

    fn cidrs(&mut self, key: &'static str) -> Vec<String> {
        self.list(key, "blocks of addresses, such as 10.0.0.0/8", |text| {
            is_cidr(text).then(|| text.to_owned())
        })
    }

    fn list<T>(
        &mut self,
        key: &'static str,
        expected: &'static str,
        one: impl Fn(&str) -> Option<T>,
    ) -> Vec<T> {
        let Some(told) = self.pod.annotation(key) else {
            return Vec::new();
        };
        if told.trim().is_empty() {
            return Vec::new();
        }
        let all = told.split(',').take(MAX_LISTED + 1);
        let all: Option<Vec<T>> = all.map(|text| one(text.trim())).collect();
        match all {
            Some(all) if all.len() <= MAX_LISTED => all,
            Some(_) => {
                let expected = format!("at most {MAX_LISTED} entries");
                self.bad.push(BadWish::new(key, told, expected));
                Vec::new()
            }
            None => {
                self.bad.push(BadWish::new(key, told, expected));
                Vec::new()
            }
        }
    }
}

/// An address, or one with the length of its prefix.
fn is_cidr(text: &str) -> bool {
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (text, None),
    };
    let Ok(address) = address.parse::<IpAddr>() else {
        return false;
    };
    let most = if address.is_ipv4() { 32 } else { 128 };
    prefix.is_none_or(|prefix| prefix.parse::<u8>().is_ok_and(|bits| bits <= most))
}
