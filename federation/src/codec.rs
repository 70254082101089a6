//! Frames for everything this store puts on a wire or into a log entry: one version byte, then JSON. Reading is bounded
//! before it is parsed, and a version we do not know is an error that names both. Never panics on what a peer sent.

use serde::{Serialize, de::DeserializeOwned};

/// The version written, and the newest that is read.
pub const VERSION: u8 = 1;

/// The largest frame, bytes: below tonic's 4 MiB with room for its own framing.
pub const MAX_FRAME: usize = 4 * 1024 * 1024 - 64 * 1024;

/// Why a frame was not read or made.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// Nothing there.
    #[error("the frame is empty, expected a version byte")]
    Empty,
    /// Longer than anybody may send.
    #[error("the frame has {got} bytes, at most {limit} are allowed")]
    TooLarge {
        /// Its length.
        got: usize,
        /// The bound.
        limit: usize,
    },
    /// Written by a newer version.
    #[error("the frame has version {got}, this build reads up to version {known}; upgrade it")]
    Version {
        /// What stands in the frame.
        got: u8,
        /// What this build knows.
        known: u8,
    },
    /// Not what it should be.
    #[error("the frame does not hold {expected}")]
    Malformed {
        /// What was expected.
        expected: &'static str,
        /// Where it stopped making sense.
        #[source]
        cause: serde_json::Error,
    },
}

/// Makes a frame of `value`.
pub fn encode<T: Serialize>(value: &T, what: &'static str) -> Result<Vec<u8>, CodecError> {
    let mut out = vec![VERSION];
    serde_json::to_writer(&mut out, value).map_err(|cause| CodecError::Malformed {
        expected: what,
        cause,
    })?;
    bounded(out.len(), MAX_FRAME)?;
    Ok(out)
}

/// Reads a frame of at most [`MAX_FRAME`] bytes.
pub fn decode<T: DeserializeOwned>(frame: &[u8], what: &'static str) -> Result<T, CodecError> {
    bounded(frame.len(), MAX_FRAME)?;
    let (version, body) = frame.split_first().ok_or(CodecError::Empty)?;
    if *version == 0 || *version > VERSION {
        return Err(CodecError::Version {
            got: *version,
            known: VERSION,
        });
    }
    serde_json::from_slice(body).map_err(|cause| CodecError::Malformed {
        expected: what,
        cause,
    })
}

fn bounded(got: usize, limit: usize) -> Result<(), CodecError> {
    if got <= limit {
        Ok(())
    } else {
        Err(CodecError::TooLarge { got, limit })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_newer_version_is_named() {
        let mut frame = encode(&7_u64, "a number").unwrap();
        frame[0] = VERSION + 1;
        let error = decode::<u64>(&frame, "a number").unwrap_err().to_string();
        assert!(
            error.contains("version 2") && error.contains("up to version 1"),
            "{error}"
        );
    }

    #[test]
    fn large_and_empty_frames_are_refused() {
        assert!(matches!(decode::<u64>(&[], "x"), Err(CodecError::Empty)));
        let large = vec![VERSION; MAX_FRAME + 1];
        assert!(matches!(
            decode::<u64>(&large, "x"),
            Err(CodecError::TooLarge { .. })
        ));
        let text = "x".repeat(MAX_FRAME);
        assert!(matches!(
            encode(&text, "x"),
            Err(CodecError::TooLarge { .. })
        ));
    }

    proptest! {
        #[test]
        fn garbage_never_panics(frame in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode::<crate::types::Batch>(&frame, "a batch");
            let _ = decode::<openraft::raft::AppendEntriesRequest<crate::TypeConfig>>(&frame, "an append");
        }
    }
}
