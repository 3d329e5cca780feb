// SPDX-License-Identifier: GPL-3.0-only
//! The keys of `[datapath.guards]`, and a listener's choice among them.

use std::ops::RangeInclusive;

use super::Section;
use crate::config::error::{At, Place};
use crate::config::net::{Net, net};
use crate::config::plan::Guard;
use crate::config::suggest::hint;

pub(crate) struct Guards {
    pub(crate) place: Place,
    /// A key is there: somebody counts on being guarded.
    pub(crate) any: bool,
    pub(crate) allow: Vec<At<Net>>,
    pub(crate) deny: Vec<At<Net>>,
    pub(crate) allow_files: Vec<At<String>>,
    pub(crate) deny_files: Vec<At<String>>,
    pub(crate) source_pps: Option<At<u64>>,
    pub(crate) source_burst: Option<At<u64>>,
    pub(crate) source_flows_per_s: Option<At<u64>>,
    pub(crate) source_flows_burst: Option<At<u64>>,
    pub(crate) udp_pps: Option<At<u64>>,
    pub(crate) udp_burst: Option<At<u64>>,
    pub(crate) udp_amplification: Option<At<u64>>,
    pub(crate) source_prefix_v4: Option<At<u64>>,
    pub(crate) source_prefix_v6: Option<At<u64>>,
    pub(crate) sources: Option<At<u64>>,
}

/// 0 is no limit. Ten million is what a whole machine forwards: a higher limit would never act.
pub(super) const RATES: RangeInclusive<u64> = 0..=10_000_000;
const BURSTS: RangeInclusive<u64> = 1..=10_000_000;
/// 0 is no limit. The worst amplifiers known answer with some thousand times what they were asked.
const FACTORS: RangeInclusive<u64> = 0..=1000;
/// Wider than these, one misbehaving client would have half a continent cut off.
const PREFIX_V4: RangeInclusive<u64> = 8..=32;
const PREFIX_V6: RangeInclusive<u64> = 16..=128;
/// From what a test needs to 16 M, some 2 GiB of kernel memory.
const SOURCES: RangeInclusive<u64> = 1024..=(1 << 24);

pub(super) fn guards(mut table: Section<'_>) -> Guards {
    let text = |text: &str| Ok::<_, String>(text.to_owned());
    let guards = Guards {
        place: table.place().clone(),
        any: !table.is_empty(),
        allow: table.list("allow", false, net).map(|list| list.value).unwrap_or_default(),
        deny: table.list("deny", false, net).map(|list| list.value).unwrap_or_default(),
        allow_files: table.list("allow_files", false, text).map(|list| list.value).unwrap_or_default(),
        deny_files: table.list("deny_files", false, text).map(|list| list.value).unwrap_or_default(),
        source_pps: table.number("source_pps", RATES),
        source_burst: table.number("source_burst", BURSTS),
        source_flows_per_s: table.number("source_flows_per_s", RATES),
        source_flows_burst: table.number("source_flows_burst", BURSTS),
        udp_pps: table.number("udp_pps", RATES),
        udp_burst: table.number("udp_burst", BURSTS),
        udp_amplification: table.number("udp_amplification", FACTORS),
        source_prefix_v4: table.number("source_prefix_v4", PREFIX_V4),
        source_prefix_v6: table.number("source_prefix_v6", PREFIX_V6),
        sources: table.number("sources", SOURCES),
    };
    table.finish();
    guards
}

/// `guards = [...]` of a listener; `None`: all of them.
pub(super) fn chosen(table: &mut Section<'_>) -> Option<At<Vec<At<Guard>>>> {
    table.list("guards", false, |text| {
        let words = Guard::ALL.map(Guard::word);
        Guard::ALL.into_iter().find(|guard| guard.word() == text).ok_or_else(|| {
            let all = words.map(|word| format!("{word:?}")).join(", ");
            format!("{text:?} is not one of {all}{}", hint(text, words))
        })
    })
}
