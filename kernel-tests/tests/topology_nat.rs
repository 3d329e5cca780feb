// SPDX-License-Identifier: GPL-3.0-only
//! The service itself: TCP and UDP by NAT over IPv4 and IPv6, with every connection judged against `eg_balance`.
//! Needs root, XDP and network namespaces.

use std::net::SocketAddr;

use eg_abi::{PROTO_TCP, PROTO_UDP, VipKey};
use eg_kernel_tests::require;
use eg_kernel_tests::topology::config::{SERVICE, Service};
use eg_kernel_tests::topology::echo::{Connection, Echo, Flow};
use eg_kernel_tests::topology::gateway::{Gateway, maps};
use eg_kernel_tests::topology::{Arms, Topology};

fn can_run() -> bool {
    ["root", "netns", "bpffs", "xdp", "ethtool"].iter().all(|feature| require(feature))
}

fn start_echoes(topology: &Topology) -> Vec<Echo> {
    topology.backends.iter().enumerate().map(|(number, space)| Echo::start(space, number as u8)).collect()
}

/// Opens `count` connections; each must reach the backend that Maglev picks for its own 5-tuple, and echo.
fn tcp(topology: &Topology, service: &Service, v6: bool, count: usize) -> Vec<Connection> {
    let (vip, pool) = (SocketAddr::new(topology.vip(v6), SERVICE), service.pool(v6));
    topology.client.enter(|| {
        (0..count)
            .map(|number| {
                let mut connection =
                    Connection::open(vip).unwrap_or_else(|error| panic!("connection {number}: {error}"));
                let client = connection.stream.local_addr().expect("a local address");
                let expected = service.backends[pool.pick(client, vip, PROTO_TCP)];
                assert_eq!(usize::from(connection.backend), expected, "{client} -> {vip}");
                let bytes: Vec<u8> = (0..1000 + number).map(|byte| (byte * 7 + number) as u8).collect();
                connection.exchange(&bytes).unwrap_or_else(|error| panic!("connection {number}: {error}"));
                connection
            })
            .collect()
    })
}

const DATAGRAM: usize = 600;

/// The same with `count` UDP flows, one datagram each way. All stay open to the end, so that no port is used twice.
fn udp(topology: &Topology, service: &Service, v6: bool, count: usize) {
    let (vip, pool) = (SocketAddr::new(topology.vip(v6), SERVICE), service.pool(v6));
    topology.client.enter(|| {
        let flows: Vec<Flow> = (0..count).map(|_| Flow::open(vip).expect("a socket")).collect();
        for (number, flow) in flows.iter().enumerate() {
            let bytes: Vec<u8> = (0..DATAGRAM).map(|byte| (byte * 3 + number) as u8).collect();
            let backend = flow.exchange(&bytes).unwrap_or_else(|error| panic!("flow {number}: {error}"));
            let client = flow.socket.local_addr().expect("a local address");
            let expected = service.backends[pool.pick(client, vip, PROTO_UDP)];
            assert_eq!(usize::from(backend), expected, "{client} -> {vip}");
        }
    });
}

#[test]
fn a_thousand_connections_and_flows_reach_the_backends_that_maglev_picks() {
    if !can_run() {
        return;
    }
    const COUNT: usize = 1000;
    let topology = Topology::new(Arms::Two, 3);
    let echoes = start_echoes(&topology);
    let service = Service::of(&[0, 1, 2]);
    let _gateway = Gateway::start(&topology, &service.toml(&topology));

    let maps = maps(&topology).expect("pinned maps");
    for v6 in [false, true] {
        drop(tcp(&topology, &service, v6, COUNT));
        udp(&topology, &service, v6, COUNT);

        let vip = SocketAddr::new(topology.vip(v6), SERVICE);
        let stats = |proto| {
            let id = maps.vip_ids.get(&VipKey::new(vip, proto)).expect("eg_vip_ids").expect("the vip has an id");
            maps.vip_stats.sum(id).expect("eg_vip_stats")
        };
        let (tcp, udp) = (stats(PROTO_TCP), stats(PROTO_UDP));
        assert_eq!((tcp.flows, tcp.drops), (COUNT as u64, 0));
        // The IP header, the UDP header, the datagram; the reply carries the backend's number too.
        let bytes = (if v6 { 40 } else { 20 } + 8 + DATAGRAM) as u64;
        let count = COUNT as u64;
        assert_eq!((udp.flows, udp.drops), (count, 0));
        assert_eq!((udp.packets, udp.bytes), (count, count * bytes));
        assert_eq!((udp.reply_packets, udp.reply_bytes), (count, count * (bytes + 1)));
    }
    let accepted: u64 = echoes.iter().map(Echo::accepted).sum();
    assert_eq!(accepted, 2 * COUNT as u64, "no connection was opened twice");
    for drop in eg_abi::Drop::ALL {
        assert_eq!(maps.drops.sum(drop.code()).expect("eg_drops").packets, 0, "{drop:?}");
    }
}

#[test]
fn one_interface_is_enough() {
    if !can_run() {
        return;
    }
    let topology = Topology::new(Arms::One, 2);
    let _echoes = start_echoes(&topology);
    let service = Service::of(&[0, 1]);
    let _gateway = Gateway::start(&topology, &service.toml(&topology));
    for v6 in [false, true] {
        tcp(&topology, &service, v6, 100);
        udp(&topology, &service, v6, 100);
    }
}

#[test]
fn without_source_nat_the_backend_sees_the_client() {
    if !can_run() {
        return;
    }
    let topology = Topology::new(Arms::Two, 2);
    let _echoes = start_echoes(&topology);
    let service = Service { snat: false, ..Service::of(&[0, 1]) };
    let _gateway = Gateway::start(&topology, &service.toml(&topology));
    for v6 in [false, true] {
        let connections = tcp(&topology, &service, v6, 50);
        udp(&topology, &service, v6, 50);
        let backend = connections[0].backend;
        let client = connections[0].stream.local_addr().expect("a local address");
        let sockets = topology.backends[usize::from(backend)].output("ss", &["-Htn", "state", "established"]);
        let seen = sockets.replace("::ffff:", "").contains(&client.to_string());
        assert!(seen, "{client} is not among the backend's peers:\n{sockets}");
    }
}
