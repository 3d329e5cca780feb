// SPDX-License-Identifier: GPL-3.0-only
//! The accounting equation: received = forwarded + passed + dropped + answered.

use eg_abi::{Count, Stats, Verdict};

use super::{MapError, Maps};

/// What became of all packets, in L3 bytes of the original packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub forwarded: Count,
    pub passed: Count,
    pub dropped: Count,
    /// In the stack's place.
    pub answered: Count,
}

impl Totals {
    /// Everything that came in.
    pub fn received(&self) -> Count {
        let mut sum = self.forwarded;
        sum += self.passed;
        sum += self.dropped;
        sum += self.answered;
        sum
    }
}

impl Maps {
    /// Reads the totals: what the programs counted as passed, dropped and answered, and as forwarded the sum over all VIPs, those
    /// that are gone included. Some 4,000 small reads, a few milliseconds.
    pub fn totals(&self) -> Result<Totals, MapError> {
        let mut forwarded = self.verdicts.sum(Verdict::Forwarded.code())?;
        for vip in 1..self.vip_stats.capacity() {
            forwarded += self.vip_stats.sum(vip)?.forwarded();
        }
        Ok(Totals {
            forwarded,
            passed: self.verdicts.sum(Verdict::Passed.code())?,
            dropped: self.verdicts.sum(Verdict::Dropped.code())?,
            answered: self.verdicts.sum(Verdict::Answered.code())?,
        })
    }

    /// Frees a VIP's figures for the next VIP of this id, keeping what it forwarded in the totals. Call it when no packet
    /// can count there any more: after its epoch was cleared, and a grace period. Returns its last figures.
    pub fn retire_vip_stats(&self, vip: u32) -> Result<Stats, MapError> {
        let last = self.vip_stats.sum(vip)?;
        let mut forwarded = self.verdicts.sum(Verdict::Forwarded.code())?;
        forwarded += last.forwarded();
        self.vip_stats.clear(vip)?;
        self.verdicts.put(Verdict::Forwarded.code(), forwarded)?;
        Ok(last)
    }
}
