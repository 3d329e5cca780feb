// SPDX-License-Identifier: GPL-3.0-only
//! Small questions to the running kernel whose answers go into rodata or load flags.

use std::io;
use std::os::fd::AsFd;
use std::ptr;

use nix::time::{ClockId, clock_getres};

use crate::program;

mod room;

pub use room::decap_flags;

/// `CONFIG_HZ`, for the rodata constant `eg_jiffies_hz`. The coarse clock ticks once a jiffy, and its resolution says so
/// without a kernel configuration file.
pub fn jiffies_hz() -> io::Result<u32> {
    let tick = clock_getres(ClockId::CLOCK_MONOTONIC_COARSE)?;
    if tick.tv_sec() != 0 || tick.tv_nsec() <= 0 {
        return Err(io::Error::other("the coarse clock names no tick"));
    }
    u32::try_from(1_000_000_000 / tick.tv_nsec()).map_err(io::Error::other)
}

/// Now, in the unit and width of `struct eg_flow`'s `seen`: the low half of the kernel's jiffies, asked by a program of
/// two instructions. Clocks that user space can read run beside jiffies and not always with them. Needs CAP_BPF and, as
/// any test run of a packet program, CAP_NET_ADMIN.
pub fn jiffies() -> io::Result<u32> {
    let asks = [program::call(libbpf_sys::BPF_FUNC_jiffies64), program::EXIT];
    let asks = program::load(libbpf_sys::BPF_PROG_TYPE_SOCKET_FILTER, c"eg_jiffies", &asks, 0)?;
    // A test run wants a frame, and reads no byte of it here.
    program::run(asks.as_fd(), &[0; 64], 0, 0).map(|ran| ran.answer)
}

/// Now, in the kernel's jiffies, all 64 bits of them: what `clock_jiffies()` is to a program. Needs what [`jiffies`] needs.
pub fn jiffies64() -> io::Result<u64> {
    let mut high = upper_jiffies()?;
    loop {
        let low = jiffies()?;
        let after = upper_jiffies()?;
        // The lower half is never old: it went round between the two questions, or it did not.
        if high == after {
            return Ok(u64::from(high) << 32 | u64::from(low));
        }
        high = after;
    }
}

/// A test run answers with 32 bits.
fn upper_jiffies() -> io::Result<u32> {
    let mut shift = program::set(0, 32);
    shift.code = libbpf_sys::BPF_ALU64 as u8 | libbpf_sys::BPF_RSH as u8 | libbpf_sys::BPF_K as u8;
    let asks = [program::call(libbpf_sys::BPF_FUNC_jiffies64), shift, program::EXIT];
    let asks = program::load(libbpf_sys::BPF_PROG_TYPE_SOCKET_FILTER, c"eg_jiffies_up", &asks, 0)?;
    program::run(asks.as_fd(), &[0; 64], 0, 0).map(|ran| ran.answer)
}

/// Does the kernel accept XDP programs for frames in several buffers (5.18 and later)? Then `eg_xdp_ingress` may be
/// loaded with [`XDP_HAS_FRAGS`] and the rodata constant `eg_xdp_frags` set. Needs CAP_BPF; without it the answer is no.
pub fn xdp_frags() -> bool {
    const XDP_PASS: i32 = 2;
    let passes = [program::set(0, XDP_PASS), program::EXIT];
    program::load(libbpf_sys::BPF_PROG_TYPE_XDP, c"eg_probe_frags", &passes, XDP_HAS_FRAGS).is_ok()
}

/// Does an skb become one of IPv4 for the kernel when a program puts an IPv4 header in front of its IPv6? Where it does
/// not (the helper once cared for the other way alone), trains of such packets cannot be cut up. Needs CAP_BPF and
/// CAP_NET_ADMIN; without them the answer is no.
pub fn skb_six_in_four() -> bool {
    const BEHIND_MAC: i32 = 1;
    /// `BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4`
    const FLAGS: i32 = 1 | 1 << 1;
    /// Of `protocol` in `struct __sk_buff`.
    const PROTOCOL: i16 = 16;
    let mut keep = libbpf_sys::bpf_insn { code: 0xbf, ..Default::default() };
    keep.set_dst_reg(6);
    keep.set_src_reg(1);
    let mut read = libbpf_sys::bpf_insn { code: 0x61, off: PROTOCOL, ..Default::default() };
    read.set_src_reg(6);
    // r6 = r1; r0 = bpf_skb_adjust_room(r1, 20, BEHIND_MAC, FLAGS); r0 = r6->protocol; exit
    let asks = [
        keep,
        program::set(2, 20),
        program::set(3, BEHIND_MAC),
        program::set(4, FLAGS),
        program::call(libbpf_sys::BPF_FUNC_skb_adjust_room),
        read,
        program::EXIT,
    ];
    let mut frame = [0_u8; 14 + 40 + 26];
    frame[12..15].copy_from_slice(&[0x86, 0xdd, 0x60]);
    let asks = program::load(libbpf_sys::BPF_PROG_TYPE_SCHED_CLS, c"eg_probe_6in4", &asks, 0);
    asks.and_then(|asks| program::run(asks.as_fd(), &frame, 0, 0))
        .is_ok_and(|ran| ran.answer == u32::from(0x0800_u16.to_be()))
}

/// Does the kernel make SYN cookies for packet programs (`bpf_tcp_gen_syncookie`, 5.3; it may be built without cookies)?
/// Otherwise the rodata constant `eg_syn_cookies` takes the call out. Needs CAP_BPF; without it the answer is no.
pub fn syn_cookies() -> bool {
    let has = |kind| {
        // SAFETY: takes two numbers, and no options.
        unsafe { libbpf_sys::libbpf_probe_bpf_helper(kind, libbpf_sys::BPF_FUNC_tcp_gen_syncookie, ptr::null()) == 1 }
    };
    std::path::Path::new(SYN_COOKIES).exists()
        && has(libbpf_sys::BPF_PROG_TYPE_XDP)
        && has(libbpf_sys::BPF_PROG_TYPE_SCHED_CLS)
}

/// There only where the kernel knows cookies; of the network namespace.
const SYN_COOKIES: &str = "/proc/sys/net/ipv4/tcp_syncookies";

/// `BPF_F_XDP_HAS_FRAGS`
pub const XDP_HAS_FRAGS: u32 = 1 << 5;
