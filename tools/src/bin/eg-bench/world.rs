// SPDX-License-Identifier: GPL-3.0-only
//! One loaded copy of the XDP program with maps of its own, filled with the VIPs and backends of the cases; and the harness
//! program that feeds it. Each case has a new one, so that no case finds another one's flows.

use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use eg_abi::{
    ADDR_SOURCE, ADDR_VIP, Addr, BACKEND_ON_LINK, Backend, BackendState, Be16, Flow, FlowKey, FlowState, Forward,
    PROTO_TCP, PROTO_UDP, Plain, Pool, RING_SLOTS, Slot, Stats, VIP_SNAT, Vip, VipKey,
};
use eg_skel::features::{self, XDP_HAS_FRAGS};
use eg_skel::xdp_ingress::{IngressSkel, IngressSkelBuilder};
use libbpf_rs::skel::{OpenSkel, Skel, SkelBuilder};
use libbpf_rs::{Map, MapCore, MapFlags, MapHandle, MapType, Object, ProgramInput};
use libbpf_sys::bpf_map_create_opts;

use crate::Result;
use crate::compile::Workshop;
use crate::frame::{Frame, LENGTH};

/// Enough for each backend's source ports to stay mostly free while the table is full of flows.
const BACKENDS: u32 = 256;
/// Where test runs say that packets come from when nobody says otherwise: the loopback interface. A backend behind the
/// same interface makes the verdict XDP_TX.
const IFINDEX: u32 = 1;

/// Addresses of the VIPs, by what they carry.
pub(crate) const TCP: &str = "203.0.113.1:80";
pub(crate) const UDP: &str = "203.0.113.1:53";
pub(crate) const TCP6: &str = "[2001:db8::1]:80";
/// The same services by other modes.
pub(crate) const TCP_IPIP: &str = "203.0.113.2:80";
pub(crate) const UDP_IPIP: &str = "203.0.113.2:53";
pub(crate) const TCP6_IPIP: &str = "[2001:db8::2]:80";
pub(crate) const TCP_GUE: &str = "203.0.113.3:80";
pub(crate) const TCP_L2: &str = "203.0.113.4:80";
const VIPS: [(&str, u8, u32, Forward); 8] = [
    (TCP, PROTO_TCP, 1, Forward::Nat),
    (UDP, PROTO_UDP, 1, Forward::Nat),
    (TCP6, PROTO_TCP, 2, Forward::Nat),
    (TCP_IPIP, PROTO_TCP, 1, Forward::Ipip),
    (UDP_IPIP, PROTO_UDP, 1, Forward::Ipip),
    (TCP6_IPIP, PROTO_TCP, 2, Forward::Ipip),
    (TCP_GUE, PROTO_TCP, 1, Forward::Gue),
    (TCP_L2, PROTO_TCP, 1, Forward::L2),
];

pub(crate) struct World {
    program: Program,
    harness: Object,
}

enum Program {
    /// As the gateway loads it: the same object, the same probes.
    Product(Box<IngressSkel<'static>>),
    /// Compiled anew, with counters before each lookup and change of a map.
    Counted(Object),
}

impl World {
    /// The program that is timed.
    pub(crate) fn product(workshop: &Workshop) -> Result<World> {
        // A few hundred bytes a case, for as long as this short-lived process runs.
        let storage = Box::leak(Box::new(MaybeUninit::uninit()));
        let mut open = IngressSkelBuilder::default().open(storage)?;
        let frags = features::xdp_frags();
        let rodata = open.maps.rodata_data.as_deref_mut().ok_or("the program has no rodata")?;
        rodata.eg_jiffies_hz = features::jiffies_hz()?;
        rodata.eg_xdp_frags = u8::from(frags);
        if frags {
            for mut program in open.open_object_mut().progs_mut() {
                program.set_flags(XDP_HAS_FRAGS);
            }
        }
        World::new(Program::Product(Box::new(open.load()?)), workshop, frags)
    }

    /// The copy that counts.
    pub(crate) fn counted(workshop: &Workshop) -> Result<World> {
        let open = workshop.open("bpf/xdp/ingress.bpf.c", &Workshop::counters())?;
        World::new(Program::Counted(open.load()?), workshop, false)
    }

