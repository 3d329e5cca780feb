// SPDX-License-Identifier: GPL-3.0-only
//! Direct server return: every mode and family with real sockets, judged against `eg_balance`; replies bypass the gateway.
//! Needs root, XDP and network namespaces.

use eg_abi::{PROTO_TCP, PROTO_UDP, VipKey};
use eg_kernel_tests::require;
use eg_kernel_tests::topology::direct::{Direct, moves, start};
use eg_kernel_tests::topology::echo::{Connection, Flow};
use eg_kernel_tests::topology::gateway::{Gateway, maps};

fn can_run() -> bool {
    ["root", "netns", "bpffs", "xdp", "tc", "ethtool", "sysctl"].iter().all(|feature| require(feature))
}

#[test]
fn every_mode_reaches_the_backend_that_maglev_picks_and_is_answered_directly() {
    if !can_run() {
        return;
    }
    const COUNT: u64 = 20;
    let (topology, _echoes) = start(false);
    topology.widen(1600);
    let mut gateway: Option<Gateway<'_>> = None;
    for direct in Direct::all() {
        println!("{direct:?}");
        match &mut gateway {
            None => gateway = Some(Gateway::start(&topology, &direct.toml(&topology, "native"))),
            Some(gateway) => gateway.reload(&direct.toml(&topology, "native")),
        }
        let (vip, pool) = (direct.vip(&topology), direct.pool());
        let maps = maps(&topology).expect("pinned maps");
        let stats = |proto| {
            let id = maps.vip_ids.get(&VipKey::new(vip, proto)).expect("eg_vip_ids").expect("the vip has an id");
            maps.vip_stats.sum(id).expect("eg_vip_stats")
        };
        let before = [PROTO_TCP, PROTO_UDP].map(stats);
        topology.client.enter(|| {
            for number in 0..COUNT {
                let mut connection =
                    Connection::open(vip).unwrap_or_else(|error| panic!("{direct:?}: connection {number}: {error}"));
                let client = connection.stream.local_addr().expect("a local address");
                assert_eq!(usize::from(connection.backend), pool.pick(client, vip, PROTO_TCP), "{direct:?} {client}");
                moves(&mut connection, if number == 0 { 1 << 20 } else { 3000 });

                let flow = Flow::open(vip).expect("a socket");
                let backend =
                    flow.exchange(&[7; 1400]).unwrap_or_else(|error| panic!("{direct:?}: flow {number}: {error}"));
                let client = flow.socket.local_addr().expect("a local address");
                assert_eq!(usize::from(backend), pool.pick(client, vip, PROTO_UDP), "{direct:?} {client}");
            }
        });
        for (proto, before) in [PROTO_TCP, PROTO_UDP].into_iter().zip(before) {
            let now = stats(proto);
            assert_eq!(now.flows - before.flows, COUNT, "{direct:?}: every flow passed here");
            assert_eq!(now.reply_packets, 0, "{direct:?}: no reply did");
            assert_eq!(now.drops, before.drops, "{direct:?}");
        }
    }
}

#[test]
fn packets_that_do_not_fit_a_tunnel_are_told_so_and_the_transfer_goes_on() {
    if !can_run() {
        return;
    }
    // All links have 1500: a full segment of the client's does not fit with an outer header in front.
    let (topology, _echoes) = start(false);
    let mut gateway: Option<Gateway<'_>> = None;
    for direct in Direct::all().into_iter().filter(|direct| direct.forward != "l2") {
        println!("{direct:?}");
        match &mut gateway {
            None => gateway = Some(Gateway::start(&topology, &direct.toml(&topology, "native"))),
            Some(gateway) => gateway.reload(&direct.toml(&topology, "native")),
        }
        // What the client has learned from the case before.
        topology.client.ip("route flush cache");
        topology.client.ip("-6 route flush cache");
        let maps = maps(&topology).expect("pinned maps");
        let told = || maps.drops.sum(eg_abi::Drop::TooBig.code()).expect("eg_drops").packets;
        let before = told();
        topology.client.enter(|| {
            let mut connection = Connection::open(direct.vip(&topology)).expect("a connection");
            moves(&mut connection, 1 << 20);
        });
        assert!(told() > before, "{direct:?}: some segment was too big");
    }
}
