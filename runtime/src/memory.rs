//! How the process's allocator grows and shrinks. Owns nothing; to be called before there are other threads.

/// The heap grows by as much at least, so that it does not ask the kernel for every few connections.
#[cfg(target_env = "gnu")]
const GROW_BYTES: libc::c_int = 256 << 10;

/// What is free at a heap's end stays ours up to so much. Bulk traffic takes and gives back a window of it all the time: by
/// default each time goes to the kernel and comes back as page faults, a tenth of all the time it takes.
#[cfg(target_env = "gnu")]
const KEEP_BYTES: libc::c_int = 1 << 20;

/// Single pieces from this size on are the kernel's own, and go back to it when they are freed.
#[cfg(target_env = "gnu")]
const MAPPED_BYTES: libc::c_int = 1 << 20;

/// Tells the allocator what a data plane needs. Where it is not the GNU one nothing is done.
pub fn tune() {
    #[cfg(target_env = "gnu")]
    for (what, bytes) in [
        (libc::M_TOP_PAD, GROW_BYTES),
        (libc::M_TRIM_THRESHOLD, KEEP_BYTES),
        (libc::M_MMAP_THRESHOLD, MAPPED_BYTES),
    ] {
        #[expect(unsafe_code, reason = "libc has no safe wrapper for mallopt")]
        // SAFETY: takes two numbers; the parameters are the allocator's own, and it checks the values.
        let taken = unsafe { libc::mallopt(what, bytes) };
        if taken == 0 {
            tracing::debug!(what, bytes, "the allocator does not take an option");
        }
    }
}
