// SPDX-License-Identifier: GPL-3.0-only
//! Frames given to the program that a running gateway has attached, without a wire.

use std::os::fd::{AsFd, FromRawFd, OwnedFd};

use eg_skel::program::{self, Ran};

use super::Netns;
use crate::packet::{Outcome, Verdict};

/// The XDP program of an interface. Use it inside that interface's namespace: the kernel looks for the frames'
/// interfaces there.
pub struct Injector {
    program: OwnedFd,
}

impl Injector {
    /// The program that is attached now; a reload may put another one in its place.
    ///
    /// # Panics
    /// If there is none.
    pub fn of(space: &Netns, interface: &str) -> Injector {
        let mut id = 0;
        space.enter(|| {
            // SAFETY: the kernel writes one number to `id`.
            let code = unsafe { libbpf_sys::bpf_xdp_query_id(index(interface).cast_signed(), 0, &raw mut id) };
            assert_eq!(code, 0, "ask for the program on {interface}");
        });
        // SAFETY: takes no pointers.
        let program = unsafe { libbpf_sys::bpf_prog_get_fd_by_id(id) };
        assert!(program >= 0, "no XDP program on {interface}");
        // SAFETY: the kernel has just given us this descriptor.
        Injector { program: unsafe { OwnedFd::from_raw_fd(program) } }
    }

    /// Lets one frame come in by `interface` of the calling thread's namespace.
    ///
    /// # Panics
    /// If the kernel does not run the program.
    pub fn receive(&self, frame: &[u8], interface: u32) -> Outcome {
        let Ran { answer, bytes } = program::run(self.program.as_fd(), frame, interface, 0).expect("run the program");
        let verdict = match answer {
            libbpf_sys::XDP_DROP => Verdict::Drop,
            libbpf_sys::XDP_PASS => Verdict::Pass,
            libbpf_sys::XDP_TX => Verdict::Tx,
            libbpf_sys::XDP_REDIRECT => Verdict::Redirect,
            _ => Verdict::Aborted,
        };
        Outcome { verdict, bytes }
    }
}

/// The number of an interface of the calling thread's namespace.
///
/// # Panics
/// If it is not there.
pub fn index(interface: &str) -> u32 {
    nix::net::if_::if_nametoindex(interface).unwrap_or_else(|error| panic!("{}: {error}", interface))
}
