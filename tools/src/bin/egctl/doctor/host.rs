// SPDX-License-Identifier: GPL-3.0-only
//! Settings of the host's own stack that reach what XDP leaves to it.
//!
//! What XDP forwards never meets the stack: no filter, no forwarding switch and no connection tracking applies to it.
//! What is passed up does: connections to L7 listeners, and, where backends see the client's address (`snat = false`),
//! whatever of a backend's is no reply of a flow: its ICMP errors, its fragments, connections that it opens itself.

use std::net::IpAddr;

use super::facts::Facts;
use super::report::{Finding, Severity};
use super::subject::Subject;

/// What is passed up and matters, in words; `None`: nothing.
fn passed_up(subject: &Subject, v6: bool) -> Option<&'static str> {
    let terminated = subject.terminated.iter().any(|address| address.is_ipv6() == v6);
    let transparent = subject.vips.iter().any(|vip| !vip.snat && vip.address.is_ipv6() == v6);
    match (terminated, transparent) {
        (true, true) => Some("connections to L7 VIPs, and what backends behind snat = false send besides replies"),
        (true, false) => Some("connections to L7 VIPs"),
        (false, true) => Some("what backends behind snat = false send besides replies"),
        (false, false) => None,
    }
}

/// Strict filtering drops what comes by another interface than the answer would leave by.
pub(super) fn rp_filter(subject: &Subject, facts: &Facts) -> Result<Vec<Finding>, String> {
    let Some(what) = passed_up(subject, false) else { return Ok(Vec::new()) };
    let value = |interface: &str| facts.number(&format!("net/ipv4/conf/{interface}/rp_filter"));
    let mut findings = Vec::new();
    for name in &subject.interfaces {
        // The kernel takes the larger of the two; 1 is strict, 2 loose.
        let (Some(all), Some(own)) = (value("all"), value(name)) else { continue };
        if all.max(own) == 1 {
            findings.push(Finding {
                severity: Severity::Warning,
                what: format!("reverse path filtering is strict on {name}"),
                at: format!("net.ipv4.conf.{name}.rp_filter"),
                why: format!(
                    "XDP passes up {what}: the stack silently drops those that come by another interface than the route \
                     back to the client leaves by. L4 with source NAT is not affected"
                ),
                fix: format!("sysctl -w net.ipv4.conf.{name}.rp_filter=2"),
            });
        }
    }
    Ok(findings)
}

/// XDP needs no forwarding: the switch matters where this host is the backends' router.
pub(super) fn forwarding(subject: &Subject, facts: &Facts) -> Result<Vec<Finding>, String> {
    let families = [
        (false, "net/ipv4/ip_forward", "net.ipv4.ip_forward", ""),
        (
            true,
            "net/ipv6/conf/all/forwarding",
            "net.ipv6.conf.all.forwarding",
            ". It also makes the host ignore router advertisements",
        ),
    ];
    let off = families.into_iter().filter(|(v6, path, ..)| {
        let transparent = subject.vips.iter().any(|vip| !vip.snat && vip.address.is_ipv6() == *v6);
        transparent && facts.number(path) == Some(0)
    });
    Ok(off
        .map(|(v6, _, name, besides)| Finding {
            severity: Severity::Hint,
            what: format!("IPv{} forwarding is off", if v6 { 6 } else { 4 }),
            at: name.into(),
            why: format!(
                "with snat = false this host is the backends' way out, and XDP forwards replies of flows only: a backend's \
                 ICMP errors, fragments and own connections are passed up, and end here{besides}"
            ),
            fix: format!("sysctl -w {name}=1"),
        })
        .collect())
}

pub(super) fn source_ports(subject: &Subject, facts: &Facts) -> Result<Vec<Finding>, String> {
    if !subject.vips.iter().any(|vip| vip.snat) {
        return Ok(Vec::new());
    }
    let range = facts.sysctls.get("net/ipv4/ip_local_port_range").ok_or("ip_local_port_range cannot be read")?;
    let mut ends = range.split_whitespace().filter_map(|end| end.parse::<u16>().ok());
    let (Some(low), Some(high)) = (ends.next(), ends.next()) else {
        return Err(format!("ip_local_port_range is {range:?}"));
    };
    let (first, last) = (*subject.snat_ports.start(), *subject.snat_ports.end());
    if last < low || high < first {
        return Ok(Vec::new());
    }
    // The larger part of the host's range that is free of ours.
    let (below, above) = (first.saturating_sub(low), high.saturating_sub(last));
    let fix = match (below, above) {
        (0, 0) => format!("set datapath.snat_ports in {} to a range outside {low}-{high}", subject.file_name()),
        _ if above >= below => format!("sysctl -w net.ipv4.ip_local_port_range=\"{} {high}\"", last + 1),
        _ => format!("sysctl -w net.ipv4.ip_local_port_range=\"{low} {}\"", first - 1),
    };
    Ok(vec![Finding {
        severity: Severity::Error,
        what: format!("source ports {first}-{last} of SNAT overlap the host's own {low}-{high}"),
        at: "net.ipv4.ip_local_port_range".into(),
        why: "a flow and a connection of the host's own can have the same port: the answers of one are taken for the other's"
            .into(),
        fix,
    }])
}

pub(super) fn conntrack(subject: &Subject, facts: &Facts) -> Result<Vec<Finding>, String> {
    let Some(tracked) = facts.tracked.filter(|tracked| *tracked > 0) else { return Ok(Vec::new()) };
    let count = facts.number("net/netfilter/nf_conntrack_count").unwrap_or(tracked);
    let most = facts.number("net/netfilter/nf_conntrack_max").unwrap_or(u64::MAX);
    let full = count.saturating_mul(10) >= most.saturating_mul(8);
    Ok(vec![Finding {
        severity: if full { Severity::Warning } else { Severity::Hint },
        what: format!("connection tracking holds {tracked} connections to L7 VIPs, {count} of {most} in all"),
        at: "nf_conntrack".into(),
        why: "each costs memory and time, and when the table is full new connections are dropped. Do not exempt them where a \
              rule asks for their state (ct state, NAT)"
            .into(),
        fix: notrack(&subject.terminated),
    }])
}

fn notrack(addresses: &[IpAddr]) -> String {
    let mut script = "add table inet expressgateway; \
        add chain inet expressgateway in { type filter hook prerouting priority raw; }; \
        add chain inet expressgateway out { type filter hook output priority raw; }"
        .to_owned();
    for address in addresses {
        let family = if address.is_ipv4() { "ip" } else { "ip6" };
        script += &format!("; add rule inet expressgateway in {family} daddr {address} notrack");
        script += &format!("; add rule inet expressgateway out {family} saddr {address} notrack");
    }
    format!("nft '{script}'")
}
