//! One number for everything a cluster exports, so that a publisher and every copy of the store can tell whether they
//! mean the same. Pure and deterministic.

use std::borrow::Borrow;

use tradewind_api::{
    ClusterName,
    store::{Blob, Export, Refusal},
};

use super::{Catalog, apply::Did};

/// SHA-256 over exports in the order of their names, and how many they are. The caller gives them in that order.
pub fn digest_exports(exports: impl IntoIterator<Item = impl Borrow<Export>>) -> (Blob, u32) {
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    let mut count = 0_u32;
    for export in exports {
        // Maps in it are sorted and nothing in it can fail to be written.
        let written = serde_json::to_vec(export.borrow()).unwrap_or_default();
        let length = u64::try_from(written.len()).unwrap_or(u64::MAX);
        context.update(&length.to_be_bytes());
        context.update(&written);
        count = count.saturating_add(1);
    }
    (Blob(context.finish().as_ref().to_vec()), count)
}

impl Catalog {
    /// The digest of this copy of what `cluster` exports.
    pub fn exports_digest(&self, cluster: &ClusterName) -> (Blob, u32) {
        digest_exports(self.exports_of(cluster).map(|e| &**e))
    }

    /// Changes nothing: the answer tells whether this copy is true.
    pub(super) fn attest(
        &self,
        proposer: &ClusterName,
        digest: &Blob,
        count: u32,
    ) -> Result<Did, Refusal> {
        let (own, found) = self.exports_digest(proposer);
        if own == *digest && found == count {
            return Ok(Did::Nothing);
        }
        Err(Refusal::DigestMismatch {
            cluster: proposer.clone(),
            found,
            attested: count,
        })
    }
}
