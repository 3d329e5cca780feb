// SPDX-License-Identifier: GPL-3.0-only
//! SYN cookies, packet by packet, in front of a real listener in a namespace of each test's own: which SYNs are answered in
//! the stack's place, in which form, and what is left to it. That the stack believes the cookies is for `topology_cookie`.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::process::Command;

use eg_abi::{
    ADDR_COOKIE, ADDR_VIP, Budget, Cookie, Drop as Reason, GUARD_TICK_SHIFT, ListenerKey, PROTO_TCP, Verdict as Became,
    VipKey,
};
use eg_kernel_tests::packet::frame::{ACK, CLIENT_ISN, CLIENT_MAC, FIN, GATEWAY_MAC, RST, SYN, TAG_AD, TAG_Q};
use eg_kernel_tests::packet::hook::Hook;
use eg_kernel_tests::packet::service::{BOTH, Family, at, drops_for, forwarded, passes_untouched, serve, syn};
use eg_kernel_tests::packet::{Frame, Gateway, L4, Verdict, judge};
use eg_kernel_tests::require;
use nix::sched::{CloneFlags, unshare};

/// Where somebody listens, on every address.
const PORT: u16 = 8080;

/// What Linux sends: MSS 1460, SACK, a timestamp, window scaling.
const USUAL: [u8; 20] = [2, 4, 5, 180, 4, 2, 8, 10, 0, 1, 2, 3, 0, 0, 0, 0, 1, 3, 3, 7];

fn can_run() -> bool {
    require("root") && require(if Hook::current() == Hook::Tc { "tc" } else { "xdp" })
}

/// This thread's own network namespace, where somebody listens.
fn listen(gateway: &Gateway) -> TcpListener {
    if Hook::current() == Hook::Xdp {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
        assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().is_ok_and(|status| status.success()));
    }
    gateway.runner().prepare();
    let listener = TcpListener::bind(("::", PORT)).expect("listen");
    cookies_are(2);
    listener
}

/// `net.ipv4.tcp_syncookies` of this thread's namespace.
fn cookies_are(value: u8) {
    fs::write("/proc/sys/net/ipv4/tcp_syncookies", value.to_string()).expect("set tcp_syncookies");
}

/// The stack may answer so many SYNs to the family's address now, and none more for hours.
fn grant(gateway: &Gateway, family: &Family, syns: u64) {
    let step = if syns == 0 { 0 } else { (u64::from(gateway.hz()) * 3600) << GUARD_TICK_SHIFT };
    let to = SocketAddr::new(at(family.vip).ip(), PORT);
    let budget = Budget { step, window: step * syns, full: 0 };
    gateway.maps().cookies.set(&ListenerKey::new(to, PROTO_TCP), &budget).expect("write a bucket");
    let key = VipKey::any_port(to.ip().into());
    let uses = gateway.maps().vip_ids.get(&key).expect("an address").unwrap_or(0);
    gateway.maps().vip_ids.set(&key, &(uses | ADDR_COOKIE)).expect("mark an address");
}

fn became(gateway: &Gateway, cookie: Cookie) -> u64 {
    gateway.maps().cookie_stats.sum(cookie.code()).expect("figures")
}

fn asks(family: &Family) -> Frame {
    let to = SocketAddr::new(at(family.vip).ip(), PORT);
    Frame { tcp_options: USUAL.to_vec(), ..Frame::between(at(family.client), to, L4::Tcp(SYN)).payload(b"") }
}

