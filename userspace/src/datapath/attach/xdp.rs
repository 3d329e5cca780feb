// SPDX-License-Identifier: GPL-3.0-only
//! XDP programs at interfaces, by links with an explicit mode.
//!
//! `ladder` is the caller. A foreign program is an error of its own kind: it is never replaced, and no other rung is
//! tried in its stead.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use libbpf_rs::query::LinkTypeInfo;

use super::super::error::DatapathError;
use super::links::link_create;

/// `XDP_FLAGS_*` of linux/if_link.h.
const SKB_MODE: u32 = 1 << 1;
const DRV_MODE: u32 = 1 << 2;
/// `XDP_ATTACHED_*` of linux/if_link.h, as `bpf_xdp_query` gives them.
const ATTACHED_DRV: u8 = 1;
const ATTACHED_SKB: u8 = 2;

/// The longest MTU for which a frame, with room in front of it and the kernel's book-keeping behind it, fits one page of
/// 4,096 bytes: 256 bytes of headroom, 320 of `skb_shared_info`, 22 of Ethernet with two tags.
const MTU_OF_ONE_PAGE: u32 = 4096 - 256 - 320 - 22;

/// How an interface runs an XDP program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Native,
    Generic,
}

/// Makes the link.
pub(super) fn create(ifindex: u32, mode: Mode, program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = match mode {
        Mode::Native => DRV_MODE,
        Mode::Generic => SKB_MODE,
    };
    link_create(program, ifindex.cast_signed(), libbpf_sys::BPF_XDP, flags)
}

/// Why the kernel refused, in words where its number is not enough.
pub(super) fn why(error: &io::Error, mode: Mode, mtu: u32, frags: bool) -> String {
    use nix::libc::{EBUSY, EEXIST, EINVAL, EOPNOTSUPP, ERANGE};
    match error.raw_os_error() {
        // Drivers say it with various numbers; the text that they add goes to netlink users alone.
        Some(EINVAL | ERANGE) if mode == Mode::Native && mtu > MTU_OF_ONE_PAGE => {
            let kernel = if frags { "the driver takes" } else { "this kernel takes" };
            format!("mtu {mtu} does not fit one page, and {kernel} no frames in several ({error})")
        }
        Some(EOPNOTSUPP) if mode == Mode::Native && mtu > MTU_OF_ONE_PAGE => {
            format!("the driver has no native mode, or none for mtu {mtu}")
        }
        Some(EOPNOTSUPP) if mode == Mode::Native => "the driver has no native mode".into(),
        Some(EBUSY | EEXIST) => "an interface above it carries an XDP program".into(),
        _ => error.to_string(),
    }
}

/// The program that is in our way, if that is why attaching failed. One of an interface above this one is not.
pub(super) fn foreign(name: &str, ifindex: u32, error: &io::Error) -> Option<DatapathError> {
    if !matches!(error.raw_os_error(), Some(nix::libc::EBUSY | nix::libc::EEXIST)) {
        return None;
    }
    query(ifindex).map(|(program, _)| DatapathError::ForeignXdp { interface: name.into(), program })
}

/// The program attached to an interface and its mode; `None`: there is none.
pub(super) fn query(ifindex: u32) -> Option<(u32, Mode)> {
    let mut found = libbpf_sys::bpf_xdp_query_opts {
        sz: size_of::<libbpf_sys::bpf_xdp_query_opts>() as libbpf_sys::size_t,
        ..Default::default()
    };
    // SAFETY: `found` is a valid, writable structure that says its own size.
    let answer = unsafe { libbpf_sys::bpf_xdp_query(ifindex.cast_signed(), 0, &mut found) };
    if answer != 0 {
        return None;
    }
    match found.attach_mode {
        ATTACHED_DRV => Some((found.prog_id, Mode::Native)),
        ATTACHED_SKB => Some((found.prog_id, Mode::Generic)),
        _ => None,
    }
}

/// Whether `link` is what runs at the interface of that index in this namespace, and how. An index alone would not do:
/// another namespace may use the same.
pub(super) fn carries(link: &libbpf_rs::Link, ifindex: u32) -> Option<Mode> {
    let info = link.info().ok()?;
    match info.info {
        LinkTypeInfo::Xdp(xdp) if xdp.ifindex == ifindex => {}
        _ => return None,
    }
    query(ifindex).filter(|(program, _)| *program == info.prog_id).map(|(_, mode)| mode)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_explained() {
        let why = |number, mode, mtu, frags| why(&io::Error::from_raw_os_error(number), mode, mtu, frags);
        assert_eq!(why(nix::libc::EOPNOTSUPP, Mode::Native, 1500, true), "the driver has no native mode");
        assert_eq!(
            why(nix::libc::ERANGE, Mode::Native, 9000, false),
            "mtu 9000 does not fit one page, and this kernel takes no frames in several (Numerical result out of range (os error 34))"
        );
        assert!(why(nix::libc::EINVAL, Mode::Native, 9000, true).contains("and the driver takes no frames in several"));
        assert!(!why(nix::libc::EINVAL, Mode::Native, 1500, true).contains("mtu"));
        assert!(!why(nix::libc::EINVAL, Mode::Generic, 9000, true).contains("mtu"));
        assert_eq!(why(nix::libc::EEXIST, Mode::Generic, 1500, true), "an interface above it carries an XDP program");
    }
}
