// SPDX-License-Identifier: GPL-3.0-only
//! The budget of new flows of a VIP, packet by packet: what is remembered, what leaves by the ring alone, what is dropped.
//! Buckets refill by the hour here, or are set back by hand: time does not decide.

use std::net::SocketAddr;

use eg_abi::{
    Addr, AffinityKey, Algorithm, Budget, Drop as Reason, FlowKey, Forward, GUARD_TICK_SHIFT, PROTO_TCP, Plain as _,
    Pool,
};
use eg_balance::hash;
use eg_kernel_tests::packet::frame::{ACK, BACKEND_ISN, CLIENT_ISN, GATEWAY_MAC, SYN};
use eg_kernel_tests::packet::gateway::backend_mac;
use eg_kernel_tests::packet::outer::{self, Way};
use eg_kernel_tests::packet::service::{
    BOTH, Connection, Family, GUE_PORT, KEY, V4, at, drops_for, forwarded, serve, serve_by,
};
use eg_kernel_tests::packet::{Frame, Gateway, L4, Verdict};
use eg_kernel_tests::require;

const TCP: u32 = 1;
const UDP: u32 = 2;

/// What one flow costs in a bucket that gets one an hour.
fn hour(gateway: &Gateway) -> u64 {
    (u64::from(gateway.hz()) * 3600) << GUARD_TICK_SHIFT
}

/// So many flows now, and none more as far as a test can tell.
fn grant(gateway: &Gateway, vip: u32, flows: u64) {
    let step = hour(gateway);
    gateway.maps().budgets.set(vip, &Budget { step, window: step * flows, full: 0 }).expect("write a budget");
}

/// Lets so many hours and a half pass for a bucket.
fn wait(gateway: &Gateway, vip: u32, hours: u64) {
    let budget = gateway.maps().budgets.get(vip).expect("a budget");
    let full = budget.full - hours * budget.step - budget.step / 2;
    gateway.maps().budgets.set(vip, &Budget { full, ..budget }).expect("write a budget");
}

fn from(family: &Family, port: u16, l4: L4) -> Frame {
    let client = SocketAddr::new(at(family.client).ip(), port);
    Frame::between(client, at(family.vip), l4).payload(if l4.has(SYN) { b"" } else { b"data" })
}

/// Entries of both tables.
fn entries(gateway: &Gateway) -> usize {
    let tables = [&gateway.maps().flows, &gateway.maps().opening];
    tables.map(|table| table.entries().expect("the flows").len()).iter().sum()
}

fn stateless(gateway: &Gateway, vip: u32) -> u64 {
    gateway.maps().stateless.sum(vip).expect("figures")
}

/// The frame must leave as the ring alone says, computed apart from the program.
fn goes_by_the_ring(gateway: &Gateway, ring: &eg_balance::Ring, frame: &Frame, family: &Family, mode: Forward) {
    let key = FlowKey::new(frame.source, frame.destination, frame.l4.proto());
    let picked = ring.pick(hash::flow(KEY, &key.to_bytes()), |_| true).expect("a backend");
    let way = Way {
        mode,
        source: family.source.parse().expect("an address"),
        port: outer::port_of(KEY, &key),
        backend: at(family.backends[picked]).ip(),
        gue_port: GUE_PORT,
        smac: GATEWAY_MAC,
        dmac: backend_mac(picked as u32 + 1),
    };
    let outcome = gateway.receive(&frame.build());
    assert_eq!(outcome.verdict, Verdict::Tx, "{frame:?}");
    assert_eq!(outcome.bytes, outer::carried(frame, &way), "{frame:?}");
}

#[test]
fn over_the_budget_a_hashed_pool_forwards_by_the_ring_and_remembers_nothing() {
    if !require("xdp") {
        return;
    }
    for mode in [Forward::Ipip, Forward::Gue, Forward::L2] {
        for family in BOTH {
            let gateway = Gateway::new();
            let ring = serve_by(&gateway, family, family, mode);
            let goes = |frame: &Frame| goes_by_the_ring(&gateway, &ring, frame, family, mode);
            let syn = |port| from(family, port, L4::Tcp(SYN));
            let ack = |port| from(family, port, L4::Tcp(ACK));
            grant(&gateway, TCP, 3);
            (1..=10).for_each(|port| goes(&syn(port)));
            assert_eq!((entries(&gateway), stateless(&gateway, TCP)), (3, 7), "three of ten are remembered");
            let figures = gateway.maps().vip_stats.sum(TCP).expect("figures");
            assert_eq!((figures.flows, figures.packets, figures.drops), (3, 10, 0));

            // What is known is not charged: a SYN sent again, the handshake's end, data.
            goes(&syn(1));
            (0..5).for_each(|_| goes(&ack(1)));
            assert_eq!((entries(&gateway), stateless(&gateway, TCP)), (3, 7));
            let key = FlowKey::new(ack(1).source, ack(1).destination, PROTO_TCP);
            assert!(gateway.maps().flows.get(&key).expect("a flow").is_some(), "established");

            // What is not: the same backend, packet by packet.
            goes(&syn(10));
            goes(&ack(10));
            goes(&from(family, 11, L4::Tcp(ACK)));
            assert_eq!((entries(&gateway), stateless(&gateway, TCP)), (3, 10));

            // Once there is room again, the flow is joined where it is.
            wait(&gateway, TCP, 1);
            goes(&ack(10));
            assert_eq!((entries(&gateway), stateless(&gateway, TCP)), (4, 10));
            goes(&ack(9));
            assert_eq!((entries(&gateway), stateless(&gateway, TCP)), (4, 11), "an hour was one flow");

            (1..=5).for_each(|port| goes(&from(family, port, L4::Udp)));
            assert_eq!((entries(&gateway), stateless(&gateway, UDP)), (9, 0), "a VIP without a budget");
            grant(&gateway, UDP, 1);
            (6..=8).for_each(|port| goes(&from(family, port, L4::Udp)));
            assert_eq!((entries(&gateway), stateless(&gateway, UDP)), (10, 2), "datagrams, too");
        }
    }
}

