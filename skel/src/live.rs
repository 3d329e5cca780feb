// SPDX-License-Identifier: GPL-3.0-only
//! Frames that come in again: a program is run on them as if its interface had just received them, and the kernel carries
//! out what it returns (`BPF_F_TEST_XDP_LIVE_FRAMES`, 5.18 and later).
//!
//! `userspace/datapath/fragments` is the caller.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// `BPF_F_TEST_XDP_LIVE_FRAMES`
const LIVE_FRAMES: u32 = 1 << 1;

/// Lets `frame` come in by the interface `ifindex` of this thread's network namespace.
///
/// # Errors
/// The kernel is older, the interface is gone, or the frame does not fit a page with its head and tail room.
pub fn receive(program: BorrowedFd<'_>, frame: &[u8], ifindex: u32) -> io::Result<()> {
    let length = u32::try_from(frame.len()).map_err(io::Error::other)?;
    let context = libbpf_sys::xdp_md { data_end: length, ingress_ifindex: ifindex, ..Default::default() };
    run(program, frame, Some(&context), LIVE_FRAMES)
}

/// Runs a program on `frame` for what it counts; the frame goes nowhere.
///
/// # Errors
/// The kernel refuses to run it.
pub fn count(program: BorrowedFd<'_>, frame: &[u8]) -> io::Result<()> {
    run(program, frame, None, 0)
}

/// Does this kernel run programs on live frames? Needs CAP_BPF; without it the answer is no.
pub fn supported() -> bool {
    // r0 = XDP_DROP; exit
    let program = [
        libbpf_sys::bpf_insn { code: 0xb7, imm: 1, ..Default::default() },
        libbpf_sys::bpf_insn { code: 0x95, ..Default::default() },
    ];
    // SAFETY: the strings are NUL-terminated, the program outlives the call and has as many instructions as said; null
    // means no options.
    let fd = unsafe {
        libbpf_sys::bpf_prog_load(
            libbpf_sys::BPF_PROG_TYPE_XDP,
            c"eg_probe_live".as_ptr(),
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
    run(std::os::fd::AsFd::as_fd(&program), &[0; 64], None, LIVE_FRAMES).is_ok()
}

fn run(program: BorrowedFd<'_>, frame: &[u8], context: Option<&libbpf_sys::xdp_md>, flags: u32) -> io::Result<()> {
    let length = u32::try_from(frame.len()).map_err(io::Error::other)?;
    let mut options = libbpf_sys::bpf_test_run_opts {
        sz: size_of::<libbpf_sys::bpf_test_run_opts>() as libbpf_sys::size_t,
        data_in: frame.as_ptr().cast(),
        data_size_in: length,
        repeat: 1,
        flags,
        ..Default::default()
    };
    if let Some(context) = context {
        options.ctx_in = std::ptr::from_ref(context).cast();
        options.ctx_size_in = size_of_val(context) as u32;
    }
    // SAFETY: the pointers are to the frame and the context, which outlive the call and are of the sizes given with them.
    match unsafe { libbpf_sys::bpf_prog_test_run_opts(program.as_raw_fd(), &raw mut options) } {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(-code)),
    }
}
