//! A setting that can be read and changed while the process runs, on an admin page of its own. It owns nothing: what is
//! changed belongs to whoever made it.

use std::fmt;
use std::sync::Arc;

/// Says what is in force.
type Read = Arc<dyn Fn() -> String + Send + Sync>;
/// Puts something else in force, or says why not.
type Write = Arc<dyn Fn(&str) -> Result<(), String> + Send + Sync>;

/// One setting.
#[derive(Clone)]
pub struct Setting {
    path: &'static str,
    read: Read,
    write: Write,
}

impl Setting {
    /// A setting behind `path`. `write` gets what was sent without the white space around it; when it fails nothing may have
    /// changed.
    pub fn new(
        path: &'static str,
        read: impl Fn() -> String + Send + Sync + 'static,
        write: impl Fn(&str) -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        Self {
            path,
            read: Arc::new(read),
            write: Arc::new(write),
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &'static str {
        self.path
    }

    /// What is in force.
    #[must_use]
    pub fn current(&self) -> String {
        (self.read)()
    }

    /// Puts `value` in force.
    pub fn set(&self, value: &str) -> Result<(), String> {
        (self.write)(value.trim())
    }
}

impl fmt::Debug for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Setting")
            .field("path", &self.path)
            .field("current", &self.current())
            .finish_non_exhaustive()
    }
}
