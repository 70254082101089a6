//! The kernel's user keyring, as a place for one secret that survives a restart of the process and never meets a disk.
//!
//! Owns nothing in this process. Where the kernel or its sandbox refuses keyrings, every call says so and the caller
//! goes without.

use std::{ffi::CString, io};

use zeroize::Zeroizing;

/// The keyring of the calling user.
const USER_KEYRING: libc::c_long = -4;
/// `keyctl` operations, from the kernel's `linux/keyctl.h`.
const SETPERM: libc::c_long = 5;
const SEARCH: libc::c_long = 10;
const READ: libc::c_long = 11;
const SET_TIMEOUT: libc::c_long = 15;
/// Possessor and user may do everything, group and others nothing: a service's session may not possess its user's
/// keyring, and reads as the user then.
const OWNER_ONLY: libc::c_long = 0x3f3f_0000;
/// Length of the secret.
pub(super) const SECRET_BYTES: usize = 32;

fn checked(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn keyctl(operation: libc::c_long, a: libc::c_long, b: libc::c_long) -> io::Result<libc::c_long> {
    #[expect(unsafe_code, reason = "libc has no wrapper for keyctl")]
    // SAFETY: only operations whose two arguments are plain numbers are passed here; no memory is handed over.
    let result = unsafe { libc::syscall(libc::SYS_keyctl, operation, a, b, 0_i64, 0_i64) };
    checked(result)
}

fn name(description: &str) -> io::Result<CString> {
    CString::new(description).map_err(io::Error::other)
}

/// Puts `secret` under `description`, in place of what was there, for `lifetime_s` seconds.
pub(super) fn put(
    description: &str,
    secret: &[u8; SECRET_BYTES],
    lifetime_s: u32,
) -> io::Result<()> {
    let description = name(description)?;
    #[expect(unsafe_code, reason = "libc has no wrapper for add_key")]
    // SAFETY: both strings end in NUL and the payload is readable for its length; the kernel copies all three before
    // the call returns and keeps no pointer.
    let serial = unsafe {
        libc::syscall(
            libc::SYS_add_key,
            c"user".as_ptr(),
            description.as_ptr(),
            secret.as_ptr(),
            secret.len(),
            USER_KEYRING,
        )
    };
    let serial = checked(serial)?;
    keyctl(SETPERM, serial, OWNER_ONLY)?;
    keyctl(SET_TIMEOUT, serial, lifetime_s.into())?;
    Ok(())
}

/// The secret under `description`, if there is one.
pub(super) fn get(description: &str) -> io::Result<Option<Zeroizing<[u8; SECRET_BYTES]>>> {
    let description = name(description)?;
    #[expect(unsafe_code, reason = "libc has no wrapper for keyctl")]
    // SAFETY: both strings end in NUL and are only read during the call.
    let serial = unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            SEARCH,
            USER_KEYRING,
            c"user".as_ptr(),
            description.as_ptr(),
            0_i64,
        )
    };
    let serial = match checked(serial) {
        Ok(serial) => serial,
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::ENOKEY | libc::EKEYEXPIRED | libc::EKEYREVOKED)
            ) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let mut secret = Zeroizing::new([0_u8; SECRET_BYTES]);
    #[expect(unsafe_code, reason = "libc has no wrapper for keyctl")]
    // SAFETY: the buffer is writable for the length given, and the kernel writes no more than that.
    let length = unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            READ,
            serial,
            secret.as_mut_ptr(),
            secret.len(),
            0_i64,
        )
    };
    let length = usize::try_from(checked(length)?).unwrap_or(0);
    Ok((length == SECRET_BYTES).then_some(secret))
}

#[cfg(test)]
mod tests {
    use super::*;

    // Where keyrings are refused (most containers), all that can be asked is that both calls say so alike.
    #[test]
    fn a_secret_comes_back_or_both_calls_refuse() {
        let description = format!("tradewind:test:{}", std::process::id());
        let secret = [7; SECRET_BYTES];
        match put(&description, &secret, 60) {
            Ok(()) => {
                assert_eq!(get(&description).unwrap().map(|s| *s), Some(secret));
                assert!(get("tradewind:test:nobody").unwrap().is_none());
            }
            Err(_) => assert!(get(&description).is_err()),
        }
    }
}
