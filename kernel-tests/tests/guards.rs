// SPDX-License-Identifier: GPL-3.0-only
//! The guards of the kernel datapath, packet by packet: each attack is stopped and counted under its own reason, what an
//! honest client sends beside it passes, and what is not a VIP's is never touched. Time does not decide here: buckets
//! refill by the hour, or are set back by hand.

use std::net::{IpAddr, SocketAddr};

use eg_abi::{
    Addr, Bucket, Drop as Reason, GUARD_TICK_SHIFT, Guards, PROTO_TCP, PROTO_UDP, Prefix, PrefixVerdict, Source,
    VIP_GUARD_AMPLIFY, VIP_GUARD_FLOWS, VIP_GUARD_PACKETS, VIP_GUARD_PREFIX, VIP_GUARD_UDP,
};
use eg_kernel_tests::packet::frame::{ACK, BACKEND_ISN, CLIENT_ISN, FIN, GATEWAY_MAC, RST, SYN};
use eg_kernel_tests::packet::gateway::backend_mac;
use eg_kernel_tests::packet::{Frame, Gateway, L4, Verdict, judge};
use eg_kernel_tests::require;
use eg_skel::maps::Trie;

const PSH: u8 = 0x08;
const URG: u8 = 0x20;

/// A service in each family: its VIP, an address that is no VIP's, a second VIP without guards, two clients.
struct Family {
    vip: &'static str,
    foreign: &'static str,
    plain: &'static str,
    client: &'static str,
    other: &'static str,
    source: &'static str,
    backend: &'static str,
}

const V4: Family = Family {
    vip: "203.0.113.7:443",
    foreign: "203.0.113.8:443",
    plain: "203.0.113.7:80",
    client: "198.51.100.9:40000",
    other: "198.51.101.9:40000",
    source: "10.0.0.1",
    backend: "10.0.0.11:8443",
};

const V6: Family = Family {
    vip: "[2001:db8:f::7]:443",
    foreign: "[2001:db8:f::8]:443",
    plain: "[2001:db8:f::7]:80",
    client: "[2001:db8:c::9]:40000",
    other: "[2001:db8:c:1::9]:40000",
    source: "fd00::1",
    backend: "[fd00::11]:8443",
};

const BOTH: [&Family; 2] = [&V4, &V6];

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// VIPs 1 (TCP) and 2 (UDP) with these guards, VIPs 3 and 4 on another port without.
fn serve(family: &Family, guards: u32) -> Gateway {
    let gateway = Gateway::new();
    gateway.backend(1, at(family.backend), family.source.parse().unwrap());
    gateway.pool(1, [1, 2], &[(1, "b", 1)]);
    for (id, vip, proto) in [(1, family.vip, PROTO_TCP), (2, family.vip, PROTO_UDP)] {
        gateway.vip(id, at(vip), proto, 1, true);
        gateway.vip_flags(id, guards);
    }
    for (id, proto) in [(3, PROTO_TCP), (4, PROTO_UDP)] {
        gateway.vip(id, at(family.plain), proto, 1, true);
    }
    gateway
}

fn from(client: &str, vip: &str, l4: L4) -> Frame {
    Frame::new(client, vip, l4)
}

/// The same frame, to another destination.
fn to(frame: &Frame, destination: &str) -> Frame {
    Frame { destination: at(destination), ..frame.clone() }
}

fn with_port(client: &str, port: u16) -> SocketAddr {
    SocketAddr::new(at(client).ip(), port)
}

fn passes(gateway: &Gateway, frame: &Frame, name: &str) -> judge::Seen {
    let outcome = gateway.receive(&frame.build());
    assert_eq!(outcome.verdict, Verdict::Tx, "{name}: {frame:?}");
    judge::read(&outcome.bytes).expect("a TCP or UDP frame")
}

