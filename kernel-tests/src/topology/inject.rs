// SPDX-License-Identifier: GPL-3.0-only
//! Frames given to the program that a running gateway has attached, without a wire.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

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
        let mut context = libbpf_sys::xdp_md {
            data_end: u32::try_from(frame.len()).expect("a frame"),
            ingress_ifindex: interface,
            ..Default::default()
        };
        let mut bytes = vec![0; frame.len() + 256];
        let mut options = libbpf_sys::bpf_test_run_opts {
            sz: size_of::<libbpf_sys::bpf_test_run_opts>() as libbpf_sys::size_t,
            data_in: frame.as_ptr().cast(),
            data_size_in: frame.len() as u32,
            data_out: bytes.as_mut_ptr().cast(),
            data_size_out: bytes.len() as u32,
            ctx_in: (&raw mut context).cast(),
            ctx_size_in: size_of::<libbpf_sys::xdp_md>() as u32,
            ..Default::default()
        };
        // SAFETY: the pointers are to live buffers of the lengths given with them, and the descriptor is open.
        let code = unsafe { libbpf_sys::bpf_prog_test_run_opts(self.program.as_raw_fd(), &raw mut options) };
        assert_eq!(code, 0, "run the program on {} bytes", frame.len());
        bytes.truncate(options.data_size_out as usize);
        let verdict = match options.retval {
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
