//! One log entry as bytes: version, index, term, length, CRC32C, then the entry as JSON. The index and term stand in the
//! frame so that an entry under a wrong key is noticed.

use crate::types::Entry;

use super::EngineError;

/// The version written, and the newest that is read.
pub(crate) const VERSION: u8 = 1;

/// The largest framed entry, bytes: an export of 5,000 endpoints fits, and two entries fit one RPC.
pub(crate) const MAX_ENTRY: usize = 1024 * 1024 + 64 * 1024;

const HEADER: usize = 1 + 8 + 8 + 4 + 4;

/// Puts the frame of `entry` behind what `out` holds.
pub(crate) fn encode_into(entry: &Entry, out: &mut Vec<u8>) -> Result<(), EngineError> {
    let index = entry.log_id.index;
    let start = out.len();
    out.push(VERSION);
    out.extend_from_slice(&index.to_be_bytes());
    out.extend_from_slice(&entry.log_id.leader_id.term.to_be_bytes());
    // Length and checksum follow when the body is there.
    out.extend_from_slice(&[0; 8]);
    serde_json::to_writer(&mut *out, entry).map_err(|e| EngineError::Corrupt {
        index,
        what: e.to_string(),
    })?;
    let bytes = out.len() - start;
    if bytes > MAX_ENTRY {
        return Err(EngineError::TooLarge {
            index,
            bytes,
            limit: MAX_ENTRY,
        });
    }
    let (header, body) = out
        .get_mut(start..)
        .unwrap_or_default()
        .split_at_mut(HEADER);
    let (head, crc_place) = header.split_at_mut(HEADER - 4);
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
    if let Some(place) = head.last_chunk_mut::<4>() {
        *place = length.to_be_bytes();
    }
    let crc = crc32c::crc32c_append(crc32c::crc32c(head), body);
    crc_place.copy_from_slice(&crc.to_be_bytes());
    Ok(())
}

/// Which entry `framed` claims to hold.
pub(crate) fn index(framed: &[u8]) -> Option<u64> {
    let bytes = framed.get(1..)?.first_chunk::<8>()?;
    Some(u64::from_be_bytes(*bytes))
}

pub(crate) fn decode(index: u64, bytes: &[u8]) -> Result<Entry, EngineError> {
    let corrupt = |what: &str| EngineError::Corrupt {
        index,
        what: what.to_owned(),
    };
    let short = || corrupt("it is cut short");
    let (version, rest) = bytes.split_first().ok_or_else(short)?;
    if *version != VERSION {
        // A flipped bit may pretend to be another version; either way it cannot be read.
        return Err(EngineError::Version {
            index,
            got: *version,
            known: VERSION,
        });
    }
    let (found_index, rest) = rest.split_first_chunk::<8>().ok_or_else(short)?;
    let (found_term, rest) = rest.split_first_chunk::<8>().ok_or_else(short)?;
    let (length, rest) = rest.split_first_chunk::<4>().ok_or_else(short)?;
    let (crc, body) = rest.split_first_chunk::<4>().ok_or_else(short)?;
    let header = bytes.get(..HEADER - 4).ok_or_else(short)?;
    if body.len() != u32::from_be_bytes(*length) as usize {
        return Err(short());
    }
    if crc32c::crc32c_append(crc32c::crc32c(header), body) != u32::from_be_bytes(*crc) {
        return Err(corrupt("its checksum does not match"));
    }
    if u64::from_be_bytes(*found_index) != index {
        return Err(corrupt("another entry stands in its place"));
    }
    let entry: Entry = serde_json::from_slice(body).map_err(|e| corrupt(&e.to_string()))?;
    let id = entry.log_id;
    if id.index != index || id.leader_id.term != u64::from_be_bytes(*found_term) {
        return Err(corrupt("its content belongs to another entry"));
    }
    Ok(entry)
}

#[cfg(test)]
mod tests {
    use openraft::testing::blank_ent;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn any_flipped_bit_is_noticed() {
        let entry: Entry = blank_ent(3, 1, 17);
        let mut good = b"before".to_vec();
        encode_into(&entry, &mut good).unwrap();
        let good = good.split_off(6);
        assert_eq!(decode(17, &good).unwrap(), entry);
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(17, &bad).is_err(), "bit {bit}");
        }
        assert!(decode(18, &good).is_err());
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            prop_assert!(decode(1, &bytes).is_err());
        }
    }
}