    /// The kernel lets programs tail-call each other only if they agree on `frags`.
    fn new(program: Program, workshop: &Workshop, frags: bool) -> Result<World> {
        let mut open = workshop.open("tools/bench/bpf/bench.bpf.c", &[])?;
        for mut program in open.progs_mut() {
            let wanted = program.name() != "bench_syscall";
            program.set_autoload(wanted);
            if frags && wanted {
                program.set_flags(XDP_HAS_FRAGS);
            }
        }
        let world = World { program, harness: open.load()? };
        world.fill()?;
        Ok(world)
    }

    fn fill(&self) -> Result<()> {
        for (id, (address, proto, pool, forward)) in (1u32..).zip(VIPS) {
            let at: SocketAddr = address.parse()?;
            let key = VipKey::new(at, proto);
            let (addr, port, flags) = (key.addr, key.port, if forward == Forward::Nat { VIP_SNAT } else { 0 });
            let (forward, gue_port) = (forward.code() as u8, Be16(6080u16.to_be_bytes()));
            let vip = Vip { addr, port, proto, forward, epoch: 1, pool, flags, gue_port, ..Vip::default() };
            put(&self.map("eg_vips")?, &id, &vip)?;
            put(&self.map("eg_vip_ids")?, &key, &id)?;
            put(&self.map("eg_vip_ids")?, &VipKey::any_port(key.addr), &ADDR_VIP)?;
        }
        for (pool, net) in [(1u32, "192.168.0.0"), (2, "2001:db8:1::")] {
            let net: IpAddr = net.parse()?;
            let first = 1 + (pool - 1) * BACKENDS;
            for id in first..first + BACKENDS {
                let backend = Backend {
                    addr: host(net, id),
                    source: host(net, 0xfffe),
                    port: Be16(8080u16.to_be_bytes()),
                    state: BackendState::Up as u8,
                    flags: BACKEND_ON_LINK,
                    mtu: 1500,
                    weight: 1,
                    generation: 1,
                    ifindex: IFINDEX,
                    dmac: [2, 0, 0, 0, 1, id as u8],
                    smac: [2, 0, 0, 0, 0, 1],
                    ..Backend::default()
                };
                put(&self.map("eg_backends")?, &id, &backend)?;
            }
            put(
                &self.map("eg_pools")?,
                &pool,
                &Pool { hash_key: [7, 11], backends: BACKENDS, period: RING_SLOTS, ..Pool::default() },
            )?;
            put(&self.map("eg_vip_ids")?, &VipKey::any_port(host(net, 0xfffe)), &ADDR_SOURCE)?;
            self.ring(pool, first)?;
        }
        Ok(())
    }

    /// Slots in turn: equal shares, which is what a Maglev ring of equal backends comes to.
    fn ring(&self, pool: u32, first: u32) -> Result<()> {
        // SAFETY: a C struct of integers, for which zero is a value.
        let mut options: bpf_map_create_opts = unsafe { std::mem::zeroed() };
        options.sz = size_of::<bpf_map_create_opts>() as _;
        let ring = MapHandle::create(MapType::Array, Some("eg_ring"), 4, 8, RING_SLOTS, &options)?;
        let keys: Vec<u8> = (0..RING_SLOTS).flat_map(u32::to_ne_bytes).collect();
        let slots: Vec<u8> = (0..RING_SLOTS)
            .flat_map(|slot| Slot { primary: first + slot % BACKENDS, alternate: first }.to_bytes())
            .collect();
        ring.update_batch(&keys, &slots, RING_SLOTS, MapFlags::ANY, MapFlags::ANY)?;
        let fd = ring.as_fd().as_raw_fd() as u32;
        put(&self.map("eg_rings")?, &pool, &fd)
    }

