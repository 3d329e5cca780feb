// SPDX-License-Identifier: GPL-3.0-only
//! Whose XDP program runs at each interface, and how.

use expressgateway::config::plan::XdpMode;
use expressgateway::datapath::{Link, Mode};

use super::facts::{Facts, Running};
use super::report::{Finding, Severity};
use super::subject::Subject;

/// Drivers of cards and hypervisors that have had native XDP since Linux 5.9 or before (their `ndo_bpf`).
const NATIVE: &[&str] = &[
    "bnxt_en",
    "ena",
    "gve",
    "hv_netvsc",
    "i40e",
    "ice",
    "igb",
    "ixgbe",
    "ixgbevf",
    "mlx4_en",
    "mlx5_core",
    "mvneta",
    "nfp",
    "qede",
    "sfc",
    "stmmac",
    "thunder-nicvf",
    "tun",
    "veth",
    "virtio_net",
];

/// Interfaces that exist and are to carry our program.
fn links<'a>(subject: &'a Subject, facts: &'a Facts) -> Result<impl Iterator<Item = &'a Link>, String> {
    let host = facts.host()?;
    Ok(subject.interfaces.iter().filter_map(|name| host.named(name)))
}

fn is_ours(facts: &Facts, link: &Link, running: &Running) -> Result<bool, String> {
    let pinned = facts.pinned()?;
    Ok(pinned.is_some_and(|pinned| {
        pinned.attached.iter().any(|ours| ours.ifindex == link.index && ours.program == running.program)
    }))
}

pub(super) fn programs(subject: &Subject, facts: &Facts) -> Result<Vec<Finding>, String> {
    let pinned = facts.pinned()?.is_some();
    let mut findings = Vec::new();
    for link in links(subject, facts)? {
        let (name, at) = (&link.name, format!("interface {}", link.name));
        let by_tc = |pinned: &super::facts::Pinned| pinned.attached.iter().any(|a| a.by_tc && a.ifindex == link.index);
        if facts.pinned()?.is_some_and(by_tc) {
            continue;
        }
        match facts.running.get(&link.index) {
            Some(running) if is_ours(facts, link, running)? => {}
            Some(running) => findings.push(Finding {
                severity: Severity::Error,
                what: format!("{name} carries XDP program {}, which is not ours", running.program),
                at,
                why:
                    "an interface runs one XDP program: the gateway refuses to start, or sees no packet that comes here"
                        .into(),
                fix: detach_foreign(name, running),
            }),
            // Without pins, "attached" has said it for all of them.
            None if pinned => findings.push(Finding {
                severity: Severity::Error,
                what: format!("no XDP program runs at {name}"),
                at,
                why: "packets that come by it are not balanced, and replies that come by it are not translated back"
                    .into(),
                fix: "systemctl restart expressgateway".into(),
            }),
            None => {}
        }
    }
    Ok(findings)
}

fn detach_foreign(name: &str, running: &Running) -> String {
    match (running.link, running.mode) {
        (Some(link), _) => format!("bpftool link detach id {link}"),
        (None, Mode::Native) => format!("ip link set dev {name} xdpdrv off"),
        (None, Mode::Generic) => format!("ip link set dev {name} xdpgeneric off"),
    }
}

pub(super) fn mode(subject: &Subject, facts: &Facts) -> Result<Vec<Finding>, String> {
    let mut findings = Vec::new();
    for link in links(subject, facts)? {
        let Some(running) = facts.running.get(&link.index) else { continue };
        if running.mode == Mode::Native || !is_ours(facts, link, running)? {
            continue;
        }
        let driver = facts.offloads.get(&link.name).map_or("", |offloads| &offloads.driver);
        let able = NATIVE.contains(&driver);
        let (what, fix) = if subject.xdp == XdpMode::Generic {
            let file = subject.file_name();
            let edit = format!("sed -i 's/^xdp = \"generic\"/xdp = \"native\"/' {file}");
            ("as configured", format!("{edit} && systemctl restart expressgateway"))
        } else {
            ("since native was refused", "journalctl -u expressgateway | grep 'no native mode'".to_owned())
        };
        findings.push(Finding {
            severity: if able { Severity::Warning } else { Severity::Hint },
            what: format!("{} runs XDP in generic mode, {what}", link.name),
            at: format!("interface {}", link.name),
            why: format!(
                "the kernel builds its own packet first: several times slower. Driver {:?} {}",
                driver,
                if able { "has native mode" } else { "may have no native mode" }
            ),
            fix,
        });
    }
    Ok(findings)
}
