// SPDX-License-Identifier: GPL-3.0-only
//! `[datapath.guards]` as it reads back. Lists in files stay in their files.

use std::path::PathBuf;

use serde::Serialize;

use crate::config::plan::{Guard, GuardSet, GuardsPlan, Limit, PrefixList, Proto};

#[derive(Serialize)]
pub(super) struct Guards<'p> {
    allow: Vec<String>,
    allow_files: &'p [PathBuf],
    deny: Vec<String>,
    deny_files: &'p [PathBuf],
    source_pps: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    source_burst: Option<u32>,
    source_flows_per_s: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    source_flows_burst: Option<u32>,
    udp_pps: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    udp_burst: Option<u32>,
    udp_amplification: u32,
    source_prefix_v4: u8,
    source_prefix_v6: u8,
    sources: u32,
}

pub(super) fn guards(plan: &GuardsPlan) -> Guards<'_> {
    let written = |list: &PrefixList| list.here.iter().map(ToString::to_string).collect();
    // A burst without a rate says nothing.
    let burst = |limit: Limit| (!limit.is_off()).then_some(limit.burst);
    Guards {
        allow: written(&plan.allow),
        allow_files: &plan.allow.files,
        deny: written(&plan.deny),
        deny_files: &plan.deny.files,
        source_pps: plan.source_packets.per_second,
        source_burst: burst(plan.source_packets),
        source_flows_per_s: plan.source_flows.per_second,
        source_flows_burst: burst(plan.source_flows),
        udp_pps: plan.udp_packets.per_second,
        udp_burst: burst(plan.udp_packets),
        udp_amplification: plan.udp_amplification,
        source_prefix_v4: plan.source_prefix_v4,
        source_prefix_v6: plan.source_prefix_v6,
        sources: plan.sources,
    }
}

/// A listener's `guards`; all that fit are the default, but written out like every other.
pub(super) fn chosen(guards: &GuardSet, proto: Proto) -> Vec<&'static str> {
    guards.iter().filter(|guard| proto == Proto::Udp || !guard.is_udp()).map(|guard| Guard::word(*guard)).collect()
}
