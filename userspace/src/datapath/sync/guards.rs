// SPDX-License-Identifier: GPL-3.0-only
//! Guards in the maps: prefix lists as one trie, limits as buckets, and which of them each VIP asks for.
//!
//! `Datapath::fill` first has a trie made (`make_trie`, seconds for a million prefixes, on a thread of its own and with
//! no lock held), then calls `apply_guards` just before `add_vips`. In this order nothing is ever less guarded than both
//! the old plan and the new one say: what the new plan no longer wants is turned off, then lists and limits change, then
//! `add_vips` turns on what is new.

use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use eg_skel::abi::{self, Addr, Bucket, Budget, Prefix, PrefixVerdict};
use eg_skel::maps::Trie;
use eg_skel::{Maps, features};

use super::super::error::DatapathError;
use super::super::keeper::lock;
use super::{Tables, vip_key};
use crate::config::Net;
use crate::config::plan::{DatapathPlan, Guard, GuardsPlan, Limit, Proto, VipPlan};

/// What the trie in the kernel was made from: the lists to allow and to deny.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Lists {
    allow: Arc<[Net]>,
    deny: Arc<[Net]>,
}

impl Lists {
    fn of(plan: &GuardsPlan) -> Lists {
        Lists { allow: Arc::clone(&plan.allow.all), deny: Arc::clone(&plan.deny.all) }
    }

    fn is_empty(&self) -> bool {
        self.allow.is_empty() && self.deny.is_empty()
    }
}

/// A trie to be swapped in, if the plan's lists are not those in the kernel.
pub(crate) async fn make_trie(tables: &Mutex<Tables>, plan: &GuardsPlan) -> Result<Option<Trie>, DatapathError> {
    let lists = Lists::of(plan);
    if lists.is_empty() || lock(tables).lists.as_ref() == Some(&lists) {
        return Ok(None);
    }
    let making = tokio::task::spawn_blocking(move || {
        let began = Instant::now();
        let entries = entries(&lists.allow, &lists.deny);
        let trie = Trie::new(&entries)?;
        let (allow, deny, took) = (lists.allow.len(), lists.deny.len(), began.elapsed());
        tracing::info!(allow, deny, entries = entries.len(), ?took, "prefix lists loaded");
        Ok(Some(trie))
    });
    making.await.map_err(|error| DatapathError::System { doing: "load prefix lists".into(), source: error.into() })?
}

impl Tables {
    /// Step 3a, before `add_vips`. `trie` is what `make_trie` gave for this plan.
    pub(crate) fn apply_guards(&mut self, plan: &DatapathPlan, trie: Option<Trie>) -> Result<(), DatapathError> {
        for vip in &plan.vips {
            let Some(entry) = self.vips.get_mut(&vip_key(vip)) else { continue };
            let mut value = entry.value;
            value.flags &= flags(vip, &plan.guards) | !abi::VIP_GUARDS;
            if value != entry.value {
                self.maps.vips.set(entry.id, &value)?;
                entry.value = value;
            }
        }
        self.maps.guard_conf.set(0, &conf(&plan.guards)?)?;
        let lists = Lists::of(&plan.guards);
        if let Some(trie) = trie {
            self.maps.prefixes.set(&trie)?;
        } else if lists.is_empty() {
            self.maps.prefixes.clear()?;
        }
        self.lists = Some(lists);
        Ok(())
    }
}

/// The guards of this VIP that are configured.
pub(super) fn flags(vip: &VipPlan, plan: &GuardsPlan) -> u32 {
    let flag = |guard: &Guard| match guard {
        Guard::Prefixes if !Lists::of(plan).is_empty() => abi::VIP_GUARD_PREFIX,
        Guard::SourcePackets if !plan.source_packets.is_off() => abi::VIP_GUARD_PACKETS,
        Guard::SourceFlows if !plan.source_flows.is_off() => abi::VIP_GUARD_FLOWS,
        Guard::UdpPackets if !plan.udp_packets.is_off() => abi::VIP_GUARD_UDP,
        Guard::UdpAmplification if plan.udp_amplification > 0 => abi::VIP_GUARD_AMPLIFY,
        _ => 0,
    };
    let fits = |guard: &&Guard| vip.proto == Proto::Udp || !guard.is_udp();
    vip.guards.iter().filter(fits).map(flag).fold(0, |flags, flag| flags | flag)
}

/// The budget of a VIP's new flows. One that is the same already keeps what is left in its bucket.
pub(super) fn set_budget(maps: &Maps, vip: u32, per_second: u32) -> Result<(), DatapathError> {
    let budget = budget(per_second)?;
    let now = maps.budgets.get(vip)?;
    if (now.step, now.window) != (budget.step, budget.window) {
        maps.budgets.set(vip, &budget)?;
    }
    Ok(())
}

