// SPDX-License-Identifier: GPL-3.0-only
//! The packet table: given these maps and this packet, this verdict and these bytes. Expected frames are built by pnet
//! from scratch, with the addresses the gateway should have written. Every gateway checks when it is dropped that
//! received = forwarded + passed + dropped, in packets and bytes.

use std::net::SocketAddr;

use eg_abi::{Addr, Backend, BackendState, Drop as Reason, FlowKey, FlowState, Miss, PROTO_TCP, PROTO_UDP, Plain, Vip};
use eg_balance::{hash, maglev};
use eg_kernel_tests::packet::frame::{ACK, BACKEND_ISN, CLIENT_ISN, CLIENT_MAC, FIN, GATEWAY_MAC, RST, SYN};
use eg_kernel_tests::packet::gateway::backend_mac;
use eg_kernel_tests::packet::random::Random;
use eg_kernel_tests::packet::service::{
    BOTH, Connection, KEY, V4, V6, answer, at, drops_for, forwarded, passes_untouched, serve, syn,
};
use eg_kernel_tests::packet::{Frame, Gateway, L4, Verdict, judge};
use eg_kernel_tests::{require, verifier};
use pnet::util::MacAddr;

#[test]
fn tcp_is_forwarded_and_its_replies_come_back() {
    if !require("xdp") {
        return;
    }
    for family in BOTH {
        let gateway = Gateway::new();
        serve(&gateway, family, true);
        let mut tcp = Connection::open(&gateway, family);
        assert_eq!(tcp.seen.source.ip(), family.source.parse::<std::net::IpAddr>().unwrap());
        assert!((10240..=32767).contains(&tcp.seen.source.port()));

        let mut data = tcp.frame(ACK, &[0xa5; 1411]);
        data.tcp_options = vec![1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8];
        tcp.sends(&data);
        tcp.seq = data.end();
        tcp.reply(ACK, b"an answer");

        let stats = gateway.maps().vip_stats.sum(1).unwrap();
        assert_eq!((stats.packets, stats.reply_packets, stats.flows, stats.drops), (3, 2, 1, 0));
        let bare = syn(family).build().len() as u64 - 14;
        assert_eq!((stats.bytes, stats.reply_bytes), (2 * bare + data.l3_length() as u64, 2 * bare + 9));
        assert_eq!(gateway.maps().backend_stats.sum(tcp.backend).unwrap(), stats);
    }
}

#[test]
fn udp_is_forwarded_and_its_replies_come_back() {
    if !require("xdp") {
        return;
    }
    for family in BOTH {
        let gateway = Gateway::new();
        serve(&gateway, family, true);
        for (l4, payload) in [(L4::Udp, &b"odd"[..]), (L4::UdpNoChecksum, b"even"), (L4::Udp, b"")] {
            let (seen, backend) = forwarded(&gateway, &Frame::new(family.client, family.vip, l4).payload(payload));
            let (reply, expected) = answer(&seen, backend, l4);
            let outcome = gateway.receive(&reply.build());
            assert_eq!((outcome.verdict, outcome.bytes), (Verdict::Tx, expected(family)));
        }
        assert_eq!(gateway.maps().vip_stats.sum(2).unwrap().flows, 1);
    }
}

#[test]
fn a_udp_checksum_that_becomes_zero_is_sent_as_all_ones() {
    if !require("xdp") {
        return;
    }
    for family in BOTH {
        let gateway = Gateway::new();
        serve(&gateway, family, true);
        let frame = |tail: u16| Frame::new(family.client, family.vip, L4::Udp).payload(&tail.to_be_bytes());
        let (seen, backend) = forwarded(&gateway, &frame(0));
        // The payload that makes the checksum of the rewritten frame zero: its complement sum is what was left over.
        let out = frame(0).rewritten(seen.source, seen.destination, GATEWAY_MAC, backend_mac(backend)).build();
        let check = u16::from_be_bytes([out[seen.l4_offset + 6], out[seen.l4_offset + 7]]);
        let zero = frame(check);
        let expected = zero.rewritten(seen.source, seen.destination, GATEWAY_MAC, backend_mac(backend)).build();
        assert_eq!(expected[seen.l4_offset + 6..seen.l4_offset + 8], [0xff, 0xff], "the case is what it says");
        assert_eq!(gateway.receive(&zero.build()).bytes, expected);
    }
}

