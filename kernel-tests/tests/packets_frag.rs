// SPDX-License-Identifier: GPL-3.0-only
//! Fragments: given these maps and these frames, these verdicts and, put together as a receiver would, this datagram.

use std::net::SocketAddr;

use eg_abi::{Drop as Reason, FRAG_RANGES, Forward, PROTO_TCP, PROTO_UDP, VIP_STABLE, VipKey};
use eg_kernel_tests::packet::fragments::{Holding, join, piece, read, split};
use eg_kernel_tests::packet::frame::SYN;
use eg_kernel_tests::packet::hook::Hook;
use eg_kernel_tests::packet::{Frame, Gateway, L4, Outcome, Verdict, judge};
use eg_kernel_tests::require;

const KEY: [u64; 2] = [0x1122334455667788, 0x99aabbccddeeff00];

struct Family {
    v6: bool,
    clients: [&'static str; 2],
    vip: &'static str,
    foreign: &'static str,
    source: &'static str,
    backends: [&'static str; 3],
}

const V4: Family = Family {
    v6: false,
    clients: ["198.51.100.9:40000", "198.51.100.10:40001"],
    vip: "203.0.113.7:53",
    foreign: "203.0.113.8:53",
    source: "10.0.0.1",
    backends: ["10.0.0.11:53", "10.0.0.12:53", "10.0.0.13:53"],
};

const V6: Family = Family {
    v6: true,
    clients: ["[2001:db8:c::9]:40000", "[2001:db8:c::a]:40001"],
    vip: "[2001:db8:f::7]:53",
    foreign: "[2001:db8:f::8]:53",
    source: "fd00::1",
    backends: ["[fd00::11]:53", "[fd00::12]:53", "[fd00::13]:53"],
};

const BOTH: [&Family; 2] = [&V4, &V6];

/// The client's identification.
const ID: u32 = 0x4242;
/// Three fragments of `datagram`.
const CUTS: [usize; 2] = [1480, 2960];

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// VIPs 1 (TCP) and 2 (UDP), pool 1, backends 1 to `backends`.
fn serve(gateway: &Gateway, family: &Family, backends: usize, snat: bool) {
    let members: Vec<(u32, &str, u32)> =
        family.backends[..backends].iter().zip(1..).map(|(name, id)| (id, *name, 1)).collect();
    for (id, backend, _) in &members {
        gateway.backend(*id, at(backend), family.source.parse().unwrap());
    }
    gateway.pool(1, KEY, &members);
    gateway.vip(1, at(family.vip), PROTO_TCP, 1, snat);
    gateway.vip(2, at(family.vip), PROTO_UDP, 1, snat);
}

/// The UDP VIP forwards so.
fn mode(gateway: &Gateway, forward: Forward) {
    let mut vip = gateway.maps().vips.get(2).unwrap();
    vip.forward = forward.code() as u8;
    vip.flags = 0;
    vip.gue_port = 6080.into();
    gateway.maps().vips.set(2, &vip).unwrap();
    for id in 1..=3 {
        let mut backend = gateway.maps().backends.get(id).unwrap();
        backend.flags = eg_abi::BACKEND_ON_LINK;
        gateway.maps().backends.set(id, &backend).unwrap();
    }
}

/// The UDP VIP's fragments are picked without ports.
fn stable(gateway: &Gateway, family: &Family) {
    let mut vip = gateway.maps().vips.get(2).unwrap();
    vip.flags |= VIP_STABLE;
    gateway.maps().vips.set(2, &vip).unwrap();
    let key = VipKey { proto: PROTO_UDP, ..VipKey::any_port(vip.addr) };
    gateway.maps().vip_ids.set(&key, &2).unwrap();
    assert_eq!(vip.addr, eg_abi::Addr::from(at(family.vip).ip()));
}

/// 4,000 bytes from a client.
fn datagram(family: &Family, client: usize) -> Frame {
    let bytes: Vec<u8> = (0..4000u32).map(|i| (i * 7 + client as u32) as u8).collect();
    Frame::new(family.clients[client], family.vip, L4::Udp).payload(&bytes)
}

fn forwarded(gateway: &Gateway, frame: &[u8], what: &str) -> Vec<u8> {
    let Outcome { verdict, bytes } = gateway.receive(frame);
    assert_eq!(verdict, Verdict::Tx, "{what}");
    bytes
}

fn drops_for(gateway: &Gateway, frame: &[u8], reason: Reason, what: &str) {
    let before = gateway.drops(reason);
    assert_eq!(gateway.receive(frame).verdict, Verdict::Drop, "{what}");
    assert_eq!(gateway.drops(reason), before + 1, "{what}: counted as {}", reason.label());
}

/// Lets a whole datagram through in this order, and gives what its receiver puts together.
fn through(gateway: &Gateway, fragments: &[Vec<u8>], order: &[usize]) -> Vec<u8> {
    let out: Vec<Vec<u8>> =
        order.iter().map(|i| forwarded(gateway, &fragments[*i], &format!("fragment {i} of {order:?}"))).collect();
    join(&out)
}

/// What the backend should have received: the client's datagram with these ends.
fn expect_rewritten(sent: &Frame, whole: &[u8], what: &str) -> judge::Seen {
    let seen = judge::read(whole).unwrap_or_else(|| panic!("{what}: no UDP datagram"));
    assert!(judge::checksums_hold(whole), "{what}: checksums");
    assert_eq!(&whole[seen.l4_offset + 8..], &sent.payload, "{what}: the bytes");
    seen
}

fn can_run() -> bool {
    require("xdp")
}

/// The tc program holds nothing.
fn can_hold() -> bool {
    can_run() && Hook::current() == Hook::Xdp
}

#[test]
fn fragments_follow_their_first_to_its_backend() {
    if !can_run() {
        return;
    }
    for family in BOTH {
        for snat in [true, false] {
            let gateway = Gateway::new();
            serve(&gateway, family, 3, snat);
            let sent = datagram(family, 0);
            // The whole datagram first, unfragmented: which backend is it?
            let small = Frame { payload: b"small".to_vec(), ..sent.clone() };
            let whole = forwarded(&gateway, &small.build(), "a small datagram");
            let flow = judge::read(&whole).unwrap();
            for (n, order) in [[0, 1, 2], [0, 2, 1]].iter().enumerate() {
                let whole = through(&gateway, &split(&sent.build(), ID + n as u32, &CUTS), order);
                let seen = expect_rewritten(&sent, &whole, &format!("{order:?} snat {snat}"));
                assert_eq!((seen.source, seen.destination), (flow.source, flow.destination));
            }
            let stats = gateway.maps().vip_stats.sum(2).unwrap();
            assert_eq!((stats.packets, stats.flows, stats.drops), (7, 1, 0));
        }
    }
}

#[test]
fn fragmented_replies_come_from_the_vip() {
    if !can_run() {
        return;
    }
    for family in BOTH {
        for snat in [true, false] {
            let gateway = Gateway::new();
            serve(&gateway, family, 3, snat);
            let sent = datagram(family, 0);
            let whole = through(&gateway, &split(&sent.build(), ID, &CUTS), &[0, 1, 2]);
            let seen = judge::read(&whole).unwrap();
            let reply = Frame::between(seen.destination, seen.source, L4::Udp).payload(&sent.payload);
            let whole = through(&gateway, &split(&reply.build(), 7, &CUTS), &[0, 2, 1]);
            let seen = expect_rewritten(&reply, &whole, "the reply");
            assert_eq!((seen.source, seen.destination), (at(family.vip), at(family.clients[0])));
            let stats = gateway.maps().vip_stats.sum(2).unwrap();
            assert_eq!((stats.packets, stats.reply_packets, stats.drops), (3, 3, 0));
        }
    }
}

#[test]
fn a_fragmented_datagram_of_no_checksum_keeps_none() {
    if !can_run() {
        return;
    }
    let gateway = Gateway::new();
    serve(&gateway, &V4, 1, true);
    let sent = Frame { l4: L4::UdpNoChecksum, ..datagram(&V4, 0) };
    let whole = through(&gateway, &split(&sent.build(), ID, &CUTS), &[0, 1, 2]);
    assert_eq!(whole[40..42], [0, 0]);
    expect_rewritten(&sent, &whole, "no checksum");
}

#[test]
fn fragments_before_their_first_are_held_and_take_the_ordinary_path_later() {
    if !can_hold() {
        return;
    }
    for family in BOTH {
        for snat in [true, false] {
            let gateway = Gateway::new();
            serve(&gateway, family, 3, snat);
            let holding = Holding::start(&gateway);
            let sent = datagram(family, 0);
            let fragments = split(&sent.build(), ID, &CUTS);
            for early in [2, 1] {
                assert_eq!(gateway.receive(&fragments[early]).verdict, Verdict::Drop);
            }
            let held = holding.take();
            let frames: Vec<&Vec<u8>> = held.iter().map(|(_, frame)| frame).collect();
            assert_eq!(frames, [&fragments[2], &fragments[1]], "handed out as they came");
            assert_eq!(held[0].0.ifindex, eg_kernel_tests::packet::gateway::INGRESS);
            assert!(gateway.maps().frags.get(&held[0].0.key).unwrap().is_none(), "nothing is known of it yet");

            let mut out = vec![forwarded(&gateway, &fragments[0], "the first")];
            let entry = gateway.maps().frags.get(&held[0].0.key).unwrap().expect("known by the held one's key");
            assert_eq!(entry.flags & eg_abi::FRAG_PORTS, eg_abi::FRAG_PORTS);
            out.extend(held.iter().map(|(_, frame)| forwarded(&gateway, frame, "a held one")));
            expect_rewritten(&sent, &join(&out), "put together");
            let entry = gateway.maps().frags.get(&held[0].0.key).unwrap().expect("still there");
            assert_eq!(entry.flags & eg_abi::FRAG_DONE, eg_abi::FRAG_DONE, "complete");
            assert!(holding.take().is_empty());
        }
    }
}

#[test]
fn early_replies_are_held_too() {
    if !can_hold() {
        return;
    }
    for family in BOTH {
        let gateway = Gateway::new();
        serve(&gateway, family, 3, true);
        let holding = Holding::start(&gateway);
        let sent = datagram(family, 0);
        let seen = judge::read(&through(&gateway, &split(&sent.build(), ID, &CUTS), &[0, 1, 2])).unwrap();
        let reply = Frame::between(seen.destination, seen.source, L4::Udp).payload(&sent.payload);
        let fragments = split(&reply.build(), 9, &CUTS);
        gateway.receive(&fragments[2]);
        gateway.receive(&fragments[1]);
        let mut out = vec![forwarded(&gateway, &fragments[0], "the first")];
        out.extend(holding.take().iter().map(|(_, frame)| forwarded(&gateway, frame, "a held one")));
        let seen = expect_rewritten(&reply, &join(&out), "put together");
        assert_eq!((seen.source, seen.destination), (at(family.vip), at(family.clients[0])));
    }
}

#[test]
fn what_is_not_held_is_dropped_at_a_vip_and_left_to_the_stack_elsewhere() {
    if !can_hold() {
        return;
    }
    for family in BOTH {
        let gateway = Gateway::new();
        serve(&gateway, family, 3, true);
        let early = &split(&datagram(family, 0).build(), ID, &CUTS)[1];
        drops_for(&gateway, early, Reason::FragmentEarly, "nobody reads");

        let own = SocketAddr::new(family.source.parse().unwrap(), 53);
        let reply = Frame::between(at(family.backends[0]), own, L4::Udp).payload(&[0; 4000]);
        let reply = &split(&reply.build(), ID, &CUTS)[1];
        let Outcome { verdict, bytes } = gateway.receive(reply);
        assert_eq!((verdict, &bytes), (Verdict::Pass, reply));

        let holding = Holding::start(&gateway);
        gateway.receive(early);
        gateway.receive(reply);
        assert_eq!(holding.take().len(), 2);
        let before = gateway.drops(Reason::FragmentEarly);
        assert_eq!(holding.give_up(early).verdict, Verdict::Drop);
        assert_eq!(gateway.drops(Reason::FragmentEarly), before + 1);
        assert_eq!(holding.give_up(reply).verdict, Verdict::Pass);

        // Longer than can be handed back.
        let long = piece(&datagram(family, 0).build(), ID, 1480, &[0; 3200], true);
        drops_for(&gateway, &long, Reason::FragmentEarly, "too long to hold");
        assert!(holding.take().is_empty());
    }
}

#[test]
fn fragments_to_addresses_of_nobody_pass() {
    if !can_run() {
        return;
    }
    for family in BOTH {
        let gateway = Gateway::new();
        serve(&gateway, family, 3, true);
        let sent = Frame { destination: at(family.foreign), ..datagram(family, 0) };
        for fragment in split(&sent.build(), ID, &CUTS).iter().rev() {
            let Outcome { verdict, bytes } = gateway.receive(fragment);
            assert_eq!((verdict, &bytes), (Verdict::Pass, fragment));
        }
    }
    // IPv4's "don't fragment" makes no fragment.
    let gateway = Gateway::new();
    serve(&gateway, &V4, 3, true);
    forwarded(&gateway, &datagram(&V4, 0).payload(b"whole").fragment(0x4000).build(), "DF");
}

#[test]
fn fragments_to_a_port_of_no_vip_are_refused_with_their_first() {
    if !can_run() {
        return;
    }
    for family in BOTH {
        let gateway = Gateway::new();
        serve(&gateway, family, 3, true);
        let destination = SocketAddr::new(at(family.vip).ip(), 9);
        let fragments = split(&Frame { destination, ..datagram(family, 0) }.build(), ID, &CUTS);
        drops_for(&gateway, &fragments[0], Reason::UnusedPort, "the first");
        drops_for(&gateway, &fragments[1], Reason::Fragment, "the second");
    }
}

/// A datagram of single bytes' worth of pieces: what a test needs of `split` when pieces contradict each other.
fn bits(family: &Family, pieces: &[(usize, usize, bool)]) -> Vec<Vec<u8>> {
    let whole = datagram(family, 0).build();
    let l4 = judge::read(&whole).unwrap().l4_offset;
    pieces.iter().map(|(from, to, more)| piece(&whole, ID, *from, &whole[l4 + from..l4 + to], *more)).collect()
}

#[test]
fn an_overlap_ends_its_datagram() {
    if !can_run() {
        return;
    }
    let kinds: [(&str, &[(usize, usize, bool)]); 7] = [
        ("into the one before", &[(0, 160, true), (80, 240, true)]),
        ("into the one behind", &[(0, 160, true), (320, 480, true), (240, 400, true)]),
        ("around one", &[(0, 160, true), (320, 400, true), (240, 480, true)]),
        ("across a gap", &[(0, 160, true), (320, 480, true), (80, 400, true)]),
        ("beyond the end", &[(0, 160, true), (320, 480, false), (480, 640, true)]),
        ("another end", &[(0, 160, true), (320, 480, false), (160, 320, false)]),
        ("an end before what came", &[(0, 160, true), (320, 480, true), (160, 320, false)]),
    ];
    for family in BOTH {
        for (name, pieces) in kinds {
            let gateway = Gateway::new();
            serve(&gateway, family, 3, true);
            let mut frames = bits(family, pieces);
            let last = frames.pop().unwrap();
            frames.iter().for_each(|frame| drop(forwarded(&gateway, frame, name)));
            drops_for(&gateway, &last, Reason::FragmentOverlap, name);
            // RFC 5722 section 4: "including those not yet received".
            let rest = &bits(family, &[(1000, 1160, true)])[0];
            drops_for(&gateway, rest, Reason::FragmentOverlap, name);
            // Another datagram of the same flow is none of it.
            let sent = datagram(family, 0);
            through(&gateway, &split(&sent.build(), ID + 1, &CUTS), &[0, 1, 2]);
        }
    }
}

#[test]
fn a_copy_is_dropped_alone() {
    if !can_run() {
        return;
    }
    for family in BOTH {
        let gateway = Gateway::new();
        serve(&gateway, family, 3, true);
        let sent = datagram(family, 0);
        let fragments = split(&sent.build(), ID, &CUTS);
        let mut out = Vec::new();
        for fragment in &fragments[..2] {
            out.push(forwarded(&gateway, fragment, "the original"));
            drops_for(&gateway, fragment, Reason::FragmentOverlap, "the copy");
        }
        drops_for(&gateway, &fragments[0], Reason::FragmentOverlap, "a late copy of the first");
        out.push(forwarded(&gateway, &fragments[2], "the last"));
        expect_rewritten(&sent, &join(&out), "despite copies");
    }
}

#[test]
fn an_identification_may_come_again_when_its_datagram_is_complete() {
    if !can_run() {
        return;
    }
    for family in BOTH {
        let gateway = Gateway::new();
        serve(&gateway, family, 3, true);
        let sent = datagram(family, 0);
        let fragments = split(&sent.build(), ID, &CUTS);
        let ids: Vec<u32> = (0..3)
            .map(|_| {
                let out: Vec<_> = fragments.iter().map(|f| forwarded(&gateway, f, "again")).collect();
                expect_rewritten(&sent, &join(&out), "again");
                read(&out[0]).id
            })
            .collect();
        assert!(ids[0] != ids[1] && ids[1] != ids[2] && ids[0] != ids[2], "each has its own: {ids:x?}");
        // A piece of the next one that comes before its first is not the last one's.
        drops_for(&gateway, &fragments[1], Reason::FragmentEarly, "early again");
    }
}

#[test]
fn datagrams_of_two_clients_with_one_identification_stay_apart() {
    if !can_run() {
        return;
    }
    for family in BOTH {
        let gateway = Gateway::new();
        serve(&gateway, family, 1, true);
        let sent = [datagram(family, 0), datagram(family, 1)];
        let fragments = [0, 1].map(|client| split(&sent[client].build(), ID, &CUTS));
        let mut out = [Vec::new(), Vec::new()];
        for (one, other) in fragments[0].iter().zip(&fragments[1]) {
            out[0].push(forwarded(&gateway, one, "interleaved"));
            out[1].push(forwarded(&gateway, other, "interleaved"));
        }
        for (sent, out) in sent.iter().zip(&out) {
            expect_rewritten(sent, &join(out), "by its identification");
        }
        let ends = |frame: &[u8]| if family.v6 { frame[22..54].to_vec() } else { frame[26..34].to_vec() };
        assert_eq!(ends(&out[0][1]), ends(&out[1][1]), "the backend sees one source");
        assert_ne!(read(&out[0][0]).id, read(&out[1][0]).id, "and must tell them apart");
    }
}

#[test]
fn replies_of_two_backends_with_one_identification_stay_apart() {
    if !can_run() {
        return;
    }
    for family in BOTH {
        let gateway = Gateway::new();
        serve(&gateway, family, 3, true);
        // Flows of one client until two backends have one.
        let mut flows: Vec<judge::Seen> = Vec::new();
        for port in 40000..40100 {
            let source = SocketAddr::new(at(family.clients[0]).ip(), port);
            let frame = Frame { source, payload: b"hello".to_vec(), ..datagram(family, 0) };
            let seen = judge::read(&forwarded(&gateway, &frame.build(), "hello")).unwrap();
            if flows.iter().all(|flow| flow.destination != seen.destination) {
                flows.push(seen);
            }
            if flows.len() == 2 {
                break;
            }
        }
        let sent = [0, 1].map(|i| {
            Frame::between(flows[i].destination, flows[i].source, L4::Udp).payload(&datagram(family, i).payload)
        });
        let fragments = [0, 1].map(|i| split(&sent[i].build(), ID, &CUTS));
        let mut out = [Vec::new(), Vec::new()];
        for (one, other) in fragments[0].iter().zip(&fragments[1]) {
            out[0].push(forwarded(&gateway, one, "interleaved"));
            out[1].push(forwarded(&gateway, other, "interleaved"));
        }
        for (sent, out) in sent.iter().zip(&out) {
            expect_rewritten(sent, &join(out), "by its identification");
        }
        assert_ne!(read(&out[0][0]).id, read(&out[1][0]).id);
    }
}

#[test]
fn sixteen_holes_are_followed_and_one_more_is_not() {
    if !can_run() {
        return;
    }
    for family in BOTH {
        let gateway = Gateway::new();
        serve(&gateway, family, 3, true);
        // Every other piece of 80 bytes, from the first.
        let scattered = |i: usize| (i * 160, i * 160 + 80, true);
        for i in 0..FRAG_RANGES {
            forwarded(&gateway, &bits(family, &[scattered(i)])[0], "a piece with a hole behind it");
        }
        let seventeenth = &bits(family, &[scattered(FRAG_RANGES)])[0];
        drops_for(&gateway, seventeenth, Reason::Fragment, "one too many");
        // What fills a hole joins two ranges, and makes room for another.
        forwarded(&gateway, &bits(family, &[(80, 160, true)])[0], "a hole filled");
        forwarded(&gateway, seventeenth, "room again");
    }
}

#[test]
fn a_datagram_in_any_order_of_many_pieces_is_complete() {
    if !can_run() {
        return;
    }
    let mut random = eg_kernel_tests::packet::random::Random(0x5eed);
    for family in BOTH {
        let gateway = Gateway::new();
        serve(&gateway, family, 3, true);
        let sent = datagram(family, 0);
        let cuts: Vec<usize> = (1..16).map(|i| i * 248).collect();
        for round in 0..50 {
            let fragments = split(&sent.build(), ID + round, &cuts);
            let mut order: Vec<usize> = (1..fragments.len()).collect();
            (1..order.len()).for_each(|i| order.swap(i, random.below(i + 1)));
            order.insert(0, 0);
            expect_rewritten(&sent, &through(&gateway, &fragments, &order), &format!("{order:?}"));
        }
        let done = gateway.maps().frags.entries().unwrap();
        assert_eq!(done.len(), 50);
        assert!(done.iter().all(|(_, entry)| entry.flags & eg_abi::FRAG_DONE != 0));
    }
}

#[test]
fn tiny_and_impossible_fragments_are_dropped() {
    if !can_run() {
        return;
    }
    for family in BOTH {
        let gateway = Gateway::new();
        serve(&gateway, family, 3, true);
        let syn = Frame::new(family.clients[0], family.vip, L4::Tcp(SYN)).payload(&[0; 64]).build();
        let l4 = judge::read(&syn).unwrap().l4_offset;
        // RFC 1858 section 3.2: not the whole TCP header, and what would overwrite its flags.
        drops_for(&gateway, &piece(&syn, 1, 0, &syn[l4..l4 + 8], true), Reason::Fragment, "eight bytes of TCP");
        drops_for(&gateway, &piece(&syn, 2, 0, &syn[l4..l4 + 16], true), Reason::Fragment, "sixteen bytes of TCP");
        drops_for(&gateway, &piece(&syn, 3, 8, &syn[l4 + 8..], false), Reason::Fragment, "TCP from its byte 8");
        let mut long = syn.clone();
        long[l4 + 12] = 15 << 4;
        drops_for(&gateway, &piece(&long, 4, 0, &long[l4..l4 + 24], true), Reason::Fragment, "options elsewhere");
        forwarded(&gateway, &piece(&syn, 5, 0, &syn[l4..l4 + 24], true), "a whole header");

        let udp = datagram(family, 0).build();
        drops_for(&gateway, &piece(&udp, 6, 80, &[], true), Reason::Fragment, "nothing");
        drops_for(&gateway, &piece(&udp, 7, 0, &[0; 21], true), Reason::Fragment, "a middle of 21 bytes");
        drops_for(&gateway, &piece(&udp, 8, 65528, &[0; 16], false), Reason::Fragment, "beyond 65,535 bytes");
    }
    // In IPv4 the header counts as well.
    let gateway = Gateway::new();
    serve(&gateway, &V4, 3, true);
    let udp = datagram(&V4, 0).build();
    drops_for(&gateway, &piece(&udp, 9, 65512, &[0; 8], false), Reason::Fragment, "beyond it with the header");
    drop(gateway);
    // Extension headers inside the fragments hide the ports.
    let gateway = Gateway::new();
    serve(&gateway, &V6, 3, true);
    let hidden = datagram(&V6, 0).payload(b"hidden").extra(44, &[60, 0, 0, 1, 0, 0, 0, 1, 17, 0, 1, 4, 0, 0, 0, 0]);
    drops_for(&gateway, &hidden.build(), Reason::Fragment, "options behind the fragment header");
}

#[test]
fn direct_modes_send_each_fragment_as_it_is() {
    if !can_run() {
        return;
    }
    for family in BOTH {
        for (forward, room) in [(Forward::L2, 0), (Forward::Ipip, if family.v6 { 40 } else { 20 }), (Forward::Gue, 12)]
        {
            let gateway = Gateway::new();
            serve(&gateway, family, 3, true);
            mode(&gateway, forward);
            let room = if forward == Forward::Gue { room + if family.v6 { 40 } else { 20 } } else { room };
            let sent = datagram(family, 0);
            let fragments = split(&sent.build(), ID, &CUTS);
            let mut outer = Vec::new();
            for order in [0, 2, 1] {
                let out = forwarded(&gateway, &fragments[order], forward.label());
                let (sent, inner) = (&fragments[order][14..], &out[14 + room..]);
                assert_eq!(inner.len(), sent.len());
                let ttl = if family.v6 { 7 } else { 8 };
                assert_eq!(inner[ttl], sent[ttl] - 1, "{}", forward.label());
                let from = if family.v6 { 8 } else { 12 };
                assert_eq!(inner[from..], sent[from..], "{}: all behind the TTL and checksum", forward.label());
                // MACs and the outer header, without the lengths and the checksum over them.
                outer.push([&out[..14], &out[14 + room / 2..14 + room]].concat()[..12].to_vec());
            }
            assert!(outer.iter().all(|it| *it == outer[0]), "{}: to one backend", forward.label());
            assert_eq!(gateway.maps().vip_stats.sum(2).unwrap().packets, 3);
        }
    }
}

#[test]
fn a_first_fragment_that_is_too_big_tells_the_sender() {
    if !can_run() {
        return;
    }
    for family in BOTH {
        let gateway = Gateway::new();
        serve(&gateway, family, 3, true);
        mode(&gateway, Forward::Ipip);
        for id in 1..=3 {
            let mut backend = gateway.maps().backends.get(id).unwrap();
            backend.mtu = 1500;
            gateway.maps().backends.set(id, &backend).unwrap();
        }
        let fragments = split(&datagram(family, 0).build(), ID, &[if family.v6 { 1448 } else { 1480 }]);
        let before = gateway.drops(Reason::TooBig);
        let Outcome { verdict, bytes } = gateway.receive(&fragments[0]);
        assert_eq!(verdict, Verdict::Tx, "an ICMP error");
        assert_eq!(gateway.drops(Reason::TooBig), before + 1);
        let mtu = if family.v6 { &bytes[14 + 40 + 4..14 + 40 + 8] } else { &bytes[14 + 20 + 4..14 + 20 + 8] };
        let expected: u32 = if family.v6 { 1460 } else { 1480 };
        assert_eq!(u32::from_be_bytes(mtu.try_into().unwrap()), expected);
        drops_for(&gateway, &fragments[1], Reason::Fragment, "the rest of it");
    }
}

#[test]
fn fragments_behind_a_vlan_tag_keep_it() {
    if !can_hold() {
        return;
    }
    for family in BOTH {
        let gateway = Gateway::new();
        serve(&gateway, family, 3, true);
        let holding = Holding::start(&gateway);
        let sent = datagram(family, 0);
        let tagged = |frame: &[u8]| [&frame[..12], &[0x81, 0, 0, 42], &frame[12..]].concat();
        let fragments = split(&tagged(&sent.build()), ID, &CUTS);
        gateway.receive(&fragments[2]);
        let held = holding.take().remove(0).1;
        let out: Vec<Vec<u8>> = [&fragments[0], &fragments[1], &held]
            .iter()
            .map(|fragment| {
                let out = forwarded(&gateway, fragment, "tagged");
                assert_eq!(out[12..16], [0x81, 0, 0, 42]);
                [&out[..12], &out[16..]].concat()
            })
            .collect();
        expect_rewritten(&sent, &join(&out), "without the tag");
    }
}

#[test]
fn a_stable_vip_takes_fragments_in_any_order_by_addresses_alone() {
    if !can_run() {
        return;
    }
    for family in BOTH {
        for snat in [true, false] {
            let gateway = Gateway::new();
            serve(&gateway, family, 3, snat);
            stable(&gateway, family);
            let sent = datagram(family, 0);
            let mut first = None;
            for (n, order) in [[2, 1, 0], [1, 2, 0], [1, 0, 2], [0, 1, 2]].iter().enumerate() {
                // Other ports, the same backend.
                let source = SocketAddr::new(sent.source.ip(), 41000 + n as u16);
                let sent = Frame { source, ..sent.clone() };
                let whole = through(&gateway, &split(&sent.build(), ID + n as u32, &CUTS), order);
                let seen = expect_rewritten(&sent, &whole, &format!("{order:?}"));
                let first = first.get_or_insert(seen.destination);
                assert_eq!(seen.destination, *first, "whatever the ports");
            }
            // A datagram whose first never comes has not confused the figures.
            assert_eq!(gateway.maps().vip_stats.sum(2).unwrap().packets, 12);
        }
    }
}

#[test]
fn stable_vips_spread_clients_over_all_backends() {
    if !can_run() {
        return;
    }
    let gateway = Gateway::new();
    serve(&gateway, &V4, 3, true);
    stable(&gateway, &V4);
    for client in 1..=60 {
        let source = SocketAddr::new(format!("198.51.100.{client}").parse().unwrap(), 1000);
        let sent = Frame { source, ..datagram(&V4, 0) };
        through(&gateway, &split(&sent.build(), ID, &CUTS), &[2, 1, 0]);
    }
    for id in 1..=3 {
        assert!(gateway.maps().backend_stats.sum(id).unwrap().flows >= 5, "backend {id} has some");
    }
}

#[test]
fn many_flows_of_one_client_find_ports_at_a_stable_vip() {
    if !can_run() {
        return;
    }
    let gateway = Gateway::new();
    serve(&gateway, &V4, 1, true);
    stable(&gateway, &V4);
    for port in 20000..20500 {
        let source = SocketAddr::new(at(V4.clients[0]).ip(), port);
        let sent = Frame { source, payload: b"small".to_vec(), ..datagram(&V4, 0) };
        forwarded(&gateway, &sent.build(), "a flow of the same hash");
    }
}

#[test]
fn port_0_is_no_vip_where_fragments_are_stable() {
    if !can_run() {
        return;
    }
    for family in BOTH {
        let gateway = Gateway::new();
        serve(&gateway, family, 3, true);
        stable(&gateway, family);
        let mut to = at(family.vip);
        to.set_port(0);
        let frame = Frame { destination: to, ..Frame::new(family.clients[0], family.vip, L4::Udp) }.build();
        let before = gateway.drops(Reason::UnusedPort);
        assert_eq!(gateway.receive(&frame), Outcome { verdict: Verdict::Drop, bytes: frame });
        assert_eq!(gateway.drops(Reason::UnusedPort), before + 1);
        assert_eq!(gateway.maps().opening.entries().unwrap(), []);
    }
}

#[test]
fn stable_holds_under_direct_modes_too() {
    if !can_run() {
        return;
    }
    for family in BOTH {
        for forward in [Forward::L2, Forward::Ipip, Forward::Gue] {
            let gateway = Gateway::new();
            serve(&gateway, family, 3, true);
            mode(&gateway, forward);
            stable(&gateway, family);
            let fragments = split(&datagram(family, 0).build(), ID, &CUTS);
            let to: Vec<Vec<u8>> =
                [2, 0, 1].iter().map(|i| forwarded(&gateway, &fragments[*i], forward.label())[..12].to_vec()).collect();
            assert!(to.iter().all(|macs| *macs == to[0]), "{}: to one backend", forward.label());
        }
    }
}

#[test]
fn a_later_fragment_follows_its_flow_and_not_the_ring() {
    if !can_run() {
        return;
    }
    let gateway = Gateway::new();
    serve(&gateway, &V4, 3, true);
    let sent = datagram(&V4, 0);
    let fragments = split(&sent.build(), ID, &CUTS);
    let mut out = vec![forwarded(&gateway, &fragments[0], "the first")];
    // Everyone else takes new flows now.
    let backend = judge::read(&out[0].clone()).map(|seen| seen.destination);
    let others: Vec<(u32, &str, u32)> = V4
        .backends
        .iter()
        .zip(1..)
        .filter(|(name, _)| Some(at(name).ip()) != backend.map(|b| b.ip()) && !out[0][30..34].eq(&octets(name)))
        .map(|(name, id)| (id, *name, 1))
        .collect();
    assert_eq!(others.len(), 2);
    gateway.pool(1, KEY, &others);
    out.extend(fragments[1..].iter().map(|fragment| forwarded(&gateway, fragment, "the rest")));
    expect_rewritten(&sent, &join(&out), "to the flow's backend");
}

fn octets(address: &str) -> [u8; 4] {
    match at(address).ip() {
        std::net::IpAddr::V4(ip) => ip.octets(),
        std::net::IpAddr::V6(_) => unreachable!("IPv4"),
    }
}

#[test]
fn an_atomic_fragment_is_an_ordinary_packet() {
    if !can_run() {
        return;
    }
    let gateway = Gateway::new();
    serve(&gateway, &V6, 3, true);
    let frame = datagram(&V6, 0).payload(b"whole").extra(44, &[17, 0, 0, 0, 1, 2, 3, 4]).build();
    forwarded(&gateway, &frame, "atomic");
    assert!(gateway.maps().frags.entries().unwrap().is_empty());
}
