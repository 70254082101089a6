//! The injection's settings: a YAML file, mounted from a ConfigMap, that is read again when it changes.

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tradewind_kubernetes::injection::Settings;
use tradewind_runtime::task;

use super::Shared;

/// Longest settings, in bytes: they have some twenty lines.
const MAX_BYTES: u64 = 64 << 10;
/// How often the file is looked at. The kubelet itself brings a changed ConfigMap within a minute.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Why settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file.
    #[error("the injection's settings {path} cannot be read: {cause}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// What stands in it.
    #[error("the injection's settings {path} are not valid: {why}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

/// Reads them.
pub(super) fn read(path: &Path) -> Result<Settings, SettingsError> {
    let failed = |cause| SettingsError::Read {
        path: path.to_owned(),
        cause,
    };
    let invalid = |why: String| SettingsError::Invalid {
        path: path.to_owned(),
        why,
    };
    let mut text = String::new();
    let file = File::open(path).map_err(failed)?;
    file.take(MAX_BYTES + 1)
        .read_to_string(&mut text)
        .map_err(failed)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(invalid(format!("they are longer than {MAX_BYTES} bytes")));
    }
    let mut settings: Settings =
        serde_saphyr::from_str(&text).map_err(|e| invalid(e.to_string()))?;
    crate::VERSION.clone_into(&mut settings.version);
    match settings.problem() {
        Some(why) => Err(invalid(why)),
        None => Ok(settings),
    }
}

/// Follows the file. What cannot be used is said once, and the last good settings stay.
pub(super) async fn follow(shared: Arc<Shared>, path: PathBuf) {
    let mut told = String::new();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let file = path.clone();
        let Ok(found) = task::spawn_blocking(move || read(&file)).await else {
            return;
        };
        match found {
            Ok(settings) => {
                told.clear();
                if settings != **shared.settings.load() {
                    tracing::info!(image = settings.image, "the injection's settings changed");
                    shared.settings.store(Arc::new(settings));
                }
            }
            Err(error) => {
                let text = error.to_string();
                if text != told {
                    tracing::warn!(%error, "the injection goes on with its last settings");
                    told = text;
                }
            }
        }
    }
}