#[test]
fn over_the_budget_nat_drops_what_is_new_and_nothing_else() {
    if !require("xdp") {
        return;
    }
    for family in BOTH {
        for snat in [true, false] {
            let gateway = Gateway::new();
            serve(&gateway, family, snat);
            grant(&gateway, TCP, 2);
            let client = |port| SocketAddr::new(at(family.client).ip(), port);
            let mut established = Connection::between(&gateway, client(1), at(family.vip), CLIENT_ISN, BACKEND_ISN);
            let mut half_open = Connection::begin(&gateway, client(2), at(family.vip), CLIENT_ISN, BACKEND_ISN);
            let before = entries(&gateway);
            for port in 3..=12 {
                let name = format!("the flow from port {port}");
                drops_for(&gateway, &from(family, port, L4::Tcp(SYN)).build(), Reason::FlowBudget, &name);
            }
            assert_eq!((entries(&gateway), before), (4, 4), "what is dropped claims no port");
            assert_eq!(gateway.maps().vip_stats.sum(TCP).expect("figures").drops, 10);
            drops_for(&gateway, &from(family, 3, L4::Tcp(ACK)).build(), Reason::NoFlow, "what opens nothing");

            established.send(ACK, b"goes on");
            established.reply(ACK, b"both ways");
            half_open.sends(&from(family, 2, L4::Tcp(SYN)));
            half_open.reply(SYN | ACK, b"");
            half_open.send(ACK, b"and is established");
            forwarded(&gateway, &from(family, 3, L4::Udp));
            assert_eq!((stateless(&gateway, TCP), stateless(&gateway, UDP)), (0, 0));

            wait(&gateway, TCP, 1);
            Connection::between(&gateway, client(3), at(family.vip), CLIENT_ISN, BACKEND_ISN);
            drops_for(&gateway, &from(family, 4, L4::Tcp(SYN)).build(), Reason::FlowBudget, "an hour was one flow");
        }
    }
}

#[test]
fn what_no_hash_decides_is_dropped_over_the_budget_in_the_direct_modes_too() {
    if !require("xdp") {
        return;
    }
    for algorithm in Algorithm::ALL.iter().filter(|algorithm| algorithm.code() > Algorithm::SessionAffinity.code()) {
        let gateway = Gateway::new();
        serve_by(&gateway, &V4, &V4, Forward::Ipip);
        let pool = gateway.maps().pools.get(1).expect("a pool");
        (1..=3).for_each(|id| gateway.change_backend(id, |backend| backend.weight = 1));
        gateway.maps().pools.set(1, &Pool { algorithm: algorithm.code() as u8, ..pool }).expect("write a pool");
        grant(&gateway, TCP, 1);
        let name = algorithm.label();
        assert_eq!(gateway.receive(&from(&V4, 1, L4::Tcp(SYN)).build()).verdict, Verdict::Tx, "{name}");
        drops_for(&gateway, &from(&V4, 2, L4::Tcp(SYN)).build(), Reason::FlowBudget, name);
        assert_eq!(gateway.receive(&from(&V4, 1, L4::Tcp(ACK)).build()).verdict, Verdict::Tx, "{name}");
        assert_eq!((entries(&gateway), stateless(&gateway, TCP)), (1, 0), "{name}");
    }
}

#[test]
fn over_the_budget_a_remembered_source_finds_its_backend_and_a_new_one_is_not_remembered() {
    if !require("xdp") {
        return;
    }
    let gateway = Gateway::new();
    serve_by(&gateway, &V4, &V4, Forward::L2);
    let pool = gateway.maps().pools.get(1).expect("a pool");
    let algorithm = Algorithm::SessionAffinity.code() as u8;
    gateway.maps().pools.set(1, &Pool { algorithm, prefix4: 32, prefix6: 64, affinity_s: 600, ..pool }).expect("write");
    let key = |client: &str| AffinityKey { addr: Addr::from(at(client).ip()), pool: 1 };
    let remembered = |client| gateway.maps().affinities.get(&key(client)).expect("the sources");
    let syn = |client: &str| Frame::new(client, V4.vip, L4::Tcp(SYN)).payload(b"").build();
    let (known, stranger) = ("198.18.7.1:7", "198.18.7.2:7");
    grant(&gateway, TCP, 1);
    assert_eq!(gateway.receive(&syn(known)).verdict, Verdict::Tx);
    let first = remembered(known).expect("the source is remembered");
    // Where the ring would not send it.
    let other = first.backend % 3 + 1;
    gateway.maps().affinities.set(&key(known), &eg_abi::Affinity { backend: other, ..first }).expect("write");
    let outcome = gateway.receive(&syn("198.18.7.1:8"));
    assert_eq!((outcome.verdict, &outcome.bytes[..6]), (Verdict::Tx, &backend_mac(other).octets()[..]));
    assert_eq!(gateway.receive(&syn(stranger)).verdict, Verdict::Tx);
    assert!(remembered(stranger).is_none(), "a flood of sources evicts none");
    assert_eq!((entries(&gateway), stateless(&gateway, TCP)), (1, 2));
    for client in [known, stranger] {
        let _ = gateway.maps().affinities.delete(&key(client));
    }
}
