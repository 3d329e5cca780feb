// SPDX-License-Identifier: GPL-3.0-only
//! The twin behind `egctl explain`: it changes nothing, and says what the maps do not. That it decides as the live program
//! does is tested wherever a frame is received: see `packet::twin`.

use std::collections::BTreeMap;

use eg_abi::{
    ADDR_PASS, ADDR_VIP, Addr, BackendState, Bucket, Drop as Reason, FlowKey, GUARD_TICK_SHIFT, Guards, Miss,
    PROTO_TCP, PROTO_UDP, VIP_GUARD_AMPLIFY, VIP_GUARD_FLOWS, VIP_GUARD_PACKETS, VIP_GUARD_UDP, Verdict as Ended,
    VipKey,
};
use eg_kernel_tests::packet::fragments::split;
use eg_kernel_tests::packet::frame::{ACK, FIN, RST, SYN, TAG_Q};
use eg_kernel_tests::packet::random::Random;
use eg_kernel_tests::packet::service::{BOTH, Connection, Family, at, forwarded, serve, syn};
use eg_kernel_tests::packet::{Frame, Gateway, L4};
use eg_kernel_tests::require;
use eg_skel::twin::{Action, Chosen, Parsed};
use libbpf_rs::{MapCore, MapFlags, MapHandle, MapType};

/// Every entry of a map, with the value of each CPU.
type Dump = BTreeMap<Vec<u8>, Vec<Vec<u8>>>;

fn dump(map: &MapHandle) -> Dump {
    let per_cpu = matches!(map.map_type(), MapType::PercpuArray | MapType::PercpuHash | MapType::LruPercpuHash);
    let value = |key: &[u8]| {
        if per_cpu {
            return map.lookup_percpu(key, MapFlags::ANY).expect("read a map").unwrap_or_default();
        }
        // An element without an inner map.
        map.lookup(key, MapFlags::ANY).ok().flatten().into_iter().collect()
    };
    map.keys().map(|key| (key.clone(), value(&key))).collect()
}

/// All that programs share, by name; the ring buffer, which has no keys, is read by `events()`.
fn dump_all(gateway: &Gateway) -> BTreeMap<String, Dump> {
    let shared = gateway.shared();
    assert!(shared.len() > 20, "{} maps", shared.len());
    let tables = shared.iter().filter(|map| map.map_type() != MapType::RingBuf);
    tables.map(|map| (map.name().to_string_lossy().into_owned(), dump(map))).collect()
}

/// Limits that every packet of a client's is counted against, and none reaches.
fn guard(gateway: &Gateway) {
    let hour = (u64::from(gateway.hz()) * 3600) << GUARD_TICK_SHIFT;
    let bucket = Bucket { step: hour / 1_000_000, window: hour };
    let mask = Addr { b: [0xff; 16] };
    let limits = Guards {
        mask4: mask,
        mask6: mask,
        packets: bucket,
        flows: bucket,
        udp: bucket,
        amplification: 3,
        ..Guards::default()
    };
    gateway.maps().guard_conf.set(0, &limits).expect("the limits");
    for id in [1, 2] {
        gateway.vip_flags(id, VIP_GUARD_PACKETS | VIP_GUARD_FLOWS | VIP_GUARD_UDP | VIP_GUARD_AMPLIFY);
    }
}

/// Of every kind, and for every state that [`a_thousand_explanations_change_no_map`] leaves.
fn frames(family: &Family, open: &Connection<'_>, half: &Connection<'_>, rest: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let other = |n: u16| Frame::between((at(family.client).ip(), n).into(), at(family.vip), L4::Tcp(SYN)).payload(b"");
    let udp = |n: u16| Frame::between((at(family.client).ip(), n).into(), at(family.vip), L4::Udp);
    let mut frames: Vec<Vec<u8>> = vec![
        open.frame(ACK, b"data").build(),
        open.frame(ACK | FIN, b"").build(),
        open.frame(RST, b"").build(),
        open.reply_frame(ACK, b"data").build(),
        open.reply_frame(ACK | RST, b"").build(),
        half.frame(ACK, b"").build(),
        half.reply_frame(SYN | ACK, b"").build(),
        Frame::between(half.client, half.vip, L4::Tcp(SYN)).payload(b"").build(),
        Frame::between(half.client, half.vip, L4::Tcp(ACK)).build(),
        udp(30_000).build(),
        Frame::new(family.client, family.foreign, L4::Tcp(SYN)).build(),
        Frame::new(family.client, family.other_port, L4::Tcp(SYN)).build(),
        other(2).ttl(1).build(),
        other(3).tags(&[TAG_Q]).build(),
        Frame::between((at(family.client).ip(), 9).into(), at(family.vip), L4::Tcp(SYN | FIN)).build(),
    ];
    frames.extend((100..120).map(|n| other(n).build()));
    frames.extend((200..220).map(|n| udp(n).build()));
    // A datagram that nobody has seen, and the rest of one whose first has passed.
    frames.extend(split(&udp(31_000).payload(&[7; 64]).build(), 77, &[16, 32]));
    frames.extend_from_slice(rest);
    // Cut off, or changed at random.
    let mut random = Random(1);
    for n in 0..30 {
        let mut frame = other(n).build();
        frame.truncate(14 + random.below(frame.len() - 14));
        frames.push(frame);
        let mut frame = udp(n).build();
        let place = 12 + random.below(frame.len() - 12);
        frame[place] ^= 1 << random.below(8);
        frames.push(frame);
    }
    frames
}

