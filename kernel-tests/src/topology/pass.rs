// SPDX-License-Identifier: GPL-3.0-only
//! XDP_PASS on a veth end: without a program there, veth discards what the other end's XDP sends.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::Netns;

/// The link; the program stays as long as it does.
pub struct Pass {
    _link: OwnedFd,
}

impl Pass {
    /// Attaches it; a program of nobody's, as far as the gateway knows.
    pub fn attach(space: &Netns, interface: &str) -> Pass {
        let _link = space.enter(|| {
            let index = nix::net::if_::if_nametoindex(interface).expect(interface);
            let program =
                eg_skel::program::returning(libbpf_sys::BPF_PROG_TYPE_XDP, c"eg_test_pass", 2).expect("XDP_PASS");
            // SAFETY: the program is open; a null pointer means no options.
            let link = unsafe {
                libbpf_sys::bpf_link_create(
                    program.as_raw_fd(),
                    index.cast_signed(),
                    libbpf_sys::BPF_XDP,
                    std::ptr::null(),
                )
            };
            assert!(link >= 0, "XDP_PASS on {interface}: {}", std::io::Error::from_raw_os_error(-link));
            // SAFETY: the kernel has just given us this descriptor.
            unsafe { OwnedFd::from_raw_fd(link) }
        });
        Pass { _link }
    }
}
