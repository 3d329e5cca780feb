// SPDX-License-Identifier: GPL-3.0-only
//! Judgements on hosts that no test can have: what a namespace shows is in `kernel-tests/tests/topology_doctor.rs`.

use std::collections::HashMap;

use eg_skel::abi::Forward;
use expressgateway::config::plan::XdpMode;
use expressgateway::datapath::ethtool::Offloads;
use expressgateway::datapath::{Attached, Capabilities, Host, Link, Mode, Way};

use super::facts::{Facts, Pinned, Running};
use super::subject::{Backend, Subject, Vip};
use super::*;

fn subject() -> Subject {
    Subject {
        file: Some("/etc/eg.toml".into()),
        pin_root: "/sys/fs/bpf/eg".into(),
        interfaces: vec!["eth0".into(), "eth1".into()],
        xdp: XdpMode::Auto,
        vips: vec![Vip { address: "192.0.2.10".parse().unwrap(), snat: true }],
        backends: vec![Backend {
            name: "web/a".into(),
            address: "198.51.100.2:80".parse().unwrap(),
            forwarding: Forward::Nat,
        }],
        terminated: vec!["192.0.2.11".parse().unwrap()],
        snat_ports: 10_240..=32_767,
    }
}

fn facts() -> Facts {
    let link = |index, name: &str| Link { index, name: name.into(), mtu: 1500, up: true, running: true };
    let backend = "198.51.100.2".parse().unwrap();
    let running = |_| Running { program: 9, mode: Mode::Native, link: Some(1) };
    Facts {
        capabilities: Capabilities {
            missing: Vec::new(),
            xdp: true,
            tc: true,
            tcx: true,
            six_in_four: true,
            sk_lookup: true,
            ring_buffer: true,
            lru_hash: true,
            btf: true,
            jit: true,
        },
        bpffs: Ok(("/sys/fs/bpf".into(), true)),
        other_versions: Ok(Vec::new()),
        pinned: Ok(Some(Pinned {
            attached: [2, 3]
                .map(|ifindex| Attached { ifindex, program: 9, mode: Some(Mode::Native), by_tc: false })
                .into(),
            jited: Some(true),
            silent: 0,
        })),
        running: [2, 3].map(|index| (index, running(index))).into(),
        host: Ok(Host {
            links: vec![link(2, "eth0"), link(3, "eth1")],
            addresses: vec![(2, "192.0.2.1".parse().unwrap(), 24), (3, "198.51.100.1".parse().unwrap(), 24)],
            ways: HashMap::from([
                (backend, Way::Out { ifindex: 3, neighbour: backend, resolved: true }),
                ("192.0.2.10".parse().unwrap(), Way::Local),
                ("192.0.2.11".parse().unwrap(), Way::Local),
            ]),
        }),
        offloads: ["eth0", "eth1"]
            .map(|name| (name.into(), Offloads { driver: "ixgbe".into(), ..Offloads::default() }))
            .into(),
        sysctls: [
            ("net/core/bpf_jit_enable", "1"),
            ("net/ipv4/ip_local_port_range", "32768\t60999"),
            ("net/netfilter/nf_conntrack_count", "700"),
            ("net/netfilter/nf_conntrack_max", "1000"),
        ]
        .map(|(path, value)| (path.to_owned(), value.to_owned()))
        .into(),
        tracked: Some(0),
        tunnels: Ok(Vec::new()),
    }
}

/// (severity and check, fix) of all findings.
fn found(change: impl FnOnce(&mut Subject, &mut Facts)) -> Vec<(String, String)> {
    let (mut subject, mut facts) = (subject(), facts());
    change(&mut subject, &mut facts);
    let report: serde_json::Value = serde_json::from_str(&examine(&subject, &facts).render(true)).unwrap();
    let word = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let findings = report["findings"].as_array().unwrap().iter();
    findings.map(|one| (format!("{}: {}", word(&one["severity"]), word(&one["check"])), word(&one["fix"]))).collect()
}

