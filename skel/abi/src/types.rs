// SPDX-License-Identifier: GPL-3.0-only
//! The structs of `bpf/abi.h`, in its order. What each field means is said there; here is what Rust adds.

use core::net::SocketAddr;

use crate::addr::split;
use crate::plain::plain_struct;
use crate::{Addr, Be16};

plain_struct! {
    /// Key of `eg_vip_ids`.
    pub struct VipKey {
        pub addr: Addr,
        pub port: Be16,
        pub proto: u8,
        pub pad: u8,
    }
}

impl VipKey {
    /// The VIP at this address and port.
    pub fn new(at: SocketAddr, proto: u8) -> VipKey {
        let (addr, port) = split(at);
        VipKey { addr, port, proto, pad: 0 }
    }

    /// The entry that says what the address is to us: [`crate::ADDR_VIP`] and [`crate::ADDR_SOURCE`].
    pub fn any_port(addr: Addr) -> VipKey {
        VipKey { addr, ..VipKey::default() }
    }

    /// Whether it is a VIP's own entry, and not one of those under port 0, which say what an address is to us and where its
    /// fragments without ports go.
    pub fn is_vips(&self) -> bool {
        u16::from(self.port) != 0
    }
}

plain_struct! {
    /// Element of `eg_vips`. Epoch 0 is no VIP.
    pub struct Vip {
        pub addr: Addr,
        pub port: Be16,
        pub proto: u8,
        /// [`crate::Forward`]
        pub forward: u8,
        pub epoch: u32,
        pub pool: u32,
        /// [`crate::VIP_SNAT`], [`crate::VIP_STABLE`], [`crate::VIP_REPICK`], [`crate::VIP_RESET`], [`crate::VIP_GUARD_PREFIX`] and so on
        pub flags: u32,
        pub gue_port: Be16,
        pub pad: [u8; 2],
    }
}

plain_struct! {
    /// Element of `eg_backends`.
    pub struct Backend {
        pub addr: Addr,
        pub source: Addr,
        pub port: Be16,
        /// [`crate::BackendState`]
        pub state: u8,
        /// [`crate::BACKEND_ON_LINK`]
        pub flags: u8,
        pub generation: u32,
        /// 0 while the next hop is unresolved.
        pub ifindex: u32,
        pub dmac: [u8; 6],
        pub smac: [u8; 6],
        /// L3 bytes; 0 is unknown.
        pub mtu: u16,
        pub weight: u16,
        /// Of an outstanding flow, where the pool chooses by latency.
        pub price: u32,
    }
}

plain_struct! {
    /// Element of `eg_latencies`, in nanoseconds; `seen` 0 is none.
    pub struct Latency {
        pub value: u64,
        pub seen: u64,
    }
}

/// Element of `eg_loads`, shared with the kernel by `mmap`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    pub flows: i64,
    pub outstanding: i64,
    pub latency: Latency,
}

plain_struct! {
    /// Element of `eg_pools`.
    pub struct Pool {
        pub hash_key: [u64; 2],
        pub backends: u32,
        /// Slots of the ring in use, from the first.
        pub period: u32,
        /// [`crate::Algorithm`]
        pub algorithm: u8,
        pub prefix4: u8,
        pub prefix6: u8,
        pub pad: u8,
        pub affinity_s: u32,
    }
}

plain_struct! {
    /// Key of `eg_affinities`.
    pub struct AffinityKey {
        pub addr: Addr,
        pub pool: u32,
    }
}

plain_struct! {
    /// Value of `eg_affinities`.
    pub struct Affinity {
        pub backend: u32,
        pub generation: u32,
        pub seen: u32,
    }
}

plain_struct! {
    /// Element of a ring.
    pub struct Slot {
        pub primary: u32,
        pub alternate: u32,
    }
}

plain_struct! {
    /// Key of `eg_flows`, and what the pool's hash covers: a packet as it arrives.
    pub struct FlowKey {
        pub saddr: Addr,
        pub daddr: Addr,
        pub sport: Be16,
        pub dport: Be16,
        pub proto: u8,
        pub pad: [u8; 3],
    }
}

