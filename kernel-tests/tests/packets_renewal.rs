// SPDX-License-Identifier: GPL-3.0-only
//! Tables in which a flow's claim of its port is evicted while its other half lives on: what leaves by that half must not
//! leave from a port that is another flow's by now.

use std::net::SocketAddr;

use eg_abi::{Addr, Drop as Reason, Flow, FlowKey, Miss, PROTO_UDP};
use eg_kernel_tests::packet::frame::GATEWAY_MAC;
use eg_kernel_tests::packet::gateway::backend_mac;
use eg_kernel_tests::packet::service::{KEY, V4, at, serve};
use eg_kernel_tests::packet::{Frame, Gateway, L4, Tunables, Verdict, judge};
use eg_kernel_tests::require;

/// One backend, so that there is one range of ports.
fn one_backend(gateway: &Gateway) {
    serve(gateway, &V4, true);
    gateway.pool(1, KEY, &[(1, V4.backends[0], 1)]);
}

fn client(number: u16) -> SocketAddr {
    SocketAddr::from(([198, 51, 100, 9], 40_000 + number))
}

/// Sends a datagram; the source that it leaves from, unless it is dropped.
fn ask(gateway: &Gateway, client: SocketAddr) -> Option<SocketAddr> {
    let outcome = gateway.receive(&Frame::between(client, at(V4.vip), L4::Udp).build());
    (outcome.verdict == Verdict::Tx).then(|| judge::read(&outcome.bytes).expect("a datagram").source)
}

/// The backend answers to this source.
fn answer(gateway: &Gateway, source: SocketAddr) {
    let reply = Frame::between(at(V4.backends[0]), source, L4::Udp).macs(backend_mac(1), GATEWAY_MAC);
    assert_eq!(gateway.receive(&reply.build()).verdict, Verdict::Tx);
}

fn claim(source: SocketAddr) -> FlowKey {
    FlowKey::new(at(V4.backends[0]), source, PROTO_UDP)
}

#[test]
fn a_half_open_flow_whose_port_was_given_away_does_not_use_it() {
    if !require("xdp") {
        return;
    }
    let gateway = Gateway::with_ports(20000, 20000);
    one_backend(&gateway);
    let first = ask(&gateway, client(1)).expect("the only port");
    assert_eq!(ask(&gateway, client(1)), Some(first), "its port is its own");
    assert_eq!(gateway.misses(Miss::Taken), 0);
    // As a flood of new flows would have it.
    gateway.maps().opening.delete(&claim(first)).expect("evict the claim");
    assert_eq!(ask(&gateway, client(2)), Some(first), "the port is free");
    assert_eq!(ask(&gateway, client(1)), None);
    assert_eq!((gateway.misses(Miss::Taken), gateway.drops(Reason::NoPort)), (1, 1));
    assert_eq!(ask(&gateway, client(2)), Some(first));
}

#[test]
fn the_faster_a_table_is_renewed_the_sooner_a_flow_looks_whether_its_port_is_its_own() {
    if !require("xdp") {
        return;
    }
    let mut gateway = Gateway::with(&Tunables { flows: 512, clock_stands: true, ..Tunables::default() });
    let hz = u64::from(gateway.hz());
    one_backend(&gateway);
    // Flows that are established in the second: of two halves each, they renew this part of the table.
    for (second, flows, port_is_lost) in [(1_000, 10, false), (2_000, 200, true), (3_000, 10, false)] {
        gateway.maps().flows.entries().expect("the flows").iter().for_each(|(key, _)| {
            gateway.maps().flows.delete(key).expect("delete a flow");
        });
        // The one before counts as well; in this one nobody came.
        gateway.set_clock((second - 1) * hz);
        let source = ask(&gateway, client(1)).expect("a port");
        answer(&gateway, source);
        gateway.set_clock(second * hz);
        for number in 2..2 + flows {
            answer(&gateway, ask(&gateway, client(number)).expect("a port"));
        }
        let own = |gateway: &Gateway| gateway.flow(client(1), at(V4.vip), PROTO_UDP).expect("its forward half");
        assert_eq!(ask(&gateway, client(1)), Some(source));
        assert_eq!(own(&gateway).seen, (second * hz) as u32);
        let theirs = Flow {
            addr: Addr::from(client(999).ip()),
            port: client(999).port().into(),
            ..gateway.flow(at(V4.backends[0]), source, PROTO_UDP).expect("its claim")
        };
        gateway.maps().flows.set(&claim(source), &theirs).expect("give the port away");
        let before = gateway.misses(Miss::Taken);
        gateway.set_clock(second * hz + hz / 2);
        let now = ask(&gateway, client(1)).expect("a port");
        assert_eq!(now != source, port_is_lost, "{flows} flows in a second");
        assert_eq!(gateway.misses(Miss::Taken) - before, u64::from(port_is_lost));
    }
}