    /// Writes `flows` established flows of the client that sends `frame` to VIP `vip`, as handshakes would have left them.
    /// What a packet of one finds is what it would find then; only the halves that replies would need are missing.
    pub(crate) fn establish(&self, client: SocketAddr, vip: &str, flows: u32) -> Result<()> {
        let to: SocketAddr = vip.parse()?;
        let (id, (_, proto, pool, _)) =
            (1u32..).zip(VIPS).find(|(_, (address, ..))| *address == vip).ok_or("no such VIP")?;
        let now = features::jiffies()?;
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for number in 0..flows {
            let low = |bytes: &mut [u8]| {
                let at = bytes.len() - 4;
                bytes[at..].iter_mut().zip(number.to_be_bytes()).for_each(|(byte, bits)| *byte ^= bits);
            };
            let from = match client.ip() {
                IpAddr::V4(ip) => {
                    let mut bytes = ip.octets();
                    low(&mut bytes);
                    IpAddr::from(bytes)
                }
                IpAddr::V6(ip) => {
                    let mut bytes = ip.octets();
                    low(&mut bytes);
                    IpAddr::from(bytes)
                }
            };
            let key = FlowKey::new(SocketAddr::new(from, client.port()), to, proto);
            let first = 1 + (pool - 1) * BACKENDS;
            let net: IpAddr = if pool == 1 { "192.168.0.0".parse()? } else { "2001:db8:1::".parse()? };
            let flow = Flow {
                tag: key.tag(),
                addr: host(net, 0xfffe),
                port: Be16((10_240 + (number / BACKENDS % 20_000) as u16).to_be_bytes()),
                state: FlowState::Open.code() as u8,
                vip: id,
                epoch: 1,
                backend: first + number % BACKENDS,
                generation: 1,
                seen: now,
                ..Flow::default()
            };
            keys.extend_from_slice(key.to_bytes().as_ref());
            values.extend_from_slice(flow.to_bytes().as_ref());
        }
        Ok(self.map("eg_flows")?.update_batch(&keys, &values, flows, MapFlags::ANY, MapFlags::ANY)?)
    }

    /// Keys for the yardstick: `flows` of them, told apart as the harness tells flows apart.
    pub(crate) fn keys(&self, frame: &Frame, flows: u32, at: usize) -> Result<()> {
        let table = find(&self.harness, "bench_keys")?;
        for flow in 0..flows {
            let mut key = *frame;
            for (byte, bits) in key[at..at + 4].iter_mut().zip(flow.to_be_bytes()) {
                *byte ^= bits;
            }
            table.update(&key[26..66], &1u64.to_ne_bytes(), MapFlags::ANY)?;
        }
        Ok(())
    }

    /// Sends `packets` frames, the four bytes at `at` different for each of `flows` flows, from turn `turn` on in
    /// this order, through `target`. Returns nanoseconds per packet, the harness included, and the last verdict.
    #[allow(clippy::too_many_arguments, reason = "one call, one packet: each is one fact about it")]
    pub(crate) fn send(
        &self,
        target: Target,
        frame: &Frame,
        flows: u32,
        at: usize,
        (order, turn): (Order, u32),
        packets: u32,
    ) -> Result<(f64, u32)> {
        let mut state = frame.to_vec();
        for word in [flows - 1, at as u32, turn, order as u32] {
            state.extend_from_slice(&word.to_ne_bytes());
        }
        let bss = self.harness.maps().find(|m| m.name().to_string_lossy().ends_with(".bss")).ok_or("no .bss")?;
        bss.update(&0u32.to_ne_bytes(), &state, MapFlags::ANY)?;
        let fd = self.target(target)?.as_raw_fd();
        find(&self.harness, "bench_target")?.update(&0u32.to_ne_bytes(), &fd.to_ne_bytes(), MapFlags::ANY)?;
        let each = self.harness.progs_mut().find(|p| p.name() == "bench_each").ok_or("no program bench_each")?;
        let output = each.test_run(ProgramInput { data_in: Some(frame), repeat: packets, ..Default::default() })?;
        Ok((output.duration.as_nanos() as f64, output.return_value))
    }

