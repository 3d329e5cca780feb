// SPDX-License-Identifier: GPL-3.0-only
//! The states of a flow: half-open until it is answered, established, closing, begun anew; and who can change them.

use std::net::SocketAddr;

use eg_abi::{
    Algorithm, BackendState, Drop as Reason, Flow, FlowKey, FlowState, Forward, Load, Miss, PROTO_TCP, PROTO_UDP, Pool,
};
use eg_kernel_tests::packet::frame::{ACK, BACKEND_ISN, CLIENT_ISN, FIN, RST, SYN};
use eg_kernel_tests::packet::service::{
    BOTH, Connection, Family, KEY, V4, V6, answer, at, drops_for, forwarded, serve, serve_by, syn,
};
use eg_kernel_tests::packet::{Frame, Gateway, L4, Tunables, Verdict};
use eg_kernel_tests::require;

const OPENING: u32 = FlowState::Opening.code();
const OPEN: u32 = FlowState::Open.code();
const CLOSING: u32 = FlowState::Closing.code();
const ANSWERED: u32 = FlowState::Answered.code();

/// How far from what is expected a number may be.
const WINDOW: u32 = 65536;

fn begin<'a>(gateway: &'a Gateway, family: &Family) -> Connection<'a> {
    Connection::begin(gateway, at(family.client), at(family.vip), CLIENT_ISN, BACKEND_ISN)
}

fn established(gateway: &Gateway) -> Vec<(FlowKey, Flow)> {
    gateway.maps().flows.entries().unwrap()
}

fn half_open(gateway: &Gateway) -> usize {
    gateway.maps().opening.entries().unwrap().len()
}

/// Open flows, and those with the half-open ones.
fn load(gateway: &Gateway, backend: u32) -> (i64, i64) {
    let Load { flows, outstanding, .. } = gateway.maps().loads.get(backend);
    (flows, outstanding)
}

#[test]
fn a_flow_is_half_open_until_the_client_acknowledges_the_backends_number() {
    if !require("xdp") {
        return;
    }
    for family in BOTH {
        let gateway = Gateway::new();
        serve(&gateway, family, true);
        let mut tcp = begin(&gateway, family);
        assert_eq!((tcp.states(), half_open(&gateway), established(&gateway).len()), ((OPENING, OPENING), 2, 0));
        assert_eq!(load(&gateway, tcp.backend), (0, 1));
        forwarded(&gateway, &syn(family));
        assert_eq!((tcp.states(), half_open(&gateway)), ((OPENING, OPENING), 2), "a SYN again is the same connection");
        tcp.reply(SYN | ACK, b"");
        assert_eq!((tcp.states(), half_open(&gateway)), ((OPENING, ANSWERED), 2));
        tcp.send(ACK, b"");
        assert_eq!((tcp.states(), half_open(&gateway), established(&gateway).len()), ((OPEN, OPEN), 0, 2));
        assert_eq!(load(&gateway, tcp.backend), (1, 1));
        tcp.send(ACK, b"request");
        tcp.reply(ACK, b"answer");
        assert_eq!((half_open(&gateway), established(&gateway).len()), (0, 2));
        assert_eq!(load(&gateway, tcp.backend), (1, 1));
        assert_eq!(gateway.maps().vip_stats.sum(1).unwrap().flows, 1);
        for (key, flow) in established(&gateway) {
            assert_eq!(flow.tag, key.tag(), "an entry says whose it is");
        }
    }
}