/// The handshake of a flow as far as the client's ACK, which the caller sends; as the SYN left.
fn answered(gateway: &Gateway, syn: &Frame, name: &str) -> judge::Seen {
    let seen = passes(gateway, syn, name);
    let mut reply = answer(&seen, L4::Tcp(SYN | ACK), 0);
    (reply.seq, reply.ack) = (BACKEND_ISN, CLIENT_ISN.wrapping_add(1));
    passes(gateway, &reply, name);
    seen
}

/// Entries of both tables.
fn entries(gateway: &Gateway) -> usize {
    let tables = [&gateway.maps().flows, &gateway.maps().opening];
    tables.map(|table| table.entries().expect("the flows").len()).iter().sum()
}

fn refused(gateway: &Gateway, frame: &Frame, reason: Reason, name: &str) {
    let before = gateway.drops(reason);
    let bytes = frame.build();
    let outcome = gateway.receive(&bytes);
    assert_eq!(outcome.verdict, Verdict::Drop, "{name}: {frame:?}");
    assert_eq!(outcome.bytes, bytes, "{name}: bytes changed");
    assert_eq!(gateway.drops(reason), before + 1, "{name}: counted as {}", reason.label());
}

fn untouched(gateway: &Gateway, frame: &Frame, name: &str) {
    let bytes = frame.build();
    let outcome = gateway.receive(&bytes);
    assert_eq!((outcome.verdict, outcome.bytes), (Verdict::Pass, bytes), "{name}: {frame:?}");
}

/// The backend's answer to a packet that left as `seen`.
fn answer(seen: &judge::Seen, l4: L4, payload: usize) -> Frame {
    Frame::between(seen.destination, seen.source, l4).macs(backend_mac(1), GATEWAY_MAC).payload(&vec![7; payload])
}

fn prefix(text: &str) -> Prefix {
    let (address, length) = text.split_once('/').unwrap();
    let address: IpAddr = address.parse().unwrap();
    let extra = if address.is_ipv4() { 96 } else { 0 };
    Prefix { len: length.parse::<u32>().unwrap() + extra, addr: address.into() }
}

fn set_prefixes(gateway: &Gateway, entries: &[(&str, PrefixVerdict)]) {
    let entries: Vec<_> = entries.iter().map(|(text, verdict)| (prefix(text), *verdict)).collect();
    gateway.maps().prefixes.set(&Trie::new(&entries).expect("fill a trie")).expect("swap the trie");
}

/// A bucket that holds `burst` and gets one more an hour: none, as far as a test can tell.
fn hourly(gateway: &Gateway, burst: u64) -> Bucket {
    let step = (u64::from(gateway.hz()) * 3600) << GUARD_TICK_SHIFT;
    Bucket { step, window: step * burst }
}

fn limits(gateway: &Gateway, change: impl Fn(&mut Guards)) {
    let mut mask4 = Addr { b: [0xff; 16] };
    let mut mask6 = Addr { b: [0; 16] };
    mask4.b[..12].fill(0xff);
    mask6.b[..8].fill(0xff);
    let full = hourly(gateway, 1_000_000);
    let mut guards = Guards { mask4, mask6, packets: full, flows: full, udp: full, ..Guards::default() };
    change(&mut guards);
    gateway.maps().guard_conf.set(0, &guards).expect("write the limits");
}

/// Everything that is remembered of the one source that there is.
fn the_source(gateway: &Gateway) -> (Addr, Source) {
    let entries = gateway.maps().sources.entries().expect("the sources");
    assert_eq!(entries.len(), 1, "{entries:?}");
    entries[0]
}

