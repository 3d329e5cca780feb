// SPDX-License-Identifier: GPL-3.0-only
//! The backend host's packet table: what a gateway encapsulated comes out byte for byte, everything else passes
//! untouched, and each packet is counted as what it was. Expected frames are built by pnet from scratch.

use std::net::{IpAddr, SocketAddr};

use eg_abi::backend::{Decap, DecapOutcome};
use eg_kernel_tests::packet::backend::{Action, Ended, INGRESS};
use eg_kernel_tests::packet::frame::ACK;
use eg_kernel_tests::packet::random::Random;
use eg_kernel_tests::packet::tunnel::{CE, ECT_0, ECT_1, NOT_ECT, checksum, marked};
use eg_kernel_tests::packet::{Backend, Encap, Frame, Inner, L4, Tunnel};
use eg_kernel_tests::require;
use eg_skel::features;
use pnet::util::MacAddr;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// The addresses of one family.
struct Family {
    v4: bool,
    client: &'static str,
    vip: &'static str,
    gateway: &'static str,
    host: &'static str,
}

const V4: Family =
    Family { v4: true, client: "198.51.100.9:40000", vip: "203.0.113.7:443", gateway: "10.0.0.1", host: "10.0.0.11" };

const V6: Family = Family {
    v4: false,
    client: "[2001:db8:c::9]:40000",
    vip: "[2001:db8:f::7]:443",
    gateway: "fd00::1",
    host: "fd00::11",
};

/// Outer and inner family.
const PAIRS: [(&Family, &Family); 4] = [(&V4, &V4), (&V6, &V6), (&V6, &V4), (&V4, &V6)];

impl Family {
    fn tunnel(&self, encap: Encap) -> Tunnel {
        Tunnel::new(ip(self.gateway), ip(self.host), encap)
    }

    fn inner(&self, kind: Inner, payload: &[u8]) -> Vec<u8> {
        kind.packet(at(self.client), at(self.vip), payload)
    }

    fn tcp(&self) -> Vec<u8> {
        self.inner(Inner::Tcp, b"twenty-four bytes of it.")
    }
}

/// A host that serves both VIPs, and listens to one gateway of each family.
fn backend(flags: bool) -> Backend {
    let backend = Backend::new(flags);
    let (vips, hosts) = ([at(V4.vip).ip(), at(V6.vip).ip()], [ip(V4.host), ip(V6.host)]);
    backend.allow(INGRESS, &vips, &[(ip(V4.gateway), 32), (ip(V6.gateway), 128)], &hosts);
    backend
}

/// The ways to change a packet's family that this kernel has.
fn ways() -> Vec<bool> {
    if features::decap_flags() { vec![false, true] } else { vec![false] }
}

fn result_of(encap: &Encap, outer: &Family, inner: &Family) -> Decap {
    match (encap, outer.v4, inner.v4) {
        (Encap::Gue(_), ..) => Decap::Gue,
        (Encap::Gue1, ..) => Decap::Gue1,
        (Encap::Ip, true, true) => Decap::Ipip,
        (Encap::Ip, false, false) => Decap::Ip6Ip6,
        (Encap::Ip, false, true) => Decap::FourInSix,
        (Encap::Ip, true, false) => Decap::SixInFour,
    }
}

fn comes_out(backend: &Backend, frame: &[u8], expected: &[u8], result: Decap, name: &str) {
    let ended = backend.receive(frame);
    assert_eq!((ended.action, ended.result), (Action::Next, result), "{name}");
    assert_eq!(ended.bytes, expected, "{name}");
}

fn passes(backend: &Backend, frame: &[u8], result: Decap, name: &str) {
    assert_eq!(result.outcome(), DecapOutcome::Passed, "{name}: the case is what it says");
    comes_out(backend, frame, frame, result, name);
}

fn can_run() -> bool {
    require("tc")
}

#[test]
fn what_a_gateway_encapsulates_comes_out_byte_for_byte() {
    if !can_run() {
        return;
    }
    let long = vec![0x5a; 1401];
    for flags in ways() {
        let backend = backend(flags);
        for (outer, inner) in PAIRS {
            for encap in Encap::all() {
                for kind in Inner::ALL {
                    for payload in [&b""[..], b"odd", b"some bytes", &long] {
                        let tunnel = outer.tunnel(encap.clone());
                        let packet = inner.inner(kind, payload);
                        let name = format!("{kind:?} of {} in {} by {encap:?}", inner.vip, outer.host);
                        let result = result_of(&encap, outer, inner);
                        comes_out(&backend, &tunnel.around(&packet), &tunnel.taken_off(&packet), result, &name);
                    }
                }
            }
        }
    }
}