#[test]
fn what_acknowledges_no_answer_is_dropped() {
    if !require("xdp") {
        return;
    }
    for family in BOTH {
        let gateway = Gateway::new();
        serve(&gateway, family, true);
        let mut tcp = begin(&gateway, family);
        drops_for(&gateway, &tcp.frame(ACK, b"").build(), Reason::Handshake, "before the SYN-ACK");
        drops_for(&gateway, &tcp.frame(ACK, b"data").build(), Reason::Handshake, "data before the SYN-ACK");
        drops_for(&gateway, &tcp.frame(FIN | ACK, b"").build(), Reason::Handshake, "a FIN before the SYN-ACK");
        tcp.replies(&tcp.reply_frame(ACK, b""));
        drops_for(&gateway, &tcp.frame(ACK, b"").build(), Reason::Handshake, "a reply that is no SYN-ACK");
        tcp.reply(SYN | ACK, b"");
        let ack = tcp.frame(ACK, b"");
        for (name, wrong) in [
            ("an ack of what came before", ack.clone().ack(BACKEND_ISN)),
            ("an ack beyond the window", ack.clone().ack(tcp.ack.wrapping_add(WINDOW + 1))),
            ("an ack of nothing", ack.clone().ack(0)),
            ("a number before the next", ack.clone().seq(CLIENT_ISN)),
            ("a number beyond the window", ack.clone().seq(tcp.seq.wrapping_add(WINDOW + 1))),
        ] {
            drops_for(&gateway, &wrong.build(), Reason::Handshake, name);
        }
        assert_eq!((tcp.states(), established(&gateway).len()), ((OPENING, ANSWERED), 0));
        tcp.sends(&ack.clone().ack(tcp.ack.wrapping_add(WINDOW)).seq(tcp.seq.wrapping_add(WINDOW)));
        assert_eq!(tcp.states(), (OPEN, OPEN), "the window's last numbers");
    }
}

#[test]
fn a_refused_connection_stays_half_open() {
    if !require("xdp") {
        return;
    }
    let gateway = Gateway::new();
    serve(&gateway, &V4, true);
    let mut tcp = begin(&gateway, &V4);
    tcp.replies(&tcp.reply_frame(RST | ACK, b"").seq(0));
    assert_eq!(tcp.states(), (OPENING, OPENING));
    tcp.reply(SYN | ACK, b"");
    tcp.send(RST, b"");
    assert_eq!((tcp.states(), established(&gateway).len()), ((OPENING, ANSWERED), 0), "the client gave up");
}

#[test]
fn data_in_the_syn_may_be_sent_again_after_it() {
    if !require("xdp") {
        return;
    }
    let gateway = Gateway::new();
    serve(&gateway, &V4, true);
    let (opened, backend) = forwarded(&gateway, &syn(&V4).payload(b"fast open"));
    let (reply, expected) = answer(&opened, backend, L4::Tcp(SYN | ACK));
    assert_eq!(gateway.receive(&reply.build()).bytes, expected(&V4));
    // The backend acknowledged the SYN alone, and the client its answer's SYN alone.
    let again = Frame::new(V4.client, V4.vip, L4::Tcp(ACK)).payload(b"fast open");
    let (seen, same) = forwarded(&gateway, &again);
    assert_eq!((seen.source, same), (opened.source, backend));
    assert_eq!((established(&gateway).len(), half_open(&gateway)), (2, 0));
}

#[test]
fn udp_is_half_open_until_the_backend_answers() {
    if !require("xdp") {
        return;
    }
    for family in BOTH {
        let gateway = Gateway::new();
        serve(&gateway, family, true);
        let question = Frame::new(family.client, family.vip, L4::Udp);
        let (seen, backend) = forwarded(&gateway, &question);
        forwarded(&gateway, &question);
        assert_eq!((half_open(&gateway), established(&gateway).len()), (2, 0), "a client alone opens nothing");
        assert_eq!(load(&gateway, backend), (0, 1));
        let (reply, expected) = answer(&seen, backend, L4::Udp);
        assert_eq!(gateway.receive(&reply.build()).bytes, expected(family));
        assert_eq!((half_open(&gateway), established(&gateway).len()), (0, 2));
        assert_eq!(load(&gateway, backend), (1, 1));
        let (again, same) = forwarded(&gateway, &question);
        assert_eq!((again.source, same), (seen.source, backend));
    }
}

