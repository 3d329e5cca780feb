// SPDX-License-Identifier: GPL-3.0-only
//! Small questions to the running kernel whose answers go into rodata or load flags.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

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
