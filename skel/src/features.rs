// SPDX-License-Identifier: GPL-3.0-only
//! Small questions to the running kernel whose answers go into rodata or load flags.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::time::{ClockId, clock_getres};

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

/// `BPF_F_XDP_HAS_FRAGS`
pub const XDP_HAS_FRAGS: u32 = 1 << 5;
