// SPDX-License-Identifier: GPL-3.0-only
//! Every way to forward, every shape of packet: the bytes that leave are those that pnet builds from the standards.

use std::net::{IpAddr, SocketAddr};

use eg_abi::{
    Addr, BACKEND_ON_LINK, CONF_RETURN_PATH, Conf, Drop as Reason, FlowKey, Forward, PROTO_TCP, PROTO_UDP, Plain as _,
};
use eg_balance::hash;
use eg_kernel_tests::packet::frame::{ACK, CLIENT_MAC, GATEWAY_MAC, SYN, TAG_AD, TAG_Q};
use eg_kernel_tests::packet::gateway::backend_mac;
use eg_kernel_tests::packet::outer::{self, Way};
use eg_kernel_tests::packet::service::{
    BOTH, Family, GUE_PORT, KEY, V4, V6, answer, at, drops_for, forwarded, passes_untouched, serve, serve_by, syn,
};
use eg_kernel_tests::packet::{Frame, Gateway, L4, Verdict};
use eg_kernel_tests::require;

/// Shapes of a packet that change nothing about where it goes.
fn shapes(frame: &Frame) -> Vec<(&'static str, Frame)> {
    let v4 = frame.source.is_ipv4();
    let plain = || frame.clone();
    let mut shapes = vec![
        ("plain", plain()),
        ("802.1Q", plain().tags(&[TAG_Q])),
        ("802.1ad", plain().tags(&[TAG_AD])),
        ("802.1ad with 802.1Q", plain().tags(&[TAG_AD, TAG_Q])),
        ("802.1Q twice", plain().tags(&[TAG_Q, TAG_Q])),
        ("padding", plain().padded()),
        ("802.1Q and padding", plain().tags(&[TAG_Q]).padded()),
        ("not ECT", plain().tos(0)),
        ("ECT(1)", plain().tos(1)),
        ("ECT(0), EF", plain().tos(46 << 2 | 2)),
        ("CE, CS6", plain().tos(48 << 2 | 3)),
        ("all of it", plain().tos(0xff)),
        ("TTL 2", plain().ttl(2)),
        ("TTL 255", plain().ttl(255)),
        ("an empty payload", plain().payload(b"")),
        ("an odd payload", plain().payload(b"odd")),
        ("a full one", plain().payload(&[0x5a; 1380])),
    ];
    let proto = frame.l4.proto();
    if v4 {
        shapes.push(("options", plain().extra(0, &[7, 7, 4, 0, 0, 0, 0, 0])));
        shapes.push(("the longest header", plain().extra(0, &[1; 40])));
        shapes.push(("options and a tag", plain().extra(0, &[1; 4]).tags(&[TAG_Q])));
        shapes.push(("DF", plain().fragment(0x4000)));
    } else {
        shapes.push(("hop-by-hop options", plain().extra(0, &[proto, 0, 5, 2, 0, 0, 1, 0])));
        shapes.push(("destination options", plain().extra(60, &[proto, 0, 1, 4, 0, 0, 0, 0])));
        shapes.push(("an atomic fragment", plain().extra(44, &[proto, 0, 0, 0, 1, 2, 3, 4])));
        shapes.push(("options and two tags", plain().extra(60, &[proto, 0, 1, 4, 0, 0, 0, 0]).tags(&[TAG_AD, TAG_Q])));
    }
    shapes
}

/// What the client sends in a shape: a SYN, then data on the connection, or a datagram.
const KINDS: [(&str, L4); 3] = [("SYN", L4::Tcp(SYN)), ("data", L4::Tcp(ACK)), ("UDP", L4::Udp)];

/// The way of one flow, computed apart from the program.
fn way(table: &eg_balance::Ring, frame: &Frame, back: &Family, mode: Forward) -> (u32, Way) {
    let key = FlowKey::new(frame.source, frame.destination, frame.l4.proto());
    let picked = table.pick(hash::flow(KEY, &key.to_bytes()), |_| true).unwrap();
    let id = picked as u32 + 1;
    let way = Way {
        mode,
        source: back.source.parse().unwrap(),
        port: outer::port_of(KEY, &key),
        backend: at(back.backends[picked]).ip(),
        gue_port: GUE_PORT,
        smac: GATEWAY_MAC,
        dmac: backend_mac(id),
    };
    (id, way)
}

/// Another client for each case, so that each is a flow of its own.
fn client(family: &Family, port: u16) -> SocketAddr {
    SocketAddr::new(at(family.client).ip(), port)
}