#[test]
fn without_snat_the_client_is_what_the_backend_sees() {
    if !require("xdp") {
        return;
    }
    for family in BOTH {
        let gateway = Gateway::new();
        serve(&gateway, family, false);
        let (seen, backend) = forwarded(&gateway, &syn(family));
        assert_eq!(seen.source, at(family.client));
        let (reply, expected) = answer(&seen, backend, L4::Tcp(SYN | ACK));
        let outcome = gateway.receive(&reply.build());
        assert_eq!((outcome.verdict, outcome.bytes), (Verdict::Tx, expected(family)));
    }
}

#[test]
fn options_and_extension_headers_are_kept() {
    if !require("xdp") {
        return;
    }
    let gateway = Gateway::new();
    serve(&gateway, &V4, true);
    // record route (RFC 791 section 3.1), padded; and the longest header there is
    forwarded(&gateway, &syn(&V4).extra(0, &[7, 7, 4, 0, 0, 0, 0, 0]));
    forwarded(&gateway, &syn(&V4).extra(0, &[1; 40]));
    drop(gateway);

    let gateway = Gateway::new();
    serve(&gateway, &V6, true);
    let hop_by_hop = |next: u8| [next, 0, 5, 2, 0, 0, 1, 0];
    let padding = |next: u8, units: u8| {
        let mut header = vec![0; 8 + 8 * usize::from(units)];
        (header[0], header[1], header[2], header[3]) = (next, units, 1, 4 + 8 * units);
        header
    };
    let atomic = |next: u8| [next, 0, 0, 0, 1, 2, 3, 4];
    let source_route_done = |next: u8| [next, 2, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    forwarded(&gateway, &syn(&V6).extra(0, &hop_by_hop(6)));
    forwarded(&gateway, &syn(&V6).extra(60, &padding(6, 30)));
    forwarded(&gateway, &syn(&V6).extra(44, &atomic(6)));
    forwarded(&gateway, &syn(&V6).extra(43, &source_route_done(6)));
    let chain = [&hop_by_hop(60)[..], &padding(43, 1), &source_route_done(44), &atomic(60), &padding(6, 0)].concat();
    forwarded(&gateway, &syn(&V6).extra(0, &chain));
    let seven: Vec<u8> = (0..7).flat_map(|i| padding(if i == 6 { 6 } else { 60 }, 0)).collect();
    forwarded(&gateway, &syn(&V6).extra(60, &seven));
    let eight: Vec<u8> = (0..8).flat_map(|i| padding(if i == 7 { 6 } else { 60 }, 0)).collect();
    drops_for(&gateway, &syn(&V6).extra(60, &eight).build(), Reason::Malformed, "eight extension headers");
}

#[test]
fn what_is_not_ours_passes_untouched() {
    if !require("xdp") {
        return;
    }
    for family in BOTH {
        let gateway = Gateway::new();
        serve(&gateway, family, true);
        let mut table: Vec<(&str, Vec<u8>)> = vec![
            ("SYN to another address", Frame::new(family.client, family.foreign, L4::Tcp(SYN)).build()),
            ("UDP to another address", Frame::new(family.client, family.foreign, L4::Udp).build()),
            ("TTL 1 to another address", Frame::new(family.client, family.foreign, L4::Udp).ttl(1).build()),
            ("from a backend, no flow", Frame::new(family.backends[0], family.client, L4::Tcp(ACK)).build()),
        ];
        let multicast = MacAddr(0x01, 0, 0x5e, 0, 0, 1);
        table.push(("to a group's MAC", syn(family).macs(CLIENT_MAC, multicast).build()));
        table.push(("to every MAC", syn(family).macs(CLIENT_MAC, MacAddr::broadcast()).build()));
        let icmp = if family.client.starts_with('[') { 20 } else { 23 };
        let mut echo = syn(family).build();
        echo[icmp] = if icmp == 20 { 58 } else { 1 };
        table.push(("ICMP to the VIP", echo.clone()));
        echo[icmp] = 132;
        table.push(("SCTP to the VIP", echo));
        let mut arp = vec![0xff; 42];
        arp[12..14].copy_from_slice(&[0x08, 0x06]);
        table.push(("ARP", arp));
        let mut version = syn(family).build();
        version[14] = 0x35;
        table.push(("IP version 3", version));
        for (name, frame) in table {
            passes_untouched(&gateway, &frame, name);
        }
    }
    let gateway = Gateway::new();
    serve(&gateway, &V6, true);
    let route = [6, 2, 4, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    passes_untouched(&gateway, &syn(&V6).extra(43, &route).build(), "a source route that goes on");
}

#[test]
fn a_mapped_address_on_the_wire_is_no_way_to_an_ipv4_vip() {
    if !require("xdp") {
        return;
    }
    let gateway = Gateway::new();
    serve(&gateway, &V4, true);
    let mut frame = Frame::new(V6.client, V6.vip, L4::Tcp(SYN)).build();
    frame[38..54].copy_from_slice(&Addr::from(at(V4.vip).ip()).b);
    passes_untouched(&gateway, &frame, "IPv6 to ::ffff:203.0.113.7");
}

#[test]
fn malformed_packets_to_a_vip_are_dropped_and_counted() {
    if !require("xdp") {
        return;
    }
    let gateway = Gateway::new();
    serve(&gateway, &V4, true);
    let table: [(&str, usize, &[u8]); 5] = [
        ("header length below five words", 14, &[0x44]),
        ("total length below the header", 16, &[0, 19]),
        ("total length beyond the frame", 16, &[0xff, 0xff]),
        ("TCP data offset below five words", 46, &[0x40]),
        ("TCP data offset beyond the packet", 46, &[0xf0]),
    ];
    for (name, offset, bytes) in table {
        let mut frame = syn(&V4).build();
        frame[offset..offset + bytes.len()].copy_from_slice(bytes);
        drops_for(&gateway, &frame, Reason::Malformed, name);
    }
    for (name, length) in [("UDP length below its header", 7u16), ("UDP length beyond the packet", 33)] {
        let mut frame = Frame::new(V4.client, V4.vip, L4::Udp).build();
        frame[38..40].copy_from_slice(&length.to_be_bytes());
        drops_for(&gateway, &frame, Reason::Malformed, name);
    }
    drop(gateway);

    let gateway = Gateway::new();
    serve(&gateway, &V6, true);
    let mut frame = syn(&V6).build();
    frame[18..20].copy_from_slice(&[0xff, 0xff]);
    drops_for(&gateway, &frame, Reason::Malformed, "payload length beyond the frame");
    let endless = syn(&V6).extra(60, &[6, 255, 1, 4, 0, 0, 0, 0]).build();
    drops_for(&gateway, &endless, Reason::Malformed, "an extension header beyond the packet");
}

#[test]
fn tcp_without_a_flow_must_begin_with_a_syn() {
    if !require("xdp") {
        return;
    }
    for family in BOTH {
        let gateway = Gateway::new();
        serve(&gateway, family, true);
        for flags in [ACK, RST, RST | ACK, FIN | ACK, SYN | ACK] {
            let frame = Frame::new(family.client, family.vip, L4::Tcp(flags)).build();
            drops_for(&gateway, &frame, Reason::NoFlow, &format!("flags {flags:#x}"));
        }
        assert_eq!(gateway.maps().vip_stats.sum(1).unwrap().drops, 5);
        assert_eq!(gateway.maps().flows.entries().unwrap(), []);
    }
}

#[test]
fn the_last_hop_is_not_forwarded() {
    if !require("xdp") {
        return;
    }
    for family in BOTH {
        let gateway = Gateway::new();
        serve(&gateway, family, true);
        drops_for(&gateway, &syn(family).ttl(1).build(), Reason::Ttl, "a new flow");
        drops_for(&gateway, &syn(family).ttl(0).build(), Reason::Ttl, "a new flow at zero");
        assert_eq!(gateway.maps().flows.entries().unwrap(), [], "no flow for a packet that goes nowhere");
        let (seen, backend) = forwarded(&gateway, &syn(family).ttl(2));
        drops_for(&gateway, &syn(family).ttl(1).build(), Reason::Ttl, "a known flow");
        let (reply, _) = answer(&seen, backend, L4::Tcp(SYN | ACK));
        drops_for(&gateway, &reply.ttl(1).build(), Reason::Ttl, "a reply");
    }
}

#[test]
fn unused_ports_of_a_vip_are_dropped_unless_a_local_socket_wants_them() {
    if !require("xdp") {
        return;
    }
    for family in BOTH {
        let gateway = Gateway::new();
        serve(&gateway, family, true);
        for l4 in [L4::Tcp(SYN), L4::Udp] {
            let frame = Frame::new(family.client, family.other_port, l4).build();
            drops_for(&gateway, &frame, Reason::UnusedPort, "nobody listens");
        }
    }
    // Test runs look sockets up in our own namespace: a loopback listener beside a VIP on another port.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let gateway = Gateway::new();
    gateway.vip(1, "127.0.0.1:1".parse().unwrap(), PROTO_TCP, 1, true);
    let client = at("127.0.0.1:39");
    let frame = Frame::between(client, listener.local_addr().unwrap(), L4::Tcp(SYN)).build();
    passes_untouched(&gateway, &frame, "a TCP listener");
    let frame = Frame::between(client, socket.local_addr().unwrap(), L4::Udp).build();
    passes_untouched(&gateway, &frame, "a UDP socket");
}

#[test]
fn nobody_to_serve_means_a_counted_drop() {
    if !require("xdp") {
        return;
    }
    let gateway = Gateway::new();
    serve(&gateway, &V4, true);
    let set = |id: u32, change: &dyn Fn(&mut Backend)| {
        let mut backend = gateway.maps().backends.get(id).unwrap();
        change(&mut backend);
        gateway.maps().backends.set(id, &backend).unwrap();
    };
    for id in 1..=3 {
        set(id, &|backend| backend.ifindex = 0);
    }
    drops_for(&gateway, &syn(&V4).build(), Reason::NoNextHop, "next hops unresolved");
    for id in 1..=3 {
        set(id, &|backend| backend.addr = Addr::from(at(V6.backends[0]).ip()));
    }
    drops_for(&gateway, &syn(&V4).build(), Reason::NoBackend, "backends of the other family");
    for state in [BackendState::Draining, BackendState::Down, BackendState::None] {
        for id in 1..=3 {
            set(id, &|backend| backend.state = state.code() as u8);
        }
        drops_for(&gateway, &syn(&V4).build(), Reason::NoBackend, state.label());
    }
    gateway.maps().rings.delete(1).unwrap();
    drops_for(&gateway, &syn(&V4).build(), Reason::NoBackend, "a pool without a ring");
    assert_eq!(gateway.maps().flows.entries().unwrap(), []);
}

#[test]
fn a_backend_that_is_down_or_drains_keeps_its_flows_and_gets_no_new_one() {
    if !require("xdp") {
        return;
    }
    for state in [BackendState::Draining, BackendState::Down] {
        let gateway = Gateway::new();
        serve(&gateway, &V4, true);
        let mut connection = Connection::open(&gateway, &V4);
        let backend = connection.backend;
        let begin = |port| Connection::begin(&gateway, SocketAddr::new(at(V4.client).ip(), port), at(V4.vip), 7, 9);
        let mut half = (40001..).map(begin).find(|half| half.backend == backend).unwrap();
        gateway.change_backend(backend, |backend| backend.state = state.code() as u8);
        connection.send(ACK, b"data");
        half.reply(SYN | ACK, b"");
        half.send(ACK, b"");
        for port in 1..200 {
            let mut client = at(V4.client);
            client.set_port(port);
            let (_, other) = forwarded(&gateway, &Frame::between(client, at(V4.vip), L4::Tcp(SYN)));
            assert_ne!(other, backend, "{} backends get no new flow", state.label());
        }
    }
}

#[test]
fn the_pick_is_that_of_eg_balance() {
    if !require("xdp") {
        return;
    }
    let mut random = Random(0x5eed);
    for family in BOTH {
        let gateway = Gateway::new();
        let table = serve(&gateway, family, true);
        let mut hits = [0; 3];
        for _ in 0..1500 {
            let l4 = if random.draw() & 1 == 0 { L4::Tcp(SYN) } else { L4::Udp };
            let mut client = at(family.client);
            match &mut client {
                SocketAddr::V4(v4) => v4.set_ip((0xc6336400 | random.below(250) as u32).into()),
                SocketAddr::V6(v6) => v6.set_ip(((0x20010db8 << 96) | u128::from(random.draw())).into()),
            }
            client.set_port(random.draw() as u16);
            let (_, backend) = forwarded(&gateway, &Frame::between(client, at(family.vip), l4));
            let proto = if l4 == L4::Udp { PROTO_UDP } else { PROTO_TCP };
            let key = FlowKey::new(client, at(family.vip), proto).to_bytes();
            let picked = table.pick(hash::flow(KEY, &key), |_| true).unwrap();
            assert_eq!(backend as usize, picked + 1, "{client} {l4:?}");
            hits[picked] += 1;
        }
        assert!(hits.iter().all(|n| *n > 350), "every backend gets its share: {hits:?}");
    }
}

#[test]
fn a_new_epoch_ends_a_vips_flows_at_once() {
    if !require("xdp") {
        return;
    }
    let gateway = Gateway::new();
    serve(&gateway, &V4, true);
    let tcp = Connection::open(&gateway, &V4);
    let half = Connection::begin(&gateway, at("198.51.100.9:40001"), at(V4.vip), 7, 9);
    let (udp, udp_backend) = forwarded(&gateway, &Frame::new(V4.client, V4.vip, L4::Udp));
    for id in [1, 2] {
        let vip = gateway.maps().vips.get(id).unwrap();
        gateway.maps().vips.set(id, &Vip { epoch: 2, ..vip }).unwrap();
    }
    let (udp_reply, _) = answer(&udp, udp_backend, L4::Udp);
    drops_for(&gateway, &tcp.frame(ACK, b"").build(), Reason::NoFlow, "TCP in mid-stream");
    drops_for(&gateway, &half.frame(ACK, b"").build(), Reason::NoFlow, "TCP in its handshake");
    for reply in [tcp.reply_frame(ACK, b"data"), half.reply_frame(SYN | ACK, b""), udp_reply] {
        drops_for(&gateway, &reply.build(), Reason::StaleReply, "a reply to a flow that is gone");
    }
    assert_eq!(gateway.misses(Miss::Epoch), 5);
    forwarded(&gateway, &Frame::new(V4.client, V4.vip, L4::Udp));
    let mut again = Connection::open(&gateway, &V4);
    // Where the search for a port begins depends on the clock: only at the old one does the answer meet an old entry.
    let missed = 8 + u64::from(again.seen.source == tcp.seen.source);
    assert_eq!(gateway.misses(Miss::Epoch), missed, "UDP, and a handshake over the entries of the old flow");
    again.send(ACK, b"data");
    again.reply(ACK, b"data");
    assert_eq!(gateway.misses(Miss::Epoch), missed, "the new flows count");
}

#[test]
fn a_replaced_backend_never_gets_the_old_ones_flows() {
    if !require("xdp") {
        return;
    }
    let gateway = Gateway::new();
    serve(&gateway, &V4, true);
    let tcp = Connection::open(&gateway, &V4);
    let backend = tcp.backend;
    let old = gateway.maps().backends.get(backend).unwrap();
    gateway.maps().backends.set(backend, &Backend { generation: 2, ..old }).unwrap();
    drops_for(&gateway, &tcp.frame(ACK, b"data").build(), Reason::NoFlow, "the old flow");
    drops_for(&gateway, &tcp.reply_frame(ACK, b"data").build(), Reason::StaleReply, "the old backend's reply");
    assert_eq!(gateway.misses(Miss::Generation), 2);
    let none = Backend { generation: 1, state: BackendState::None.code() as u8, ..old };
    gateway.maps().backends.set(backend, &none).unwrap();
    drops_for(&gateway, &tcp.frame(ACK, b"data").build(), Reason::NoFlow, "a freed slot");
    assert_eq!(gateway.misses(Miss::Generation), 3);
}

#[test]
fn an_idle_flow_expires_by_its_state() {
    if !require("xdp") {
        return;
    }
    let (client, vip) = (at(V4.client), at(V4.vip));
    for (state, timeout) in [("opening", 70), ("open", 7440), ("closing", 60)] {
        for (idle, lives) in [(timeout - 2, true), (timeout + 1, false)] {
            let gateway = Gateway::new();
            serve(&gateway, &V4, true);
            let mut tcp = Connection::begin(&gateway, client, vip, CLIENT_ISN, BACKEND_ISN);
            if state != "opening" {
                tcp.reply(SYN | ACK, b"");
                tcp.send(ACK, b"");
            }
            if state == "closing" {
                tcp.send(FIN | ACK, b"");
                tcp.reply(FIN | ACK, b"");
            }
            gateway.age(client, vip, PROTO_TCP, idle);
            gateway.age(tcp.seen.destination, tcp.seen.source, PROTO_TCP, idle);
            if lives {
                tcp.reply(if state == "opening" { SYN | ACK } else { ACK }, b"");
                tcp.send(ACK, b"");
            } else {
                let (ack, reply) = (tcp.frame(ACK, b"").build(), tcp.reply_frame(ACK, b"").build());
                drops_for(&gateway, &ack, Reason::NoFlow, &format!("{state}, {idle} s"));
                drops_for(&gateway, &reply, Reason::StaleReply, &format!("{state}, {idle} s"));
            }
            assert_eq!(gateway.misses(Miss::Expired), if lives { 0 } else { 2 }, "{state}, {idle} s");
        }
    }
}

#[test]
fn a_flow_lives_as_long_as_either_half_does() {
    if !require("xdp") {
        return;
    }
    let gateway = Gateway::new();
    serve(&gateway, &V4, true);
    let (seen, backend) = forwarded(&gateway, &Frame::new(V4.client, V4.vip, L4::Udp));
    let (reply, _) = answer(&seen, backend, L4::Udp);
    assert_eq!(gateway.receive(&reply.build()).verdict, Verdict::Tx);
    // the server streams, the client is silent for an hour, then speaks
    gateway.age(at(V4.client), at(V4.vip), PROTO_UDP, 3600);
    let (again, same) = forwarded(&gateway, &Frame::new(V4.client, V4.vip, L4::Udp));
    assert_eq!((again.source, same), (seen.source, backend));
    // and the other way round
    gateway.age(seen.destination, seen.source, PROTO_UDP, 3600);
    assert_eq!(gateway.receive(&reply.build()).verdict, Verdict::Tx);
    assert_eq!(gateway.misses(Miss::Expired), 0);
}

#[test]
fn halves_rebuild_each_other() {
    if !require("xdp") {
        return;
    }
    for snat in [true, false] {
        for family in BOTH {
            let gateway = Gateway::new();
            serve(&gateway, family, snat);
            let (client, vip) = (at(family.client), at(family.vip));
            let mut tcp = Connection::open(&gateway, family);
            let (from, to) = (tcp.seen.destination, tcp.seen.source);
            let key = |a, b| FlowKey::new(a, b, PROTO_TCP);

            // The reverse half is evicted; the client's next packet, a second later, writes it anew.
            assert!(gateway.maps().flows.delete(&key(from, to)).unwrap());
            gateway.age(client, vip, PROTO_TCP, 2);
            tcp.send(ACK, b"request");
            tcp.reply(ACK, b"answer");

            // The forward half is evicted; the backend's next packet writes it anew.
            assert!(gateway.maps().flows.delete(&key(client, vip)).unwrap());
            gateway.age(from, to, PROTO_TCP, 2);
            tcp.reply(ACK, b"more of it");
            tcp.send(ACK, b"request");
            assert_eq!(gateway.maps().vip_stats.sum(1).unwrap().flows, 1);

            // What was written anew knows the numbers: a FIN in either direction is in window.
            tcp.send(FIN | ACK, b"");
            tcp.reply(FIN | ACK, b"");
            assert_eq!(tcp.states(), (FlowState::Closing.code(), FlowState::Closing.code()));
        }
    }
}

#[test]
fn replies_follow_the_client_to_another_router() {
    if !require("xdp") {
        return;
    }
    let gateway = Gateway::new();
    serve(&gateway, &V4, true);
    let mut tcp = Connection::open(&gateway, &V4);
    let router = MacAddr(0x02, 0, 0, 0, 0, 0xdd);
    tcp.sends(&tcp.frame(ACK, b"").macs(router, GATEWAY_MAC));
    tcp.reply(ACK, b"within the second the old one stands");
    gateway.age(at(V4.client), at(V4.vip), PROTO_TCP, 2);
    tcp.sends(&tcp.frame(ACK, b"").macs(router, GATEWAY_MAC));
    let reply = tcp.reply_frame(ACK, b"");
    let expected = reply.rewritten(at(V4.vip), at(V4.client), GATEWAY_MAC, router).build();
    assert_eq!(gateway.receive(&reply.build()).bytes, expected);
}

#[test]
fn the_handshake_may_end_through_another_router_than_it_began() {
    if !require("xdp") {
        return;
    }
    let gateway = Gateway::new();
    serve(&gateway, &V4, true);
    let mut tcp = Connection::begin(&gateway, at(V4.client), at(V4.vip), CLIENT_ISN, BACKEND_ISN);
    tcp.reply(SYN | ACK, b"");
    let router = MacAddr(0x02, 0, 0, 0, 0, 0xdd);
    tcp.sends(&tcp.frame(ACK, b"").macs(router, GATEWAY_MAC));
    let reply = tcp.reply_frame(ACK, b"data");
    let expected = reply.rewritten(at(V4.vip), at(V4.client), GATEWAY_MAC, router).build();
    assert_eq!(gateway.receive(&reply.build()).bytes, expected);
}

#[test]
fn a_port_has_one_flow_and_a_full_range_refuses() {
    if !require("xdp") {
        return;
    }
    // Sixteen ports and three backends: sixteen tries see every port of the backend that was picked.
    let gateway = Gateway::with_ports(20000, 20015);
    serve(&gateway, &V4, true);
    let mut taken = std::collections::HashSet::new();
    let mut refused = 0;
    let client = |port: u16| SocketAddr::new(at(V4.client).ip(), port);
    for port in 1..=100 {
        let frame = Frame::between(client(port), at(V4.vip), L4::Tcp(SYN));
        let outcome = gateway.receive(&frame.build());
        if outcome.verdict == Verdict::Drop {
            refused += 1;
            continue;
        }
        let seen = judge::read(&outcome.bytes).unwrap();
        assert!((20000..=20015).contains(&seen.source.port()));
        assert!(taken.insert((seen.source, seen.destination)), "{} to {} twice", seen.source, seen.destination);
    }
    assert_eq!((taken.len(), refused), (48, 52));
    assert_eq!(gateway.drops(Reason::NoPort), 52);

    // A dead flow's port is given away: not while one half lives, but when both are over.
    let (source, destination) = *taken.iter().next().unwrap();
    let flow = gateway.flow(destination, source, PROTO_TCP).unwrap();
    let owner = SocketAddr::new(flow.addr.into(), flow.port.into());
    let refused_client = (1..=100).map(client).find(|c| {
        let none = gateway.flow(*c, at(V4.vip), PROTO_TCP).is_none();
        let key = FlowKey::new(*c, at(V4.vip), PROTO_TCP).to_bytes();
        let picked = maglev::ring(KEY, &V4.backends.map(|name| (name, 1))).pick(hash::flow(KEY, &key), |_| true);
        none && at(V4.backends[picked.unwrap()]) == destination
    });
    let newcomer = Frame::between(refused_client.unwrap(), at(V4.vip), L4::Tcp(SYN));
    gateway.age(destination, source, PROTO_TCP, 71);
    drops_for(&gateway, &newcomer.build(), Reason::NoPort, "the forward half still lives");
    gateway.age(owner, at(V4.vip), PROTO_TCP, 71);
    let (seen, _) = forwarded(&gateway, &newcomer);
    assert_eq!((seen.source, seen.destination), (source, destination));
    let late = Frame::between(owner, at(V4.vip), L4::Tcp(ACK)).build();
    drops_for(&gateway, &late, Reason::NoFlow, "the flow whose port went to another");
    assert!(
        gateway.maps().opening.entries().unwrap().iter().all(|(key, _)| key.pad == [0; 3]),
        "no claim is left behind"
    );
}

#[test]
fn without_snat_two_vips_cannot_share_a_clients_port_at_one_backend() {
    if !require("xdp") {
        return;
    }
    let gateway = Gateway::new();
    gateway.backend(1, at(V4.backends[0]), V4.source.parse().unwrap());
    gateway.pool(1, KEY, &[(1, V4.backends[0], 1)]);
    gateway.vip(1, at(V4.vip), PROTO_TCP, 1, false);
    gateway.vip(2, at(V4.foreign), PROTO_TCP, 1, false);
    forwarded(&gateway, &syn(&V4));
    drops_for(&gateway, &Frame::new(V4.client, V4.foreign, L4::Tcp(SYN)).build(), Reason::NoPort, "the second VIP");
}

#[test]
fn another_interface_means_a_redirect() {
    if !require("xdp") {
        return;
    }
    let gateway = Gateway::new();
    serve(&gateway, &V4, true);
    for id in 1..=3 {
        let backend = gateway.maps().backends.get(id).unwrap();
        gateway.maps().backends.set(id, &Backend { ifindex: 77, ..backend }).unwrap();
    }
    assert_eq!(gateway.receive(&syn(&V4).build()).verdict, Verdict::Redirect);
}

#[test]
fn ethernet_padding_is_neither_counted_nor_lost() {
    if !require("xdp") {
        return;
    }
    let gateway = Gateway::new();
    serve(&gateway, &V4, true);
    let mut frame = syn(&V4).build();
    frame.resize(60, 0xee);
    let outcome = gateway.receive(&frame);
    assert_eq!(outcome.verdict, Verdict::Tx);
    assert_eq!(judge::is_rewrite(&frame, &outcome.bytes), Ok(()));
    assert_eq!(gateway.maps().vip_stats.sum(1).unwrap().bytes, 40);
}

#[test]
fn a_frame_cut_short_anywhere_is_never_forwarded() {
    if !require("xdp") {
        return;
    }
    for family in BOTH {
        let gateway = Gateway::new();
        serve(&gateway, family, true);
        for frame in [syn(family), Frame::new(family.client, family.vip, L4::Udp)] {
            let whole = frame.build();
            // BPF_PROG_TEST_RUN takes no frame without an Ethernet header
            for cut in 14..whole.len() {
                let outcome = gateway.receive(&whole[..cut]);
                assert!(matches!(outcome.verdict, Verdict::Pass | Verdict::Drop), "{cut} bytes: {:?}", outcome.verdict);
                assert_eq!(outcome.bytes, whole[..cut], "{cut} bytes");
            }
            forwarded(&gateway, &frame);
        }
    }
}

#[test]
fn whatever_is_forwarded_is_a_faithful_rewrite() {
    if !require("xdp") {
        return;
    }
    let mut random = Random(0xdecade);
    let (mut sent_on, mut tried) = (0, 0);
    for family in BOTH {
        let gateway = Gateway::new();
        serve(&gateway, family, true);
        forwarded(&gateway, &syn(family));
        let extension: &[u8] = if family.client.starts_with('[') { &[6, 0, 1, 4, 0, 0, 0, 0] } else { &[1; 8] };
        let seeds = [
            syn(family).build(),
            Frame::new(family.client, family.vip, L4::Tcp(ACK)).build(),
            Frame::new(family.client, family.vip, L4::Tcp(ACK)).extra(60, extension).build(),
            Frame::new(family.client, family.vip, L4::Udp).build(),
            Frame::new(family.client, family.vip, L4::UdpNoChecksum).build(),
        ];
        for _ in 0..6000 {
            let mut frame = seeds[random.below(seeds.len())].clone();
            for _ in 0..=random.below(3) {
                let at = random.below(frame.len());
                frame[at] = random.draw() as u8;
            }
            if random.below(4) == 0 {
                frame.truncate(14 + random.below(frame.len() - 13));
            }
            let outcome = gateway.receive(&frame);
            tried += 1;
            if outcome.verdict == Verdict::Tx {
                sent_on += 1;
                assert_eq!(
                    judge::is_rewrite(&frame, &outcome.bytes),
                    Ok(()),
                    "{frame:02x?}\nbecame\n{:02x?}",
                    outcome.bytes
                );
                let seen = judge::read(&outcome.bytes).unwrap();
                let ends = family.backends.map(at);
                // A later fragment has no ports.
                let portless = judge::fragment(&frame).is_some_and(|part| !part.first);
                let known =
                    |end: &SocketAddr| *end == seen.destination || portless && end.ip() == seen.destination.ip();
                assert!(ends.iter().any(known), "{frame:02x?} went to {}", seen.destination);
            } else {
                assert!(matches!(outcome.verdict, Verdict::Pass | Verdict::Drop));
                assert_eq!(outcome.bytes, frame);
            }
        }
    }
    assert!(sent_on > tried / 10, "{sent_on} of {tried} were forwarded: the property was hardly tried");
}

#[test]
fn a_retired_vips_figures_stay_in_the_totals() {
    if !require("xdp") {
        return;
    }
    let gateway = Gateway::new();
    serve(&gateway, &V4, true);
    forwarded(&gateway, &syn(&V4));
    let before = gateway.maps().totals().unwrap();
    let last = gateway.maps().retire_vip_stats(1).unwrap();
    assert_eq!((last.packets, last.flows), (1, 1));
    assert_eq!(gateway.maps().vip_stats.sum(1).unwrap(), eg_abi::Stats::default());
    assert_eq!(gateway.maps().totals().unwrap(), before);
}

#[test]
fn drops_are_told_at_a_bounded_rate() {
    if !require("xdp") {
        return;
    }
    // Nobody else's ports, so nobody else's gateway: the rate is kept where tests cannot empty it.
    let gateway = Gateway::with_ports(10240, 32766);
    serve(&gateway, &V4, true);
    let frame = Frame::new(V4.client, V4.vip, L4::Tcp(ACK)).build();
    for _ in 0..300 {
        gateway.receive(&frame);
    }
    let events = gateway.events();
    let lost = gateway.maps().events_lost.sum(0).unwrap();
    assert_eq!(events.len() as u64 + lost, 300, "every drop is told or counted as untold");
    assert!(events.len() >= 100, "the first hundred of a second are told");
    for event in events {
        assert_eq!(Reason::from_code(event.code), Some(Reason::NoFlow));
        assert_eq!((event.vip, event.length), (1, frame.len() as u32 - 14));
        assert_eq!(event.key, FlowKey::new(at(V4.client), at(V4.vip), PROTO_TCP));
    }
}

#[test]
fn the_verifier_has_room_left_for_every_program() {
    if !require("xdp") {
        return;
    }
    verifier::judge(&Gateway::new().verified());
}