/// The frame must be the SYN-ACK of `asked`, with this MSS.
fn is_answer(asked: &Frame, bytes: &[u8], mss: u16, name: &str) {
    let seen = judge::read(bytes).unwrap_or_else(|| panic!("{name}: no TCP: {bytes:02x?}"));
    assert!(judge::checksums_hold(bytes), "{name}: {bytes:02x?}");
    assert_eq!((seen.source, seen.destination), (asked.destination, asked.source), "{name}");
    assert_eq!((&bytes[..6], &bytes[6..12]), (&CLIENT_MAC.octets()[..], &GATEWAY_MAC.octets()[..]), "{name}");
    assert_eq!(bytes[12..seen.l3_offset - 2], asked.tags.concat(), "{name}");
    let ip = if asked.source.is_ipv4() { 20 } else { 40 };
    assert_eq!((seen.l4_offset, seen.l4_length), (seen.l3_offset + ip, 24), "{name}: nothing but an MSS");
    assert_eq!(bytes.len(), seen.l4_offset + 24, "{name}");
    let tcp = &bytes[seen.l4_offset..];
    assert_eq!(tcp[8..12], CLIENT_ISN.wrapping_add(1).to_be_bytes(), "{name}: acknowledges the SYN alone");
    assert_eq!((tcp[12], tcp[13], &tcp[18..20]), (6 << 4, SYN | ACK, &[0, 0][..]), "{name}");
    assert_eq!(tcp[14..16], 14_600u16.to_be_bytes(), "{name}");
    assert_eq!(tcp[20..24], [2, 4, mss.to_be_bytes()[0], mss.to_be_bytes()[1]], "{name}");
}

#[test]
fn a_syn_of_any_shape_is_answered_in_the_stacks_place() {
    if !can_run() {
        return;
    }
    let gateway = Gateway::new();
    let _listener = listen(&gateway);
    let mss = |value: u16| [&[2, 4][..], &value.to_be_bytes()].concat();
    let long = [&mss(1460)[..], &[1; 36]].concat();
    let mut sent = 0;
    for family in BOTH {
        grant(&gateway, family, 0);
        let v6 = family.is_v6();
        // The kernel's own table of what a cookie can say, and Ethernet's as the most.
        let options = [
            (vec![], if v6 { 1220 } else { 536 }),
            (mss(if v6 { 1440 } else { 1460 }), if v6 { 1440 } else { 1460 }),
            (mss(8940), if v6 { 1440 } else { 1460 }),
            (mss(1439), if v6 { 1420 } else { 1300 }),
            (USUAL.to_vec(), if v6 { 1440 } else { 1460 }),
            (long.clone(), if v6 { 1440 } else { 1460 }),
        ];
        let extra: &[u8] = if v6 { &[6, 0, 1, 4, 0, 0, 0, 0] } else { &[1, 1, 1, 0] };
        for (tcp_options, told) in options {
            for tags in [&[][..], &[TAG_Q][..], &[TAG_AD, TAG_Q][..]] {
                let none: &[u8] = b"";
                for (extra, payload, padded) in
                    [(none, none, false), (extra, none, false), (none, b"a request, early", false), (none, none, true)]
                {
                    let asked = Frame { tcp_options: tcp_options.clone(), ..asks(family).tags(tags).payload(payload) };
                    let asked = asked.extra(0, extra);
                    let asked = if padded { asked.padded() } else { asked };
                    let name = format!("{asked:?}");
                    let outcome = gateway.runner().receive(&asked.build());
                    assert_eq!(outcome.verdict, Verdict::Tx, "{name}");
                    is_answer(&asked, &outcome.bytes, told, &name);
                    sent += 1;
                }
            }
        }
    }
    assert_eq!(became(&gateway, Cookie::Sent), sent);
    assert_eq!(gateway.maps().totals().expect("totals").answered.packets, sent);
}

