// SPDX-License-Identifier: GPL-3.0-only
//! Packets that do not fit the way to their backend: the client is told, and told what would fit.

use std::net::SocketAddr;
use std::time::Instant;

use eg_abi::{Drop as Reason, Forward, PROTO_TCP};
use eg_kernel_tests::packet::frame::{ACK, SYN, TAG_AD, TAG_Q};
use eg_kernel_tests::packet::icmp::Icmp;
use eg_kernel_tests::packet::service::{Connection, Family, V4, V6, at, drops_for, serve_by, syn};
use eg_kernel_tests::packet::{Frame, Gateway, L4, Tunables, Verdict};
use eg_kernel_tests::require;

/// Each mode with each pair of families that it takes.
fn ways() -> Vec<(Forward, &'static Family, &'static Family)> {
    let mut ways = Vec::new();
    for mode in Forward::ALL {
        for (front, back) in [(&V4, &V4), (&V6, &V6), (&V4, &V6), (&V6, &V4)] {
            if front.is_v6() == back.is_v6() || matches!(mode, Forward::Ipip | Forward::Gue) {
                ways.push((*mode, front, back));
            }
        }
    }
    ways
}

fn set_mtu(gateway: &Gateway, mtu: u16) {
    (1..=3).for_each(|id| gateway.change_backend(id, |backend| backend.mtu = mtu));
}

/// This frame with a payload that makes the packet `l3` bytes long.
fn sized(frame: &Frame, l3: usize) -> Frame {
    let bare = Frame { payload: Vec::new(), ..frame.clone() }.l3_length();
    let payload: Vec<u8> = (0..l3 - bare).map(|i| (i * 7 % 251) as u8).collect();
    Frame { payload, ..frame.clone() }
}

/// What the sender of `frame` must hear: RFC 1191 section 4, RFC 4443 section 3.2. From the VIP, back the way that the
/// frame came, with its tags, and its beginning as it came: at most 576 bytes in all for IPv4 (RFC 1812 section
/// 4.3.2.3), at most 1280 for IPv6; and no more than the least packet has that can be too big behind GUE's header.
fn complaint(frame: &Frame, mtu: u32) -> Vec<u8> {
    let packet = &frame.build()[frame.l3_offset()..];
    let v4 = frame.source.is_ipv4();
    let (kind, code, quote) = if v4 { (3, 4, &packet[..520]) } else { (2, 0, &packet[..1228]) };
    Icmp {
        smac: frame.dmac,
        dmac: frame.smac,
        tags: frame.tags.clone(),
        ttl: 64,
        tos: if v4 { 0xc0 } else { 0 },
        dont_fragment: v4,
        ..Icmp::new(frame.destination.ip(), frame.source.ip(), kind, code, mtu, quote)
    }
    .build()
}

fn complains(gateway: &Gateway, frame: &Frame, mtu: u32, name: &str) {
    let before = gateway.drops(Reason::TooBig);
    let outcome = gateway.receive(&frame.build());
    assert_eq!(outcome.verdict, Verdict::Tx, "{name}");
    let expected = complaint(frame, mtu);
    assert_eq!(outcome.bytes, expected, "{name}\n got {:02x?}\nwant {expected:02x?}", outcome.bytes);
    assert_eq!(gateway.drops(Reason::TooBig), before + 1, "{name}: counted");
}

/// The client's next data frame on an established connection.
fn data(gateway: &Gateway, mode: Forward, front: &Family) -> Frame {
    if mode == Forward::Nat {
        return Connection::open(gateway, front).frame(ACK, b"");
    }
    for frame in [syn(front), Frame::new(front.client, front.vip, L4::Tcp(ACK)).payload(b"")] {
        assert_eq!(gateway.receive(&frame.build()).verdict, Verdict::Tx);
    }
    Frame::new(front.client, front.vip, L4::Tcp(ACK))
}

#[test]
fn what_fits_goes_and_one_byte_more_is_told() {
    if !require("xdp") {
        return;
    }
    for (mode, front, back) in ways() {
        for mtu in [1500, 1420, 1400, 2000] {
            let gateway = Gateway::new();
            serve_by(&gateway, front, back, mode);
            set_mtu(&gateway, mtu);
            let fits = usize::from(mtu - mode.overhead(back.is_v6()));
            let name = format!("{} {} to {}, mtu {mtu}", mode.label(), front.vip, back.source);
            let tcp = data(&gateway, mode, front);
            for frame in [tcp, Frame::new(front.client, front.vip, L4::Udp)] {
                let v4 = front.client == V4.client;
                for shape in [
                    frame.clone(),
                    frame.clone().tags(&[TAG_Q]),
                    frame.clone().tags(&[TAG_AD, TAG_Q]),
                    frame.clone().padded(),
                    frame.clone().ttl(2),
                    if v4 { frame.clone().fragment(0x4000) } else { frame.clone().tos(0xff) },
                    frame.clone().extra(60, &[frame.l4.proto(), 0, 1, 4, 0, 0, 0, 0]),
                ] {
                    let length = sized(&shape, fits).build().len();
                    let outcome = gateway.receive(&sized(&shape, fits).build());
                    assert_eq!(outcome.verdict, Verdict::Tx, "{name}");
                    let grown = outcome.bytes.len() - length;
                    assert_eq!(grown, usize::from(mode.overhead(back.is_v6())), "{name}: it was forwarded");
                    complains(&gateway, &sized(&shape, fits + 1), fits as u32, &name);
                    complains(&gateway, &sized(&shape, 3000), fits as u32, &name);
                }
            }
        }
    }
}