#[test]
fn every_shape_leaves_by_every_direct_mode_byte_for_byte() {
    if !require("xdp") {
        return;
    }
    let mut cases = 0;
    for mode in [Forward::Ipip, Forward::Gue, Forward::L2] {
        for (front, back) in [(&V4, &V4), (&V6, &V6), (&V4, &V6), (&V6, &V4)] {
            if mode == Forward::L2 && front.is_v6() != back.is_v6() {
                continue;
            }
            let gateway = Gateway::new();
            let table = serve_by(&gateway, front, back, mode);
            let mut port = 1000;
            for (kind, l4) in KINDS {
                let base = Frame::new(front.client, front.vip, l4);
                for (shape, frame) in shapes(&base) {
                    let name = format!("{} {kind}, {shape}, to {}", mode.label(), back.source);
                    port += 1;
                    let frame = Frame { source: client(front, port), ..frame };
                    let vip = u32::from(l4 == L4::Udp) + 1;
                    if kind == "data" {
                        let first = Frame { source: frame.source, ..syn(front) };
                        assert_eq!(gateway.receive(&first.build()).verdict, Verdict::Tx);
                    }
                    let (backend, way) = way(&table, &frame, back, mode);
                    let figures = |id| gateway.maps().vip_stats.sum(id).unwrap();
                    let before = (figures(vip), gateway.maps().backend_stats.sum(backend).unwrap());
                    let outcome = gateway.receive(&frame.build());
                    assert_eq!(outcome.verdict, Verdict::Tx, "{name}");
                    let expected = outer::carried(&frame, &way);
                    assert_eq!(outcome.bytes, expected, "{name}\n got {:02x?}\nwant {expected:02x?}", outcome.bytes);
                    for (was, is) in
                        [(before.0, figures(vip)), (before.1, gateway.maps().backend_stats.sum(backend).unwrap())]
                    {
                        assert_eq!((is.packets, is.bytes), (was.packets + 1, was.bytes + frame.l3_length() as u64));
                        assert_eq!(is.flows, was.flows + u64::from(kind != "data"), "{name}");
                        assert_eq!((is.reply_packets, is.drops), (0, 0), "{name}");
                    }
                    cases += 1;
                }
            }
        }
    }
    assert!(cases >= 600, "{cases} cases");
}

#[test]
fn every_shape_leaves_rewritten_and_comes_back() {
    if !require("xdp") {
        return;
    }
    for snat in [true, false] {
        for family in BOTH {
            let gateway = Gateway::new();
            serve(&gateway, family, snat);
            let mut port = 1000;
            for (kind, l4) in KINDS {
                for (shape, frame) in shapes(&Frame::new(family.client, family.vip, l4)) {
                    let name = format!("snat {snat}, {kind}, {shape}");
                    port += 1;
                    let frame = Frame { source: client(family, port), ..frame };
                    if kind == "data" {
                        let first = Frame { source: frame.source, ..syn(family) };
                        let (seen, backend) = forwarded(&gateway, &first);
                        let (reply, _) = answer(&seen, backend, L4::Tcp(SYN | ACK));
                        assert_eq!(gateway.receive(&reply.payload(b"").build()).verdict, Verdict::Tx);
                    }
                    let (seen, backend) = forwarded(&gateway, &frame);
                    if !snat {
                        assert_eq!(seen.source, frame.source, "{name}");
                    }
                    // The answer in the same shape: other ends, all else as it was.
                    let answers = if l4 == L4::Tcp(SYN) { L4::Tcp(SYN | ACK) } else { l4 };
                    let reply = Frame {
                        source: seen.destination,
                        destination: seen.source,
                        smac: backend_mac(backend),
                        dmac: GATEWAY_MAC,
                        l4: answers,
                        ..frame.clone()
                    };
                    let outcome = gateway.receive(&reply.build());
                    assert_eq!(outcome.verdict, Verdict::Tx, "{name}");
                    let expected = reply.rewritten(at(family.vip), frame.source, GATEWAY_MAC, CLIENT_MAC).build();
                    assert_eq!(outcome.bytes, expected, "{name}");
                }
            }
        }
    }
}

#[test]
fn a_third_tag_and_tags_cut_short_pass_untouched() {
    if !require("xdp") {
        return;
    }
    for family in BOTH {
        let gateway = Gateway::new();
        serve(&gateway, family, true);
        passes_untouched(&gateway, &syn(family).tags(&[TAG_AD, TAG_Q, TAG_Q]).build(), "three tags");
        let whole = syn(family).tags(&[TAG_AD, TAG_Q]).build();
        for cut in 14..whole.len() {
            let outcome = gateway.receive(&whole[..cut]);
            assert!(matches!(outcome.verdict, Verdict::Pass | Verdict::Drop), "{cut} bytes: {:?}", outcome.verdict);
            assert_eq!(outcome.bytes, whole[..cut], "{cut} bytes");
        }
        let mut arp = vec![0x02; 46];
        arp[12..18].copy_from_slice(&[0x81, 0, 0, 5, 0x08, 0x06]);
        passes_untouched(&gateway, &arp, "ARP with a tag");
        let foreign = Frame::new(family.client, family.foreign, L4::Tcp(SYN)).tags(&[TAG_Q]).build();
        passes_untouched(&gateway, &foreign, "another address behind a tag");
    }
}