#[test]
fn a_thousand_explanations_change_no_map() {
    if !require("xdp") {
        return;
    }
    for family in BOTH {
        let gateway = Gateway::new();
        serve(&gateway, family, true);
        guard(&gateway);
        let open = Connection::open(&gateway, family);
        let half = Connection::begin(&gateway, (at(family.client).ip(), 40_001).into(), at(family.vip), 1000, 2000);
        let datagram = Frame::new(family.client, family.vip, L4::Udp).payload(&[5; 80]).build();
        let pieces = split(&datagram, 55, &[16, 32, 48]);
        gateway.receive(&pieces[0]);
        gateway.events();

        let frames = frames(family, &open, &half, &pieces[1..]);
        let before = dump_all(&gateway);
        let mut seen = BTreeMap::new();
        for frame in frames.iter().cycle().take(1000) {
            let said = gateway.explain(frame);
            *seen.entry(format!("{:?} {:?}", said.action, said.noted.reason)).or_insert(0) += 1;
        }
        assert!(seen.len() >= 6, "the packets are of every kind: {seen:?}");
        let after = dump_all(&gateway);
        for (name, was) in &before {
            assert!(after[name] == *was, "{name} was changed");
        }
        assert!(gateway.events().is_empty(), "something was told");

        // The same packets, received, do change what was looked at.
        frames.iter().for_each(|frame| drop(gateway.receive(frame)));
        let received = dump_all(&gateway);
        for name in ["eg_flows", "eg_opening", "eg_frags", "eg_sources", "eg_totals", "eg_drops", "eg_vip_stats"] {
            assert!(received[name] != before[name], "{name} was not looked at");
        }
    }
}

#[test]
fn an_explanation_says_how_the_backend_was_found() {
    if !require("xdp") {
        return;
    }
    for family in BOTH {
        let gateway = Gateway::new();
        serve(&gateway, family, true);
        let first = syn(family).build();
        let said = gateway.explain(&first).noted;
        assert_eq!((said.parsed, said.verdict, said.reason), (Parsed::Whole, Some(Ended::Forwarded), None));
        assert_eq!((said.half_open, said.fresh, said.reply, said.vip), (true, true, false, 1));
        assert_eq!(said.key, FlowKey::new(at(family.client), at(family.vip), PROTO_TCP));
        let Some(Chosen::Slot(slot)) = said.chosen else { panic!("{said:?}") };
        let ring = gateway.maps().rings.get(1).expect("a ring").expect("a ring");
        assert_eq!(ring[slot as usize].primary, said.backend);
        assert_eq!(forwarded(&gateway, &syn(family)).1, said.backend);

        // Half-open, then established: no choice is made any more.
        let said = gateway.explain(&first).noted;
        assert_eq!((said.half_open, said.fresh, said.chosen), (true, false, None));
        let open = Connection::between(&gateway, (at(family.client).ip(), 40_002).into(), at(family.vip), 7, 9);
        let said = gateway.explain(&open.frame(ACK, b"x").build()).noted;
        assert_eq!((said.half_open, said.fresh, said.backend), (false, false, open.backend));
        let said = gateway.explain(&open.reply_frame(ACK, b"x").build()).noted;
        assert_eq!((said.reply, said.backend, said.vip), (true, open.backend, 1));

        // A flow that no longer counts says why.
        gateway.change_backend(open.backend, |backend| backend.generation += 1);
        let said = gateway.explain(&open.frame(ACK, b"x").build()).noted;
        assert_eq!((said.misses, said.reason), (vec![Miss::Generation], Some(Reason::NoFlow)));
    }
}

#[test]
fn an_explanation_says_why_a_packet_is_refused_or_passes() {
    if !require("xdp") {
        return;
    }
    for family in BOTH {
        let gateway = Gateway::new();
        serve(&gateway, family, true);
        let unused = Frame::new(family.client, family.other_port, L4::Tcp(SYN)).build();
        let said = gateway.explain(&unused);
        assert_eq!((said.action, said.noted.reason), (Action::Drop, Some(Reason::UnusedPort)));
        gateway
            .maps()
            .vip_ids
            .set(&VipKey::any_port(at(family.vip).ip().into()), &(ADDR_VIP | ADDR_PASS))
            .expect("set");
        assert_eq!(gateway.explain(&unused).action, Action::Pass);

        let foreign = gateway.explain(&Frame::new(family.client, family.foreign, L4::Udp).build());
        assert_eq!((foreign.action, foreign.noted.verdict), (Action::Pass, Some(Ended::Passed)));

        let early = Frame::new(family.client, family.vip, L4::Udp).payload(&[1; 64]).build();
        let early = gateway.explain(&split(&early, 9, &[32])[1]);
        assert_eq!((early.noted.parsed, early.noted.held), (Parsed::Fragment, true));
        assert_eq!(early.noted.reason, Some(Reason::FragmentEarly));
        assert_eq!(early.noted.key.proto, PROTO_UDP);

        (1..=3).for_each(|id| gateway.change_backend(id, |backend| backend.state = BackendState::Down.code() as u8));
        let said = gateway.explain(&syn(family).build());
        assert_eq!((said.action, said.noted.reason), (Action::Drop, Some(Reason::NoBackend)));
        assert!(matches!(said.noted.chosen, Some(Chosen::Slot(_))), "a slot was asked, and nobody stood in");
    }
}