#[test]
fn a_denied_prefix_is_refused_in_mid_flow_and_its_neighbour_is_served() {
    if !require("xdp") {
        return;
    }
    for family in BOTH {
        let gateway = serve(family, VIP_GUARD_PREFIX);
        let opened = answered(&gateway, &from(family.client, family.vip, L4::Tcp(SYN)), "no list yet");
        passes(&gateway, &from(family.client, family.vip, L4::Tcp(ACK)), "no list yet");
        answered(&gateway, &from(family.other, family.vip, L4::Tcp(SYN)), "no list yet");
        set_prefixes(&gateway, &[("198.51.100.0/24", PrefixVerdict::Deny), ("2001:db8:c::/64", PrefixVerdict::Deny)]);

        refused(&gateway, &from(family.client, family.vip, L4::Tcp(ACK)), Reason::Denied, "an established flow");
        let port = with_port(family.client, 40001);
        refused(&gateway, &Frame::between(port, at(family.vip), L4::Tcp(SYN)), Reason::Denied, "a new flow");
        refused(&gateway, &from(family.client, family.vip, L4::Udp), Reason::Denied, "UDP");
        passes(&gateway, &answer(&opened, L4::Tcp(ACK), 9), "a reply is not its client's fault");
        passes(&gateway, &from(family.client, family.plain, L4::Tcp(SYN)), "a VIP without the guard");
        untouched(&gateway, &from(family.client, family.foreign, L4::Udp), "not a VIP's");

        passes(&gateway, &from(family.other, family.vip, L4::Tcp(ACK)), "the neighbour's flow");
        passes(&gateway, &from(family.other, family.vip, L4::Udp), "the neighbour");
        gateway.maps().prefixes.clear().expect("clear the lists");
        passes(&gateway, &from(family.client, family.vip, L4::Tcp(ACK)), "forgiven, the flow goes on");
    }
}

#[test]
fn with_an_allow_list_nobody_else_is_served_in_either_family() {
    if !require("xdp") {
        return;
    }
    let list = [
        ("::/0", PrefixVerdict::Other),
        ("0.0.0.0/0", PrefixVerdict::Other),
        ("198.51.100.0/24", PrefixVerdict::Allow),
        ("198.51.100.128/25", PrefixVerdict::Deny),
        ("2001:db8:c::/64", PrefixVerdict::Allow),
        ("2001:db8:c::8000/113", PrefixVerdict::Deny),
    ];
    for (family, denied) in [(&V4, "198.51.100.129:9"), (&V6, "[2001:db8:c::8001]:9")] {
        let gateway = serve(family, VIP_GUARD_PREFIX);
        set_prefixes(&gateway, &list);
        for l4 in [L4::Tcp(SYN), L4::Udp] {
            passes(&gateway, &from(family.client, family.vip, l4), "on the list");
            refused(&gateway, &from(family.other, family.vip, l4), Reason::NotAllowed, "on no list");
            refused(&gateway, &from(denied, family.vip, l4), Reason::Denied, "a denied part of an allowed net");
            untouched(&gateway, &from(family.other, family.foreign, l4), "not a VIP's");
        }
        assert_eq!(entries(&gateway), 4, "who is refused opens no flow");
    }
}

#[test]
fn an_ipv6_prefix_of_everything_says_nothing_about_ipv4() {
    if !require("xdp") {
        return;
    }
    let list = [("::/0", PrefixVerdict::Deny), ("0.0.0.0/0", PrefixVerdict::Allow)];
    let gateway = serve(&V4, VIP_GUARD_PREFIX);
    set_prefixes(&gateway, &list);
    passes(&gateway, &from(V4.client, V4.vip, L4::Tcp(SYN)), "IPv4");
    drop(gateway);
    let gateway = serve(&V6, VIP_GUARD_PREFIX);
    set_prefixes(&gateway, &list);
    refused(&gateway, &from(V6.client, V6.vip, L4::Tcp(SYN)), Reason::Denied, "IPv6");
}