#[test]
fn a_flood_of_syns_evicts_no_established_flow_and_lets_honest_clients_in() {
    if !require("xdp") {
        return;
    }
    let tunables = Tunables { flows: 4096, opening: 8192, ..Tunables::default() };
    for family in BOTH {
        let gateway = Gateway::with(&tunables);
        serve(&gateway, family, true);
        let client = |port: u16| SocketAddr::new(at(family.client).ip(), port);
        let open = |port| Connection::between(&gateway, client(port), at(family.vip), CLIENT_ISN, BACKEND_ISN);
        let mut living: Vec<_> = (1..=200).map(open).collect();
        let before = established(&gateway);
        assert_eq!(before.len(), 400);

        let mut flood = syn(family).build();
        let (source, port) = if family.is_v6() { (34, 54) } else { (26, 34) };
        let mut honest = Some(begin(&gateway, family));
        for n in 0..200_000u32 {
            // 200,000 addresses, each with a port of its own
            flood[source..source + 4].copy_from_slice(&(0x0a00_0000 + n).to_be_bytes());
            flood[port..port + 2].copy_from_slice(&(n as u16 | 1).to_be_bytes());
            gateway.receive(&flood);
            // A round trip of a thousand SYNs.
            if n == 1000 {
                honest.as_mut().unwrap().reply(SYN | ACK, b"");
            } else if n == 2000 {
                let mut honest = honest.take().unwrap();
                honest.send(ACK, b"");
                assert_eq!(honest.states(), (OPEN, OPEN));
                living.push(honest);
            }
        }
        assert!(gateway.maps().vip_stats.sum(1).unwrap().flows > 190_000, "the flood did open flows");
        let after = established(&gateway);
        assert_eq!(after.len(), 402, "the living ones, and the honest client's");
        assert!(before.iter().all(|(key, _)| after.iter().any(|(there, _)| there == key)));
        for tcp in &mut living {
            tcp.send(ACK, b"still here");
            tcp.reply(ACK, b"so am I");
        }
    }
}

#[test]
fn fin_and_rst_in_window_shorten_a_flow_and_never_end_it() {
    if !require("xdp") {
        return;
    }
    for (isn, theirs) in [(CLIENT_ISN, BACKEND_ISN), (u32::MAX - 40, u32::MAX - 70), (u32::MAX, u32::MAX)] {
        for (flags, offset, closes) in [
            (RST, 0, true),
            (RST, WINDOW, true),
            (RST, WINDOW.wrapping_neg(), true),
            (RST, WINDOW + 1, false),
            (RST, (WINDOW + 1).wrapping_neg(), false),
            (RST, 1 << 31, false),
            (FIN | ACK, 0, true),
            (FIN | ACK, WINDOW, true),
            (FIN | ACK, WINDOW.wrapping_neg(), true),
            (FIN | ACK, WINDOW + 1, false),
            (FIN | ACK, (WINDOW + 1).wrapping_neg(), false),
        ] {
            let name = format!("flags {flags:#x} at {offset:#x} from {isn:#x}");
            let gateway = Gateway::new();
            serve(&gateway, &V4, true);
            let mut tcp = Connection::between(&gateway, at(V4.client), at(V4.vip), isn, theirs);
            // across the wrap-around
            tcp.send(ACK, &[1; 100]);
            tcp.reply(ACK, &[2; 100]);
            let end = tcp.frame(flags, b"").seq(tcp.seq.wrapping_add(offset));
            tcp.sends(&end);
            let both = flags & RST != 0;
            let expected = if !closes { (OPEN, OPEN) } else { (CLOSING, if both { CLOSING } else { OPEN }) };
            assert_eq!(tcp.states(), expected, "{name}, the client's");
            assert_eq!(load(&gateway, tcp.backend), if closes { (0, 0) } else { (1, 1) }, "{name}");
            tcp.send(ACK, b"");
            assert_eq!(tcp.states(), expected, "{name}: an ACK alone closes as well as it opens");
            tcp.send(ACK, b"data");
            tcp.reply(ACK, b"data");
            assert_eq!(tcp.states(), (OPEN, OPEN), "{name}: data says that it lives");
            assert_eq!(load(&gateway, tcp.backend), (1, 1), "{name}");

            let end = tcp.reply_frame(flags, b"").seq(tcp.ack.wrapping_add(offset));
            tcp.replies(&end);
            let expected = if !closes { (OPEN, OPEN) } else { (if both { CLOSING } else { OPEN }, CLOSING) };
            assert_eq!(tcp.states(), expected, "{name}, the backend's");
            assert_eq!(gateway.maps().vip_stats.sum(1).unwrap().flows, 1);
        }
    }
}

