//! One record of the journal as bytes: what one write put down, under one checksum, so that a power cut leaves it whole
//! or not at all. The number of the segment stands in it: what an earlier life of the same file left is no record.
//! Pure; damaged bytes never panic.

/// The format written, and the only one read.
const VERSION: u8 = 1;
const MAGIC: [u8; 4] = *b"TWJR";
/// Magic, version, kind, two bytes of nothing, segment, length, checksum.
pub(super) const HEADER: usize = 4 + 1 + 1 + 2 + 8 + 4 + 4;
/// Records begin at multiples of this, so that looking for one behind a damaged one is cheap.
const ALIGN: usize = 8;
/// What stands before each entry in a record: its length.
pub(super) const PREFIX: usize = 4;

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Entries, each framed and preceded by its length.
    Entries,
    /// Everything from this index on is no more.
    Truncated,
    /// Everything up to this log id is no more.
    Purged,
}

impl Kind {
    const fn code(self) -> u8 {
        match self {
            Self::Entries => 1,
            Self::Truncated => 2,
            Self::Purged => 3,
        }
    }

    const fn of(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Entries),
            2 => Some(Self::Truncated),
            3 => Some(Self::Purged),
            _ => None,
        }
    }
}

/// A whole record found in a segment.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Record<'a> {
    pub(super) kind: Kind,
    pub(super) body: &'a [u8],
    /// Where the next one begins, from this one's start.
    pub(super) length: usize,
}

impl Record<'_> {
    /// The numbers in the body of what is no record of entries.
    pub(super) fn numbers(&self) -> [Option<u64>; 3] {
        [0, 8, 16].map(|at| {
            let bytes = self.body.get(at..)?.first_chunk::<8>()?;
            Some(u64::from_be_bytes(*bytes))
        })
    }
}

/// Bytes that a record with a body of `body` bytes takes.
pub(super) const fn size(body: usize) -> usize {
    (HEADER + body).next_multiple_of(ALIGN)
}

/// Notes at `at`, where `PREFIX` bytes are kept free, the length of the entry behind.
pub(super) fn set_length(out: &mut [u8], at: usize, length: usize) {
    let length = u32::try_from(length).unwrap_or(u32::MAX);
    if let Some(prefix) = out.get_mut(at..at + PREFIX) {
        prefix.copy_from_slice(&length.to_be_bytes());
    }
}

/// Makes a record of `out`, which holds room for the header and then the body.
pub(super) fn seal(out: &mut Vec<u8>, kind: Kind, segment: u64) {
    let body = u32::try_from(out.len().saturating_sub(HEADER)).unwrap_or(u32::MAX);
    let mut header = Vec::with_capacity(HEADER);
    header.extend_from_slice(&MAGIC);
    header.extend_from_slice(&[VERSION, kind.code(), 0, 0]);
    header.extend_from_slice(&segment.to_be_bytes());
    header.extend_from_slice(&body.to_be_bytes());
    let crc = crc32c::crc32c_append(
        crc32c::crc32c(&header),
        out.get(HEADER..).unwrap_or_default(),
    );
    header.extend_from_slice(&crc.to_be_bytes());
    if let Some(place) = out.get_mut(..HEADER) {
        place.copy_from_slice(&header);
    }
    out.resize(out.len().next_multiple_of(ALIGN), 0);
}

/// The record that begins at `bytes`, if a whole one of `segment` does.
pub(super) fn parse(bytes: &[u8], segment: u64) -> Option<Record<'_>> {
    let header = bytes.get(..HEADER)?;
    let (magic, rest) = header.split_first_chunk::<4>()?;
    let (&[version, kind, ..], rest) = rest.split_first_chunk::<4>()?;
    let (number, rest) = rest.split_first_chunk::<8>()?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let crc = u32::from_be_bytes(*rest.first_chunk::<4>()?);
    if *magic != MAGIC || version != VERSION || u64::from_be_bytes(*number) != segment {
        return None;
    }
    let kind = Kind::of(kind)?;
    let end = HEADER.checked_add(u32::from_be_bytes(*length) as usize)?;
    let body = bytes.get(HEADER..end)?;
    let checked = header.get(..HEADER - 4)?;
    let whole = crc32c::crc32c_append(crc32c::crc32c(checked), body) == crc;
    whole.then_some(Record {
        kind,
        body,
        length: end.next_multiple_of(ALIGN),
    })
}

/// True when a whole record of `segment` begins anywhere in `bytes`. Behind a place where none begins, it means that one
/// was damaged there: a write that a power cut tore has nothing behind it.
pub(super) fn any_in(bytes: &[u8], segment: u64) -> bool {
    let starts = (0..bytes.len()).step_by(ALIGN);
    let mut starts = starts.filter_map(|at| bytes.get(at..));
    starts.any(|rest| rest.starts_with(&MAGIC) && parse(rest, segment).is_some())
}

/// The entries in the body of a record, each with its place in it. `None` in place of what does not fit the form.
pub(super) fn entries(body: &[u8]) -> impl Iterator<Item = Option<(usize, &[u8])>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let rest = body.get(at..).filter(|rest| !rest.is_empty())?;
        let one = rest
            .split_first_chunk::<PREFIX>()
            .and_then(|(length, rest)| {
                let length = u32::from_be_bytes(*length) as usize;
                Some((at + PREFIX, rest.get(..length)?))
            });
        // Behind what makes no sense nothing does.
        at = one.map_or(body.len(), |(start, frame)| start + frame.len());
        Some(one)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(body: &[u8], segment: u64) -> Vec<u8> {
        let mut out = vec![0; HEADER];
        out.extend_from_slice(body);
        seal(&mut out, Kind::Entries, segment);
        out
    }

    #[test]
    fn any_flipped_bit_is_noticed() {
        let good = record(b"what was written", 7);
        let found = parse(&good, 7).unwrap();
        assert_eq!(
            (found.body, found.length),
            (&b"what was written"[..], good.len())
        );
        assert_eq!(good.len(), size(b"what was written".len()));
        // What fills up to the next record counts for nothing.
        for bit in 0..(HEADER + found.body.len()) * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(parse(&bad, 7), None, "bit {bit}");
        }
        assert_eq!(parse(&good, 8), None, "an earlier life of the file");
        for cut in 0..HEADER + found.body.len() {
            assert_eq!(parse(&good[..cut], 7), None, "cut to {cut}");
        }
    }

    #[test]
    fn what_lies_behind_damage_is_found() {
        let mut bytes = record(b"first", 3);
        bytes[HEADER] ^= 1;
        assert!(!any_in(&bytes, 3));
        bytes.extend(record(b"second", 3));
        assert!(any_in(&bytes, 3));
        assert!(!any_in(&bytes, 4));
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes, 1);
            let _ = any_in(&bytes, 1);
            prop_assert!(entries(&bytes).count() <= bytes.len());
        }

        #[test]
        fn entries_come_back_in_order(bodies in proptest::collection::vec(
            proptest::collection::vec(any::<u8>(), 0..50), 0..20)
        ) {
            let mut body = Vec::new();
            for one in &bodies {
                body.extend_from_slice(&u32::try_from(one.len()).unwrap().to_be_bytes());
                body.extend_from_slice(one);
            }
            let back: Vec<_> = entries(&body).map(|e| e.unwrap().1.to_vec()).collect();
            prop_assert_eq!(back, bodies);
        }
    }
}
