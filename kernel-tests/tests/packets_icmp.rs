// SPDX-License-Identifier: GPL-3.0-only
//! ICMP errors about flows find their owner: rewritten both ways under nat, forwarded by the mode otherwise. Errors about
//! our own outer headers are told to the process.

use std::net::{IpAddr, SocketAddr};

use eg_abi::{ADDR_SOURCE, Addr, Conf, Drop as Reason, EventKind, FlowKey, Forward, VipKey};
use eg_kernel_tests::packet::frame::{ACK, CLIENT_MAC, GATEWAY_MAC, RST, SYN, TAG_AD, TAG_Q};
use eg_kernel_tests::packet::gateway::backend_mac;
use eg_kernel_tests::packet::icmp::Icmp;
use eg_kernel_tests::packet::outer::{self, Way};
use eg_kernel_tests::packet::service::{
    BOTH, Connection, Family, GUE_PORT, KEY, V4, V6, answer, at, drops_for, forwarded, passes_untouched, serve,
    serve_by, syn,
};
use eg_kernel_tests::packet::{Frame, Gateway, L4, Verdict};
use eg_kernel_tests::require;

/// A router that complains.
fn router(family: &Family) -> IpAddr {
    if family.is_v6() { "2001:db8:ff::1" } else { "192.0.2.1" }.parse().unwrap()
}

/// Type, code and the word behind the checksum: unreachable (host, port), time exceeded, too big, parameter problem.
fn errors(family: &Family) -> [(u8, u8, u32); 5] {
    if family.is_v6() {
        [(1, 0, 0), (1, 4, 0), (3, 0, 0), (2, 0, 1400), (4, 1, 40)]
    } else {
        [(3, 1, 0), (3, 3, 0), (11, 0, 0), (3, 4, 1400), (12, 0, 0x0900_0000)]
    }
}

/// What a router quotes of a frame: from its IP header, all of it or only what RFC 792 asks for. Routers quote what
/// they got: a TTL smaller by their hops.
fn quotes(frame: &Frame) -> [Vec<u8>; 3] {
    let far = Frame { ttl: frame.ttl - 7, ..frame.clone() };
    let whole = far.build()[far.l3_offset()..].to_vec();
    let header = if frame.source.is_ipv4() { 20 + frame.extra.len() } else { 40 };
    [whole[..header + 8].to_vec(), whole[..whole.len() - 5].to_vec(), whole]
}

/// The same quote with the ends that its receiver knows. The transport's own checksum is not ours to mend: RFC 5508
/// section 4.2 asks for the addresses, the ports and the IP checksum.
fn quote_with(quote: &[u8], source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let mut out = quote.to_vec();
    let header = match (source.ip(), destination.ip()) {
        (IpAddr::V4(s), IpAddr::V4(d)) => {
            out[12..16].copy_from_slice(&s.octets());
            out[16..20].copy_from_slice(&d.octets());
            let header = usize::from(out[0] & 0xf) * 4;
            let sum = pnet::packet::util::checksum(&out[..header], 5);
            out[10..12].copy_from_slice(&sum.to_be_bytes());
            header
        }
        (IpAddr::V6(s), IpAddr::V6(d)) => {
            out[8..24].copy_from_slice(&s.octets());
            out[24..40].copy_from_slice(&d.octets());
            40
        }
        _ => panic!("one family"),
    };
    out[header..header + 2].copy_from_slice(&source.port().to_be_bytes());
    out[header + 2..header + 4].copy_from_slice(&destination.port().to_be_bytes());
    out
}

/// A flow under nat, whose last frames in each direction are known.
struct Flow {
    /// What the client sent, and what the backend got of it.
    out: Frame,
    out_after: Frame,
    /// What the backend sent, and what the client got of it.
    back: Frame,
    back_after: Frame,
    backend: u32,
}

