//! Who asked, in words for the log of changes: what the kernel or a certificate says, never what the caller says of itself.

use nix::unistd::{Uid, User};

use crate::server::Caller;

/// A user of this host, such as `uid 0 (root)`.
pub fn of_uid(uid: u32) -> String {
    match User::from_uid(Uid::from_raw(uid)) {
        Ok(Some(user)) => format!("uid {uid} ({:.64})", user.name),
        Ok(None) | Err(_) => format!("uid {uid}"),
    }
}

/// Who runs this very process.
pub fn here() -> String {
    of_uid(nix::unistd::getuid().as_raw())
}

/// Who sent a request; `None` for one that proved nothing.
pub(crate) fn of(caller: &Caller) -> Option<String> {
    match caller {
        Caller::Local { uid } => Some(of_uid(*uid)),
        Caller::Peer(peer) => Some(peer.id.to_string()),
        Caller::Anonymous => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_named_where_they_have_a_name() {
        assert_eq!(of_uid(0), "uid 0 (root)");
        assert_eq!(of_uid(4_000_000_123), "uid 4000000123");
        assert_eq!(of(&Caller::Anonymous), None);
        assert_eq!(
            of(&Caller::Local { uid: 0 }).as_deref(),
            Some("uid 0 (root)")
        );
    }
}
