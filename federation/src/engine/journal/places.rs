//! Where each entry of the journal lies: contiguous indices, each with its place. Pure.

use std::{collections::VecDeque, ops::Range};

/// Where one entry's frame lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) segment: u64,
    pub(super) offset: u32,
    length: u32,
}

impl Place {
    /// Offset and length are below a segment's size, which is far below what fits.
    pub(super) fn new(segment: u64, offset: usize, length: usize) -> Self {
        let short = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Self {
            segment,
            offset: short(offset),
            length: short(length),
        }
    }

    pub(super) const fn length(&self) -> usize {
        self.length as usize
    }
}

/// The places of the entries from some index on, without a gap.
#[derive(Debug)]
pub(super) struct Places {
    first: u64,
    all: VecDeque<Place>,
}

impl Places {
    /// None, behind a log that ends with `last`.
    pub(super) fn after(last: Option<u64>) -> Self {
        Self {
            first: last.map_or(0, |l| l + 1),
            all: VecDeque::new(),
        }
    }

    /// The indices, empty at the next one where there are none.
    pub(super) fn range(&self) -> Range<u64> {
        self.first..self.first + self.all.len() as u64
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Adds `places`, of the entries from `index` on, which is the next one. Where there are none, it begins there.
    pub(super) fn extend(&mut self, index: u64, places: Vec<Place>) {
        if self.all.is_empty() {
            self.first = index;
        }
        self.all.extend(places);
    }

    pub(super) fn last(&self) -> Option<(u64, Place)> {
        let place = self.all.back()?;
        Some((self.range().end - 1, *place))
    }

    /// Those of `range` that are here.
    pub(super) fn within(&self, range: &Range<u64>) -> impl Iterator<Item = (u64, Place)> {
        let start = range.start.max(self.first);
        let skip = usize::try_from(start - self.first).unwrap_or(usize::MAX);
        (start..range.end).zip(self.all.iter().skip(skip).copied())
    }

    /// Forgets everything from `index` on. Where that is everything, the next one has this index.
    pub(super) fn truncate_from(&mut self, index: u64) {
        let keep = index.saturating_sub(self.first);
        self.all
            .truncate(usize::try_from(keep).unwrap_or(usize::MAX));
        self.first = self.first.min(index);
    }

    /// Forgets everything up to `index`. Where that is everything, the next one follows it.
    pub(super) fn purge_to(&mut self, index: u64) {
        while self.first <= index && self.all.pop_front().is_some() {
            self.first += 1;
        }
        if self.all.is_empty() {
            self.first = self.first.max(index + 1);
        }
    }

    /// True when the first one lies in `segment`.
    pub(super) fn begin_in(&self, segment: u64) -> bool {
        self.all.front().is_some_and(|p| p.segment == segment)
    }

    /// The first ones, as far as they lie in `segment`.
    pub(super) fn leading(&self, segment: u64) -> Vec<Place> {
        let mine = |p: &&Place| p.segment == segment;
        self.all.iter().take_while(mine).copied().collect()
    }

    /// Forgets the first ones, as far as they lie in `segment`.
    pub(super) fn release(&mut self, segment: u64) {
        while self.begin_in(segment) {
            self.all.pop_front();
            self.first += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(first: u64, segments: &[u64]) -> Places {
        let mut places = Places::after(first.checked_sub(1));
        let all = segments.iter().map(|s| Place::new(*s, 0, 1)).collect();
        places.extend(first, all);
        places
    }

    #[test]
    fn the_range_follows_what_is_removed() {
        let mut some = places(5, &[1, 1, 2, 2]);
        assert_eq!(some.range(), 5..9);
        some.truncate_from(8);
        some.purge_to(5);
        assert_eq!(some.range(), 6..8);
        some.truncate_from(3);
        assert_eq!(some.range(), 3..3, "the log below lost its end, too");
        some.purge_to(10);
        assert_eq!(some.range(), 11..11, "a snapshot went ahead");
        some.purge_to(4);
        assert_eq!(some.range(), 11..11);
    }

    #[test]
    fn a_segment_goes_with_what_lies_in_it() {
        let mut some = places(5, &[1, 1, 2]);
        assert_eq!(some.leading(1).len(), 2);
        assert!(some.leading(2).is_empty());
        some.release(1);
        assert_eq!(some.range(), 7..8);
        assert!(some.begin_in(2));
        let found: Vec<_> = some.within(&(0..100)).map(|(index, _)| index).collect();
        assert_eq!(found, [7]);
    }
}