/// A full bucket of a second's worth; of zero a second, one of zeros.
pub(super) fn budget(per_second: u32) -> Result<Budget, DatapathError> {
    let hz = features::jiffies_hz().map_err(DatapathError::system("ask for the kernel's tick"))?;
    let limit = Limit { per_second, burst: per_second };
    let Bucket { step, window } = if limit.is_off() { Bucket::default() } else { bucket(limit, hz) };
    Ok(Budget { step, window, full: 0 })
}

fn conf(plan: &GuardsPlan) -> Result<abi::Guards, DatapathError> {
    let hz = features::jiffies_hz().map_err(DatapathError::system("ask for the kernel's tick"))?;
    Ok(abi::Guards {
        mask4: mask(96 + u32::from(plan.source_prefix_v4)),
        mask6: mask(u32::from(plan.source_prefix_v6)),
        packets: bucket(plan.source_packets, hz),
        flows: bucket(plan.source_flows, hz),
        udp: bucket(plan.udp_packets, hz),
        amplification: plan.udp_amplification,
        pad: 0,
    })
}

/// The first `bits` of an address in its mapped form.
fn mask(bits: u32) -> Addr {
    Addr { b: u128::MAX.checked_shl(128 - bits.min(128)).unwrap_or(0).to_be_bytes() }
}

/// In the kernel's unit. A limit that is off has a bucket that no VIP asks for.
fn bucket(limit: Limit, hz: u32) -> Bucket {
    let second = u64::from(hz) << abi::GUARD_TICK_SHIFT;
    let step = (second / u64::from(limit.per_second.max(1))).max(1);
    Bucket { step, window: step * u64::from(limit.burst.max(1)) }
}

/// The trie's entries, in ascending order. Deny wins: what it covers is not entered as allowed, so that the longest
/// match alone gives the answer. Two entries say what holds for all others, one for each family: an IPv6 prefix of few
/// bits would otherwise cover the mapped form of IPv4.
fn entries(allow: &[Net], deny: &[Net]) -> Vec<(Prefix, PrefixVerdict)> {
    let rest = if allow.is_empty() { PrefixVerdict::Allow } else { PrefixVerdict::Other };
    let mut all: Vec<(bool, u128, u32, PrefixVerdict)> = Vec::with_capacity(allow.len() + deny.len() + 2);
    for (nets, verdict) in [(allow, PrefixVerdict::Allow), (deny, PrefixVerdict::Deny)] {
        all.extend(nets.iter().map(|net| {
            let (v4, base) = match net.address() {
                IpAddr::V4(_) => (true, 96),
                IpAddr::V6(_) => (false, 0),
            };
            (v4, bits(net.address()), base + u32::from(net.length()), verdict)
        }));
    }
    // Enclosing before enclosed, and of two that are equal the one to deny first.
    all.sort_unstable_by_key(|(v4, address, length, verdict)| {
        (*v4, *address, *length, *verdict != PrefixVerdict::Deny)
    });

    let mut kept: Vec<(Prefix, PrefixVerdict)> = Vec::with_capacity(all.len() + 2);
    let mut enclosing: Vec<(u128, u32, PrefixVerdict)> = Vec::new();
    let roots = [(false, 0, 0), (true, bits(IpAddr::from([0; 4])), 96)];
    for (family, first, length) in roots {
        enclosing.clear();
        enclosing.push((first, length, rest));
        kept.push((prefix(first, length), rest));
        for (_, address, length, verdict) in all.iter().filter(|(v4, ..)| *v4 == family) {
            while enclosing.last().is_some_and(|(outer, bits, _)| !covers(*outer, *bits, *address)) {
                enclosing.pop();
            }
            let around = enclosing.last().map_or(rest, |(_, _, verdict)| *verdict);
            if around == PrefixVerdict::Deny || around == *verdict {
                continue;
            }
            enclosing.push((*address, *length, *verdict));
            kept.push((prefix(*address, *length), *verdict));
        }
    }
    kept
}

fn bits(address: IpAddr) -> u128 {
    u128::from_be_bytes(Addr::from(address).b)
}

fn prefix(address: u128, len: u32) -> Prefix {
    Prefix { len, addr: Addr { b: address.to_be_bytes() } }
}

