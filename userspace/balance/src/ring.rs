// SPDX-License-Identifier: GPL-3.0-only
//! The ring: what all algorithms are picked from, in the kernel and in the workers.
//!
//! A ring has [`SLOTS`] slots, each with a primary (who gets it) and an alternate (who gets it while the primary takes
//! nothing). An algorithm is how a ring is laid out and how a slot is found:
//!
//! | a slot is found by | algorithms |
//! |---|---|
//! | [`Ring::slot`] of a hash | maglev, ring-hash, session-affinity |
//! | [`Ring::turn`] of a cursor | round-robin, weighted-round-robin |
//! | [`Ring::draw`] of a random number | random, weighted-random; the samples of p2c, ewma, and least-* in large pools |
//! | all of the first `period` | least-connections, least-requests in pools of up to [`crate::load::SCAN`] |
//!
//! In every ring the alternate differs from the primary if anybody else is in the pool, and the alternates of one
//! backend's slots are the others in proportion to their weights: a failed backend's load is shared out.

/// Slots of a ring: a prime, as Maglev asks, and at least 100 times the number of backends a pool is meant for, so that a
/// share is exact to one per cent. `EG_RING_SLOTS` in `bpf/abi.h`.
pub const SLOTS: usize = 65537;

/// An entry that stands for no backend.
pub(crate) const NOBODY: u32 = u32::MAX;

/// Who gets what. Entries are indexes into the list that the ring was built from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ring {
    primary: Vec<u32>,
    alternate: Vec<u32>,
    period: usize,
}

impl Ring {
    /// A ring whose first slots are these, [`SLOTS`] of them at most. The following ones repeat them, so that every slot
    /// has an owner: whoever still uses another ring's period never meets a hole. An alternate that is the primary is none.
    pub(crate) fn new(primary: Vec<u32>, mut alternate: Vec<u32>) -> Ring {
        let period = primary.len().min(SLOTS);
        for (primary, alternate) in primary.iter().zip(&mut alternate) {
            *alternate = if alternate == primary { NOBODY } else { *alternate };
        }
        let fill = |slots: Vec<u32>| match period {
            0 => vec![NOBODY; SLOTS],
            SLOTS => slots,
            _ => slots.iter().copied().cycle().take(SLOTS).collect(),
        };
        Ring { primary: fill(primary), alternate: fill(alternate), period }
    }

    /// How many slots the layout needs: what a cursor or a random number is reduced to. 0 if the ring picks nobody.
    pub fn period(&self) -> usize {
        self.period
    }

    /// The owner of a slot, and who stands in for it.
    pub fn at(&self, slot: usize) -> (Option<usize>, Option<usize>) {
        let entry = |table: &[u32]| table.get(slot).filter(|index| **index != NOBODY).map(|index| *index as usize);
        (entry(&self.primary), entry(&self.alternate))
    }

    /// The slot of a hash: `hash_slot` in `bpf/lib/hash.h`. It depends on no ring: hashed layouts use all slots.
    pub fn slot(hash: u64) -> usize {
        ((hash >> 32) ^ hash) as u32 as usize % SLOTS
    }

    /// The slot of a cursor that counts turns: `cursor % period`. A cursor that wraps at 2^32 skips once in 2^32 turns.
    pub fn turn(&self, cursor: u32) -> usize {
        (cursor as usize).checked_rem(self.period).unwrap_or(0)
    }

    /// The slot of a random number, without division: `(u64)random * period >> 32`. No slot is favoured by more than
    /// `period / 2^32`, one part in 65,535.
    pub fn draw(&self, random: u32) -> usize {
        ((u64::from(random) * self.period as u64) >> 32) as usize
    }

    /// Who gets this slot: its owner, the alternate if that one takes nothing now, else nobody. The kernel's `pick_from`
    /// decides the same.
    pub fn pick_at(&self, slot: usize, takes: impl Fn(usize) -> bool) -> Option<usize> {
        let (primary, alternate) = self.at(slot);
        primary.filter(|index| takes(*index)).or(alternate.filter(|index| takes(*index)))
    }

    /// As [`Ring::pick_at`], but goes on to the following slots' owners while neither takes anything: for callers that
    /// can afford the walk and would rather serve.
    pub fn pick_any_at(&self, slot: usize, takes: impl Fn(usize) -> bool) -> Option<usize> {
        self.pick_at(slot, &takes).or_else(|| {
            let following = self.primary.iter().cycle().skip(slot).take(SLOTS);
            following.filter(|index| **index != NOBODY).map(|index| *index as usize).find(|index| takes(*index))
        })
    }