fn flow(gateway: &Gateway, family: &Family, l4: L4) -> Flow {
    let (out, seen, backend) = if l4 == L4::Udp {
        let out = Frame::new(family.client, family.vip, L4::Udp);
        let (seen, backend) = forwarded(gateway, &out);
        (out, seen, backend)
    } else {
        let mut tcp = Connection::open(gateway, family);
        let out = tcp.frame(ACK, b"a request of some length");
        tcp.send(ACK, b"a request of some length");
        (out, tcp.seen.clone(), tcp.backend)
    };
    let (back, _) = answer(&seen, backend, l4);
    assert_eq!(gateway.receive(&back.build()).verdict, Verdict::Tx);
    let out_after = out.rewritten(seen.source, seen.destination, GATEWAY_MAC, backend_mac(backend));
    let back_after = back.rewritten(at(family.vip), at(family.client), GATEWAY_MAC, CLIENT_MAC);
    Flow { out, out_after, back, back_after, backend }
}

#[test]
fn an_icmpv6_error_that_quotes_mapped_ends_is_about_no_ipv4_flow() {
    if !require("xdp") {
        return;
    }
    let gateway = Gateway::new();
    serve(&gateway, &V4, true);
    let flow = flow(&gateway, &V4, L4::Udp);
    for sent in [&flow.out_after, &flow.back_after] {
        let l4 = sent.build().split_off(34);
        let mut quote = vec![0x60, 0, 0, 0, 0, l4.len() as u8, sent.l4.proto(), 64];
        quote.extend(Addr::from(sent.source.ip()).b);
        quote.extend(Addr::from(sent.destination.ip()).b);
        quote.extend(l4);
        let error = Icmp::new(router(&V6), at(V6.vip).ip(), 1, 4, 0, &quote).build();
        passes_untouched(&gateway, &error, "ends that mean IPv4 inside");
    }
}

#[test]
fn errors_from_the_backends_side_reach_the_client_in_its_own_terms() {
    if !require("xdp") {
        return;
    }
    for snat in [true, false] {
        for family in BOTH {
            let gateway = Gateway::new();
            serve(&gateway, family, snat);
            let mut count = 0;
            for l4 in [L4::Tcp(ACK), L4::Udp] {
                let flow = flow(&gateway, family, l4);
                // A router on the way, and the backend, which the client knows as the VIP.
                for (from, known_as) in
                    [(router(family), router(family)), (flow.out_after.destination.ip(), flow.out.destination.ip())]
                {
                    for (kind, code, word) in errors(family) {
                        for quote in quotes(&flow.out_after) {
                            let to = flow.out_after.source.ip();
                            let error = Icmp::new(from, to, kind, code, word, &quote)
                                .macs(backend_mac(flow.backend), GATEWAY_MAC);
                            for tags in [vec![], vec![TAG_Q], vec![TAG_AD, TAG_Q]] {
                                let error = Icmp { tags, ..error.clone() };
                                let outcome = gateway.receive(&error.build());
                                let name = format!("snat {snat} {l4:?} {kind}/{code} from {from}");
                                assert_eq!(outcome.verdict, Verdict::Tx, "{name}");
                                let expected = Icmp {
                                    source: known_as,
                                    destination: flow.out.source.ip(),
                                    quote: quote_with(&quote, flow.out.source, flow.out.destination),
                                    smac: GATEWAY_MAC,
                                    dmac: CLIENT_MAC,
                                    ttl: error.ttl - 1,
                                    ..error.clone()
                                };
                                assert_eq!(outcome.bytes, expected.build(), "{name}");
                                count += 1;
                            }
                        }
                    }
                }
            }
            let replies: u64 = [1, 2].iter().map(|vip| gateway.maps().vip_stats.sum(*vip).unwrap().reply_packets).sum();
            assert_eq!(replies, count + 3, "they count as replies, beside the SYN-ACK and two answers");
        }
    }
}

