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
            let program = load();
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

/// r0 = XDP_PASS; exit
fn load() -> OwnedFd {
    let program = [
        libbpf_sys::bpf_insn { code: 0xb7, imm: 2, ..Default::default() },
        libbpf_sys::bpf_insn { code: 0x95, ..Default::default() },
    ];
    // SAFETY: the strings end in NUL, the program outlives the call and has two instructions; null means no options.
    let descriptor = unsafe {
        libbpf_sys::bpf_prog_load(
            libbpf_sys::BPF_PROG_TYPE_XDP,
            c"eg_test_pass".as_ptr(),
            c"GPL".as_ptr(),
            program.as_ptr(),
            program.len() as libbpf_sys::size_t,
            std::ptr::null_mut(),
        )
    };
    assert!(descriptor >= 0, "XDP_PASS: {}", std::io::Error::from_raw_os_error(-descriptor));
    // SAFETY: the kernel has just given us this descriptor.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}