    /// [`Ring::pick_at`] the slot of a hash.
    pub fn pick(&self, hash: u64, takes: impl Fn(usize) -> bool) -> Option<usize> {
        self.pick_at(Ring::slot(hash), takes)
    }

    /// [`Ring::pick_any_at`] the slot of a hash.
    pub fn pick_any(&self, hash: u64, takes: impl Fn(usize) -> bool) -> Option<usize> {
        self.pick_any_at(Ring::slot(hash), takes)
    }

    /// Owner and stand-in of each slot in use.
    #[cfg(test)]
    pub(crate) fn used(&self) -> impl Iterator<Item = (usize, Option<usize>)> + '_ {
        (0..self.period).map(|slot| self.at(slot)).map(|(primary, alternate)| (primary.unwrap(), alternate))
    }
}

/// For each place the next one, going round, that belongs to another; any place if all belong to one.
pub(crate) fn next_other(owners: &[u32]) -> Vec<u32> {
    let mut next = vec![0; owners.len()];
    let mut ahead = (NOBODY, 0);
    let mut other = 0;
    // Backwards, and twice: at first the end does not know what follows it at the beginning.
    for _ in 0..2 {
        for (place, (owner, next)) in owners.iter().zip(&mut next).enumerate().rev() {
            if *owner != ahead.0 {
                other = ahead.1;
            }
            *next = other;
            ahead = (*owner, place as u32);
        }
    }
    next
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_slots_is_prime() {
        assert!((2..SLOTS).take_while(|d| d * d <= SLOTS).all(|d| !SLOTS.is_multiple_of(d)));
    }

    #[test]
    fn every_slot_beyond_the_period_repeats_one_within() {
        let ring = Ring::new(vec![2, 0, 1], vec![0, 1, 2]);
        assert_eq!(ring.period(), 3);
        for slot in 3..SLOTS {
            assert_eq!(ring.at(slot), ring.at(slot % 3));
        }
        assert_eq!(ring.at(SLOTS), (None, None));
    }

    #[test]
    fn draws_and_turns_stay_within_the_period_and_favour_no_slot() {
        let ring = Ring::new(vec![0, 1, 2], vec![1, 2, 0]);
        let mut draws = [0u32; 3];
        for i in 0..30_000u32 {
            draws[ring.draw(i.wrapping_mul(0x9e37_79b9))] += 1;
        }
        assert!(draws.iter().all(|n| n.abs_diff(10_000) <= 3), "{draws:?}");
        assert_eq!([0, 1, 2, 3, u32::MAX].map(|cursor| ring.turn(cursor)), [0, 1, 2, 0, 0]);
        assert_eq!((ring.draw(0), ring.draw(u32::MAX)), (0, 2));
    }

    #[test]
    fn an_empty_ring_picks_nobody() {
        let ring = Ring::new(Vec::new(), Vec::new());
        assert_eq!((ring.period(), ring.turn(7), ring.draw(u32::MAX)), (0, 0, 0));
        assert_eq!(ring.pick_any_at(0, |_| true), None);
    }

    #[test]
    fn pick_falls_to_the_alternate_and_pick_any_beyond() {
        let ring = Ring::new(vec![0, 1, 2], vec![1, 2, 0]);
        assert_eq!(ring.pick_at(1, |_| true), Some(1));
        assert_eq!(ring.pick_at(1, |i| i != 1), Some(2));
        assert_eq!(ring.pick_at(1, |i| i == 0), None);
        assert_eq!(ring.pick_any_at(1, |i| i == 0), Some(0));
        assert_eq!(ring.pick_any_at(1, |_| false), None);
        assert_eq!(ring.pick(5 << 32, |_| true), Some(5 % 3));
    }

    #[test]
    fn the_next_of_another_owner_is_found_going_round() {
        assert_eq!(next_other(&[7, 7, 8, 9, 9, 7]), [2, 2, 3, 5, 5, 2]);
        assert_eq!(next_other(&[7, 8]), [1, 0]);
        assert_eq!(next_other(&[7, 7]), [0, 0]);
        assert!(next_other(&[]).is_empty());
    }
}
