// SPDX-License-Identifier: GPL-3.0-only
//! What the maps of a bench world hold: services, backends, rings, flows, guards.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};

use eg_abi::{
    ADDR_SOURCE, ADDR_VIP, Addr, BACKEND_ON_LINK, Backend, BackendState, Be16, Bucket, Budget, Flow, FlowDir, FlowKey,
    FlowState, Forward, Guards, Plain, Pool, Prefix, PrefixVerdict, RING_SLOTS, Slot, VIP_GUARD_AMPLIFY,
    VIP_GUARD_FLOWS, VIP_GUARD_PACKETS, VIP_GUARD_PREFIX, VIP_GUARD_UDP, VIP_GUARDS, VIP_SNAT, Vip, VipKey,
};
use eg_skel::features;
use libbpf_rs::{Map, MapCore, MapFlags, MapHandle, MapType};
use libbpf_sys::bpf_map_create_opts;

use super::World;
use crate::Result;
use crate::cases::{Case, Guard, Service};
use crate::frame::{CLIENT_MAC, GATEWAY_MAC};

/// Enough for each backend's source ports to stay mostly free while the table is full of flows.
const BACKENDS: u32 = 256;
/// Prefixes in the lists.
const PREFIXES: u32 = 100_000;

impl World {
    pub(super) fn fill(&self) -> Result<()> {
        for (id, service) in (1u32..).zip(Service::all()?) {
            let key = VipKey::new(service.at, service.proto);
            let vip = Vip {
                addr: key.addr,
                port: key.port,
                proto: service.proto,
                forward: service.forward.code() as u8,
                epoch: 1,
                pool: pool_of(service.at),
                flags: if service.forward == Forward::Nat { VIP_SNAT } else { 0 },
                gue_port: Be16(6080u16.to_be_bytes()),
                ..Vip::default()
            };
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
                    ifindex: self.near,
                    dmac: [2, 0, 0, 0, 1, id as u8],
                    smac: GATEWAY_MAC,
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
        self.guards()
    }

    /// Slots in turn: equal shares, which is what a Maglev ring of equal backends comes to.
    fn ring(&self, pool: u32, first: u32) -> Result<()> {
        let options = bpf_map_create_opts {
            sz: size_of::<bpf_map_create_opts>() as _,
            // As eg_rings demands of its inner maps.
            map_flags: libbpf_sys::BPF_F_MMAPABLE,
            ..Default::default()
        };
        let ring = MapHandle::create(MapType::Array, Some("eg_ring"), 4, 8, RING_SLOTS, &options)?;
        let keys: Vec<u8> = (0..RING_SLOTS).flat_map(u32::to_ne_bytes).collect();
        let slots: Vec<u8> = (0..RING_SLOTS)
            .flat_map(|slot| Slot { primary: first + slot % BACKENDS, alternate: first }.to_bytes())
            .collect();
        ring.update_batch(&keys, &slots, RING_SLOTS, MapFlags::ANY, MapFlags::ANY)?;
        let fd = ring.as_fd().as_raw_fd() as u32;
        put(&self.map("eg_rings")?, &pool, &fd)
    }

    /// Writes the case's flows as handshakes would have left them, the halves for replies included where replies pass.
    pub(crate) fn establish(&self, case: &Case) -> Result<()> {
        let service = case.service.ok_or("a flow to no service")?;
        let (proto, forward) = Service::all()?.get(service).map(|s| (s.proto, s.forward)).ok_or("no such service")?;
        let pool = pool_of(case.to);
        let first = 1 + (pool - 1) * BACKENDS;
        let net: IpAddr = if pool == 1 { "192.168.0.0".parse()? } else { "2001:db8:1::".parse()? };
        let now = features::jiffies()?;
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for number in 0..case.flows {
            let key = FlowKey::new(numbered(case.from, number), case.to, proto);
            let flow = Flow {
                tag: key.tag(),
                addr: host(net, 0xfffe),
                port: Be16((10_240 + (number / BACKENDS % 20_000) as u16).to_be_bytes()),
                state: FlowState::Open.code() as u8,
                vip: 1 + service as u32,
                epoch: 1,
                backend: first + number % BACKENDS,
                generation: 1,
                seen: now,
                ..Flow::default()
            };
            keys.extend_from_slice(key.to_bytes().as_ref());
            values.extend_from_slice(flow.to_bytes().as_ref());
            if forward != Forward::Nat {
                continue;
            }
            let answering = SocketAddr::new(host(net, flow.backend).into(), 8080);
            let answered = SocketAddr::new(flow.addr.into(), flow.port.into());
            let back = FlowKey::new(answering, answered, proto);
            let client = numbered(case.from, number);
            let half = Flow {
                tag: back.tag(),
                dir: FlowDir::Reverse.code() as u8,
                addr: Addr::from(client.ip()),
                port: Be16(client.port().to_be_bytes()),
                ifindex: self.near,
                dmac: CLIENT_MAC,
                smac: GATEWAY_MAC,
                ..flow
            };
            keys.extend_from_slice(back.to_bytes().as_ref());
            values.extend_from_slice(half.to_bytes().as_ref());
        }
        let entries = (keys.len() / size_of::<<FlowKey as Plain>::Bytes>()) as u32;
        Ok(self.map("eg_flows")?.update_batch(&keys, &values, entries, MapFlags::ANY, MapFlags::ANY)?)
    }

    /// Turns this guard of the service on, or all off; its limits are such that nothing is refused.
    pub(crate) fn guard(&self, service: usize, guard: Option<Guard>) -> Result<()> {
        let id = 1 + service as u32;
        let flag = match guard {
            Some(Guard::Prefixes) => VIP_GUARD_PREFIX,
            Some(Guard::Packets) => VIP_GUARD_PACKETS,
            Some(Guard::Flows) => VIP_GUARD_FLOWS,
            Some(Guard::Udp) => VIP_GUARD_UDP,
            Some(Guard::Amplification) => VIP_GUARD_AMPLIFY,
            _ => 0,
        };
        let vips = self.map("eg_vips")?;
        let value = vips.lookup(&id.to_ne_bytes(), MapFlags::ANY)?.and_then(|bytes| Vip::from_bytes(&bytes));
        let vip = value.ok_or("no such VIP")?;
        put(&vips, &id, &Vip { flags: vip.flags & !VIP_GUARDS | flag, ..vip })?;
        let step = u64::from(guard == Some(Guard::Budget));
        put(&self.map("eg_budgets")?, &id, &Budget { step, window: u64::MAX >> 2, full: 0 })
    }

    /// The limits of all guards, and the lists.
    fn guards(&self) -> Result<()> {
        let bucket = Bucket { step: 1, window: u64::MAX >> 2 };
        let mask = |bits: u32| Addr::from(IpAddr::from((u128::MAX << (128 - bits)).to_be_bytes()));
        let limits = Guards {
            mask4: mask(128),
            mask6: mask(64),
            packets: bucket,
            flows: bucket,
            udp: bucket,
            amplification: 1,
            ..Guards::default()
        };
        put(&self.map("eg_guard_conf")?, &0u32, &limits)?;
        let options = bpf_map_create_opts {
            sz: size_of::<bpf_map_create_opts>() as _,
            map_flags: libbpf_sys::BPF_F_NO_PREALLOC,
            ..Default::default()
        };
        let key = size_of::<<Prefix as Plain>::Bytes>() as u32;
        let trie = MapHandle::create(MapType::LpmTrie, Some("eg_prefix"), key, 4, PREFIXES, &options)?;
        for number in 0..PREFIXES {
            // From the clients' own network on, and not the clients.
            let net = u32::from_be_bytes([10, 0, 1, 0]) + (number << 8);
            let addr = Addr::from(IpAddr::from(net.to_be_bytes()));
            let prefix = Prefix { len: 96 + 24, addr };
            trie.update(prefix.to_bytes().as_ref(), &PrefixVerdict::Allow.code().to_ne_bytes(), MapFlags::ANY)?;
        }
        put(&self.map("eg_prefixes")?, &0u32, &(trie.as_fd().as_raw_fd() as u32))
    }
}

/// The client of flow `number`: the low four bytes of the address differ.
fn numbered(client: SocketAddr, number: u32) -> SocketAddr {
    let ip = match client.ip() {
        IpAddr::V4(ip) => IpAddr::from((u32::from(ip) ^ number).to_be_bytes()),
        IpAddr::V6(ip) => IpAddr::from((u128::from(ip) ^ u128::from(number)).to_be_bytes()),
    };
    SocketAddr::new(ip, client.port())
}

fn pool_of(service: SocketAddr) -> u32 {
    1 + u32::from(service.is_ipv6())
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