#[test]
fn a_backends_reset_closes_both_halves_and_counts_once() {
    if !require("xdp") {
        return;
    }
    // FINs that went before, of either side
    for (ours, theirs) in [(false, false), (true, false), (false, true), (true, true)] {
        let gateway = Gateway::new();
        serve(&gateway, &V4, true);
        let mut tcp = Connection::open(&gateway, &V4);
        if ours {
            tcp.send(FIN | ACK, b"");
        }
        if theirs {
            tcp.reply(FIN | ACK, b"");
        }
        for _ in 0..3 {
            tcp.replies(&tcp.reply_frame(RST, b""));
            assert_eq!(tcp.states(), (CLOSING, CLOSING), "after FINs {ours} {theirs}");
            assert_eq!(load(&gateway, tcp.backend), (0, 0), "after FINs {ours} {theirs}");
        }
        tcp.sends(&tcp.frame(RST, b""));
        assert_eq!((tcp.states(), load(&gateway, tcp.backend)), ((CLOSING, CLOSING), (0, 0)));
    }
}

#[test]
fn what_a_backend_acknowledges_brings_the_clients_numbers_in_step() {
    if !require("xdp") {
        return;
    }
    let gateway = Gateway::new();
    serve(&gateway, &V4, true);
    let mut tcp = Connection::open(&gateway, &V4);
    // Half a gigabyte that we did not see.
    tcp.seq = tcp.seq.wrapping_add(500_000_000);
    tcp.sends(&tcp.frame(FIN | ACK, b""));
    assert_eq!(tcp.states().0, OPEN, "out of window");
    gateway.age(tcp.seen.destination, tcp.seen.source, PROTO_TCP, 2);
    tcp.reply(ACK, b"data");
    tcp.sends(&tcp.frame(FIN | ACK, b""));
    assert_eq!(tcp.states().0, CLOSING);
}

#[test]
fn a_syn_on_a_closing_flow_opens_a_new_one_on_the_same_port_and_backend() {
    if !require("xdp") {
        return;
    }
    let gateway = Gateway::new();
    serve(&gateway, &V4, true);
    let mut first = Connection::open(&gateway, &V4);
    first.send(FIN | ACK, b"");
    // The ring changed meanwhile: everybody else is in it. A forged FIN and SYN must not move the connection.
    let backend = first.backend;
    let others: Vec<_> =
        (1..=3u32).filter(|id| *id != backend).map(|id| (id, V4.backends[id as usize - 1], 1)).collect();
    gateway.pool(1, KEY, &others);
    let mut second = Connection::begin(&gateway, at(V4.client), at(V4.vip), 5_000_000, 6_000_000);
    assert_eq!((second.seen.source, second.backend), (first.seen.source, backend));
    assert_eq!(gateway.misses(Miss::Reopened), 1);
    // Nor does it cut the connection, should it be alive after all.
    first.send(ACK, b"data");
    first.reply(ACK, b"data");
    first.send(FIN | ACK, b"");
    second.reply(SYN | ACK, b"");
    second.send(ACK, b"");
    second.send(ACK, b"request");
    second.reply(ACK, b"answer");
    assert_eq!((second.states(), half_open(&gateway), established(&gateway).len()), ((OPEN, OPEN), 0, 2));
    assert_eq!(load(&gateway, backend), (1, 1), "the first is over, the second open");
    assert_eq!(gateway.maps().vip_stats.sum(1).unwrap().flows, 2);
    second.send(FIN | ACK, b"");
    second.reply(FIN | ACK, b"");
    assert_eq!(second.states(), (CLOSING, CLOSING), "the numbers are the new connection's");

    // Once its backend drains, the next connection goes where the ring says, and all of it.
    gateway.change_backend(backend, |backend| backend.state = BackendState::Draining.code() as u8);
    let mut third = Connection::begin(&gateway, at(V4.client), at(V4.vip), 9_000_000, 1);
    assert_ne!(third.backend, backend);
    third.reply(SYN | ACK, b"");
    third.send(ACK, b"");
    third.send(ACK, b"request");
    third.reply(ACK, b"answer");
    assert_eq!((load(&gateway, backend), load(&gateway, third.backend)), ((0, 0), (1, 1)));
}