#[test]
fn a_source_beyond_its_packets_is_cut_and_another_is_not() {
    if !require("xdp") {
        return;
    }
    for family in BOTH {
        let gateway = serve(family, VIP_GUARD_PACKETS);
        limits(&gateway, |guards| guards.packets = hourly(&gateway, 5));
        let opened = answered(&gateway, &from(family.client, family.vip, L4::Tcp(SYN)), "1 of 5");
        for number in 2..=5 {
            passes(&gateway, &from(family.client, family.vip, L4::Tcp(ACK)), &format!("{number} of 5"));
        }
        refused(&gateway, &from(family.client, family.vip, L4::Tcp(ACK)), Reason::SourceRate, "the sixth");
        refused(&gateway, &from(family.client, family.vip, L4::Udp), Reason::SourceRate, "UDP is the same source");
        let port = with_port(family.client, 1024);
        refused(&gateway, &Frame::between(port, at(family.vip), L4::Tcp(SYN)), Reason::SourceRate, "another port");
        for _ in 0..20 {
            passes(&gateway, &answer(&opened, L4::Tcp(ACK), 100), "replies are not the source's packets");
        }
        passes(&gateway, &from(family.client, family.plain, L4::Tcp(SYN)), "a VIP without the guard");
        untouched(&gateway, &from(family.client, family.foreign, L4::Udp), "not a VIP's");

        answered(&gateway, &from(family.other, family.vip, L4::Tcp(SYN)), "an honest client");
        for _ in 2..=5 {
            passes(&gateway, &from(family.other, family.vip, L4::Tcp(ACK)), "an honest client");
        }
    }
}

#[test]
fn an_ipv6_source_is_its_64_and_an_ipv4_source_its_address() {
    if !require("xdp") {
        return;
    }
    for (vip, clients) in [
        (&V6, ["[2001:db8:1:2::1]:9", "[2001:db8:1:2:ffff::9]:9", "[2001:db8:1:3::1]:9"]),
        (&V4, ["198.51.100.1:9", "198.51.100.1:10", "198.51.100.2:9"]),
    ] {
        let gateway = serve(vip, VIP_GUARD_PACKETS);
        limits(&gateway, |guards| guards.packets = hourly(&gateway, 1));
        let [first, same, another] = clients;
        passes(&gateway, &from(first, vip.vip, L4::Udp), "the first");
        refused(&gateway, &from(same, vip.vip, L4::Udp), Reason::SourceRate, "of the same source");
        passes(&gateway, &from(another, vip.vip, L4::Udp), "of another");
    }
}

#[test]
fn a_bucket_refills_with_time_and_shrinks_with_its_limit() {
    if !require("xdp") {
        return;
    }
    let gateway = serve(&V4, VIP_GUARD_PACKETS);
    limits(&gateway, |guards| guards.packets = hourly(&gateway, 100));
    let step = hourly(&gateway, 1).step;
    let packet = from(V4.client, V4.vip, L4::Udp);
    for number in 1..=100 {
        passes(&gateway, &packet, &format!("{number} of 100"));
    }
    refused(&gateway, &packet, Reason::SourceRate, "the bucket is empty");

    // Three hours and a bit pass for this source.
    let (key, source) = the_source(&gateway);
    gateway.maps().sources.set(&key, &Source { packets: source.packets - 3 * step - step / 2, ..source }).unwrap();
    for number in 1..=3 {
        passes(&gateway, &packet, &format!("{number} of 3"));
    }
    refused(&gateway, &packet, Reason::SourceRate, "three hours were three packets");

    // It owes a hundred hours under the old limit. Under the new one no bucket takes more than two to fill.
    limits(&gateway, |guards| guards.packets = hourly(&gateway, 2));
    refused(&gateway, &packet, Reason::SourceRate, "still empty");
    let (key, source) = the_source(&gateway);
    gateway.maps().sources.set(&key, &Source { packets: source.packets - step - step / 2, ..source }).unwrap();
    passes(&gateway, &packet, "an hour and a half later");
    refused(&gateway, &packet, Reason::SourceRate, "which were one packet");
}

