//! Reading what a process counts, from its admin port. Owns nothing.

use std::net::SocketAddr;

use crate::{
    http,
    wait::{USUAL, until},
};

/// The sum of every sample of `name` whose line contains all of `labels`; 0 when there is none. Counters are named
/// without their `_total`.
pub async fn total(admin: SocketAddr, name: &str, labels: &[&str]) -> Result<f64, http::Error> {
    let page = http::get(admin, "/metrics").await?.ok()?.text();
    Ok(page
        .lines()
        .filter_map(|line| line.rsplit_once(' '))
        .filter(|(sample, _)| {
            let own = sample.split('{').next().unwrap_or_default();
            own == name || own.strip_suffix("_total") == Some(name)
        })
        .filter(|(sample, _)| labels.iter().all(|l| sample.contains(l)))
        .filter_map(|(_, value)| value.parse::<f64>().ok())
        .sum())
}

/// Waits until that sum is at least `least`.
pub async fn reaches(admin: SocketAddr, name: &str, labels: &[&str], least: f64) -> f64 {
    until(
        &format!("{name} {labels:?} at {admin} to reach {least}"),
        USUAL,
        || async {
            match total(admin, name, labels).await {
                Ok(now) if now >= least => Ok(now),
                seen => Err(seen),
            }
        },
    )
    .await
}
