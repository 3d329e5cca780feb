// SPDX-License-Identifier: GPL-3.0-only
//! Interfaces, and what their cards do to packets behind XDP's back.

use super::facts::Facts;
use super::report::{Finding, Severity};
use super::subject::Subject;

pub(super) fn state(subject: &Subject, facts: &Facts) -> Result<Vec<Finding>, String> {
    let host = facts.host()?;
    let mut findings = Vec::new();
    for name in &subject.interfaces {
        let at = format!("interface {name}");
        match host.named(name) {
            None => findings.push(Finding {
                severity: Severity::Error,
                what: format!("there is no interface {name} in this network namespace"),
                at,
                why: "the datapath does not start without it".into(),
                fix: format!("ip link; then correct datapath.interfaces in {}", subject.file_name()),
            }),
            Some(link) if !link.up => findings.push(Finding {
                severity: Severity::Error,
                what: format!("interface {name} is down"),
                at,
                why: "no packet comes or goes by it. Taking it down also removed its routes and, unless \
                      keep_addr_on_down is set, its IPv6 addresses"
                    .into(),
                fix: format!("ip link set {name} up"),
            }),
            Some(link) if !link.running => findings.push(Finding {
                severity: Severity::Error,
                what: format!("interface {name} has no link"),
                at,
                why: "it is up, and nobody is at the other end: a cable, a switch port, or a veth peer that is down"
                    .into(),
                fix: format!("ethtool {name}; then bring the other end up"),
            }),
            Some(_) => {}
        }
    }
    Ok(findings)
}

pub(super) fn offloads(subject: &Subject, facts: &Facts) -> Result<Vec<Finding>, String> {
    let known = subject.interfaces.iter().filter_map(|name| Some((name, facts.offloads.get(name)?)));
    let mut findings = Vec::new();
    for (name, offloads) in known {
        let mut add = |severity, what: &str, why: &str, fix: String| {
            let what = format!("{what} is on at {name}");
            findings.push(Finding { severity, what, at: format!("interface {name}"), why: why.into(), fix });
        };
        if offloads.rx_vlan {
            add(
                Severity::Warning,
                "rx-vlan-offload",
                "the card takes VLAN tags off before XDP sees the frame: what belongs to another VLAN looks like ours, and \
                 is forwarded without its tag",
                format!("ethtool -K {name} rxvlan off"),
            );
        }
        if offloads.lro {
            add(
                Severity::Error,
                "large receive offload",
                "the card merges packets before XDP sees them: what results is longer than any MTU and is lost",
                format!("ethtool -K {name} lro off"),
            );
        }
        if offloads.tx_checksum && offloads.driver == "veth" {
            add(
                Severity::Warning,
                "transmit checksum offload",
                "a veth leaves checksums unfinished, and what XDP forwards or drops into stays so: TCP connections open and \
                 then hang. The other end of the pair needs the same command, in its own namespace",
                format!("ethtool -K {name} tx off"),
            );
        }
    }
    Ok(findings)
}
