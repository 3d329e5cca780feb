// SPDX-License-Identifier: GPL-3.0-only
//! `[datapath.guards]`: lists with their files read, limits with their bursts, and what an operator may have overlooked.

use std::path::PathBuf;
use std::sync::Arc;

use super::{File, Host, number, of_kind};
use crate::config::error::{At, Problems};
use crate::config::net::{Net, read_file};
use crate::config::plan::{Algorithm, ForwardPlan, Guard, GuardSet, GuardsPlan, Limit, PrefixList, VipPlan};
use crate::config::schema::{Guards, Listener, Protocol};

/// Both lists together. Worst cost: 256 MiB of kernel memory, twice while lists are swapped (two nodes of 64 bytes each
/// for a prefix), and some seconds to load them. The whole routing table of the internet is half of it.
const MAX_PREFIXES: usize = 1 << 21;

const PREFIX_V4: u64 = 32;
/// RFC 6177: a /64 is what one customer's link has at least, so a source that is cut is one customer at most.
const PREFIX_V6: u64 = 64;
/// Some 8 MiB. It has to hold the sources of the last seconds: a bucket of a second's burst is full again after one.
const SOURCES: u64 = 1 << 16;

/// Half of `eg_opening`, which a direct flow has one entry of: under a flood of one VIP alone a handshake that takes up to
/// two seconds is remembered throughout. Over it nothing is refused. A core opens ten times as many.
const FLOW_BUDGET: u64 = 1 << 16;

pub(super) fn guards(file: &File, vips: &[VipPlan], host: &Host<'_>, problems: &Problems) -> GuardsPlan {
    let keys = &file.datapath.guards;
    let plan = GuardsPlan {
        allow: list(&keys.allow, &keys.allow_files, host, problems),
        deny: list(&keys.deny, &keys.deny_files, host, problems),
        source_packets: limit(("source_pps", &keys.source_pps), &keys.source_burst, problems),
        source_flows: limit(("source_flows_per_s", &keys.source_flows_per_s), &keys.source_flows_burst, problems),
        udp_packets: limit(("udp_pps", &keys.udp_pps), &keys.udp_burst, problems),
        udp_amplification: number(&keys.udp_amplification, 0) as u32,
        source_prefix_v4: number(&keys.source_prefix_v4, PREFIX_V4) as u8,
        source_prefix_v6: number(&keys.source_prefix_v6, PREFIX_V6) as u8,
        sources: number(&keys.sources, SOURCES) as u32,
    };
    let prefixes = plan.allow.all.len() + plan.deny.all.len();
    if prefixes > MAX_PREFIXES {
        problems.error(&keys.place, format!("{prefixes} prefixes in both lists: at most {MAX_PREFIXES}"));
    }
    unguarded(file, keys, problems);
    one_family(keys, &plan.allow, vips, problems);
    plan
}

fn list(here: &[At<Net>], files: &[At<String>], host: &Host<'_>, problems: &Problems) -> PrefixList {
    let here: Vec<Net> = here.iter().map(|net| net.value).collect();
    let mut all = here.clone();
    let mut paths: Vec<PathBuf> = Vec::new();
    for file in files {
        let path = host.directory.join(&file.value);
        match read_file(&path) {
            Ok(nets) => all.extend(nets),
            Err(wrong) => wrong.into_iter().for_each(|error| problems.error(&file.place, error)),
        }
        paths.push(path);
    }
    PrefixList { here, files: paths, all: Arc::from(all) }
}

/// A burst is a second's worth unless it is given. The kernel's clock ticks every 1 to 10 ms, and a bucket that holds
/// less than comes in a tick never reaches its rate.
fn limit((name, rate): (&str, &Option<At<u64>>), burst: &Option<At<u64>>, problems: &Problems) -> Limit {
    let per_second = number(rate, 0);
    if per_second == 0 {
        burst.iter().for_each(|at| problems.note(&at.place, format!("has no effect without {name}")));
        return Limit::default();
    }
    let least = per_second.div_ceil(100);
    if let Some(burst) = burst.as_ref().filter(|burst| burst.value < least) {
        let message = format!("expected at least {least}, what {name} = {per_second} lets through in 10 ms");
        problems.error(&burst.place, message);
    }
    Limit { per_second: per_second as u32, burst: number(burst, per_second) as u32 }
}

/// Somebody configured guards and has listeners that they do not guard.
fn unguarded(file: &File, keys: &Guards, problems: &Problems) {
    if !keys.any {
        return;
    }
    if file.datapath.interfaces.is_empty() || file.datapath.xdp.as_ref().is_some_and(|mode| mode.value.is_none()) {
        problems.note(&keys.place, "has no effect: the kernel datapath is off");
        return;
    }
    let l7: Vec<&str> = of_kind(file, |protocol| !protocol.is_l4())
        .filter_map(|(listener, _)| listener.name.as_ref())
        .map(|name| name.value.as_str())
        .collect();
    if !l7.is_empty() {
        problems.note(&keys.place, format!("guards tcp and udp listeners; not guarded: {}", l7.join(", ")));
    }
}

/// With an allow list of one family the other is shut out, which may be meant.
fn one_family(keys: &Guards, allow: &PrefixList, vips: &[VipPlan], problems: &Problems) {
    for (v4, family) in [(true, "IPv4"), (false, "IPv6")] {
        let listed = allow.all.iter().any(|net| net.address().is_ipv4() == v4);
        if !allow.all.is_empty() && !listed && vips.iter().any(|vip| vip.address.is_ipv4() == v4) {
            let message = format!("the allow list has no {family} prefix: every {family} client is refused");
            problems.note(&keys.place, message);
        }
    }
}

/// Which guards hold for this listener.
pub(super) fn chosen(listener: &Listener, protocol: Protocol, problems: &Problems) -> GuardSet {
    let fits = |guard: &Guard| protocol == Protocol::Udp || !guard.is_udp();
    let Some(chosen) = &listener.guards else {
        return Guard::ALL.into_iter().filter(fits).collect();
    };
    for guard in chosen.value.iter().filter(|guard| !fits(&guard.value)) {
        let message = format!("{:?} is for udp listeners, this one is {}", guard.value.word(), protocol.word());
        problems.error(&guard.place, message);
    }
    chosen.value.iter().map(|guard| guard.value).collect()
}

/// New flows a second. On by default only where those over it go on by the ring: elsewhere they are dropped, and only the
/// operator knows what is too many.
pub(super) fn flow_budget(listener: &Listener, forward: ForwardPlan, algorithm: Algorithm) -> u32 {
    let hashed = matches!(algorithm, Algorithm::Maglev | Algorithm::RingHash | Algorithm::SessionAffinity);
    let default = if forward.is_direct() && hashed { FLOW_BUDGET } else { 0 };
    number(&listener.flow_budget, default) as u32
}
