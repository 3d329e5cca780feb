// SPDX-License-Identifier: GPL-3.0-only
//! Whether `bpf_skb_adjust_room` can change a packet's family. The flags are judged when the helper runs, not by the
//! verifier, so the question is put by running it on a packet of our own.

use std::os::fd::AsFd;

use crate::program;

/// Of linux/bpf.h: where the helper cuts, `BPF_F_ADJ_ROOM_FIXED_GSO` and `BPF_F_ADJ_ROOM_DECAP_L3_IPV4`.
const ROOM_MAC: i32 = 1;
const FLAGS: i32 = 1 | 1 << 7;

const ETHERNET: usize = 14;
const IP6: usize = 40;
const IP4: usize = 20;

/// Does the kernel know the flags that make one call both cut the outer header and change the family (6.3 and later)?
/// Then the rodata constant `eg_decap_flags` of `tc/backend` may be set. Needs CAP_BPF and CAP_NET_ADMIN; without them
/// the answer is no.
pub fn decap_flags() -> bool {
    let mut packet = [0u8; ETHERNET + IP6 + IP4];
    for (at, byte) in [(12, 0x86), (13, 0xdd), (ETHERNET, 0x60), (ETHERNET + IP6, 0x45)] {
        if let Some(place) = packet.get_mut(at) {
            *place = byte;
        }
    }
    // Takes the IPv6 header off and gives what the helper returned.
    let asks = [
        program::set(2, -(IP6 as i32)),
        program::set(3, ROOM_MAC),
        program::set(4, FLAGS),
        program::call(libbpf_sys::BPF_FUNC_skb_adjust_room),
        program::EXIT,
    ];
    let asks = program::load(libbpf_sys::BPF_PROG_TYPE_SCHED_CLS, c"eg_probe_room", &asks, 0);
    asks.and_then(|asks| program::run(asks.as_fd(), &packet, 0, 0)).is_ok_and(|ran| ran.answer == 0)
}