#[test]
fn a_kernel_that_has_the_flags_is_known_to_have_them() {
    if !can_run() {
        return;
    }
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap(), numbers.next().unwrap());
    // That they work where the probe says yes is the other tests' to show.
    if version >= (6, 3) {
        assert!(features::decap_flags(), "{release}");
    } else {
        println!("skipped, because Linux {release} is older than the flags");
    }
}

#[test]
fn padding_and_outer_options_do_no_harm() {
    if !can_run() {
        return;
    }
    for flags in ways() {
        let backend = backend(flags);
        for (outer, inner) in PAIRS {
            for encap in Encap::all() {
                let result = result_of(&encap, outer, inner);
                let packet = inner.tcp();
                let padded = Tunnel { padding: vec![0xee; 11], ..outer.tunnel(encap.clone()) };
                comes_out(&backend, &padded.around(&packet), &padded.taken_off(&packet), result, "padding");
                if outer.v4 {
                    let options = Tunnel { extra: vec![1; 40], ..outer.tunnel(encap.clone()) };
                    comes_out(&backend, &options.around(&packet), &options.taken_off(&packet), result, "options");
                }
                // Bytes behind the inner packet, inside the outer one: the stack cuts them off.
                let tail = [packet.as_slice(), &[0xdd; 5]].concat();
                let tunnel = outer.tunnel(encap.clone());
                comes_out(&backend, &tunnel.around(&tail), &tunnel.taken_off(&tail), result, "a tail");
            }
        }
    }
}

/// RFC 6040 section 4.2, figure 4: by inner field, what each outer one makes of it. `None`: dropped.
const ECN: [(u8, [(u8, Option<u8>); 4]); 4] = [
    (NOT_ECT, [(NOT_ECT, Some(NOT_ECT)), (ECT_0, Some(NOT_ECT)), (ECT_1, Some(NOT_ECT)), (CE, None)]),
    (ECT_0, [(NOT_ECT, Some(ECT_0)), (ECT_0, Some(ECT_0)), (ECT_1, Some(ECT_1)), (CE, Some(CE))]),
    (ECT_1, [(NOT_ECT, Some(ECT_1)), (ECT_0, Some(ECT_1)), (ECT_1, Some(ECT_1)), (CE, Some(CE))]),
    (CE, [(NOT_ECT, Some(CE)), (ECT_0, Some(CE)), (ECT_1, Some(CE)), (CE, Some(CE))]),
];

