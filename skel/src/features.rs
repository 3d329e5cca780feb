// SPDX-License-Identifier: GPL-3.0-only
//! Small questions to the running kernel whose answers go into rodata or load flags.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::time::{ClockId, clock_getres};

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
    // r0 = bpf_jiffies64(); exit
    let program = [
        libbpf_sys::bpf_insn { code: 0x85, imm: libbpf_sys::BPF_FUNC_jiffies64.cast_signed(), ..Default::default() },
        libbpf_sys::bpf_insn { code: 0x95, ..Default::default() },
    ];
    // SAFETY: the strings are NUL-terminated, the program outlives the call, and the count is its; null options are the
    // defaults.
    let fd = unsafe {
        libbpf_sys::bpf_prog_load(
            libbpf_sys::BPF_PROG_TYPE_SOCKET_FILTER,
            c"eg_jiffies".as_ptr(),
            c"GPL".as_ptr(),
            program.as_ptr(),
            program.len() as libbpf_sys::size_t,
            std::ptr::null_mut(),
        )
    };
    if fd < 0 {
        return Err(io::Error::from_raw_os_error(-fd));
    }
    // SAFETY: the kernel just gave us this descriptor, and nobody else has it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // A test run wants a frame, and reads no byte of it here.
    let frame = [0u8; 64];
    let mut options = libbpf_sys::bpf_test_run_opts {
        sz: size_of::<libbpf_sys::bpf_test_run_opts>() as libbpf_sys::size_t,
        data_in: frame.as_ptr().cast(),
        data_size_in: frame.len() as u32,
        repeat: 1,
        ..Default::default()
    };
    // SAFETY: the descriptor is open, `options` says its own size, and the frame it points to outlives the call.
    let answer = unsafe { libbpf_sys::bpf_prog_test_run_opts(fd.as_raw_fd(), &mut options) };
    if answer < 0 { Err(io::Error::from_raw_os_error(-answer)) } else { Ok(options.retval) }
}

/// Does the kernel accept XDP programs for frames in several buffers (5.18 and later)? Then `eg_xdp_ingress` may be
/// loaded with [`XDP_HAS_FRAGS`] and the rodata constant `eg_xdp_frags` set. Needs CAP_BPF; without it the answer is no.
pub fn xdp_frags() -> bool {
    // r0 = XDP_PASS; exit
    let program = [
        libbpf_sys::bpf_insn { code: 0xb7, imm: 2, ..Default::default() },
        libbpf_sys::bpf_insn { code: 0x95, ..Default::default() },
    ];
    let mut options = libbpf_sys::bpf_prog_load_opts {
        sz: size_of::<libbpf_sys::bpf_prog_load_opts>() as libbpf_sys::size_t,
        prog_flags: XDP_HAS_FRAGS,
        ..Default::default()
    };
    // SAFETY: the strings are NUL-terminated, the program and the options outlive the call, and the counts are theirs.
    let fd = unsafe {
        libbpf_sys::bpf_prog_load(
            libbpf_sys::BPF_PROG_TYPE_XDP,
            c"eg_probe_frags".as_ptr(),
            c"GPL".as_ptr(),
            program.as_ptr(),
            program.len() as libbpf_sys::size_t,
            &mut options,
        )
    };
    if fd < 0 {
        return false;
    }
    // SAFETY: the kernel just gave us this descriptor, and nobody else has it.
    drop(unsafe { OwnedFd::from_raw_fd(fd) });
    true
}

/// Does an skb become one of IPv4 for the kernel when a program puts an IPv4 header in front of its IPv6? Where it does
/// not (the helper once cared for the other way alone), trains of such packets cannot be cut up. Needs CAP_BPF and
/// CAP_NET_ADMIN; without them the answer is no.
pub fn skb_six_in_four() -> bool {
    const ADJUST_ROOM: i32 = 50;
    const BEHIND_MAC: i32 = 1;
    /// `BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4`
    const FLAGS: i32 = 1 | 1 << 1;
    /// Of `protocol` in `struct __sk_buff`.
    const PROTOCOL: i16 = 16;
    let set = |register: u8, imm: i32| {
        let mut insn = libbpf_sys::bpf_insn { code: 0xb7, imm, ..Default::default() };
        insn.set_dst_reg(register);
        insn
    };
    let mut keep = libbpf_sys::bpf_insn { code: 0xbf, ..Default::default() };
    keep.set_dst_reg(6);
    keep.set_src_reg(1);
    let mut read = libbpf_sys::bpf_insn { code: 0x61, off: PROTOCOL, ..Default::default() };
    read.set_src_reg(6);
    // r6 = r1; r0 = bpf_skb_adjust_room(r1, 20, BEHIND_MAC, FLAGS); r0 = r6->protocol; exit
    let program = [
        keep,
        set(2, 20),
        set(3, BEHIND_MAC),
        set(4, FLAGS),
        libbpf_sys::bpf_insn { code: 0x85, imm: ADJUST_ROOM, ..Default::default() },
        read,
        libbpf_sys::bpf_insn { code: 0x95, ..Default::default() },
    ];
    // SAFETY: the strings are NUL-terminated, the program outlives the call, the count is its own; null: no options.
    let fd = unsafe {
        libbpf_sys::bpf_prog_load(
            libbpf_sys::BPF_PROG_TYPE_SCHED_CLS,
            c"eg_probe_6in4".as_ptr(),
            c"GPL".as_ptr(),
            program.as_ptr(),
            program.len() as libbpf_sys::size_t,
            std::ptr::null_mut(),
        )
    };
    if fd < 0 {
        return false;
    }
    // SAFETY: the kernel just gave us this descriptor, and nobody else has it.
    let program = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut frame = [0_u8; 14 + 40 + 26];
    frame[12..15].copy_from_slice(&[0x86, 0xdd, 0x60]);
    let mut options = libbpf_sys::bpf_test_run_opts {
        sz: size_of::<libbpf_sys::bpf_test_run_opts>() as libbpf_sys::size_t,
        data_in: frame.as_ptr().cast(),
        data_size_in: frame.len() as u32,
        ..Default::default()
    };
    // SAFETY: the descriptor is open, the options say their own size, and the frame is as long as they say.
    let answer = unsafe { libbpf_sys::bpf_prog_test_run_opts(program.as_raw_fd(), &raw mut options) };
    answer == 0 && options.retval == u32::from(0x0800_u16.to_be())
}

/// `BPF_F_XDP_HAS_FRAGS`
pub const XDP_HAS_FRAGS: u32 = 1 << 5;
