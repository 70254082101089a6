//! Places that many holders share, so that none of them can take all. Pure.
//!
//! A holder may have so many times what is free, and no more (the dynamic threshold of shared packet buffers, Choudhury and
//! Hahne 1998). One alone gets nearly everything; the more holders ask for much, the less each gets; something is always
//! left for whoever comes next; and nobody need be listed, weighted or cut off for it. Holders that have more than their
//! share when others come keep it, and get nothing new until it has shrunk.

use std::{collections::HashMap, hash::Hash};

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    /// All are taken.
    All,
    /// This holder has its share.
    Share,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Shares<K> {
    places: usize,
    greed: usize,
    held: usize,
    // Entries go when they reach 0, so this is bounded by the places.
    of: HashMap<K, usize>,
}

impl<K: Clone + Eq + Hash> Shares<K> {
    /// So many places. One holder alone gets `greed / (greed + 1)` of them.
    pub(crate) fn new(places: usize, greed: usize) -> Self {
        Self {
            places,
            greed,
            held: 0,
            of: HashMap::new(),
        }
    }

    /// Takes one; whoever got it gives it back.
    pub(crate) fn take(&mut self, holder: &K) -> Result<(), Full> {
        let free = self.places.saturating_sub(self.held);
        if free == 0 {
            return Err(Full::All);
        }
        match self.of.get_mut(holder) {
            Some(has) if *has >= free.saturating_mul(self.greed) => return Err(Full::Share),
            Some(has) => *has += 1,
            None => drop(self.of.insert(holder.clone(), 1)),
        }
        self.held += 1;
        Ok(())
    }

    /// Gives one back.
    pub(crate) fn give_back(&mut self, holder: &K) {
        let Some(has) = self.of.get_mut(holder) else {
            return;
        };
        *has -= 1;
        if *has == 0 {
            self.of.remove(holder);
        }
        self.held -= 1;
    }

    /// Who holds how many.
    pub(crate) fn holders(&self) -> impl Iterator<Item = (&K, usize)> {
        self.of.iter().map(|(holder, has)| (holder, *has))
    }

    /// How many there are.
    pub(crate) const fn places(&self) -> usize {
        self.places
    }

    /// How many are taken.
    pub(crate) const fn held(&self) -> usize {
        self.held
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Takes until there is no more.
    fn fill(shares: &mut Shares<u8>, holder: u8) -> usize {
        (0..).take_while(|_| shares.take(&holder).is_ok()).count()
    }

    #[test]
    fn one_alone_gets_nearly_all_and_each_next_one_finds_room() {
        let mut s = Shares::new(1_000, 4);
        assert_eq!(fill(&mut s, 0), 800);
        assert_eq!(s.take(&0), Err(Full::Share));
        assert_eq!(fill(&mut s, 1), 160);
        assert_eq!(fill(&mut s, 2), 32);
        assert_eq!(fill(&mut s, 3), 7);
        assert_eq!(fill(&mut s, 4), 1);
        assert_eq!(s.take(&5), Err(Full::All));
        assert_eq!(s.held(), 1_000);
    }

    #[test]
    fn turnover_makes_the_greedy_equal() {
        // Connections of all end in turn, and all always want more: whoever has too much does not get it back.
        let mut s = Shares::new(1_000, 4);
        let mut has = [fill(&mut s, 0), 0, 0];
        for turn in 0..30_000_usize {
            let ends = (0..3)
                .max_by_key(|k| (turn * 7 + k * 13) % 3 * 100 + has[*k])
                .unwrap();
            if has[ends] > 0 {
                s.give_back(&u8::try_from(ends).unwrap());
                has[ends] -= 1;
            }
            for (k, has) in has.iter_mut().enumerate() {
                *has += usize::from(s.take(&u8::try_from(k).unwrap()).is_ok());
            }
        }
        for one in has {
            assert!((300..=320).contains(&one), "4 of 13 each: {has:?}");
        }
    }

    #[test]
    fn what_is_given_back_is_forgotten() {
        let mut s = Shares::new(8, 1);
        assert_eq!(fill(&mut s, 0), 4);
        for _ in 0..4 {
            s.give_back(&0);
        }
        s.give_back(&0);
        assert_eq!((s.held(), s.of.len()), (0, 0));
        assert_eq!(fill(&mut s, 0), 4);
    }

    proptest! {
        /// Whatever comes and goes: no more is held than there is, the sum is the parts, whoever holds nothing gets a place
        /// while there is one, and nobody who is refused for his share has less than those who are free times the greed.
        #[test]
        fn the_books_hold(places in 1usize..40, greed in 1usize..6, steps in prop::collection::vec((any::<bool>(), 0u8..6), 0..300)) {
            let mut s = Shares::new(places, greed);
            let mut has = [0_usize; 6];
            for (takes, holder) in steps {
                let at = usize::from(holder);
                let free = places - s.held();
                if takes {
                    match s.take(&holder) {
                        Ok(()) => {
                            prop_assert!(free > 0 && has[at] < greed * free);
                            has[at] += 1;
                        }
                        Err(Full::All) => prop_assert_eq!(free, 0),
                        Err(Full::Share) => prop_assert!(has[at] >= greed * free && has[at] > 0 && free > 0),
                    }
                } else if has[at] > 0 {
                    s.give_back(&holder);
                    has[at] -= 1;
                }
                prop_assert_eq!(s.held(), has.iter().sum::<usize>());
                prop_assert_eq!(s.of.len(), has.iter().filter(|h| **h > 0).count());
            }
        }
    }
}
