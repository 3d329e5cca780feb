// SPDX-License-Identifier: GPL-3.0-only
//! Every packet counts once.

use std::collections::HashMap;

use eg_abi::{Count, Drop as Reason, Miss, Stats};

use super::parse::Packet;

/// What was counted since the model was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub passed: Count,
    pub dropped: Count,
    /// By [`Reason`]'s code.
    pub reasons: HashMap<u32, Count>,
    /// By [`Miss`]'s code.
    pub misses: HashMap<u32, u64>,
    pub vips: HashMap<u32, Stats>,
    pub backends: HashMap<u32, Stats>,
    /// Open flows of each backend, and those with the half-open ones.
    pub loads: HashMap<u32, (i64, i64)>,
}

fn one(p: &Packet) -> Count {
    Count { packets: 1, bytes: p.len as u64 }
}

impl Counts {
    pub(super) fn passed(&mut self, p: &Packet) {
        self.passed += one(p);
    }

    pub(super) fn refused(&mut self, p: &Packet, reason: Reason) {
        self.dropped += one(p);
        *self.reasons.entry(reason.code()).or_default() += one(p);
        self.figures(p, Stats { drops: 1, ..Stats::default() });
    }

    pub(super) fn forwarded(&mut self, p: &Packet, reply: bool) {
        let bytes = p.len as u64;
        self.figures(
            p,
            if reply {
                Stats { reply_packets: 1, reply_bytes: bytes, ..Stats::default() }
            } else {
                Stats { packets: 1, bytes, ..Stats::default() }
            },
        );
    }

    pub(super) fn opened(&mut self, p: &Packet) {
        self.figures(p, Stats { flows: 1, ..Stats::default() });
    }

    pub(super) fn missed(&mut self, miss: Miss) {
        *self.misses.entry(miss.code()).or_default() += 1;
    }

    pub(super) fn load(&mut self, backend: u32, flows: i64, outstanding: i64) {
        let load = self.loads.entry(backend).or_default();
        *load = (load.0 + flows, load.1 + outstanding);
    }

    fn figures(&mut self, p: &Packet, more: Stats) {
        for (table, id) in [(&mut self.vips, p.vip), (&mut self.backends, p.backend)] {
            if id != 0 {
                *table.entry(id).or_default() += more;
            }
        }
    }
}
