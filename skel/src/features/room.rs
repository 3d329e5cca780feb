// SPDX-License-Identifier: GPL-3.0-only
//! Whether `bpf_skb_adjust_room` can change a packet's family. The flags are judged when the helper runs, not by the
//! verifier, so the question is put by running it on a packet of our own.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Of linux/bpf.h: the helper, where it cuts, `BPF_F_ADJ_ROOM_FIXED_GSO` and `BPF_F_ADJ_ROOM_DECAP_L3_IPV4`.
const ADJUST_ROOM: i32 = 50;
const ROOM_MAC: i32 = 1;
const FLAGS: i32 = 1 | 1 << 7;

const ETHERNET: usize = 14;
const IP6: usize = 40;
const IP4: usize = 20;

/// Does the kernel know the flags that make one call both cut the outer header and change the family (6.3 and later)?
/// Then the rodata constant `eg_decap_flags` of `tc/backend` may be set. Needs CAP_BPF and CAP_NET_ADMIN; without them
/// the answer is no.
pub fn decap_flags() -> bool {
    let Some(program) = load() else { return false };
    let mut packet = [0u8; ETHERNET + IP6 + IP4];
    for (at, byte) in [(12, 0x86), (13, 0xdd), (ETHERNET, 0x60), (ETHERNET + IP6, 0x45)] {
        if let Some(place) = packet.get_mut(at) {
            *place = byte;
        }
    }
    let mut run = libbpf_sys::bpf_test_run_opts {
        sz: size_of::<libbpf_sys::bpf_test_run_opts>() as libbpf_sys::size_t,
        data_in: packet.as_ptr().cast(),
        data_size_in: packet.len() as u32,
        ..Default::default()
    };
    // SAFETY: the program is open, the packet outlives the call and has the length that is said.
    let answer = unsafe { libbpf_sys::bpf_prog_test_run_opts(program.as_raw_fd(), &mut run) };
    answer == 0 && run.retval == 0
}

/// Takes an IPv6 header off a packet and gives what the helper returned.
fn load() -> Option<OwnedFd> {
    let set = |register: u8, value: i32| {
        let mut instruction = libbpf_sys::bpf_insn { code: 0xb7, imm: value, ..Default::default() };
        instruction.set_dst_reg(register);
        instruction
    };
    let program = [
        set(2, -(IP6 as i32)),
        set(3, ROOM_MAC),
        set(4, FLAGS),
        libbpf_sys::bpf_insn { code: 0x85, imm: ADJUST_ROOM, ..Default::default() },
        libbpf_sys::bpf_insn { code: 0x95, ..Default::default() },
    ];
    // SAFETY: the strings are NUL-terminated, the program outlives the call, and the count is its own; null is no options.
    let descriptor = unsafe {
        libbpf_sys::bpf_prog_load(
            libbpf_sys::BPF_PROG_TYPE_SCHED_CLS,
            c"eg_probe_room".as_ptr(),
            c"GPL".as_ptr(),
            program.as_ptr(),
            program.len() as libbpf_sys::size_t,
            std::ptr::null_mut(),
        )
    };
    if descriptor < 0 {
        return None;
    }
    // SAFETY: the kernel just gave us this descriptor, and nobody else has it.
    Some(unsafe { OwnedFd::from_raw_fd(descriptor) })
}
