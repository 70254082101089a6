//! The unix socket's file: made with the wanted mode, taken over only from a controller that is gone.

use std::{
    io,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::Path,
};

use tokio::net::{UnixListener, UnixStream};

use super::ListenError;

/// Listens at `path`.
pub(super) async fn bind(path: &Path, mode: u32) -> Result<UnixListener, ListenError> {
    let failed = |cause| ListenError::Socket {
        path: path.to_owned(),
        cause,
    };
    if let Ok(found) = std::fs::symlink_metadata(path) {
        // Connecting to a plain file is refused too, and that file is not ours to remove.
        if !found.file_type().is_socket() {
            return Err(failed(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "it is there and is no socket",
            )));
        }
        match UnixStream::connect(path).await {
            Ok(_) => return Err(ListenError::SocketInUse(path.to_owned())),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path).map_err(failed)?;
            }
            // Not ours to look at, so not ours to remove.
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
