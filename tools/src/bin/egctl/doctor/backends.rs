// SPDX-License-Identifier: GPL-3.0-only
//! Whether packets can reach the backends, whole, and replies come back.

use std::collections::BTreeMap;
use std::net::IpAddr;

use eg_skel::abi::Forward;
use expressgateway::datapath::Way;

use super::facts::Facts;
use super::report::{Finding, Severity};
use super::subject::{Backend, Subject};

/// Backends by address: a host that serves in several pools is looked at once.
fn by_address(subject: &Subject) -> BTreeMap<IpAddr, Vec<&Backend>> {
    let mut found: BTreeMap<IpAddr, Vec<&Backend>> = BTreeMap::new();
    for backend in &subject.backends {
        found.entry(backend.address.ip()).or_default().push(backend);
    }
    found
}

fn names(backends: &[&Backend]) -> String {
    let mut names: Vec<&str> = backends.iter().map(|backend| backend.name.as_str()).collect();
    names.dedup();
    names.join(", ")
}

pub(super) fn ways(subject: &Subject, facts: &Facts) -> Result<Vec<Finding>, String> {
    let host = facts.host()?;
    let mut findings = Vec::new();
    for (address, backends) in by_address(subject) {
        let at = format!("backend {} at {address}", names(&backends));
        let mut add = |what: String, why: &str, fix: String| {
            findings.push(Finding { severity: Severity::Error, what, at: at.clone(), why: why.into(), fix });
        };
        let whole = if address.is_ipv4() { 32 } else { 128 };
        match host.ways.get(&address) {
            None => return Err(format!("the way to {address} is not known")),
            Some(Way::None) => add(
                format!("no route to {address}"),
                "the backend takes no flow until there is one",
                format!("ip route add {address}/{whole} via ROUTER dev INTERFACE"),
            ),
            Some(Way::Local) => add(
                format!("{address} is this host"),
                "XDP cannot deliver to its own host's stack: the backend takes no flow",
                format!("give the backend another host's address in {}", subject.file_name()),
            ),
            Some(Way::Out { ifindex, neighbour, resolved }) => {
                let known = host.link(*ifindex);
                let link = known.map_or_else(|| format!("#{ifindex}"), |link| link.name.clone());
                // Without a link nobody answers, and "interfaces" has said so.
                if !resolved && known.is_none_or(|link| link.running || !subject.interfaces.contains(&link.name)) {
                    add(
                        format!("{neighbour} does not answer on {link}"),
                        "its MAC address is not known: the backend is out of its ring until it answers. The host is down, \
                         or in another network",
                        format!("ip neigh replace {neighbour} dev {link} use; ip neigh show {neighbour} dev {link}"),
                    );
                }
                let replies = backends.iter().any(|backend| backend.forwarding == Forward::Nat);
                if replies && !subject.interfaces.contains(&link) {
                    add(
                        format!("the way to {address} is by {link}, which is none of datapath.interfaces"),
                        "replies that come by it meet no program of ours and are not translated back: connections hang",
                        format!(
                            "add \"{link}\" to datapath.interfaces in {}, then: kill -HUP $(pidof expressgateway)",
                            subject.file_name()
                        ),
                    );
                }
            }
        }
    }
    Ok(findings)
}

/// Clients come by the interfaces that lead to no backend; by all of them where there is no other.
pub(super) fn mtu(subject: &Subject, facts: &Facts) -> Result<Vec<Finding>, String> {
    let host = facts.host()?;
    let out = |address: &IpAddr| match host.ways.get(address) {
        Some(Way::Out { ifindex, .. }) => host.link(*ifindex),
        _ => None,
    };
    let backends = by_address(subject);
    let leads: Vec<u32> = backends.keys().filter_map(|address| out(address).map(|link| link.index)).collect();
    let links = subject.interfaces.iter().filter_map(|name| host.named(name));
    let (inner, outer): (Vec<_>, Vec<_>) = links.partition(|link| leads.contains(&link.index));
    let Some(largest) = (if outer.is_empty() { &inner } else { &outer }).iter().map(|link| link.mtu).max() else {
        return Ok(Vec::new());
    };
    // One finding for an interface: by its most demanding backend.
    let mut needed: BTreeMap<u32, (u32, String)> = BTreeMap::new();
    for (address, backends) in &backends {
        let Some(link) = out(address) else { continue };
        let more =
            backends.iter().map(|backend| u32::from(backend.forwarding.overhead(address.is_ipv6()))).max().unwrap_or(0);
        let need = needed.entry(link.index).or_default();
        if largest + more > need.0 {
            *need = (largest + more, names(backends));
        }
    }
    let small = needed.into_iter().filter_map(|(index, (need, names))| {
        let link = host.link(index).filter(|link| link.mtu < need)?;
        Some(Finding {
            severity: Severity::Error,
            what: format!("the MTU of {} is {}, packets of up to {need} bytes go out by it", link.name, link.mtu),
            at: format!("interface {}, backend {names}", link.name),
            why: format!(
                "clients may send {largest} bytes{}; what is larger than the MTU is lost: uploads and UDP hang while short \
                 packets pass",
                if need > largest { format!(", and forwarding adds {}", need - largest) } else { String::new() }
            ),
            fix: format!("ip link set {} mtu {need}", link.name),
        })
    });
    Ok(small.collect())
}