#[test]
fn a_first_packet_too_big_is_told_and_its_flow_opened() {
    if !require("xdp") {
        return;
    }
    for (mode, front, back) in ways() {
        let gateway = Gateway::new();
        serve_by(&gateway, front, back, mode);
        set_mtu(&gateway, 1500);
        let fits = usize::from(1500 - mode.overhead(back.is_v6()));
        let first = sized(&syn(front), fits + 1);
        complains(&gateway, &first, fits as u32, mode.label());
        assert!(gateway.flow(first.source, first.destination, PROTO_TCP).is_some());
        assert_eq!(gateway.receive(&sized(&first, fits).build()).verdict, Verdict::Tx);
        assert_eq!(gateway.drops(Reason::TooBig), 1);
    }
}

#[test]
fn ipv6_is_never_told_less_than_1280() {
    if !require("xdp") {
        return;
    }
    for (mode, front, back) in ways().into_iter().filter(|(_, front, _)| front.is_v6()) {
        let gateway = Gateway::new();
        serve_by(&gateway, front, back, mode);
        set_mtu(&gateway, 1300);
        let overhead = mode.overhead(back.is_v6());
        let frame = data(&gateway, mode, front);
        let told = u32::from(1300 - overhead).max(1280);
        complains(&gateway, &sized(&frame, 1301 - usize::from(overhead)), told, mode.label());
    }
}

#[test]
fn the_least_mtus_that_are_believed_quote_no_byte_that_was_not_sent() {
    if !require("xdp") {
        return;
    }
    for (mode, front, back) in ways() {
        let gateway = Gateway::new();
        serve_by(&gateway, front, back, mode);
        // RFC 8200 section 5, and Linux's min_pmtu for IPv4
        let mtu = if back.is_v6() { 1280 } else { 552 };
        set_mtu(&gateway, mtu);
        let fits = mtu - mode.overhead(back.is_v6());
        let frame = data(&gateway, mode, front);
        let name = format!("{} {} to {}", mode.label(), front.vip, back.source);
        let over = sized(&frame, usize::from(fits) + 1);
        if front.is_v6() && fits < 1228 {
            // An IPv6 sender need not go below 1280, and a way of 552 carries none of that: nothing to tell.
            drops_for(&gateway, &over.build(), Reason::TooBig, &name);
        } else {
            complains(&gateway, &over, u32::from(fits).max(if front.is_v6() { 1280 } else { 0 }), &name);
        }
        // A way too narrow for the quote itself.
        set_mtu(&gateway, 100);
        drops_for(&gateway, &sized(&frame, 300).build(), Reason::TooBig, &name);
        drops_for(&gateway, &sized(&frame, 300).padded().tags(&[TAG_Q]).build(), Reason::TooBig, &name);
    }
}

#[test]
fn an_unknown_mtu_stops_nothing() {
    if !require("xdp") {
        return;
    }
    for (mode, front, back) in ways() {
        let gateway = Gateway::new();
        serve_by(&gateway, front, back, mode);
        let frame = data(&gateway, mode, front);
        assert_eq!(gateway.receive(&sized(&frame, 3000).build()).verdict, Verdict::Tx);
        assert_eq!(gateway.drops(Reason::TooBig), 0);
    }
}

#[test]
fn a_reply_is_never_too_big() {
    if !require("xdp") {
        return;
    }
    let gateway = Gateway::new();
    serve_by(&gateway, &V4, &V4, Forward::Nat);
    set_mtu(&gateway, 1400);
    let mut tcp = Connection::open(&gateway, &V4);
    // The client's way is the kernel's to know, and its routers' to tell.
    tcp.reply(ACK, &[7; 1460]);
}

#[test]
fn complaints_are_few_a_second() {
    if !require("xdp") {
        return;
    }
    // The limit counts by CPU.
    let mut one = nix::sched::CpuSet::new();
    let allowed = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0)).unwrap();
    one.set((0..nix::sched::CpuSet::count()).find(|cpu| allowed.is_set(*cpu).unwrap()).unwrap()).unwrap();
    nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &one).unwrap();

    let gateway = Gateway::with(&Tunables { icmp_rate: 5, ..Tunables::default() });
    serve_by(&gateway, &V4, &V4, Forward::Ipip);
    set_mtu(&gateway, 1500);
    let began = Instant::now();
    let mut told = Vec::new();
    for port in 1..=40 {
        let client = SocketAddr::new(at(V4.client).ip(), port);
        let frame = sized(&Frame::between(client, at(V4.vip), L4::Tcp(SYN)), 1481);
        let outcome = gateway.receive(&frame.build());
        if outcome.verdict == Verdict::Tx {
            assert_eq!(outcome.bytes, complaint(&frame, 1480));
            told.push(port);
        } else {
            assert_eq!((outcome.verdict, outcome.bytes), (Verdict::Drop, frame.build()));
        }
    }
    assert_eq!(told[..5], [1, 2, 3, 4, 5], "the first of a second are told");
    let most = 5 * (began.elapsed().as_secs() as usize + 2);
    assert!(told.len() <= most, "{told:?}");
    assert_eq!(gateway.drops(Reason::TooBig), 40);
}
