//! The key that boxes for this controller are sealed to, in the data directory. Read or made once, at the start.

use std::path::Path;

use tradewind_runtime::files::{FileError, read_framed, write_framed};
use tradewind_transport::seal::keys::SealKey;
use zeroize::Zeroizing;

/// The file in the data directory.
const FILE: &str = "seal.key";
/// Its magic.
const MAGIC: [u8; 4] = *b"TWSK";
/// Its version: the 32 bytes of an X25519 private key.
const VERSION: u16 = 1;
/// It is a private key: nobody else reads it.
const MODE: u32 = 0o600;

/// The key in `dir`; a new one is made where there is none.
pub fn node_key(dir: &Path) -> Result<SealKey, FileError> {
    let path = dir.join(FILE);
    if let Some((_, bytes)) = read_framed(&path, MAGIC, VERSION)? {
        let bytes = Zeroizing::new(bytes);
        let private = bytes
            .as_slice()
            .try_into()
            .map_err(|_| FileError::corrupt(&path, "it does not hold a key"))?;
        return SealKey::from_private(Zeroizing::new(private))
            .map_err(|e| FileError::corrupt(&path, e.to_string()));
    }
    let key = SealKey::generate().map_err(|e| FileError::corrupt(&path, e.to_string()))?;
    write_framed(&path, MAGIC, VERSION, &**key.private(), MODE)?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_key_is_made_once_and_kept_from_others() {
        let dir = tempfile::tempdir().unwrap();
        let made = node_key(dir.path()).unwrap();
        let again = node_key(dir.path()).unwrap();
        assert_eq!(made.private(), again.private());
        let path = dir.path().join(FILE);
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        std::fs::write(&path, b"TWSK").unwrap();
        let error = node_key(dir.path()).unwrap_err();
        assert!(error.is_corrupt(), "{error}");
    }
}
