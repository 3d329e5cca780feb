// SPDX-License-Identifier: GPL-3.0-only
//! tc programs of nobody's, as far as the gateway knows, at the ingress of an interface: by tcx, and by clsact.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::Netns;

/// A tcx program that lets everything pass, for as long as this lives.
pub struct Tcx {
    _link: OwnedFd,
}

impl Tcx {
    pub fn attach(space: &Netns, interface: &str) -> Tcx {
        let _link = space.enter(|| {
            let index = nix::net::if_::if_nametoindex(interface).expect(interface);
            let program = load();
            // SAFETY: the program is open; a null pointer means no options.
            let link = unsafe {
                libbpf_sys::bpf_link_create(
                    program.as_raw_fd(),
                    index.cast_signed(),
                    libbpf_sys::BPF_TCX_INGRESS,
                    std::ptr::null(),
                )
            };
            assert!(link >= 0, "tcx on {interface}: {}", std::io::Error::from_raw_os_error(-link));
            // SAFETY: the kernel has just given us this descriptor.
            unsafe { OwnedFd::from_raw_fd(link) }
        });
        Tcx { _link }
    }
}

/// A clsact filter that lets everything pass; `tc qdisc del` removes it.
pub fn clsact(space: &Netns, interface: &str) {
    space.enter(|| {
        let index = nix::net::if_::if_nametoindex(interface).expect(interface);
        let program = load();
        let mut hook = libbpf_sys::bpf_tc_hook {
            sz: size_of::<libbpf_sys::bpf_tc_hook>() as libbpf_sys::size_t,
            ifindex: index.cast_signed(),
            attach_point: libbpf_sys::BPF_TC_INGRESS,
            ..Default::default()
        };
        let mut options = libbpf_sys::bpf_tc_opts {
            sz: size_of::<libbpf_sys::bpf_tc_opts>() as libbpf_sys::size_t,
            prog_fd: program.as_raw_fd(),
            handle: 7,
            priority: 5,
            ..Default::default()
        };
        // SAFETY: both structures are valid and say their own sizes, and the program is open.
        let answer = unsafe {
            libbpf_sys::bpf_tc_hook_create(&mut hook);
            libbpf_sys::bpf_tc_attach(&hook, &mut options)
        };
        assert_eq!(answer, 0, "clsact on {interface}: {}", std::io::Error::from_raw_os_error(-answer));
    });
}

/// How many tcx programs an interface has at its ingress.
pub fn tcx_programs(space: &Netns, interface: &str) -> u32 {
    space.enter(|| {
        let index = nix::net::if_::if_nametoindex(interface).expect(interface);
        let mut query = libbpf_sys::bpf_prog_query_opts {
            sz: size_of::<libbpf_sys::bpf_prog_query_opts>() as libbpf_sys::size_t,
            ..Default::default()
        };
        // SAFETY: the structure says its own size, and that it has room for no programs.
        let answer =
            unsafe { libbpf_sys::bpf_prog_query_opts(index.cast_signed(), libbpf_sys::BPF_TCX_INGRESS, &mut query) };
        assert_eq!(answer, 0, "tcx on {interface}: {}", std::io::Error::from_raw_os_error(-answer));
        // SAFETY: both members of the union are the same number.
        unsafe { query.__bindgen_anon_1.count }
    })
}

/// Leaves the packet to the next program.
fn load() -> OwnedFd {
    eg_skel::program::returning(libbpf_sys::BPF_PROG_TYPE_SCHED_CLS, c"eg_test_next", -1).expect("TCX_NEXT")
}
