//! Digests at agreed positions: by them replicas of a machine find out that they have parted, and where.

use std::collections::VecDeque;

use crate::model::{Position, limits};

/// The state's digests at multiples of [`limits::MACHINE_DIGEST_EVERY`], the last [`limits::MACHINE_DIGESTS_MAX`] of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeptDigests {
    /// Ascending; no position between two of them is agreed.
    kept: VecDeque<(Position, [u8; 32])>,
}

/// Where two replicas have parted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parted {
    /// The last position at which they are known to have been alike; `None`: none is known.
    pub alike: Option<Position>,
    /// The first position at which they are known to differ.
    pub differ: Position,
}

impl KeptDigests {
    /// The first agreed position after `position`.
    pub fn next_after(position: Position) -> Position {
        let every = limits::MACHINE_DIGEST_EVERY;
        Position((position.0 / every + 1) * every)
    }

    /// Notes the digest of an agreed position; those after it are of a state that is no more.
    pub fn note(&mut self, position: Position, digest: [u8; 32]) {
        while self.kept.back().is_some_and(|(known, _)| *known >= position) {
            self.kept.pop_back();
        }
        if self.kept.len() == limits::MACHINE_DIGESTS_MAX {
            self.kept.pop_front();
        }
        self.kept.push_back((position, digest));
    }

    /// All of them, ascending.
    pub fn all(&self) -> impl Iterator<Item = (Position, [u8; 32])> + '_ {
        self.kept.iter().copied()
    }

    /// The last position of which one is kept.
    pub fn last(&self) -> Option<Position> {
        self.kept.back().map(|(position, _)| *position)
    }

    /// Those that travel: the newest ones, and of the older ones the farther back the fewer, ascending. Both sides keep the
    /// same positions, so that those which were left out of one message stand in another.
    pub fn sample(&self) -> Vec<(Position, [u8; 32])> {
        let mut picked = Vec::new();
        let (mut back, mut step) = (1, 1);
        while back <= self.kept.len() && picked.len() < limits::MACHINE_DIGESTS_SENT_MAX {
            picked.push(self.kept[self.kept.len() - back]);
            if picked.len() >= limits::MACHINE_DIGESTS_SENT_MAX / 2 {
                step *= 2;
            }
            back += step;
        }
        picked.reverse();
        picked
    }

    /// Compares with what a replica says of the same positions of the same log (ascending).
    pub fn compare(&self, theirs: &[(Position, [u8; 32])]) -> Option<Parted> {
        let mut alike = None;
        for (position, digest) in theirs {
            let Ok(index) = self.kept.binary_search_by_key(position, |(known, _)| *known) else { continue };
            match self.kept[index].1 == *digest {
                true => alike = Some(*position),
                false => return Some(Parted { alike, differ: *position }),
            }
        }
        None
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }
}

impl std::fmt::Display for Parted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.alike {
            Some(alike) => write!(f, "alike up to position {alike}, different at position {}", self.differ),
            None => write!(f, "different at position {}, the first that both still know", self.differ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: u64 = limits::MACHINE_DIGEST_EVERY;

    fn digests(count: u64, of: impl Fn(u64) -> u8) -> KeptDigests {
        let mut kept = KeptDigests::default();
        (1..=count).for_each(|n| kept.note(Position(n * EVERY), [of(n); 32]));
        kept
    }

    #[test]
    fn positions_are_multiples_that_all_agree_on() {
        for (after, next) in [(0, EVERY), (EVERY - 1, EVERY), (EVERY, 2 * EVERY)] {
            assert_eq!(KeptDigests::next_after(Position(after)), Position(next));
        }
    }

    #[test]
    fn what_has_parted_is_found_where_it_parted() {
        let (ours, theirs) = (digests(20, |_| 1), digests(20, |n| if n < 18 { 1 } else { 2 }));
        let parted = ours.compare(&theirs.sample());
        assert_eq!(parted, Some(Parted { alike: Some(Position(17 * EVERY)), differ: Position(18 * EVERY) }));
        assert_eq!(ours.compare(&digests(23, |_| 1).sample()), None, "what one side does not have yet says nothing");
        let all = digests(20, |_| 3);
        assert!(matches!(ours.compare(&all.sample()), Some(Parted { alike: None, .. })));
    }

    #[test]
    fn a_long_separation_is_bracketed_by_few_digests() {
        let count = limits::MACHINE_DIGESTS_MAX as u64 + 50;
        let theirs = digests(count, |n| if n < count - 100 { 1 } else { 2 });
        let sample = theirs.sample();
        assert!(sample.len() <= limits::MACHINE_DIGESTS_SENT_MAX && sample.is_sorted());
        let parted = digests(count, |_| 1).compare(&sample).expect("they differ");
        let alike = parted.alike.expect("an older one is there");
        assert!(alike < Position((count - 100) * EVERY) && parted.differ >= Position((count - 100) * EVERY));
        assert_eq!(theirs.all().count(), limits::MACHINE_DIGESTS_MAX);
    }

    #[test]
    fn a_state_that_was_built_again_replaces_its_digests() {
        let mut kept = digests(5, |_| 1);
        kept.note(Position(3 * EVERY), [9; 32]);
        assert_eq!(kept.all().last(), Some((Position(3 * EVERY), [9; 32])));
    }
}
