// SPDX-License-Identifier: GPL-3.0-only
//! A pair of interfaces in a network namespace of this process's own, through which live frames go, and the kernel's own
//! figures of the programs attached there.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::process::Command;

use libbpf_rs::Link;
use libbpf_rs::ProgramMut;
use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, unshare};

use crate::Result;

/// Where frames leave from, and where they meet the program under test.
const FAR: &str = "bench-far";
const NEAR: &str = "bench-near";

#[derive(Clone, Copy)]
pub(crate) struct Wire {
    pub(crate) far: u32,
    pub(crate) near: u32,
}

impl Wire {
    /// Moves this process to a new network namespace, which goes with it.
    pub(crate) fn new() -> Result<Wire> {
        unshare(CloneFlags::CLONE_NEWNET)?;
        // No neighbour discovery of the kernel's own among the frames.
        for which in ["all", "default"] {
            std::fs::write(format!("/proc/sys/net/ipv6/conf/{which}/disable_ipv6"), "1")?;
        }
        ip(&["link", "add", FAR, "type", "veth", "peer", "name", NEAR])?;
        for name in [FAR, NEAR] {
            ip(&["link", "set", name, "up"])?;
        }
        Ok(Wire { far: if_nametoindex(FAR)?, near: if_nametoindex(NEAR)? })
    }
}

fn ip(arguments: &[&str]) -> Result<()> {
    let done = Command::new("ip").args(arguments).output()?;
    if done.status.success() {
        return Ok(());
    }
    Err(format!("ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&done.stderr)).into())
}

/// A program on one end, to be exchanged by [`Link::update_prog`].
pub(crate) fn attach(program: &ProgramMut<'_>, ifindex: u32) -> Result<Link> {
    Ok(program.attach_xdp(i32::try_from(ifindex)?)?)
}

/// Keeps the kernel counting what each program takes, and counting costs something: dropped as soon as it is not needed.
pub(crate) fn figures_on() -> Result<OwnedFd> {
    // SAFETY: returns a new descriptor or an error.
    let fd = unsafe { libbpf_sys::bpf_enable_stats(libbpf_sys::BPF_STATS_RUN_TIME) };
    if fd < 0 {
        return Err(format!("BPF_ENABLE_STATS: {}", std::io::Error::from_raw_os_error(-fd)).into());
    }
    // SAFETY: the kernel just gave us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// (runs, nanoseconds in all) of a program while the figures were on.
pub(crate) fn figures(program: BorrowedFd<'_>) -> Result<(u64, u64)> {
    let mut info = libbpf_sys::bpf_prog_info::default();
    let mut length = size_of_val(&info) as u32;
    // SAFETY: `info` outlives the call, and `length` is its size.
    let code =
        unsafe { libbpf_sys::bpf_obj_get_info_by_fd(program.as_raw_fd(), (&raw mut info).cast(), &raw mut length) };
    if code != 0 {
        return Err(format!("BPF_OBJ_GET_INFO_BY_FD: {}", std::io::Error::from_raw_os_error(-code)).into());
    }
    Ok((info.run_cnt, info.run_time_ns))
}
