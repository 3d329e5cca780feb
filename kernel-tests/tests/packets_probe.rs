// SPDX-License-Identifier: GPL-3.0-only
//! Probes leave as the traffic does: `eg_tc_egress` beside `eg_xdp_ingress`, over the same maps, on the same packets.

use std::mem::MaybeUninit;

use eg_abi::{BACKEND_ON_LINK, Forward, MAX_PROBES, PROBE_MARK, PROTO_TCP, PROTO_UDP, Probe, Probed, VipKey};
use eg_kernel_tests::packet::frame::{GATEWAY_MAC, SYN};
use eg_kernel_tests::packet::gateway::backend_mac;
use eg_kernel_tests::packet::outer::{self, Way};
use eg_kernel_tests::packet::service::{Family, GUE_PORT, KEY, V4, V6, at, serve_by};
use eg_kernel_tests::packet::{Frame, Gateway, L4, Verdict};
use eg_kernel_tests::require;
use eg_skel::tc_egress::{EgressSkel, EgressSkelBuilder};
use libbpf_rs::skel::{OpenSkel as _, SkelBuilder as _};
use libbpf_rs::{MapCore as _, MapFlags, OpenObject, ProgramInput};
use std::os::fd::AsFd as _;

/// Of `struct __sk_buff` (linux/bpf.h).
const MARK: usize = 8;
const CONTEXT: usize = 180;

const PASSES: i32 = -1;
const DROPS: i32 = 2;
const LEAVES: i32 = 7;