#[test]
fn a_port_that_a_dead_flow_had_serves_a_new_one() {
    if !require("xdp") {
        return;
    }
    // One port and three backends: the second client at a backend needs the first one's port.
    let gateway = Gateway::with_ports(20000, 20000);
    serve(&gateway, &V4, true);
    let client = |port: u16| SocketAddr::new(at(V4.client).ip(), port);
    let mut old = Connection::open(&gateway, &V4);
    old.send(FIN | ACK, b"");
    old.reply(FIN | ACK, b"");
    for half in [(old.client, old.vip), (old.seen.destination, old.seen.source)] {
        gateway.age(half.0, half.1, PROTO_TCP, 61);
    }
    let open = |port: u16| Connection::begin(&gateway, client(port), at(V4.vip), CLIENT_ISN, BACKEND_ISN);
    // Refused until the pick is the same backend, as others' ports are taken by then.
    let new = (1..100).find_map(|port| {
        let key = FlowKey::new(client(port), at(V4.vip), PROTO_TCP);
        let outcome = gateway.receive(&Frame::between(client(port), at(V4.vip), L4::Tcp(SYN)).payload(b"").build());
        let taken = outcome.verdict == Verdict::Tx;
        let backend = gateway.maps().opening.get(&key).unwrap().map(|flow| flow.backend);
        (taken && backend == Some(old.backend)).then(|| open(port))
    });
    let mut new = new.expect("a client of the same backend");
    assert_eq!((new.seen.source, new.seen.destination), (old.seen.source, old.seen.destination));
    new.reply(SYN | ACK, b"");
    new.send(ACK, b"");
    new.send(ACK, b"request");
    new.reply(ACK, b"answer");
    assert_eq!(new.states(), (OPEN, OPEN));
    drops_for(&gateway, &old.frame(ACK, b"late").build(), Reason::NoFlow, "the one that had it");
}

/// Modes whose replies bypass the gateway.
const DIRECT: [Forward; 3] = [Forward::Ipip, Forward::Gue, Forward::L2];

#[test]
fn where_replies_bypass_us_tcp_is_established_by_what_continues_it() {
    if !require("xdp") {
        return;
    }
    for mode in DIRECT {
        for family in BOTH {
            let gateway = Gateway::new();
            serve_by(&gateway, family, family, mode);
            let key = FlowKey::new(at(family.client), at(family.vip), PROTO_TCP);
            let state = || gateway.maps().flows.get(&key).unwrap().map(|flow| u32::from(flow.state));
            let send = |flags: u8, seq: u32| {
                let frame = Frame::new(family.client, family.vip, L4::Tcp(flags)).payload(b"").seq(seq);
                assert_eq!(gateway.receive(&frame.build()).verdict, Verdict::Tx, "{mode:?} {flags:#x}");
            };
            let next = CLIENT_ISN + 1;
            send(SYN, CLIENT_ISN);
            send(SYN, CLIENT_ISN);
            let backend = gateway.maps().opening.get(&key).unwrap().unwrap().backend;
            assert_eq!((half_open(&gateway), state(), load(&gateway, backend)), (1, None, (0, 1)));
            let stray = Frame::new(family.client, family.vip, L4::Tcp(ACK)).seq(next + WINDOW + 1).build();
            drops_for(&gateway, &stray, Reason::Handshake, "out of window");
            send(RST, next);
            assert_eq!((half_open(&gateway), state()), (1, None), "a reset continues nothing");
            send(ACK, next);
            assert_eq!((half_open(&gateway), state(), load(&gateway, backend)), (0, Some(OPEN), (1, 1)));
            send(FIN | ACK, next);
            assert_eq!((state(), load(&gateway, backend)), (Some(CLOSING), (0, 0)));
            send(RST, next + 1);
            send(RST, next + 1);
            assert_eq!((state(), load(&gateway, backend)), (Some(CLOSING), (0, 0)));
            assert_eq!(gateway.maps().vip_stats.sum(1).unwrap().flows, 1);
        }
    }
}