fn one(change: impl FnOnce(&mut Subject, &mut Facts)) -> (String, String) {
    let mut found = found(change);
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

fn pair(check: &str, fix: &str) -> (String, String) {
    (check.into(), fix.into())
}

#[test]
fn nothing_is_found_on_a_sound_host() {
    assert_eq!(found(|_, _| {}), []);
}

#[test]
fn an_interpreter_is_found_by_the_setting_or_by_the_program() {
    let expected =
        pair("warning: bpf compiler", "sysctl -w net.core.bpf_jit_enable=1 && systemctl restart expressgateway");
    let setting = |_: &mut Subject, facts: &mut Facts| {
        facts.sysctls.insert("net/core/bpf_jit_enable".into(), "0".into());
    };
    assert_eq!(one(setting), expected);
    let program = |_: &mut Subject, facts: &mut Facts| {
        facts.sysctls.remove("net/core/bpf_jit_enable");
        if let Ok(Some(pinned)) = &mut facts.pinned {
            pinned.jited = Some(false);
        }
    };
    assert_eq!(one(program), expected);
}

#[test]
fn large_receive_offload_is_an_error() {
    let lro = |_: &mut Subject, facts: &mut Facts| facts.offloads.get_mut("eth1").unwrap().lro = true;
    assert_eq!(one(lro), pair("error: offloads", "ethtool -K eth1 lro off"));
    let checksum = |_: &mut Subject, facts: &mut Facts| facts.offloads.get_mut("eth1").unwrap().tx_checksum = true;
    assert_eq!(found(checksum), [], "a real card finishes checksums itself");
}

#[test]
fn a_kernel_without_a_feature_is_named() {
    let lacking = |_: &mut Subject, facts: &mut Facts| facts.capabilities.sk_lookup = false;
    assert_eq!(one(lacking).0, "error: kernel features");
}

#[test]
fn generic_mode_weighs_more_where_the_driver_can_do_better() {
    let generic = |facts: &mut Facts| facts.running.get_mut(&2).unwrap().mode = Mode::Generic;
    let fix = "journalctl -u expressgateway | grep 'no native mode'";
    assert_eq!(one(|_, facts| generic(facts)), pair("warning: xdp mode", fix));
    let unknown = |_: &mut Subject, facts: &mut Facts| {
        generic(facts);
        facts.offloads.get_mut("eth0").unwrap().driver = "r8169".into();
    };
    assert_eq!(one(unknown), pair("hint: xdp mode", fix));
}

#[test]
fn a_foreign_program_is_detached_as_it_was_attached() {
    let foreign = |link, mode| {
        move |_: &mut Subject, facts: &mut Facts| {
            facts.running.insert(2, Running { program: 77, mode, link });
        }
    };
    let check = "error: xdp programs";
    assert_eq!(one(foreign(Some(5), Mode::Native)), pair(check, "bpftool link detach id 5"));
    assert_eq!(one(foreign(None, Mode::Native)), pair(check, "ip link set dev eth0 xdpdrv off"));
    assert_eq!(one(foreign(None, Mode::Generic)), pair(check, "ip link set dev eth0 xdpgeneric off"));
    let gone = |_: &mut Subject, facts: &mut Facts| {
        facts.running.remove(&2);
    };
    assert_eq!(one(gone), pair(check, "systemctl restart expressgateway"));
}

#[test]
fn tunnels_need_room_for_their_headers() {
    let tunnel = |forwarding, mtu| {
        move |subject: &mut Subject, facts: &mut Facts| {
            subject.backends[0].forwarding = forwarding;
            facts.host.as_mut().unwrap().links[1].mtu = mtu;
        }
    };
    let fix = |mtu: u32| pair("error: mtu", &format!("ip link set eth1 mtu {mtu}"));
    assert_eq!(found(tunnel(Forward::Nat, 1500)), []);
    assert_eq!(one(tunnel(Forward::Ipip, 1519)), fix(1520));
    assert_eq!(found(tunnel(Forward::Ipip, 1520)), []);
    assert_eq!(one(tunnel(Forward::Gue, 1520)), fix(1532));
    let jumbo_to_backends_alone = |_: &mut Subject, facts: &mut Facts| facts.host.as_mut().unwrap().links[1].mtu = 9000;
    assert_eq!(found(jumbo_to_backends_alone), []);
}

#[test]
fn tracked_connections_are_a_hint_until_the_table_is_nearly_full() {
    let (check, fix) = one(|_, facts| facts.tracked = Some(3));
    assert_eq!(check, "hint: connection tracking");
    assert!(fix.contains("add rule inet expressgateway in ip daddr 192.0.2.11 notrack"), "{fix}");
    let full = |_: &mut Subject, facts: &mut Facts| {
        facts.tracked = Some(3);
        facts.sysctls.insert("net/netfilter/nf_conntrack_count".into(), "800".into());
    };
    assert_eq!(one(full).0, "warning: connection tracking");
}

#[test]
fn what_cannot_be_seen_is_no_health() {
    let (subject, mut facts) = (subject(), facts());
    facts.host = Err("netlink refused".into());
    let report = examine(&subject, &facts);
    assert_eq!(report.code(), 2);
    assert!(report.render(false).contains("cannot tell: interfaces: netlink refused\n"));
}
