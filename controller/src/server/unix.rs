//! The unix socket's file: made with the wanted mode, taken over only from a controller that is gone.

use std::{io, os::unix::fs::PermissionsExt, path::Path};

use tokio::net::{UnixListener, UnixStream};

use super::ListenError;

/// Listens at `path`.
pub(super) async fn bind(path: &Path, mode: u32) -> Result<UnixListener, ListenError> {
    let failed = |cause| ListenError::Socket { path: path.to_owned(), cause };
    if std::fs::symlink_metadata(path).is_ok() {
        match UnixStream::connect(path).await {
            Ok(_) => return Err(ListenError::SocketInUse(path.to_owned())),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path).map_err(failed)?;
            }
            // Not a socket, or not ours to look at: nothing that may be removed.
            Err(error) => return Err(failed(error)),
        }
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(failed)?;
    Ok(listener)
}

/// Takes the file away after the end.
pub(super) fn remove(path: &Path) {
    if let Err(error) = std::fs::remove_file(path) {
        tracing::debug!(path = %path.display(), %error, "the socket was not removed");
    }
}