#[test]
fn where_replies_bypass_us_udp_is_established_a_second_later() {
    if !require("xdp") {
        return;
    }
    for mode in DIRECT {
        let gateway = Gateway::new();
        serve_by(&gateway, &V4, &V4, mode);
        let frame = Frame::new(V4.client, V4.vip, L4::Udp).build();
        for _ in 0..5 {
            assert_eq!(gateway.receive(&frame).verdict, Verdict::Tx);
        }
        assert_eq!((half_open(&gateway), established(&gateway).len()), (1, 0), "a burst proves nothing");
        gateway.age(at(V4.client), at(V4.vip), PROTO_UDP, 1);
        assert_eq!(gateway.receive(&frame).verdict, Verdict::Tx);
        assert_eq!((half_open(&gateway), established(&gateway).len()), (0, 1));
    }
}

#[test]
fn another_nodes_connection_is_carried_on_where_the_ring_alone_decides() {
    if !require("xdp") {
        return;
    }
    let hashed = [Algorithm::Maglev, Algorithm::RingHash, Algorithm::SessionAffinity];
    for mode in Forward::ALL {
        for algorithm in Algorithm::ALL {
            let name = format!("{} {}", mode.label(), algorithm.label());
            let gateway = Gateway::new();
            serve_by(&gateway, &V6, &V6, *mode);
            let pool: Pool = gateway.maps().pools.get(1).unwrap();
            gateway.maps().pools.set(1, &Pool { algorithm: algorithm.code() as u8, ..pool }).unwrap();
            let (first, second) = (CLIENT_ISN + 100_000, CLIENT_ISN + 100_004);
            let segment = |seq| Frame::new(V6.client, V6.vip, L4::Tcp(ACK)).payload(b"data").seq(seq).build();
            if *mode == Forward::Nat || !hashed.contains(algorithm) {
                drops_for(&gateway, &segment(first), Reason::NoFlow, &name);
                continue;
            }
            let goes_on = |seq| assert_eq!(gateway.receive(&segment(seq)).verdict, Verdict::Tx, "{name}");
            goes_on(first);
            assert_eq!((half_open(&gateway), established(&gateway).len()), (1, 0), "{name}");
            // sent again, and overtaken: it goes on, and proves nothing
            goes_on(first);
            goes_on(first - 1000);
            assert_eq!((half_open(&gateway), established(&gateway).len()), (1, 0), "{name}");
            drops_for(&gateway, &segment(first - 2 * WINDOW), Reason::Handshake, &name);
            goes_on(second);
            assert_eq!((half_open(&gateway), established(&gateway).len()), (0, 1), "{name}");
        }
    }
}

#[test]
fn an_entry_that_became_another_flows_is_not_followed() {
    if !require("xdp") {
        return;
    }
    let gateway = Gateway::new();
    serve(&gateway, &V4, true);
    let tcp = Connection::open(&gateway, &V4);
    // What a program reads whose entry was evicted and given away since it looked it up.
    for (mut key, flow) in established(&gateway) {
        let own = key;
        key.saddr.b[15] ^= 1;
        gateway.maps().flows.set(&own, &Flow { tag: key.tag(), ..flow }).unwrap();
    }
    drops_for(&gateway, &tcp.frame(ACK, b"data").build(), Reason::NoFlow, "the client's");
    let reply = tcp.reply_frame(ACK, b"data").build();
    let outcome = gateway.receive(&reply);
    assert_eq!((outcome.verdict, outcome.bytes), (Verdict::Pass, reply), "the backend's");
}