#[test]
fn errors_from_the_clients_side_reach_the_backend_in_its_own_terms() {
    if !require("xdp") {
        return;
    }
    for snat in [true, false] {
        for family in BOTH {
            let gateway = Gateway::new();
            serve(&gateway, family, snat);
            for l4 in [L4::Tcp(ACK), L4::Udp] {
                let flow = flow(&gateway, family, l4);
                for from in [router(family), at(family.client).ip()] {
                    for (kind, code, word) in errors(family) {
                        for quote in quotes(&flow.back_after) {
                            let error = Icmp::new(from, at(family.vip).ip(), kind, code, word, &quote);
                            let outcome = gateway.receive(&error.build());
                            let name = format!("snat {snat} {l4:?} {kind}/{code} from {from}");
                            assert_eq!(outcome.verdict, Verdict::Tx, "{name}");
                            let expected = Icmp {
                                destination: flow.back.source.ip(),
                                quote: quote_with(&quote, flow.back.source, flow.back.destination),
                                smac: GATEWAY_MAC,
                                dmac: backend_mac(flow.backend),
                                ttl: error.ttl - 1,
                                ..error.clone()
                            };
                            assert_eq!(outcome.bytes, expected.build(), "{name}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn errors_about_half_open_flows_reach_the_client() {
    if !require("xdp") {
        return;
    }
    for family in BOTH {
        let gateway = Gateway::new();
        serve(&gateway, family, true);
        for first in [syn(family), Frame::new(family.client, family.vip, L4::Udp)] {
            let (seen, backend) = forwarded(&gateway, &first);
            let after = first.rewritten(seen.source, seen.destination, GATEWAY_MAC, backend_mac(backend));
            let [_, _, quote] = quotes(&after);
            let (kind, code, word) = errors(family)[1];
            let error = Icmp::new(seen.destination.ip(), seen.source.ip(), kind, code, word, &quote)
                .macs(backend_mac(backend), GATEWAY_MAC);
            let outcome = gateway.receive(&error.build());
            let expected = Icmp {
                source: at(family.vip).ip(),
                destination: at(family.client).ip(),
                quote: quote_with(&quote, first.source, first.destination),
                smac: GATEWAY_MAC,
                dmac: CLIENT_MAC,
                ttl: error.ttl - 1,
                ..error.clone()
            };
            assert_eq!((outcome.verdict, outcome.bytes), (Verdict::Tx, expected.build()), "{:?}", first.l4);
        }
    }
}

#[test]
fn errors_about_direct_flows_go_to_the_backend_by_the_flows_mode() {
    if !require("xdp") {
        return;
    }
    for mode in [Forward::Ipip, Forward::Gue, Forward::L2] {
        for (front, back) in [(&V4, &V4), (&V6, &V6), (&V4, &V6), (&V6, &V4)] {
            if mode == Forward::L2 && front.is_v6() != back.is_v6() {
                continue;
            }
            let gateway = Gateway::new();
            serve_by(&gateway, front, back, mode);
            for (l4, established) in [(L4::Tcp(ACK), true), (L4::Tcp(SYN), false), (L4::Udp, false)] {
                let first = if l4 == L4::Udp { Frame::new(front.client, front.vip, l4) } else { syn(front) };
                assert_eq!(gateway.receive(&first.build()).verdict, Verdict::Tx);
                if established {
                    let ack = Frame::new(front.client, front.vip, l4).build();
                    assert_eq!(gateway.receive(&ack).verdict, Verdict::Tx);
                }
                let key = FlowKey::new(first.source, first.destination, l4.proto());
                let flow = gateway.flow(first.source, first.destination, l4.proto()).unwrap();
                let backend = gateway.maps().backends.get(flow.backend).unwrap();
                let way = Way {
                    mode,
                    source: back.source.parse().unwrap(),
                    port: outer::port_of(KEY, &key),
                    backend: IpAddr::from(backend.addr),
                    gue_port: GUE_PORT,
                    smac: GATEWAY_MAC,
                    dmac: backend_mac(flow.backend),
                };
                // The backend answered the client itself, from the VIP.
                let direct = Frame::new(front.vip, front.client, if l4 == L4::Udp { l4 } else { L4::Tcp(ACK) });
                for (kind, code, word) in errors(front) {
                    for quote in quotes(&direct) {
                        for tags in [vec![], vec![TAG_Q]] {
                            let error = Icmp::new(router(front), at(front.vip).ip(), kind, code, word, &quote);
                            let error = Icmp { tags, ..error };
                            let outcome = gateway.receive(&error.build());
                            let inner =
                                Icmp { ttl: error.ttl - 1, smac: way.smac, dmac: way.dmac, ..error.clone() }.build();
                            let length = inner.len() - 14 - 4 * error.tags.len();
                            let expected = outer::carry(&inner, error.tags.len(), length, error.tos, &way);
                            let name = format!("{mode:?} {l4:?} {kind}/{code} to {}", back.source);
                            assert_eq!((outcome.verdict, outcome.bytes), (Verdict::Tx, expected), "{name}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn errors_about_no_flow_and_questions_are_the_stacks() {
    if !require("xdp") {
        return;
    }
    for family in BOTH {
        let gateway = Gateway::new();
        serve(&gateway, family, true);
        let flow = flow(&gateway, family, L4::Tcp(ACK));
        let [short, _, whole] = quotes(&flow.back_after);
        let vip = at(family.vip).ip();
        let (kind, code, word) = errors(family)[0];
        let error = |quote: &[u8]| Icmp::new(router(family), vip, kind, code, word, quote).build();
        let other = Frame { destination: at(family.backends[0]), ..flow.back_after.clone() };
        let mut table = vec![
            ("another client's", error(&quotes(&other)[2])),
            ("a quote cut short", error(&short[..short.len() - 1])),
            ("half a header", error(&whole[..12])),
            ("nothing quoted", error(&[])),
        ];
        let echo = if family.is_v6() { 128 } else { 8 };
        table.push(("an echo request", Icmp::new(router(family), vip, echo, 0, 0x0102_0003, &whole).build()));
        table.push((
            "its answer",
            Icmp::new(router(family), vip, if family.is_v6() { 129 } else { 0 }, 0, 7, &whole).build(),
        ));
        table.push((
            "to another address",
            Icmp::new(router(family), at(family.foreign).ip(), kind, code, 0, &quotes(&other)[2]).build(),
        ));
        if family.is_v6() {
            table.push(("neighbour discovery", Icmp::new(router(family), vip, 135, 0, 0, &whole).build()));
        } else {
            let mut part = whole.clone();
            part[7] = 100;
            table.push(("about a later fragment", error(&part)));
            let mut bad = whole.clone();
            bad[0] = 0x44;
            table.push(("about a header below five words", error(&bad)));
            table.push(("a redirect", Icmp::new(router(family), vip, 5, 1, 1, &whole).build()));
        }
        for (name, frame) in table {
            passes_untouched(&gateway, &frame, name);
        }
        assert_eq!(gateway.receive(&error(&whole)).verdict, Verdict::Tx, "and the same about a flow is forwarded");
    }
}

#[test]
fn an_error_at_its_last_hop_or_without_a_next_one_is_dropped() {
    if !require("xdp") {
        return;
    }
    for family in BOTH {
        let gateway = Gateway::new();
        serve(&gateway, family, true);
        let flow = flow(&gateway, family, L4::Tcp(ACK));
        let [_, _, quote] = quotes(&flow.back_after);
        let (kind, code, word) = errors(family)[0];
        let error = Icmp::new(router(family), at(family.vip).ip(), kind, code, word, &quote);
        drops_for(&gateway, &Icmp { ttl: 1, ..error.clone() }.build(), Reason::Ttl, "TTL 1");
        gateway.change_backend(flow.backend, |backend| backend.ifindex = 0);
        drops_for(&gateway, &error.build(), Reason::NoNextHop, "no next hop");
    }
}

#[test]
fn an_error_changes_no_flow() {
    if !require("xdp") {
        return;
    }
    for family in BOTH {
        let gateway = Gateway::new();
        serve(&gateway, family, true);
        let flow = flow(&gateway, family, L4::Tcp(ACK));
        let table = || {
            let mut entries = gateway.maps().flows.entries().unwrap();
            entries.sort_by_key(|(key, _)| key.tag());
            entries
        };
        let before = table();
        let reset = Frame { l4: L4::Tcp(RST), ..flow.back_after.clone() };
        for quote in quotes(&reset) {
            for (kind, code, word) in errors(family) {
                let error = Icmp::new(router(family), at(family.vip).ip(), kind, code, word, &quote);
                assert_eq!(gateway.receive(&error.build()).verdict, Verdict::Tx);
            }
        }
        assert_eq!(table(), before);
    }
}

#[test]
fn too_big_about_an_outer_header_is_told_to_the_process() {
    if !require("xdp") {
        return;
    }
    for prefix in [false, true] {
        for mode in [Forward::Ipip, Forward::Gue] {
            for (front, back) in [(&V4, &V4), (&V6, &V6), (&V4, &V6), (&V6, &V4)] {
                let gateway = Gateway::new();
                serve_by(&gateway, front, back, mode);
                if prefix {
                    let conf = Conf {
                        outer4: Addr::from("172.16.32.0".parse::<IpAddr>().unwrap()),
                        outer6: Addr::from("fd00:0:7::".parse::<IpAddr>().unwrap()),
                        outer4_bits: 12,
                        outer6_bits: 32,
                        ..Conf::default()
                    };
                    gateway.maps().conf.set(0, &conf).unwrap();
                    // The sources are the prefix's alone.
                    let own = VipKey::any_port(Addr::from(back.source.parse::<IpAddr>().unwrap()));
                    gateway.maps().vip_ids.set(&own, &0).unwrap();
                } else {
                    let own = VipKey::any_port(Addr::from(back.source.parse::<IpAddr>().unwrap()));
                    assert_eq!(gateway.maps().vip_ids.get(&own).unwrap(), Some(ADDR_SOURCE));
                }
                let outcome = gateway.receive(&syn(front).build());
                assert_eq!(outcome.verdict, Verdict::Tx);
                let outer = &outcome.bytes[14..];
                let (source, destination) = if back.is_v6() {
                    let ip = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&outer[at..at + 16]).unwrap());
                    (ip(8), ip(24))
                } else {
                    let ip = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&outer[at..at + 4]).unwrap());
                    (ip(12), ip(16))
                };
                let name = format!("{mode:?} to {}, prefix {prefix}", back.source);
                gateway.events();
                let (kind, code) = if back.is_v6() { (2, 0) } else { (3, 4) };
                let quote = &outer[..if back.is_v6() { 48 } else { 28 }];
                for mtu in [1280, 1400, 9000] {
                    let error = Icmp::new(router(back), source, kind, code, mtu, quote).build();
                    passes_untouched(&gateway, &error, &name);
                    let events = gateway.events();
                    assert_eq!(events.len(), 1, "{name}");
                    assert_eq!((events[0].kind, events[0].code), (EventKind::Mtu.code(), mtu), "{name}");
                    assert_eq!(events[0].key.daddr, Addr::from(destination), "{name}: the backend's address");
                }
                // What says nothing of an MTU tells nothing.
                let (kind, code, _) = errors(back)[0];
                passes_untouched(&gateway, &Icmp::new(router(back), source, kind, code, 1400, quote).build(), &name);
                assert_eq!(gateway.events(), [], "{name}");
            }
        }
    }
}
