// SPDX-License-Identifier: GPL-3.0-only
//! Frames that come in again: a program is run on them as if its interface had just received them, and the kernel carries
//! out what it returns (`BPF_F_TEST_XDP_LIVE_FRAMES`, 5.18 and later).
//!
//! `userspace/datapath/fragments` is the caller.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use crate::program;

/// `BPF_F_TEST_XDP_LIVE_FRAMES`
const LIVE_FRAMES: u32 = 1 << 1;
const XDP_DROP: i32 = 1;

/// Lets `frame` come in by the interface `ifindex` of this thread's network namespace.
///
/// # Errors
/// The kernel is older, the interface is gone, or the frame does not fit a page with its head and tail room.
pub fn receive(program: BorrowedFd<'_>, frame: &[u8], ifindex: u32) -> io::Result<()> {
    program::run(program, frame, ifindex, LIVE_FRAMES).map(drop)
}

/// Runs a program on `frame` for what it counts; the frame goes nowhere.
///
/// # Errors
/// The kernel refuses to run it.
pub fn count(program: BorrowedFd<'_>, frame: &[u8]) -> io::Result<()> {
    program::run(program, frame, 0, 0).map(drop)
}

/// Does this kernel run programs on live frames? Needs CAP_BPF; without it the answer is no.
pub fn supported() -> bool {
    let drops = program::returning(libbpf_sys::BPF_PROG_TYPE_XDP, c"eg_probe_live", XDP_DROP);
    drops.and_then(|drops| program::run(drops.as_fd(), &[0; 64], 0, LIVE_FRAMES)).is_ok()
}