#[test]
fn what_is_not_a_clients_syn_to_a_listener_is_left_to_the_stack() {
    if !can_run() {
        return;
    }
    let gateway = Gateway::new();
    let _listener = listen(&gateway);
    for family in BOTH {
        grant(&gateway, family, 0);
        let good = asks(family);
        let from = |source: &str| Frame { source: SocketAddr::new(source.parse().unwrap(), 5000), ..good.clone() };
        let mut frames = vec![
            ("an ACK", Frame { l4: L4::Tcp(ACK), ..good.clone() }),
            ("a SYN-ACK", Frame { l4: L4::Tcp(SYN | ACK), ..good.clone() }),
            ("a SYN with RST", Frame { l4: L4::Tcp(SYN | RST), ..good.clone() }),
            ("a SYN with FIN", Frame { l4: L4::Tcp(SYN | FIN), ..good.clone() }),
            ("UDP", Frame { l4: L4::Udp, tcp_options: vec![], ..good.clone() }),
            (
                "to another port",
                Frame { destination: SocketAddr::new(good.destination.ip(), PORT + 1), ..good.clone() },
            ),
            ("from port 0", Frame { source: SocketAddr::new(good.source.ip(), 0), ..good.clone() }),
            ("from loopback", from(if family.is_v6() { "::1" } else { "127.0.0.1" })),
            ("from a group", from(if family.is_v6() { "ff02::1" } else { "224.0.0.1" })),
        ];
        if !family.is_v6() {
            frames.push(("in pieces", good.clone().fragment(0x2000)));
        }
        for (name, frame) in frames {
            passes_untouched(&gateway, &frame.build(), name);
        }
        // Known to eg_cookies, and nobody listens.
        let nobody = SocketAddr::new(good.destination.ip(), PORT + 2);
        gateway.maps().cookies.set(&ListenerKey::new(nobody, PROTO_TCP), &Budget::default()).expect("write a bucket");
        passes_untouched(&gateway, &Frame { destination: nobody, ..good.clone() }.build(), "nobody listens");
        assert_eq!(gateway.runner().receive(&good.build()).verdict, Verdict::Tx, "and this one is answered");
    }
    assert_eq!((became(&gateway, Cookie::Sent), became(&gateway, Cookie::Declined)), (2, 0));
}

#[test]
fn the_stack_answers_what_is_within_the_rate_and_a_dry_run_spends_nothing() {
    if !can_run() {
        return;
    }
    let gateway = Gateway::new();
    let _listener = listen(&gateway);
    for family in BOTH {
        grant(&gateway, family, 3);
        let frame = asks(family).build();
        for _ in 0..3 {
            let said = gateway.explain(&frame);
            assert_eq!((said.noted.verdict, said.noted.cookie), (Some(Became::Passed), false));
            assert_eq!(gateway.runner().receive(&frame).verdict, Verdict::Pass);
        }
        for _ in 0..3 {
            let before = became(&gateway, Cookie::Sent);
            let said = gateway.explain(&frame);
            assert_eq!((said.noted.verdict, said.noted.cookie), (Some(Became::Answered), true));
            assert_eq!(became(&gateway, Cookie::Sent), before, "a dry run counts nothing");
            assert_eq!(gateway.runner().receive(&frame).verdict, Verdict::Tx);
        }
    }
}

#[test]
fn the_kernel_makes_no_cookie_while_the_listener_has_room_unless_they_are_the_rule() {
    if !can_run() {
        return;
    }
    let gateway = Gateway::new();
    let _listener = listen(&gateway);
    for family in BOTH {
        grant(&gateway, family, 0);
        let frame = asks(family).build();
        for (value, verdict) in [(0, Verdict::Pass), (1, Verdict::Pass), (2, Verdict::Tx)] {
            cookies_are(value);
            assert_eq!(gateway.runner().receive(&frame).verdict, verdict, "tcp_syncookies = {value}");
        }
    }
    assert_eq!((became(&gateway, Cookie::Sent), became(&gateway, Cookie::Declined)), (2, 4));
}

#[test]
fn beside_a_vip_each_port_has_its_own_ways() {
    if !can_run() {
        return;
    }
    for family in BOTH {
        let gateway = Gateway::new();
        let _listener = listen(&gateway);
        serve(&gateway, family, true);
        grant(&gateway, family, 0);
        let uses = gateway.maps().vip_ids.get(&VipKey::any_port(at(family.vip).ip().into())).expect("an address");
        assert_eq!(uses, Some(ADDR_VIP | ADDR_COOKIE));
        forwarded(&gateway, &syn(family));
        let asked = asks(family);
        let outcome = gateway.runner().receive(&asked.build());
        assert_eq!(outcome.verdict, Verdict::Tx);
        is_answer(&asked, &outcome.bytes, if family.is_v6() { 1440 } else { 1460 }, family.vip);
        passes_untouched(&gateway, &Frame { l4: L4::Tcp(ACK), ..asked.clone() }.build(), "its ACK");
        let other = SocketAddr::new(asked.destination.ip(), PORT + 1);
        drops_for(&gateway, &Frame { destination: other, ..asked }.build(), Reason::UnusedPort, "nobody's port");
    }
}