fn covers(outer: u128, length: u32, address: u128) -> bool {
    let mask = u128::MAX.checked_shl(128 - length).unwrap_or(0);
    outer & mask == address & mask
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(texts: &[&str]) -> Vec<Net> {
        texts.iter().map(|text| crate::config::net(text).unwrap()).collect()
    }

    /// What the kernel's longest match would say, the slow way.
    fn found(entries: &[(Prefix, PrefixVerdict)], address: &str) -> PrefixVerdict {
        let address = bits(address.parse().unwrap());
        let covering =
            |(prefix, _): &&(Prefix, PrefixVerdict)| covers(u128::from_be_bytes(prefix.addr.b), prefix.len, address);
        entries.iter().filter(covering).max_by_key(|(prefix, _)| prefix.len).unwrap().1
    }

    #[test]
    fn deny_wins_over_allow_whichever_is_longer() {
        let entries = entries(
            &nets(&["10.0.0.0/8", "10.1.2.3/32", "192.0.2.0/24", "2001:db8::/32"]),
            &nets(&["10.1.0.0/16", "192.0.2.0/24", "2001:db8:bad::/48"]),
        );
        for (address, verdict) in [
            ("10.0.0.1", PrefixVerdict::Allow),
            ("10.1.0.1", PrefixVerdict::Deny),
            ("10.1.2.3", PrefixVerdict::Deny),
            ("10.2.0.0", PrefixVerdict::Allow),
            ("192.0.2.1", PrefixVerdict::Deny),
            ("192.0.3.1", PrefixVerdict::Other),
            ("2001:db8::1", PrefixVerdict::Allow),
            ("2001:db8:bad::1", PrefixVerdict::Deny),
            ("2001:db9::1", PrefixVerdict::Other),
        ] {
            assert_eq!(found(&entries, address), verdict, "{address}");
        }
    }

    #[test]
    fn without_an_allow_list_all_others_are_allowed_in_both_families() {
        let entries = entries(&[], &nets(&["::/0"]));
        assert_eq!(found(&entries, "2001:db8::1"), PrefixVerdict::Deny);
        assert_eq!(found(&entries, "192.0.2.1"), PrefixVerdict::Allow);
        let entries = super::entries(&[], &nets(&["0.0.0.0/0"]));
        assert_eq!(found(&entries, "2001:db8::1"), PrefixVerdict::Allow);
        assert_eq!(found(&entries, "192.0.2.1"), PrefixVerdict::Deny);
    }

    #[test]
    fn what_an_entry_already_says_is_not_entered_again() {
        let entries = entries(&[], &nets(&["10.0.0.0/8", "10.0.0.0/8", "10.1.0.0/16", "10.1.1.1/32", "11.0.0.0/8"]));
        let kept: Vec<_> = entries.iter().map(|(prefix, verdict)| (prefix.len, verdict.label())).collect();
        assert_eq!(kept, [(0, "allow"), (96, "allow"), (104, "deny"), (104, "deny")]);
    }

    #[test]
    fn any_lists_give_what_both_say_by_themselves() {
        // A small world: four bits of address below 10.0.0.0/28, every prefix of which may be on either list.
        let mut state = 0x5eedu64;
        let mut draw = move |below: u64| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % below
        };
        for _ in 0..500 {
            let mut list = || -> Vec<Net> {
                (0..draw(5))
                    .map(|_| {
                        let length = 28 + draw(5);
                        let first = draw(16) >> (32 - length) << (32 - length);
                        crate::config::net(&format!("10.0.0.{first}/{length}")).unwrap()
                    })
                    .collect()
            };
            let (allow, deny) = (list(), list());
            let entries = entries(&allow, &deny);
            for last in 0..16 {
                let address = format!("10.0.0.{last}");
                let on = |list: &[Net]| {
                    let covering = |net: &&Net| {
                        covers(bits(net.address()), 96 + u32::from(net.length()), bits(address.parse().unwrap()))
                    };
                    list.iter().any(|net| covering(&net))
                };
                let expected = match (on(&deny), on(&allow) || allow.is_empty()) {
                    (true, _) => PrefixVerdict::Deny,
                    (false, true) => PrefixVerdict::Allow,
                    (false, false) => PrefixVerdict::Other,
                };
                assert_eq!(found(&entries, &address), expected, "{address} of allow {allow:?} deny {deny:?}");
            }
        }
    }

    #[test]
    fn a_bucket_holds_its_burst_and_refills_at_its_rate() {
        let second = 250u64 << abi::GUARD_TICK_SHIFT;
        assert_eq!(
            bucket(Limit { per_second: 100, burst: 7 }, 250),
            Bucket { step: second / 100, window: second / 100 * 7 }
        );
        let fast = bucket(Limit { per_second: 10_000_000, burst: 10_000_000 }, 100);
        // Within a percent at the highest rate and the slowest tick.
        assert!(fast.step.abs_diff((100u64 << abi::GUARD_TICK_SHIFT) / 10_000_000) == 0 && fast.step > 100);
    }

    #[test]
    fn a_source_is_the_first_bits_of_an_address() {
        assert_eq!(mask(128).b, [0xff; 16]);
        assert_eq!(mask(64).b, [[0xff; 8], [0; 8]].concat()[..]);
        assert_eq!(mask(96 + 24).b[12..], [0xff, 0xff, 0xff, 0]);
    }
}
