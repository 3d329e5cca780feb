// SPDX-License-Identifier: GPL-3.0-only
//! The Rust side of `bpf/abi.h`: plain types with good names, and their bytes as the maps hold them.
//!
//! `struct eg_vip_key` is [`VipKey`], `EG_DROP_NO_BACKEND` is [`Drop::NoBackend`]. Field order and sizes are those of
//! the C structs; `skel/src/layout.rs` proves it when the workspace is compiled. Conversion to and from bytes is field
//! by field, without `unsafe`, and refuses a slice of the wrong length. Nothing here knows of maps or of libbpf.

#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::unreachable)
)]

mod addr;
pub mod backend;
pub mod cid;
mod labels;
mod plain;
mod types;

pub use addr::{Addr, Be16};
pub use labels::{
    Algorithm, BackendState, Cookie, Drop, EventKind, FlowDir, FlowState, Forward, Miss, PrefixVerdict, Probed, Verdict,
};
pub use plain::Plain;
pub use types::{
    Affinity, AffinityKey, Backend, Bucket, Budget, Captured, Conf, Count, Event, Flow, FlowKey, Frag, FragKey,
    FragRange, Guards, Held, Latency, Listener, ListenerKey, Load, Meta, Pool, Prefix, Probe, Slot, Source, Stats, Vip,
    VipKey, Worker,
};

/// `EG_ABI`: pins live under `v<ABI>/`, and maps of another one are never opened.
pub const ABI: u32 = 2;
/// `EG_MAX_VIPS`: VIP ids are `1..MAX_VIPS`.
pub const MAX_VIPS: u32 = 4096;
/// `EG_MAX_POOLS`: pool ids are `1..MAX_POOLS`.
pub const MAX_POOLS: u32 = 4096;
/// `EG_MAX_BACKENDS`: backend ids are `1..MAX_BACKENDS`.
pub const MAX_BACKENDS: u32 = 65536;
/// `EG_MAX_WORKERS`: workers that socket lookup can tell apart.
pub const MAX_WORKERS: u32 = 64;
/// `EG_MAX_SOCKS`: sockets that all L7 listeners and workers can publish together.
pub const MAX_SOCKS: u32 = 16384;
/// `EG_MAX_PROBES`: pairs of a VIP and a backend that can be probed.
pub const MAX_PROBES: u32 = 65536;
/// `EG_PROBE_MARK`: mark of a probe's socket, but for the lower three bytes.
pub const PROBE_MARK: u32 = 0xe900_0000;
/// `EG_RING_SLOTS`: slots of each pool's ring.
pub const RING_SLOTS: u32 = 65537;
/// `EG_VIP_SNAT` of [`Vip::flags`].
pub const VIP_SNAT: u32 = 1;
/// `EG_VIP_STABLE` of [`Vip::flags`].
pub const VIP_STABLE: u32 = 2;
/// `EG_FRAG_RANGES`: what a datagram's parts may be known as at a time.
pub const FRAG_RANGES: usize = 16;
/// `EG_FRAG_TIMEOUT_MS`: how long an entry of `eg_frags` counts.
pub const FRAG_TIMEOUT_MS: u32 = 5000;
/// `EG_FRAG_PORTS` of [`Frag::flags`]: the first fragment was seen.
pub const FRAG_PORTS: u8 = 1;
/// `EG_FRAG_DONE` of [`Frag::flags`]: the entry counts no more.
pub const FRAG_DONE: u8 = 32;
/// `EG_CAPTURED_HELD` of [`Captured::verdict`]: it waits for its datagram's first fragment.
pub const CAPTURED_HELD: u32 = 4;
/// `EG_ADDR_VIP`: the address carries VIPs.
pub const ADDR_VIP: u32 = 1;
/// `EG_ADDR_SOURCE`: we write the address as a source.
pub const ADDR_SOURCE: u32 = 2;
/// `EG_BACKEND_ON_LINK` of [`Backend::flags`].
pub const BACKEND_ON_LINK: u8 = 1;
/// `EG_CONF_RETURN_PATH` of [`Conf::flags`].
pub const CONF_RETURN_PATH: u32 = 1;
/// `EG_VIP_REPICK` of [`Vip::flags`].
pub const VIP_REPICK: u32 = 4;
/// `EG_VIP_RESET` of [`Vip::flags`].
pub const VIP_RESET: u32 = 8;
/// `EG_ADDR_PASS`: what carries no VIP at the address is the stack's.
pub const ADDR_PASS: u32 = 4;
/// `EG_ADDR_RESET`: TCP to what carries no VIP is reset.
pub const ADDR_RESET: u32 = 8;
/// `EG_ADDR_COOKIE`: `eg_cookies` knows ports of the address.
pub const ADDR_COOKIE: u32 = 16;
/// `EG_VIP_GUARD_PREFIX` of [`Vip::flags`].
pub const VIP_GUARD_PREFIX: u32 = 1 << 8;
/// `EG_VIP_GUARD_PACKETS` of [`Vip::flags`].
pub const VIP_GUARD_PACKETS: u32 = 1 << 9;
/// `EG_VIP_GUARD_FLOWS` of [`Vip::flags`].
pub const VIP_GUARD_FLOWS: u32 = 1 << 10;
/// `EG_VIP_GUARD_UDP` of [`Vip::flags`].
pub const VIP_GUARD_UDP: u32 = 1 << 11;
/// `EG_VIP_GUARD_AMPLIFY` of [`Vip::flags`].
pub const VIP_GUARD_AMPLIFY: u32 = 1 << 12;
/// Every guard of [`Vip::flags`]: bits that change without ending a flow.
pub const VIP_GUARDS: u32 = VIP_GUARD_PREFIX | VIP_GUARD_PACKETS | VIP_GUARD_FLOWS | VIP_GUARD_UDP | VIP_GUARD_AMPLIFY;
/// `EG_GUARD_TICK_SHIFT`: buckets are kept in jiffies / 2^this.
pub const GUARD_TICK_SHIFT: u32 = 24;
/// `EG_FLOW_CLAIM`: in `pad[0]` of a flow's key, says that the entry is no flow. Readers skip it.
pub const FLOW_CLAIM: u8 = 1;

/// IP protocol numbers as keys hold them.
pub const PROTO_TCP: u8 = 6;
/// See [`PROTO_TCP`].
pub const PROTO_UDP: u8 = 17;