impl FlowKey {
    /// The key of a packet from `source` to `destination`.
    pub fn new(source: SocketAddr, destination: SocketAddr, proto: u8) -> FlowKey {
        let (saddr, sport) = split(source);
        let (daddr, dport) = split(destination);
        FlowKey { saddr, daddr, sport, dport, proto, pad: [0; 3] }
    }

    /// What the flow's value says about its key (`flow_tag` of `bpf/lib/flow.h`).
    pub fn tag(&self) -> u32 {
        let word = |addr: &Addr| {
            let [.., a, b, c, d] = addr.b;
            u32::from_ne_bytes([a, b, c, d])
        };
        let port = |port: Be16| u32::from(u16::from_ne_bytes(port.0));
        (port(self.sport) << 16 | port(self.dport)) ^ word(&self.saddr) ^ word(&self.daddr).wrapping_mul(0x9e37_79b1)
    }
}

plain_struct! {
    /// Value of `eg_flows` and `eg_opening`.
    pub struct Flow {
        /// [`FlowKey::tag`]
        pub tag: u32,
        pub addr: Addr,
        pub port: Be16,
        /// [`crate::FlowDir`]
        pub dir: u8,
        /// [`crate::FlowState`]
        pub state: u8,
        pub vip: u32,
        pub epoch: u32,
        pub backend: u32,
        pub generation: u32,
        pub seen: u32,
        pub next: u32,
        pub ifindex: u32,
        pub dmac: [u8; 6],
        pub smac: [u8; 6],
        pub born: u32,
    }
}

plain_struct! {
    /// Key of `eg_frags`: a datagram that arrives in fragments.
    pub struct FragKey {
        pub saddr: Addr,
        pub daddr: Addr,
        /// As on the wire; IPv4's in its first two bytes.
        pub id: u32,
        pub proto: u8,
        pub pad: [u8; 3],
    }
}

plain_struct! {
    /// Bytes of a datagram that went by.
    pub struct FragRange {
        pub from: u16,
        /// 0: the slot is free.
        pub to: u16,
    }
}

plain_struct! {
    /// Value of `eg_frags`.
    pub struct Frag {
        /// ns of CLOCK_MONOTONIC
        pub born: u64,
        pub tag: u32,
        pub backend: u32,
        pub id: u32,
        pub total: u32,
        pub sport: Be16,
        pub dport: Be16,
        /// [`crate::FRAG_PORTS`] and the like
        pub flags: u8,
        pub pad: [u8; 3],
        pub ranges: [FragRange; crate::FRAG_RANGES],
    }
}

plain_struct! {
    /// What goes before the bytes of a held frame.
    pub struct Held {
        pub key: FragKey,
        pub ifindex: u32,
        /// Of the frame.
        pub length: u32,
    }
}

plain_struct! {
    /// What goes before the bytes of a captured frame.
    pub struct Captured {
        /// ns of CLOCK_MONOTONIC
        pub time: u64,
        pub ifindex: u32,
        /// Of the frame.
        pub length: u32,
        /// Bytes of it that follow.
        pub kept: u32,
        /// [`crate::Verdict`], or [`crate::CAPTURED_HELD`]
        pub verdict: u32,
        /// [`crate::Drop`]
        pub reason: u32,
        pub vip: u32,
        pub backend: u32,
        /// 1: it goes to the client.
        pub reply: u32,
    }
}

plain_struct! {
    /// Element of `eg_vip_stats` and `eg_backend_stats`.
    pub struct Stats {
        pub packets: u64,
        pub bytes: u64,
        pub reply_packets: u64,
        pub reply_bytes: u64,
        pub flows: u64,
        pub drops: u64,
    }
}

impl core::ops::AddAssign for Stats {
    fn add_assign(&mut self, other: Stats) {
        self.packets = self.packets.wrapping_add(other.packets);
        self.bytes = self.bytes.wrapping_add(other.bytes);
        self.reply_packets = self.reply_packets.wrapping_add(other.reply_packets);
        self.reply_bytes = self.reply_bytes.wrapping_add(other.reply_bytes);
        self.flows = self.flows.wrapping_add(other.flows);
        self.drops = self.drops.wrapping_add(other.drops);
    }
}

