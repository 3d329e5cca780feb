// SPDX-License-Identifier: GPL-3.0-only
//! Numbers for VIPs, pools and backends: the lowest free one, never 0.

use std::collections::BTreeSet;

/// The numbers `1..end`, of which some are taken.
pub(super) struct Ids {
    end: u32,
    taken: BTreeSet<u32>,
}

impl Ids {
    pub(super) fn new(end: u32) -> Ids {
        Ids { end, taken: BTreeSet::new() }
    }

    /// `None`: all are taken.
    pub(super) fn take(&mut self) -> Option<u32> {
        let id = (1..self.end).find(|id| !self.taken.contains(id))?;
        self.taken.insert(id);
        Some(id)
    }

    /// Says that a number is in use already. `false`: it is none, or was taken before.
    pub(super) fn claim(&mut self, id: u32) -> bool {
        (1..self.end).contains(&id) && self.taken.insert(id)
    }

    pub(super) fn give_back(&mut self, id: u32) {
        self.taken.remove(&id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_free_number_is_next_and_zero_never() {
        let mut ids = Ids::new(4);
        assert!(ids.claim(2));
        assert!(!ids.claim(2) && !ids.claim(0) && !ids.claim(4));
        assert_eq!((ids.take(), ids.take(), ids.take()), (Some(1), Some(3), None));
        ids.give_back(1);
        assert_eq!(ids.take(), Some(1));
    }
}