#[test]
fn a_source_beyond_its_new_flows_keeps_those_it_has() {
    if !require("xdp") {
        return;
    }
    for family in BOTH {
        let gateway = serve(family, VIP_GUARD_FLOWS);
        limits(&gateway, |guards| guards.flows = hourly(&gateway, 3));
        let open = |port: u16, l4| Frame::between(with_port(family.client, port), at(family.vip), l4);
        answered(&gateway, &open(1, L4::Tcp(SYN)), "1 of 3");
        passes(&gateway, &open(2, L4::Tcp(SYN)), "2 of 3");
        passes(&gateway, &open(3, L4::Udp), "3 of 3");
        for (port, l4) in [(4, L4::Tcp(SYN)), (5, L4::Udp)] {
            refused(&gateway, &open(port, l4), Reason::FlowRate, "the fourth");
        }
        assert_eq!(entries(&gateway), 6, "two entries for each of three flows");
        for _ in 0..50 {
            passes(&gateway, &open(1, L4::Tcp(ACK)), "an established flow");
            passes(&gateway, &open(3, L4::Udp), "an established flow");
        }
        refused(&gateway, &open(6, L4::Tcp(ACK)), Reason::NoFlow, "what opens nothing is not charged for it");
        passes(&gateway, &from(family.other, family.vip, L4::Tcp(SYN)), "an honest client");
        passes(&gateway, &to(&open(7, L4::Tcp(SYN)), family.plain), "a VIP without the guard");
    }
}

#[test]
fn a_source_beyond_its_udp_is_cut_at_udp_alone() {
    if !require("xdp") {
        return;
    }
    for family in BOTH {
        let gateway = serve(family, VIP_GUARD_UDP);
        limits(&gateway, |guards| guards.udp = hourly(&gateway, 4));
        for number in 1..=4 {
            passes(&gateway, &from(family.client, family.vip, L4::Udp), &format!("{number} of 4"));
        }
        refused(&gateway, &from(family.client, family.vip, L4::Udp), Reason::UdpRate, "the fifth");
        answered(&gateway, &from(family.client, family.vip, L4::Tcp(SYN)), "TCP");
        for _ in 0..5 {
            passes(&gateway, &from(family.client, family.vip, L4::Tcp(ACK)), "TCP");
        }
        for number in 1..=4 {
            passes(&gateway, &from(family.other, family.vip, L4::Udp), &format!("an honest client's {number}"));
        }
    }
}

/// Bytes of layer 3 in a UDP frame with this payload.
fn udp_bytes(family: &Family, payload: usize) -> i64 {
    let headers = if at(family.vip).is_ipv4() { 28 } else { 48 };
    headers + payload as i64
}

#[test]
fn replies_to_a_forged_request_are_bounded_and_a_client_that_asks_is_answered() {
    if !require("xdp") {
        return;
    }
    const FACTOR: u32 = 10;
    const ALLOWANCE: i64 = 4096;
    for family in BOTH {
        let gateway = serve(family, VIP_GUARD_AMPLIFY);
        limits(&gateway, |guards| guards.amplification = FACTOR);
        let ask = from(family.client, family.vip, L4::Udp).payload(&[1; 20]);
        let seen = passes(&gateway, &ask, "the request");
        let (asked, size) = (udp_bytes(family, 20), udp_bytes(family, 500));
        let most = (i64::from(FACTOR) * asked + ALLOWANCE) / size;
        for number in 1..=most {
            passes(&gateway, &answer(&seen, L4::Udp, 500), &format!("reply {number} of {most}"));
        }
        refused(&gateway, &answer(&seen, L4::Udp, 500), Reason::Amplification, "one too many");
        assert_eq!(the_source(&gateway).1.debt, most * size - i64::from(FACTOR) * asked);

        // Whoever goes on asking goes on being answered, ten bytes for one.
        for number in 1..=50 {
            for _ in 0..3 {
                passes(&gateway, &ask, "a client's request");
            }
            passes(&gateway, &answer(&seen, L4::Udp, 500), &format!("answer {number}"));
        }
        let tcp = passes(&gateway, &from(family.client, family.vip, L4::Tcp(SYN)), "TCP");
        for _ in 0..20 {
            passes(&gateway, &answer(&tcp, L4::Tcp(ACK), 1000), "TCP has shown that it is there");
        }
        let plain = passes(&gateway, &from(family.client, family.plain, L4::Udp).payload(b""), "without the guard");
        for _ in 0..20 {
            passes(&gateway, &answer(&plain, L4::Udp, 1000), "a VIP without the guard");
        }
    }
}

