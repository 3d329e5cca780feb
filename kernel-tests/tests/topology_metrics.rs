// SPDX-License-Identifier: GPL-3.0-only
//! /metrics with the kernel datapath on. Needs root, XDP and network namespaces.

use std::net::SocketAddr;

use eg_kernel_tests::require;
use eg_kernel_tests::topology::config::{SERVICE, Service};
use eg_kernel_tests::topology::echo::{Connection, Echo, Flow};
use eg_kernel_tests::topology::gateway::Gateway;
use eg_kernel_tests::topology::{Arms, Topology};

#[path = "../../userspace/tests/support/documented.rs"]
mod documented;

fn can_run() -> bool {
    ["root", "netns", "bpffs", "xdp", "ethtool"].iter().all(|feature| require(feature))
}

/// A sample's value, summed over its labels.
fn sum(page: &str, name: &str) -> f64 {
    let samples = page.lines().filter(|line| !line.starts_with('#'));
    let of = samples.filter(|line| line.split(['{', ' ']).next() == Some(name));
    of.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

#[test]
fn the_metrics_of_l4_are_exactly_those_that_are_documented_and_traffic_moves_them() {
    if !can_run() {
        return;
    }
    let topology = Topology::new(Arms::Two, 1);
    let _echo = Echo::start(&topology.backends[0], 0);
    let mut gateway = Gateway::start(&topology, &Service::of(&[0]).toml(&topology));
    let vip = SocketAddr::new(topology.vip(false), SERVICE);
    let _open = topology.client.enter(|| {
        let mut tcp = Connection::open(vip).expect("a connection");
        tcp.exchange(b"counted").expect("an answer");
        let udp = Flow::open(vip).expect("a socket");
        udp.exchange(b"counted").expect("an answer");
        // Nobody serves this port.
        let _ = std::net::UdpSocket::bind("0.0.0.0:0").and_then(|socket| socket.send_to(b"x", (vip.ip(), 4242)));
        (tcp, udp)
    });
    let page = |gateway: &Gateway<'_>| gateway.get("/metrics").unwrap_or_default();
    let l4 = documented::documented("L4\n");
    assert!(l4.len() > 20, "the table was not understood: {l4:#?}");
    let others = &documented::documented("Process\n") | &documented::documented("L7\n");
    let printed = documented::printed(&page(&gateway));
    // This gateway has no L7 listener, so families by listener have nothing to show.
    let (extra, missing) = (&(&printed - &l4) - &others, &l4 - &printed);
    assert!(extra.is_empty() && missing.is_empty(), "only printed: {extra:#?}\nonly documented: {missing:#?}");

    // What this traffic cannot move: faults, fragments, what goes over a budget, and SYNs to what is terminated.
    let still = [
        "l4_flow_misses_total",
        "l4_fragments_held_total",
        "l4_probe_packets_total",
        "l4_fragments_waiting",
        "l4_events_lost_total",
        "l4_syn_cookies_total",
        "vip_stateless_total",
    ];
    let still = still.map(|name| format!("expressgateway_{name}"));
    for metric in &l4 {
        let name = metric.split(' ').next().unwrap_or_default();
        // A refused packet without a VIP of its own is nobody's.
        if still.iter().any(|other| other == name) || name == "expressgateway_vip_drops_total" {
            continue;
        }
        gateway.wait(&format!("{name} to move"), |gateway| sum(&page(gateway), name) > 0.0);
    }
}