    /// Runs `target` alone, once for `packets` = 1: what it makes of the frame, and nanoseconds per run.
    pub(crate) fn alone(&self, target: Target, frame: &Frame, packets: u32) -> Result<(Vec<u8>, f64)> {
        let name = target.name();
        let object = self.object(target);
        let program = object.progs_mut().find(|p| p.name() == name).ok_or_else(|| format!("no program {name}"))?;
        let mut out = vec![0u8; LENGTH];
        let input =
            ProgramInput { data_in: Some(frame), data_out: Some(&mut out), repeat: packets, ..Default::default() };
        let nanoseconds = program.test_run(input)?.duration.as_nanos() as f64;
        Ok((out, nanoseconds))
    }

    /// The figures of all VIPs together.
    pub(crate) fn stats(&self) -> Result<Stats> {
        let mut all = Stats::default();
        let map = self.map("eg_vip_stats")?;
        for id in 1..=VIPS.len() as u32 {
            for cpu in map.lookup_percpu(&id.to_ne_bytes(), MapFlags::ANY)?.unwrap_or_default() {
                all += cpu.get(..size_of::<Stats>()).and_then(Stats::from_bytes).ok_or("eg_vip_stats: short value")?;
            }
        }
        Ok(all)
    }

    /// (lookups, updates and deletes) so far, of a `counted` world.
    pub(crate) fn tally(&self) -> Result<(u64, u64)> {
        let map = self
            .object(Target::Product)
            .maps()
            .find(|m| m.name().to_string_lossy().ends_with(".bss.bench"))
            .ok_or("no .bss.bench")?;
        let value = map.lookup(&0u32.to_ne_bytes(), MapFlags::ANY)?.ok_or(".bss.bench is empty")?;
        let word = |at: usize| value.get(at..at + 8).and_then(|b| b.try_into().ok()).map(u64::from_ne_bytes);
        Ok((word(0).ok_or("short .bss.bench")?, word(8).ok_or("short .bss.bench")?))
    }

    fn object(&self, target: Target) -> &Object {
        match (target, &self.program) {
            (Target::Product, Program::Product(skeleton)) => skeleton.object(),
            (Target::Product, Program::Counted(object)) => object,
            _ => &self.harness,
        }
    }

    fn target(&self, target: Target) -> Result<BorrowedFd<'_>> {
        let name = target.name();
        let program =
            self.object(target).progs().find(|p| p.name() == name).ok_or_else(|| format!("no program {name}"))?;
        let fd = program.as_fd().as_raw_fd();
        // SAFETY: the descriptor belongs to an object that lives as long as `self`.
        Ok(unsafe { BorrowedFd::borrow_raw(fd) })
    }

    fn map(&self, name: &str) -> Result<Map<'_>> {
        find(self.object(Target::Product), name)
    }
}

/// In which order turns visit the flows: what the flow's number is multiplied by, modulo a power of two. Both are odd, so
/// each visits every flow once.
#[derive(Clone, Copy)]
#[repr(u32)]
pub(crate) enum Order {
    /// One after the other: how flows and yardstick keys are made.
    Made = 1,
    /// An order that no prefetcher foresees. Visiting flows as they were made would read their entries in a row.
    Scattered = 2_654_435_761,
}

/// What the harness hands a frame to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    Product,
    Lookup,
    Empty,
}

impl Target {
    fn name(self) -> &'static str {
        match self {
            Target::Product => "eg_xdp_ingress",
            Target::Lookup => "bench_lookup",
            Target::Empty => "bench_empty",
        }
    }
}

fn find<'a>(object: &'a Object, name: &str) -> Result<Map<'a>> {
    object.maps().find(|m| m.name() == name).ok_or_else(|| format!("no map {name}").into())
}

fn put(map: &Map<'_>, key: &impl Plain, value: &impl Plain) -> Result<()> {
    Ok(map.update(key.to_bytes().as_ref(), value.to_bytes().as_ref(), MapFlags::ANY)?)
}

/// Host number `id` of a network.
fn host(net: IpAddr, id: u32) -> Addr {
    match net {
        IpAddr::V4(net) => Addr::from(IpAddr::from((u32::from(net) + id).to_be_bytes())),
        IpAddr::V6(net) => Addr::from(IpAddr::from((u128::from(net) + u128::from(id)).to_be_bytes())),
    }
}