#[test]
fn debt_is_forgiven_after_ten_seconds_and_credit_has_a_bound() {
    if !require("xdp") {
        return;
    }
    let gateway = serve(&V4, VIP_GUARD_AMPLIFY);
    limits(&gateway, |guards| guards.amplification = 1);
    let seen = passes(&gateway, &from(V4.client, V4.vip, L4::Udp), "the request");
    let reply = answer(&seen, L4::Udp, 1400);
    let drain = || (0..10).take_while(|_| gateway.receive(&reply.build()).verdict == Verdict::Tx).count();
    assert_eq!(drain(), 2, "4096 bytes and 52 that were asked for");
    let (key, source) = the_source(&gateway);
    let back = |seconds: u32, source: Source| Source {
        forgiven: source.forgiven.wrapping_sub(seconds * gateway.hz()),
        ..source
    };
    gateway.maps().sources.set(&key, &back(8, source)).unwrap();
    refused(&gateway, &reply, Reason::Amplification, "after eight seconds");
    gateway.maps().sources.set(&key, &back(11, source)).unwrap();
    assert_eq!(drain(), 2, "after eleven");

    limits(&gateway, |guards| guards.amplification = 1_000_000);
    let seen = passes(&gateway, &from(V4.client, V4.vip, L4::Udp), "a request worth far more than the bound");
    assert_eq!(the_source(&gateway).1.debt, -(1 << 20));
    passes(&gateway, &answer(&seen, L4::Udp, 1400), "an answer");
}

#[test]
fn a_source_that_was_forgotten_is_still_bounded() {
    if !require("xdp") {
        return;
    }
    let gateway = serve(&V4, VIP_GUARD_AMPLIFY);
    limits(&gateway, |guards| guards.amplification = 3);
    let seen = passes(&gateway, &from(V4.client, V4.vip, L4::Udp), "the request");
    let (key, _) = the_source(&gateway);
    gateway.maps().sources.delete(&key).unwrap();
    let reply = answer(&seen, L4::Udp, 1400);
    for _ in 0..2 {
        passes(&gateway, &reply, "the allowance");
    }
    refused(&gateway, &reply, Reason::Amplification, "and no more");
}

#[test]
fn a_flooder_stays_cut_while_a_crowd_larger_than_the_table_passes() {
    if !require("xdp") {
        return;
    }
    let gateway = serve(&V4, VIP_GUARD_PACKETS);
    limits(&gateway, |guards| guards.packets = hourly(&gateway, 2));
    // With the clients' own ports: a range for SNAT would run out before the table of sources does.
    gateway.vip(2, at(V4.vip), PROTO_UDP, 1, false);
    gateway.vip_flags(2, VIP_GUARD_PACKETS);
    let crowd = 2 * gateway.maps().sources.capacity();
    let flood = from(V4.client, V4.vip, L4::Udp).build();
    let (mut passed, mut refused) = (0u64, 0u64);
    for number in 0..crowd {
        let client = SocketAddr::new(IpAddr::from((0x0b00_0000 + number).to_be_bytes()), 5000);
        let frame = Frame::between(client, at(V4.vip), L4::Udp).payload(b"");
        assert_eq!(gateway.receive(&frame.build()).verdict, Verdict::Tx, "{client} of the crowd");
        // A hundredth of the traffic: rare enough that the table must prefer it by use, not by chance.
        if number % 100 == 0 {
            match gateway.receive(&flood).verdict {
                Verdict::Tx => passed += 1,
                _ => refused += 1,
            }
        }
    }
    assert_eq!(refused, gateway.drops(Reason::SourceRate), "nobody else was refused");
    assert!(passed <= 2 && refused > 1000, "{passed} passed, {refused} refused");
}

