// SPDX-License-Identifier: GPL-3.0-only
//! Whether the host takes the VIPs for its own, and says so to its neighbours.

use std::net::IpAddr;

use expressgateway::datapath::{Host, Way};

use super::facts::Facts;
use super::report::{Finding, Severity};
use super::subject::Subject;

/// The name of the datapath interface on whose link an address lies.
fn on_link<'h>(subject: &Subject, host: &'h Host, address: IpAddr) -> Option<&'h str> {
    host.addresses.iter().find_map(|&(index, known, prefix)| {
        let link = host.link(index).filter(|link| subject.interfaces.contains(&link.name))?;
        within(address, known, prefix).then_some(link.name.as_str())
    })
}

fn within(address: IpAddr, network: IpAddr, prefix: u8) -> bool {
    match (address, network) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            prefix < 32 && (u32::from(a) ^ u32::from(b)).checked_shr(32 - u32::from(prefix)).unwrap_or(0) == 0
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            prefix < 128 && (u128::from(a) ^ u128::from(b)).checked_shr(128 - u32::from(prefix)).unwrap_or(0) == 0
        }
        _ => false,
    }
}

/// What the gateway itself does, by hand.
fn make_local(subject: &Subject, host: &Host, address: IpAddr) -> String {
    match (on_link(subject, host, address), address) {
        (Some(link), IpAddr::V6(_)) => {
            format!("ip -6 addr add {address}/128 dev {link} nodad noprefixroute preferred_lft 0")
        }
        (_, IpAddr::V6(_)) => format!("ip -6 route add local {address}/128 dev lo table local proto 233"),
        (_, IpAddr::V4(_)) => format!("ip route add local {address}/32 dev lo table local proto 233"),
    }
}

pub(super) fn local(subject: &Subject, facts: &Facts) -> Result<Vec<Finding>, String> {
    // The process makes them local when it starts; "attached" has said that it did not.
    if facts.pinned()?.is_none() {
        return Ok(Vec::new());
    }
    let host = facts.host()?;
    let strange = subject.local_addresses().into_iter().filter(|address| host.ways.get(address) != Some(&Way::Local));
    Ok(strange
        .map(|address| Finding {
            severity: Severity::Error,
            what: format!("{address} is not local to this host"),
            at: format!("vip {address}"),
            why: "nobody answers ARP or neighbour solicitations for it, and what XDP passes up is not delivered".into(),
            fix: make_local(subject, host, address),
        })
        .collect())
}

pub(super) fn answered(subject: &Subject, facts: &Facts) -> Result<Vec<Finding>, String> {
    if facts.pinned()?.is_none() {
        return Ok(Vec::new());
    }
    let host = facts.host()?;
    let mut findings = Vec::new();
    for address in subject.local_addresses() {
        let Some(link) = on_link(subject, host, address) else { continue };
        if host.ways.get(&address) != Some(&Way::Local) {
            continue;
        }
        let at = format!("vip {address} on {link}");
        let assigned = host.addresses.iter().any(|(_, known, _)| *known == address);
        if address.is_ipv6() && !assigned {
            findings.push(Finding {
                severity: Severity::Error,
                what: format!("nobody answers neighbour solicitations for {address}"),
                at,
                why:
                    "it is in a prefix of that link, where the kernel answers only for addresses that an interface has"
                        .into(),
                fix: format!("ip -6 addr add {address}/128 dev {link} nodad noprefixroute preferred_lft 0"),
            });
        } else if address.is_ipv4() && !assigned {
            let set = |interface: &str| facts.number(&format!("net/ipv4/conf/{interface}/arp_ignore")).unwrap_or(0) > 0;
            let settings: Vec<String> = ["all", link]
                .iter()
                .filter(|interface| set(interface))
                .map(|interface| format!("net.ipv4.conf.{interface}.arp_ignore=0"))
                .collect();
            if !settings.is_empty() {
                findings.push(Finding {
                    severity: Severity::Error,
                    what: format!("ARP requests for {address} are ignored"),
                    at,
                    why: "arp_ignore lets the kernel answer only for addresses of the interface itself, and a VIP is none".into(),
                    fix: format!("sysctl -w {}", settings.join(" ")),
                });
            }
        }
    }
    Ok(findings)
}