#[test]
fn refusals_are_the_same_by_every_mode() {
    if !require("xdp") {
        return;
    }
    for mode in Forward::ALL {
        for (front, back) in [(&V4, &V4), (&V6, &V6), (&V4, &V6), (&V6, &V4)] {
            let name = mode.label();
            let gateway = Gateway::new();
            serve_by(&gateway, front, back, *mode);
            let frame = syn(front).build();
            if front.is_v6() != back.is_v6() && matches!(mode, Forward::Nat | Forward::L2) {
                drops_for(&gateway, &frame, Reason::NoBackend, name);
                continue;
            }
            drops_for(&gateway, &syn(front).ttl(1).build(), Reason::Ttl, name);
            assert_eq!(gateway.receive(&frame).verdict, Verdict::Tx);
            drops_for(&gateway, &syn(front).ttl(1).build(), Reason::Ttl, name);
            let other = Frame::new(front.client, front.other_port, L4::Udp).build();
            drops_for(&gateway, &other, Reason::UnusedPort, name);
            for id in 1..=3 {
                gateway.change_backend(id, |backend| backend.ifindex = 0);
            }
            drops_for(&gateway, &frame, Reason::NoNextHop, name);
            drops_for(&gateway, &Frame::new(front.client, front.vip, L4::Udp).build(), Reason::NoNextHop, name);
        }
    }
}

#[test]
fn l2_goes_to_the_backend_itself_and_not_to_a_router() {
    if !require("xdp") {
        return;
    }
    for family in BOTH {
        let gateway = Gateway::new();
        serve_by(&gateway, family, family, Forward::L2);
        assert_eq!(gateway.receive(&syn(family).build()).verdict, Verdict::Tx);
        for id in 1..=3 {
            gateway.change_backend(id, |backend| backend.flags &= !BACKEND_ON_LINK);
        }
        drops_for(&gateway, &syn(family).build(), Reason::NoNextHop, "a known flow");
        let other = Frame { source: client(family, 7), ..syn(family) };
        drops_for(&gateway, &other.build(), Reason::NoNextHop, "a new flow");
    }
}

#[test]
fn outer_sources_vary_within_the_operators_prefix() {
    if !require("xdp") {
        return;
    }
    for mode in [Forward::Ipip, Forward::Gue] {
        for (front, back) in [(&V4, &V4), (&V6, &V6), (&V4, &V6), (&V6, &V4)] {
            let gateway = Gateway::new();
            let table = serve_by(&gateway, front, back, mode);
            let (prefix4, prefix6): (IpAddr, IpAddr) = ("172.16.32.0".parse().unwrap(), "fd00:0:7::".parse().unwrap());
            let conf = Conf {
                outer4: Addr::from(prefix4),
                outer6: Addr::from(prefix6),
                outer4_bits: 12,
                outer6_bits: 32,
                ..Conf::default()
            };
            gateway.maps().conf.set(0, &conf).unwrap();
            let mut seen = std::collections::HashSet::new();
            for port in 1..=200 {
                let frame = Frame { source: client(front, port), ..syn(front) };
                let (_, mut way) = way(&table, &frame, back, mode);
                let key = FlowKey::new(frame.source, frame.destination, PROTO_TCP);
                let bits = hash::flow(KEY, &key.to_bytes()) >> 16;
                way.source = match way.source {
                    IpAddr::V4(_) => IpAddr::from((0xac10_2000 | (bits as u32 & 0xfff)).to_be_bytes()),
                    IpAddr::V6(_) => {
                        IpAddr::from(((0xfd00_0000_0007_u128 << 80) | u128::from(bits as u32)).to_be_bytes())
                    }
                };
                seen.insert((way.source, way.port));
                let outcome = gateway.receive(&frame.build());
                assert_eq!(outcome.bytes, outer::carried(&frame, &way), "{mode:?} to {}", back.source);
            }
            assert!(seen.len() > 190, "flows differ in what a receiver's queues are chosen by");
        }
    }
}

#[test]
fn a_reply_under_direct_modes_is_none_of_ours() {
    if !require("xdp") {
        return;
    }
    for mode in [Forward::Ipip, Forward::Gue, Forward::L2] {
        let gateway = Gateway::new();
        serve_by(&gateway, &V4, &V4, mode);
        // Another VIP makes any packet a possible reply.
        gateway.maps().conf.set(0, &Conf { flags: CONF_RETURN_PATH, ..Conf::default() }).unwrap();
        assert_eq!(gateway.receive(&syn(&V4).build()).verdict, Verdict::Tx);
        for backend in V4.backends {
            let reply = Frame::new(backend, V4.client, L4::Tcp(SYN | ACK)).build();
            passes_untouched(&gateway, &reply, mode.label());
        }
        let direct = Frame::new(V4.vip, V4.client, L4::Udp).build();
        passes_untouched(&gateway, &direct, "sent from the VIP's address");
        assert_eq!(gateway.maps().vip_stats.sum(1).unwrap().reply_packets, 0);
        assert!(gateway.flow(at(V4.client), at(V4.vip), PROTO_UDP).is_none());
    }
}