#[test]
fn sources_that_cannot_be_clients_are_refused_at_a_vip_only() {
    if !require("xdp") {
        return;
    }
    let v4: &[(&str, bool)] = &[
        ("0.0.0.0", false),
        ("0.255.255.255", false),
        ("1.0.0.0", true),
        ("126.255.255.255", true),
        ("127.0.0.1", false),
        ("127.255.255.255", false),
        ("128.0.0.1", true),
        ("169.253.255.255", true),
        ("169.254.0.1", false),
        ("169.254.255.255", false),
        ("169.255.0.0", true),
        ("10.0.0.7", true),
        ("223.255.255.255", true),
        ("224.0.0.1", false),
        ("239.255.255.255", false),
        ("240.0.0.1", false),
        ("255.255.255.255", false),
        ("203.0.113.7", false), // the VIP itself
        ("203.0.113.8", true),
    ];
    let v6: &[(&str, bool)] = &[
        ("::", false),
        ("::1", false),
        ("::203.0.113.9", false),
        ("::1:0:0:1", true),
        ("64:ff9b::1", true),
        ("fe7f::1", true),
        ("fe80::1", false),
        ("febf:ffff::1", false),
        ("fec0::1", true),
        ("fd00::1", true),
        ("ff02::1", false),
        ("ff00::", false),
        ("2001:db8:f::7", false), // the VIP itself
        ("2001:db8:f::8", true),
    ];
    for (family, sources) in [(&V4, v4), (&V6, v6)] {
        for (source, honest) in sources {
            let gateway = serve(family, 0);
            let client = SocketAddr::new(source.parse().unwrap(), 40000);
            for l4 in [L4::Tcp(SYN), L4::Udp] {
                let frame = Frame::between(client, at(family.vip), l4);
                if *honest {
                    passes(&gateway, &frame, source);
                } else {
                    refused(&gateway, &frame, Reason::BadSource, source);
                }
                untouched(&gateway, &to(&frame, family.foreign), source);
            }
        }
    }
}

#[test]
fn a_link_local_vip_has_link_local_clients() {
    if !require("xdp") {
        return;
    }
    for (client, vip, family) in [("169.254.7.7:9", "169.254.1.1:80", &V4), ("[fe80::9]:9", "[fe80::1]:80", &V6)] {
        let gateway = serve(family, 0);
        gateway.vip(5, at(vip), PROTO_TCP, 1, true);
        passes(&gateway, &from(client, vip, L4::Tcp(SYN)), client);
    }
}

#[test]
fn land_and_port_zero_are_refused() {
    if !require("xdp") {
        return;
    }
    for family in BOTH {
        let gateway = serve(family, 0);
        for l4 in [L4::Tcp(SYN), L4::Udp] {
            refused(&gateway, &from(family.vip, family.vip, l4), Reason::BadSource, "land");
            refused(&gateway, &from(family.plain, family.vip, l4), Reason::BadSource, "another VIP");
            let zero = Frame::between(with_port(family.client, 0), at(family.vip), l4);
            refused(&gateway, &zero, Reason::PortZero, "from port 0");
            untouched(&gateway, &to(&zero, family.foreign), "from port 0, not to a VIP");
            let to_zero = Frame::between(at(family.client), with_port(family.vip, 0), l4);
            refused(&gateway, &to_zero, Reason::UnusedPort, "to port 0, which is no VIP's");
            passes(&gateway, &Frame::between(with_port(family.client, 1), at(family.vip), l4), "from port 1");
        }
    }
}