impl Stats {
    /// What was forwarded, both directions together.
    pub fn forwarded(&self) -> Count {
        Count {
            packets: self.packets.wrapping_add(self.reply_packets),
            bytes: self.bytes.wrapping_add(self.reply_bytes),
        }
    }
}

plain_struct! {
    /// Element of `eg_totals` and `eg_drops`.
    pub struct Count {
        pub packets: u64,
        pub bytes: u64,
    }
}

impl core::ops::AddAssign for Count {
    fn add_assign(&mut self, other: Count) {
        self.packets = self.packets.wrapping_add(other.packets);
        self.bytes = self.bytes.wrapping_add(other.bytes);
    }
}

plain_struct! {
    /// Key of the trie in `eg_prefixes`: the first `len` bits of the 128 count, 96 and more for IPv4.
    pub struct Prefix {
        pub len: u32,
        pub addr: Addr,
    }
}

plain_struct! {
    /// A limit, in jiffies / 2^[`crate::GUARD_TICK_SHIFT`].
    pub struct Bucket {
        /// What one thing costs.
        pub step: u64,
        /// What the bucket holds.
        pub window: u64,
    }
}

plain_struct! {
    /// The only element of `eg_guard_conf`.
    pub struct Guards {
        pub mask4: Addr,
        pub mask6: Addr,
        pub packets: Bucket,
        pub flows: Bucket,
        pub udp: Bucket,
        pub amplification: u32,
        pub pad: u32,
    }
}

plain_struct! {
    /// Value of `eg_sources`.
    pub struct Source {
        pub packets: u64,
        pub flows: u64,
        pub udp: u64,
        pub debt: i64,
        pub forgiven: u32,
        pub pad: u32,
    }
}

plain_struct! {
    /// Element of `eg_budgets`. A step of 0 is no limit.
    pub struct Budget {
        pub step: u64,
        pub window: u64,
        pub full: u64,
    }
}

plain_struct! {
    /// Value of `eg_probes`: whom a probe asks, and for which VIP.
    pub struct Probe {
        pub vip: u32,
        pub epoch: u32,
        pub backend: u32,
        pub generation: u32,
    }
}

plain_struct! {
    /// Record of `eg_events`.
    pub struct Event {
        pub key: FlowKey,
        /// [`crate::EventKind`]
        pub kind: u32,
        /// [`crate::Drop`]
        pub code: u32,
        pub vip: u32,
        pub backend: u32,
        pub ifindex: u32,
        pub length: u32,
    }
}

plain_struct! {
    /// Key of `eg_listeners`.
    pub struct ListenerKey {
        pub addr: Addr,
        pub port: Be16,
        pub proto: u8,
        pub pad: u8,
    }
}

impl ListenerKey {
    /// The listener at this address and port; the unspecified address stands for its whole family.
    pub fn new(at: SocketAddr, proto: u8) -> ListenerKey {
        let (addr, port) = split(at);
        ListenerKey { addr, port, proto, pad: 0 }
    }
}

plain_struct! {
    /// Value of `eg_listeners`: the workers' sockets are `eg_socks[base .. base + workers]`.
    pub struct Listener {
        pub base: u32,
        pub workers: u32,
    }
}

plain_struct! {
    /// Element of `eg_meta`.
    pub struct Meta {
        pub abi: u32,
        pub workers: u32,
        pub generation: u64,
        pub alive: u64,
    }
}

plain_struct! {
    /// The only element of `eg_conf`.
    pub struct Conf {
        /// [`crate::CONF_RETURN_PATH`]
        pub flags: u32,
        pub pad: u32,
        pub outer4: Addr,
        pub outer6: Addr,
        pub outer4_bits: u32,
        pub outer6_bits: u32,
    }
}

/// Element of `eg_workers`, shared with the kernel by `mmap`; a cache line, so that workers do not share one.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Worker {
    pub live: u64,
    pub pad: [u8; 56],
}