/// The program over a gateway's maps.
struct Egress(EgressSkel<'static>);

impl Egress {
    fn beside(gateway: &Gateway) -> Egress {
        // Leaked: a skeleton borrows its object, and the process ends with its tests.
        let object: &'static mut MaybeUninit<OpenObject> = Box::leak(Box::new(MaybeUninit::uninit()));
        let mut open = EgressSkelBuilder::default().open(object).expect("open tc/egress");
        let shared = gateway.shared();
        for mut map in open.open_object_mut().maps_mut() {
            if let Some(known) = shared.iter().find(|known| known.name() == map.name()) {
                map.set_max_entries(known.max_entries()).expect("the size");
                map.reuse_fd(known.as_fd()).expect("the gateway's map");
            }
        }
        Egress(open.load().expect("load tc/egress"))
    }

    /// The mark of a backend for the VIP of this protocol.
    fn mark(&self, gateway: &Gateway, vip: u32, backend: u32) -> u32 {
        let epoch = gateway.maps().vips.get(vip).expect("a vip").epoch;
        let generation = gateway.maps().backends.get(backend).expect("a backend").generation;
        let mark = PROBE_MARK + vip * 100 + backend;
        self.write(mark, Probe { vip, epoch, backend, generation });
        mark
    }

    fn write(&self, mark: u32, probe: Probe) {
        let value = eg_abi::Plain::to_bytes(&probe);
        self.0.maps.eg_probes.update(&mark.to_ne_bytes(), &value, MapFlags::ANY).expect("write a probe");
    }

    /// Lets a packet leave, and gives what became of it.
    fn send(&self, frame: &[u8], mark: u32) -> (i32, Vec<u8>) {
        let mut context = [0; CONTEXT];
        context[MARK..MARK + 4].copy_from_slice(&mark.to_ne_bytes());
        let mut out = vec![0; frame.len() + 256];
        let input = ProgramInput {
            data_in: Some(frame),
            data_out: Some(&mut out),
            context_in: Some(&mut context),
            ..Default::default()
        };
        let output = self.0.progs.eg_tc_egress.test_run(input).expect("run the program");
        (output.return_value.cast_signed(), output.data.map(|data| data.to_vec()).unwrap_or_default())
    }

    fn counted(&self, result: Probed) -> u64 {
        let map = &self.0.maps.eg_probed;
        let cpus = map.lookup_percpu(&result.code().to_ne_bytes(), MapFlags::ANY).expect("read").expect("an element");
        cpus.iter().map(|cpu| u64::from_ne_bytes(cpu[..8].try_into().expect("eight bytes"))).sum()
    }

    /// Neither changed nor counted.
    fn passes(&self, frame: &[u8], mark: u32, name: &str) {
        let before = Probed::ALL.iter().map(|result| self.counted(*result)).sum::<u64>();
        assert_eq!(self.send(frame, mark), (PASSES, frame.to_vec()), "{name}");
        assert_eq!(Probed::ALL.iter().map(|result| self.counted(*result)).sum::<u64>(), before, "{name}");
    }

    fn drops(&self, frame: &[u8], mark: u32, result: Probed) {
        let before = self.counted(result);
        assert_eq!(self.send(frame, mark).0, DROPS, "{}", result.label());
        assert_eq!(self.counted(result), before + 1, "{}", result.label());
    }
}

/// Direct modes, and the families that each can join.
fn ways() -> Vec<(Forward, &'static Family, &'static Family)> {
    let mut ways = Vec::new();
    for mode in [Forward::Ipip, Forward::Gue, Forward::L2] {
        for (front, back) in [(&V4, &V4), (&V6, &V6), (&V4, &V6), (&V6, &V4)] {
            if mode != Forward::L2 || front.is_v6() == back.is_v6() {
                ways.push((mode, front, back));
            }
        }
    }
    ways
}

/// The smallest, the usual and the full packets that a prober sends.
fn frames(front: &Family) -> Vec<Frame> {
    let mut frames = Vec::new();
    for (port, l4) in [(1001, L4::Tcp(SYN)), (1002, L4::Udp)] {
        let source = std::net::SocketAddr::new(at(front.client).ip(), port);
        let frame = Frame { source, ..Frame::new(front.client, front.vip, l4) };
        frames.extend([frame.clone().payload(b""), frame.clone(), frame.clone().tos(0xb8), frame.payload(&[7; 1380])]);
    }
    frames
}

#[test]
fn a_probe_leaves_byte_for_byte_as_a_clients_packet_to_the_same_backend() {
    if !require("xdp") {
        return;
    }
    for (mode, front, back) in ways() {
        let gateway = Gateway::new();
        serve_by(&gateway, front, back, mode);
        let egress = Egress::beside(&gateway);
        for frame in frames(front) {
            let name = format!("{} of {} to {}, {frame:?}", mode.label(), front.vip, back.source);
            let vip = u32::from(frame.l4 == L4::Udp) + 1;
            let traffic = gateway.receive(&frame.build());
            assert_eq!(traffic.verdict, Verdict::Tx, "{name}");
            let picked: Vec<u32> = (1..=3)
                .filter(|backend| {
                    let (verdict, bytes) = egress.send(&frame.build(), egress.mark(&gateway, vip, *backend));
                    assert_eq!(verdict, LEAVES, "{name}");
                    let way = Way {
                        mode,
                        source: back.source.parse().unwrap(),
                        port: outer::port_of(
                            KEY,
                            &eg_abi::FlowKey::new(frame.source, frame.destination, frame.l4.proto()),
                        ),
                        backend: at(back.backends[*backend as usize - 1]).ip(),
                        gue_port: GUE_PORT,
                        smac: GATEWAY_MAC,
                        dmac: backend_mac(*backend),
                    };
                    assert_eq!(bytes, outer::carried(&frame, &way), "{name}: to backend {backend}");
                    bytes == traffic.bytes
                })
                .collect();
            assert_eq!(
                picked.len(),
                1,
                "{name}: the traffic went to one of them, and looked like the probe to that one"
            );
        }
        assert_eq!(egress.counted(Probed::Sent), 3 * frames(front).len() as u64);
    }
}

#[test]
fn what_is_no_probe_passes_untouched() {
    if !require("xdp") {
        return;
    }
    for (mode, front, back) in ways() {
        let gateway = Gateway::new();
        serve_by(&gateway, front, back, mode);
        let egress = Egress::beside(&gateway);
        let mark = egress.mark(&gateway, 1, 1);
        let syn = |to| Frame::new(front.client, to, L4::Tcp(SYN)).build();
        egress.passes(&syn(front.vip), 0, "no mark");
        egress.passes(&syn(front.vip), mark & 0x00ff_ffff, "somebody else's mark");
        egress.passes(&syn(front.vip), 0xe800_0000 | mark & 0x00ff_ffff, "nearly ours");
        egress.passes(&syn(front.other_port), mark, "a port without a VIP");
        egress.passes(&syn(front.foreign), mark, "another address");
        let mut arp = syn(front.vip);
        arp[12..14].copy_from_slice(&[8, 6]);
        egress.passes(&arp, mark, "no IP");
    }
}

#[test]
fn a_probe_that_cannot_take_the_traffics_way_takes_none() {
    if !require("xdp") {
        return;
    }
    let gateway = Gateway::new();
    serve_by(&gateway, &V4, &V4, Forward::Ipip);
    let egress = Egress::beside(&gateway);
    let mark = egress.mark(&gateway, 1, 1);
    let frame = Frame::new(V4.client, V4.vip, L4::Tcp(SYN)).build();
    let datagram = Frame::new(V4.client, V4.vip, L4::Udp).build();
    assert_eq!(egress.send(&frame, mark).0, LEAVES);

    egress.drops(&frame, PROBE_MARK + MAX_PROBES, Probed::Gone);
    // The mark is for the VIP of the other protocol.
    egress.drops(&datagram, mark, Probed::Gone);
    assert!(gateway.maps().vip_ids.get(&VipKey::new(at(V4.vip), PROTO_UDP)).unwrap().is_some());
    let vip = gateway.maps().vips.get(1).unwrap();
    assert_eq!(u32::from(vip.proto), u32::from(PROTO_TCP));
    egress.write(mark, Probe { vip: 1, epoch: vip.epoch + 1, backend: 1, generation: 1 });
    egress.drops(&frame, mark, Probed::Gone);

    let mark = egress.mark(&gateway, 1, 1);
    let backend = gateway.maps().backends.get(1).unwrap();
    let change = |change: fn(&mut eg_abi::Backend)| {
        let mut value = backend;
        change(&mut value);
        gateway.maps().backends.set(1, &value).unwrap();
    };
    change(|backend| backend.generation += 1);
    egress.drops(&frame, mark, Probed::Gone);
    change(|backend| backend.state = 0);
    egress.drops(&frame, mark, Probed::Gone);
    change(|backend| backend.ifindex = 0);
    egress.drops(&frame, mark, Probed::NoNextHop);
    change(|backend| backend.mtu = 50);
    egress.drops(&frame, mark, Probed::TooBig);
    change(|_| {});
    assert_eq!(egress.send(&frame, mark).0, LEAVES);

    // To a MAC address only where the backend itself has it.
    serve_by(&gateway, &V4, &V4, Forward::L2);
    let mark = egress.mark(&gateway, 1, 1);
    change(|backend| backend.flags |= BACKEND_ON_LINK);
    assert_eq!(egress.send(&frame, mark).0, LEAVES);
    change(|backend| backend.flags = 0);
    egress.drops(&frame, mark, Probed::NoNextHop);
}