/// By RFC 9293 sections 3.10.7.2 to 3.10.7.4: what opens, and what a receiver would look at.
fn honest(flags: u8) -> bool {
    let set = |flag| flags & flag != 0;
    match (set(SYN), set(RST), set(ACK)) {
        (true, false, _) => !set(FIN),
        (true, true, _) => false,
        (false, true, _) => true,
        (false, false, acknowledges) => acknowledges,
    }
}

#[test]
fn every_combination_of_tcp_flags_is_judged_with_and_without_a_flow() {
    if !require("xdp") {
        return;
    }
    assert!(!honest(0) && !honest(FIN | PSH | URG) && !honest(SYN | FIN) && !honest(FIN));
    for family in BOTH {
        let gateway = serve(family, 0);
        for flags in 0..=255u8 {
            let name = format!("flags {flags:#010b}");
            // A flow of its own each: what one does to it is not the next one's matter.
            let client = with_port(family.client, 2000 + u16::from(flags));
            let frame = |flags| Frame::between(client, at(family.vip), L4::Tcp(flags));
            answered(&gateway, &frame(SYN), &name);
            passes(&gateway, &frame(ACK), &name);
            let known = frame(flags);
            let stranger = from(family.other, family.vip, L4::Tcp(flags));
            untouched(&gateway, &to(&known, family.foreign), &name);
            if !honest(flags) {
                refused(&gateway, &known, Reason::BadFlags, &name);
                refused(&gateway, &stranger, Reason::BadFlags, &name);
                continue;
            }
            passes(&gateway, &known, &name);
            if flags & (SYN | ACK | RST | FIN) == SYN {
                let frame = Frame::between(with_port(family.other, 1000 + u16::from(flags)), at(family.vip), known.l4);
                passes(&gateway, &frame, "a SYN, with data as TCP Fast Open sends it");
            } else {
                refused(&gateway, &stranger, Reason::NoFlow, &name);
            }
        }
    }
}

#[test]
fn all_guards_together_judge_a_packet_once() {
    if !require("xdp") {
        return;
    }
    let all = VIP_GUARD_PREFIX | VIP_GUARD_PACKETS | VIP_GUARD_FLOWS | VIP_GUARD_UDP | VIP_GUARD_AMPLIFY;
    let gateway = serve(&V4, all);
    set_prefixes(&gateway, &[("0.0.0.0/0", PrefixVerdict::Allow)]);
    limits(&gateway, |guards| {
        (guards.packets, guards.flows, guards.udp) = (hourly(&gateway, 10), hourly(&gateway, 10), hourly(&gateway, 10));
        guards.amplification = 5;
    });
    let step = hourly(&gateway, 1).step;
    let ask = from(V4.client, V4.vip, L4::Udp).payload(&[0; 72]);
    passes(&gateway, &ask, "opens a flow, and is its first hit");
    let taken = |full: u64, source: &Source| (full - source.flows) / step;
    let (_, source) = the_source(&gateway);
    // All three began at about the same instant: what differs is what was taken.
    assert_eq!((taken(source.packets, &source), taken(source.udp, &source)), (0, 0));
    assert_eq!(source.debt, -500, "100 bytes, asked once");
    passes(&gateway, &ask, "a hit");
    let (_, source) = the_source(&gateway);
    assert_eq!((taken(source.packets, &source), taken(source.udp, &source)), (1, 1));
    assert_eq!(source.debt, -1000);
}

#[test]
fn a_walk_of_a_table_sees_every_entry() {
    if !require("xdp") {
        return;
    }
    let gateway = Gateway::new();
    let source = |number: u32| Addr::from(IpAddr::from(number.to_be_bytes()));
    for number in 0..5000 {
        gateway.maps().sources.set(&source(number), &Source { packets: number.into(), ..Source::default() }).unwrap();
    }
    let mut seen = gateway.maps().sources.entries().unwrap();
    seen.sort_by_key(|(_, source)| source.packets);
    assert_eq!(seen.len(), 5000);
    assert!(
        seen.iter().zip(0..).all(|((key, value), number)| *key == source(number) && value.packets == u64::from(number))
    );
}