#[test]
fn congestion_marks_are_combined_as_rfc_6040_says() {
    if !can_run() {
        return;
    }
    for flags in ways() {
        let backend = backend(flags);
        for (outer, inner) in PAIRS {
            for encap in [Encap::Ip, Encap::Gue(Vec::new()), Encap::Gue1] {
                for (inside, row) in ECN {
                    for (outside, expected) in row {
                        let packet = marked(&inner.tcp(), inside);
                        let tunnel = Tunnel { ecn: outside, ..outer.tunnel(encap.clone()) };
                        let frame = tunnel.around(&packet);
                        let name = format!("{encap:?}, {} in {}: {inside} in {outside}", inner.vip, outer.host);
                        match expected {
                            Some(ecn) => {
                                let expected = tunnel.taken_off(&marked(&packet, ecn));
                                comes_out(&backend, &frame, &expected, result_of(&encap, outer, inner), &name);
                            }
                            None => {
                                let ended = backend.receive(&frame);
                                assert_eq!((ended.action, ended.result), (Action::Drop, Decap::Ecn), "{name}");
                            }
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn a_frame_cut_short_anywhere_never_comes_out() {
    if !can_run() {
        return;
    }
    let backend = backend(features::decap_flags());
    let (mut ran, mut refused) = (0, 0);
    for (outer, inner) in PAIRS {
        for encap in Encap::all() {
            let tunnel = outer.tunnel(encap.clone());
            let frame = tunnel.around(&inner.tcp());
            let outer_header = 14 + if outer.v4 { 20 } else { 40 };
            for length in 14..frame.len() {
                // The kernel itself refuses to run a frame without a whole IP header.
                let Ok(ended) = backend.receive_merged(&frame[..length], 0, 0) else {
                    refused += 1;
                    assert!(length < outer_header, "{length} bytes of {}", frame.len());
                    continue;
                };
                ran += 1;
                let udp = if encap == Encap::Ip { 0 } else { 8 };
                let readable = length >= outer_header + udp;
                let expected = if readable { Decap::Malformed } else { Decap::Other };
                let name = format!("{length} of {} bytes, {encap:?} in {}", frame.len(), outer.host);
                assert_eq!((ended.action, ended.result), (Action::Next, expected), "{name}");
                assert_eq!(ended.bytes, frame[..length], "{name}");
            }
        }
    }
    assert!(ran > 3 * refused, "{ran} ran, {refused} were refused");
}

#[test]
fn an_inner_packet_that_is_not_whole_never_comes_out() {
    if !can_run() {
        return;
    }
    let backend = backend(features::decap_flags());
    for (outer, inner) in PAIRS {
        for encap in Encap::all() {
            let tunnel = outer.tunnel(encap.clone());
            let packet = inner.tcp();
            let protocol = if inner.v4 { 4 } else { 41 };
            for length in 0..packet.len() {
                // Without a first byte, nothing says that GUE is of variant 1.
                let frame = tunnel.around_protocol(&packet[..length], protocol);
                passes(&backend, &frame, Decap::Malformed, &format!("{length} bytes inside, {encap:?}"));
            }
        }
    }
}

#[test]
fn lengths_that_contradict_each_other_are_malformed() {
    if !can_run() {
        return;
    }
    let backend = backend(features::decap_flags());
    for (outer, inner) in PAIRS {
        let tunnel = outer.tunnel(Encap::Ip);
        let frame = tunnel.around(&inner.tcp());
        let start = 14 + tunnel.overhead();
        let set = |at: usize, bytes: &[u8]| {
            let mut frame = frame.clone();
            frame[at..at + bytes.len()].copy_from_slice(bytes);
            frame
        };
        let mut bad = vec![
            ("outer length beyond the frame", set(if outer.v4 { 16 } else { 18 }, &2000u16.to_be_bytes())),
            ("outer length without room for what is inside", set(if outer.v4 { 16 } else { 18 }, &30u16.to_be_bytes())),
            ("outer length zero", set(if outer.v4 { 16 } else { 18 }, &[0, 0])),
            ("inner length beyond the outer", set(start + if inner.v4 { 2 } else { 4 }, &1000u16.to_be_bytes())),
            ("another version inside", set(start, &[if inner.v4 { 0x65 } else { 0x40 }])),
            ("version 5 inside", set(start, &[0x55])),
        ];
        if inner.v4 {
            bad.push(("inner header shorter than any", set(start, &[0x44])));
            bad.push(("inner header longer than its packet", set(start, &[0x4f, 0, 0, 40])));
        } else {
            let mapped = "::ffff:203.0.113.7".parse::<std::net::Ipv6Addr>().unwrap().octets();
            bad.push(("a mapped destination inside", set(start + 24, &mapped)));
            bad.push(("a mapped source inside", set(start + 8, &mapped)));
        }
        for (name, frame) in bad {
            passes(&backend, &frame, Decap::Malformed, name);
        }

        for encap in [Encap::Gue(vec![0; 4]), Encap::Gue1] {
            let tunnel = outer.tunnel(encap.clone());
            let frame = tunnel.around(&inner.tcp());
            let udp = 14 + if outer.v4 { 20 } else { 40 };
            let whole = (frame.len() - udp) as u16;
            for length in [0, 7, 8, 11, whole - 1, whole + 1, u16::MAX] {
                let mut frame = frame.clone();
                frame[udp + 4..udp + 6].copy_from_slice(&length.to_be_bytes());
                passes(&backend, &frame, Decap::Malformed, &format!("a UDP length of {length}"));
            }
            if let Encap::Gue(_) = encap {
                let mut frame = frame.clone();
                frame[udp + 8] = 31;
                passes(&backend, &frame, Decap::Malformed, "a GUE header longer than the packet");
            }
        }
    }
}

#[test]
fn only_accepted_sources_are_listened_to() {
    if !can_run() {
        return;
    }
    let backend = Backend::new(features::decap_flags());
    let vips = [at(V4.vip).ip(), at(V6.vip).ip()];
    let from = [(ip("10.0.0.0"), 30), (ip("fd00::"), 126), (ip("192.0.2.1"), 32)];
    backend.allow(INGRESS, &vips, &from, &[ip(V4.host), ip(V6.host)]);
    let packet = V4.tcp();
    for encap in Encap::all() {
        for (source, accepted) in [
            ("10.0.0.1", true),
            ("10.0.0.3", true),
            ("10.0.0.4", false),
            ("192.0.2.1", true),
            ("192.0.2.2", false),
            ("fd00::3", true),
            ("fd00::4", false),
            ("::ffff:10.0.0.1", false),
            ("::10.0.0.1", false),
        ] {
            let host = if ip(source).is_ipv4() { V4.host } else { V6.host };
            let tunnel = Tunnel::new(ip(source), ip(host), encap.clone());
            let frame = tunnel.around(&packet);
            if accepted {
                let ended = backend.receive(&frame);
                assert_eq!(ended.bytes, tunnel.taken_off(&packet), "{source}");
            } else {
                // The mapped form is not an address on the wire, so nothing that could be allowed.
                let result = if source.starts_with("::ffff") { Decap::Other } else { Decap::NotFrom };
                passes(&backend, &frame, result, source);
            }
        }
    }
    // The longest prefix decides, also when it says no.
    let no = eg_abi::backend::DecPrefix::new(INGRESS, ip("10.0.0.2"), 32);
    backend.maps.from.set(&no, &0).unwrap();
    let frame = Tunnel::new(ip("10.0.0.2"), ip(V4.host), Encap::Ip).around(&packet);
    passes(&backend, &frame, Decap::NotFrom, "an exception");
}

#[test]
fn only_packets_to_this_host_and_its_vips_come_out() {
    if !can_run() {
        return;
    }
    let backend = backend(features::decap_flags());
    // All of it, for another interface: that must not count here.
    let elsewhere = [ip("203.0.113.8"), ip("2001:db8:f::8")];
    let hosts = [ip("10.0.0.12"), ip("fd00::12")];
    backend.allow(INGRESS + 1, &elsewhere, &[(ip("::"), 0)], &hosts);
    for (outer, inner) in PAIRS {
        for encap in Encap::all() {
            let host = if outer.v4 { hosts[0] } else { hosts[1] };
            let other_host = Tunnel { destination: host, ..outer.tunnel(encap.clone()) };
            passes(&backend, &other_host.around(&inner.tcp()), Decap::NotHere, "another host");

            let vip = SocketAddr::new(if inner.v4 { elsewhere[0] } else { elsewhere[1] }, 443);
            let packet = Inner::Tcp.packet(at(inner.client), vip, b"x");
            passes(&backend, &outer.tunnel(encap.clone()).around(&packet), Decap::NotVip, "another VIP");
        }
    }
    let mapped = Tunnel { destination: ip("::ffff:10.0.0.11"), ..V6.tunnel(Encap::Ip) };
    passes(&backend, &mapped.around(&V4.tcp()), Decap::Other, "our IPv4 address in an IPv6 header");
}

#[test]
fn fragments_of_outer_packets_pass_and_inner_fragments_come_out() {
    if !can_run() {
        return;
    }
    let backend = backend(features::decap_flags());
    for (outer, inner) in PAIRS {
        for encap in Encap::all() {
            // More fragments, at the beginning; and the last one, whose payload could look like anything.
            for (first, v4, v6) in [(true, 0x2000, [0, 1]), (false, 0x0010, [0, 0x80])] {
                let extra = if outer.v4 { Vec::new() } else { vec![0, 0, v6[0], v6[1], 1, 2, 3, 4] };
                let tunnel = Tunnel { fragment: v4, extra, ..outer.tunnel(encap.clone()) };
                // A later fragment of a datagram does not say that it is GUE.
                let known = first || encap == Encap::Ip;
                let result = if known { Decap::Fragment } else { Decap::Other };
                passes(&backend, &tunnel.around(&inner.tcp()), result, &format!("{encap:?}, first: {first}"));
            }
        }
    }
    let part = Frame::new(V4.client, V4.vip, L4::Udp).fragment(0x2010).build().split_off(14);
    let tunnel = V4.tunnel(Encap::Ip);
    comes_out(&backend, &tunnel.around(&part), &tunnel.taken_off(&part), Decap::Ipip, "an inner fragment");
}

#[test]
fn one_layer_is_taken_off_and_no_more() {
    if !can_run() {
        return;
    }
    let backend = backend(features::decap_flags());
    for (outer, inner) in PAIRS {
        // Both layers are to a VIP, so that only the nesting speaks against it.
        for middle in [&V4, &V6] {
            let nested = Tunnel::new(at(middle.client).ip(), at(middle.vip).ip(), Encap::Ip).around(&inner.tcp());
            for encap in Encap::all() {
                passes(&backend, &outer.tunnel(encap).around(&nested[14..]), Decap::Nested, "two layers");
            }
        }
    }
}

#[test]
fn gue_that_is_not_understood_passes() {
    if !can_run() {
        return;
    }
    let backend = backend(features::decap_flags());
    for (outer, inner) in PAIRS {
        let tunnel = outer.tunnel(Encap::Gue(vec![0; 4]));
        let frame = tunnel.around(&inner.tcp());
        let gue = 14 + if outer.v4 { 28 } else { 48 };
        for (name, offset, byte) in [
            ("a control message", 0, 0x21),
            ("version 2", 0, 0x81),
            ("version 3", 0, 0xc1),
            ("variant 1 with neither IPv4 nor IPv6", 0, 0x51),
            ("a flag", 2, 0x80),
            ("another flag", 3, 0x01),
            ("GRE inside", 1, 47),
            ("no protocol", 1, 59),
        ] {
            let mut frame = frame.clone();
            frame[gue + offset] = byte;
            passes(&backend, &frame, Decap::Unsupported, name);
        }
        let other = Tunnel { port: 6081, ..outer.tunnel(Encap::Gue1) };
        passes(&backend, &other.around(&inner.tcp()), Decap::Other, "another port");
    }
}

#[test]
fn everything_else_passes_untouched() {
    if !can_run() {
        return;
    }
    let backend = backend(features::decap_flags());
    let local = MacAddr::zero();
    for family in [&V4, &V6] {
        for l4 in [L4::Tcp(ACK), L4::Udp] {
            let host = SocketAddr::new(ip(family.host), 443);
            let frame = Frame::between(at(family.client), host, l4).macs(MacAddr(2, 0, 0, 0, 0, 1), local);
            passes(&backend, &frame.build(), Decap::Other, "traffic of the host's own");
            let vip = Frame::new(family.client, family.vip, l4).macs(MacAddr(2, 0, 0, 0, 0, 1), local);
            passes(&backend, &vip.build(), Decap::Other, "what the l2 mode sends");
        }
        let frame = family.tunnel(Encap::Ip).around(&family.tcp());
        let elsewhere = Tunnel { dmac: MacAddr(2, 0, 0, 0, 0, 9), ..family.tunnel(Encap::Ip) };
        passes(&backend, &elsewhere.around(&family.tcp()), Decap::Other, "a frame to another station");
        let broadcast = Tunnel { dmac: MacAddr::broadcast(), ..family.tunnel(Encap::Ip) };
        passes(&backend, &broadcast.around(&family.tcp()), Decap::Other, "a broadcast");
        // As a second tag looks once the stack has taken the first into the skb.
        let tagged = [&frame[..12], &[0x81, 0, 0, 10], &frame[12..]].concat();
        passes(&backend, &tagged, Decap::Other, "a VLAN's");
        let gre = family.tunnel(Encap::Ip).around_raw(&[&[0, 0, 8, 0], family.tcp().as_slice()].concat(), 47);
        passes(&backend, &gre, Decap::Other, "another kind of tunnel");
    }
    let arp = [&[0; 12][..], &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &[0; 36]].concat();
    passes(&backend, &arp, Decap::Other, "ARP");
}

#[test]
fn merged_packets_are_counted_apart_and_never_half_delivered() {
    if !can_run() {
        return;
    }
    let backend = backend(features::decap_flags());
    for (outer, inner) in PAIRS {
        let (one, two) = (inner.tcp(), [inner.tcp(), inner.tcp()].concat());
        let ended = |encap: Encap, packet: &[u8]| -> Ended {
            backend.receive_merged(&outer.tunnel(encap).around(packet), 2, 50).expect("run the program")
        };
        // Two datagrams of one GUE flow in one: the second would be lost without a trace.
        for encap in [Encap::Gue(Vec::new()), Encap::Gue1] {
            let ended = ended(encap, &two);
            assert_eq!((ended.action, ended.result), (Action::Next, Decap::Coalesced));
        }
        // Here the kernel is told of merged packets of no known kind, and does not touch them: dropped, and said.
        let ended = ended(Encap::Ip, &one);
        assert_eq!((ended.action, ended.result), (Action::Drop, Decap::Room));
    }
}

#[test]
fn whatever_comes_out_is_what_was_inside() {
    if !can_run() {
        return;
    }
    let backend = backend(features::decap_flags());
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let (mut out, mut passed) = (0, 0);
    for round in 0..40_000 {
        let (outer, inner) = PAIRS[random.below(4)];
        let encap = Encap::all()[random.below(5)].clone();
        let tunnel = outer.tunnel(encap);
        let mut frame = tunnel.around(&inner.tcp());
        // Mostly headers: the payload makes no decision.
        for _ in 0..random.below(4) {
            let at = 12 + random.below((tunnel.overhead() + 50).min(frame.len() - 12));
            frame[at] = random.draw() as u8;
        }
        let length = frame.len() - if random.below(8) == 0 { random.below(30) } else { 0 };
        frame.truncate(length);
        let ended = backend.receive(&frame);
        match ended.result.outcome() {
            DecapOutcome::Decapsulated => {
                let cut = frame.len() - ended.bytes.len();
                assert!(cut >= 20, "round {round}: {cut} bytes are no header");
                assert_eq!(ended.bytes[..12], frame[..12], "round {round}: the Ethernet addresses");
                let mut expected = frame[14 + cut..].to_vec();
                let v4 = ended.bytes[14] >> 4 == 4;
                assert_eq!(ended.bytes[12..14], if v4 { [0x08, 0x00] } else { [0x86, 0xdd] }, "round {round}");
                // The congestion mark may be the outer one's; what that does to the checksum is another test's.
                let mut bytes = ended.bytes[14..].to_vec();
                for packet in [&mut expected, &mut bytes] {
                    packet[1] &= if v4 { 0xfc } else { 0xcf };
                    if v4 {
                        packet[10..12].fill(0);
                    }
                }
                assert_eq!(bytes, expected, "round {round}");
                out += 1;
            }
            DecapOutcome::Passed => {
                assert_eq!(ended.bytes, frame, "round {round}");
                passed += 1;
            }
            DecapOutcome::Dropped => assert_eq!(ended.result, Decap::Ecn, "round {round}"),
        }
    }
    assert!(out > 5_000 && passed > 5_000, "{out} came out, {passed} passed");
}

#[test]
fn a_wrong_inner_checksum_is_left_to_the_stack() {
    if !can_run() {
        return;
    }
    let backend = backend(features::decap_flags());
    let mut packet = V4.tcp();
    packet[10] ^= 0xff;
    // Congestion changes the header: the checksum must stay as wrong as it was, not become right.
    let mut packet = marked_wrong(&packet);
    let tunnel = Tunnel { ecn: CE, ..V4.tunnel(Encap::Ip) };
    let ended = backend.receive(&tunnel.around(&packet));
    let sum = [ended.bytes[24], ended.bytes[25]];
    checksum(&mut packet);
    let mut right = ended.bytes[14..].to_vec();
    checksum(&mut right);
    assert_eq!(ended.bytes[15] & 3, CE);
    assert_ne!(sum, [right[10], right[11]], "the error is still there");
}

/// ECT(0), with the checksum wrong by what it was wrong before.
fn marked_wrong(packet: &[u8]) -> Vec<u8> {
    let mut good = packet.to_vec();
    good[1] |= ECT_0;
    checksum(&mut good);
    good[10] ^= 0xff;
    good
}
