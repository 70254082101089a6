//! Messages of a gRPC stream, counted as their bytes pass: each is a flag, its length in four bytes, and as many bytes.
//!
//! Pure. Ten bytes of state whatever a message's size; nothing is kept of what passes, and it never panics.

/// A flag and a length (gRPC over HTTP/2, "Length-Prefixed-Message").
const PREFIX: u8 = 5;
/// The flag says whether a message is compressed. Whatever has other bits set is no message (gRPC-Web's trailers).
const MAX_FLAG: u8 = 1;

/// Counts one direction's messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MessageCounter {
    /// Of the prefix, so many bytes have come.
    prefix: u8,
    flag: u8,
    /// What the prefix says, then what is still to come of it.
    left: u32,
    whole: u64,
}

impl MessageCounter {
    /// More bytes.
    pub fn pass(&mut self, mut bytes: &[u8]) {
        while let Some((first, rest)) = bytes.split_first() {
            if self.prefix < PREFIX {
                if self.prefix == 0 {
                    self.flag = *first;
                } else {
                    self.left = self.left << 8 | u32::from(*first);
                }
                self.prefix += 1;
                bytes = rest;
            } else {
                let length = usize::try_from(self.left).unwrap_or(usize::MAX);
                let taken = length.min(bytes.len());
                // No more than is left, so it fits.
                self.left = self
                    .left
                    .saturating_sub(u32::try_from(taken).unwrap_or(u32::MAX));
                bytes = bytes.get(taken..).unwrap_or_default();
            }
            if self.prefix == PREFIX && self.left == 0 {
                self.prefix = 0;
                if self.flag <= MAX_FLAG {
                    self.whole = self.whole.saturating_add(1);
                }
            }
        }
    }

    /// Messages that have passed whole.
    pub const fn whole(&self) -> u64 {
        self.whole
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(flag: u8, length: usize) -> Vec<u8> {
        let mut bytes = vec![flag];
        bytes.extend(u32::try_from(length).unwrap().to_be_bytes());
        bytes.resize(bytes.len() + length, 0x01);
        bytes
    }

    #[test]
    fn only_whole_messages_count() {
        let mut counter = MessageCounter::default();
        let bytes = message(0, 300);
        let (most, last) = bytes.split_at(304);
        counter.pass(most);
        assert_eq!(counter.whole(), 0);
        counter.pass(last);
        assert_eq!(counter.whole(), 1);
        counter.pass(&message(1, 0));
        assert_eq!(counter.whole(), 2, "an empty one is one");
        counter.pass(&message(0x80, 12));
        assert_eq!(counter.whole(), 2, "trailers are none");
        counter.pass(&[0, 0xff, 0xff, 0xff, 0xff, 1]);
        assert_eq!(counter.whole(), 2);
        assert_eq!(counter.left, u32::MAX - 1);
    }

    proptest! {
        #[test]
        fn however_the_bytes_are_cut(
            lengths in prop::collection::vec((0..3_u8, 0..600_usize), 0..20),
            cuts in prop::collection::vec(1..500_usize, 1..20),
        ) {
            let bytes: Vec<u8> = lengths.iter().flat_map(|(f, n)| message(*f, *n)).collect();
            let mut counter = MessageCounter::default();
            let mut rest = bytes.as_slice();
            for cut in cuts.iter().cycle() {
                let (piece, after) = rest.split_at((*cut).min(rest.len()));
                counter.pass(piece);
                rest = after;
                if rest.is_empty() {
                    break;
                }
            }
            let messages = lengths.iter().filter(|(flag, _)| *flag <= MAX_FLAG).count();
            prop_assert_eq!(counter.whole(), messages as u64);
        }
    }
}
