// SPDX-License-Identifier: GPL-3.0-only
//! Limits that hold for the whole process, such as how many connections there may be: workers lease them in batches from
//! an atomic, so that a connection costs no shared write and no lock.
//!
//! A worker that rests keeps at most one batch to itself, and batches are small beside the whole: while it does, others can
//! find nothing left although an eighth of the limit is free, never more.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// The largest batch: an accept burst of that size costs one atomic operation.
const BATCH: usize = 64;

/// What all workers together may have of something.
#[derive(Debug)]
pub(crate) struct Budget {
    total: usize,
    batch: usize,
    free: AtomicUsize,
}

impl Budget {
    pub(crate) fn new(total: usize, workers: usize) -> Arc<Budget> {
        let batch = (total / workers.max(1) / 8).clamp(1, BATCH);
        Arc::new(Budget { total, batch, free: AtomicUsize::new(total) })
    }

    /// How many there may be.
    pub(crate) fn total(&self) -> usize {
        self.total
    }
}

/// One worker's part of a budget.
pub(crate) struct Purse {
    budget: Arc<Budget>,
    spare: Cell<usize>,
}

impl Purse {
    pub(crate) fn new(budget: &Arc<Budget>) -> Rc<Purse> {
        Rc::new(Purse { budget: Arc::clone(budget), spare: Cell::new(0) })
    }

    /// Whether the next [`take`](Self::take) will succeed.
    pub(crate) fn has_one(&self) -> bool {
        if self.spare.get() == 0 {
            let batch = self.budget.batch;
            let leased = self.budget.free.fetch_update(Relaxed, Relaxed, |free| Some(free - free.min(batch)));
            self.spare.set(leased.unwrap_or(0).min(batch));
        }
        self.spare.get() > 0
    }

    /// One of it, until the slot is dropped.
    pub(crate) fn take(self: &Rc<Self>) -> Option<Slot> {
        if !self.has_one() {
            return None;
        }
        self.spare.set(self.spare.get() - 1);
        Some(Slot(Rc::clone(self)))
    }

    /// Whether less than one in `parts` is left for those who find nothing with their worker.
    pub(crate) fn is_scarce(&self, parts: usize) -> bool {
        self.budget.free.load(Relaxed) < self.budget.total / parts
    }

    /// How many all workers together may have.
    pub(crate) fn total(&self) -> usize {
        self.budget.total()
    }

    fn give(&self) {
        self.spare.set(self.spare.get() + 1);
        if self.spare.get() > self.budget.batch {
            self.budget.free.fetch_add(self.spare.replace(0), Relaxed);
        }
    }
}

impl Drop for Purse {
    fn drop(&mut self) {
        self.budget.free.fetch_add(self.spare.get(), Relaxed);
    }
}

/// One of what a budget limits; dropping it gives it back.
pub(crate) struct Slot(Rc<Purse>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.give();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_lent_than_there_is_and_all_of_it_comes_back() {
        for (total, workers) in [(0, 1), (1, 2), (17, 2), (1000, 3), (100_000, 2)] {
            let budget = Budget::new(total, workers);
            let purses: Vec<_> = (0..workers).map(|_| Purse::new(&budget)).collect();
            for round in 0..3 {
                let mut slots = Vec::new();
                while let Some(slot) = purses.iter().find_map(Purse::take) {
                    slots.push(slot);
                }
                assert_eq!(slots.len(), total, "{total} for {workers}, round {round}");
                assert!(total < 4 || purses[0].is_scarce(4));
            }
            drop(purses);
            assert_eq!(budget.free.load(Relaxed), total);
        }
    }

    #[test]
    fn a_resting_worker_keeps_at_most_an_eighth_of_its_share() {
        let budget = Budget::new(800, 2);
        let (rests, works) = (Purse::new(&budget), Purse::new(&budget));
        let slots: Vec<_> = std::iter::from_fn(|| rests.take()).collect();
        assert_eq!(slots.len(), 800);
        drop(slots);
        let slots: Vec<_> = std::iter::from_fn(|| works.take()).collect();
        assert!(slots.len() >= 750, "{}", slots.len());
    }
}
