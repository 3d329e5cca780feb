// SPDX-License-Identifier: GPL-3.0-only
//! What is attached, for whoever asks without a running process: by the pins, and by what the kernel says.

use std::collections::BTreeSet;
use std::path::Path;

use libbpf_rs::Program;
use libbpf_rs::query::LinkTypeInfo;

use super::super::error::DatapathError;
use super::links::{Kind, Links, interface_pin, list, open_pinned};
use super::tc;
use super::xdp::{self, Mode};

/// A program of ours at an interface of this network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attached {
    pub ifindex: u32,
    pub program: u32,
    /// The mode in which XDP runs it. `None`: it is tc's, or its link is there and it does not run: the interface is gone, or
    /// is another namespace's.
    pub mode: Option<Mode>,
    pub by_tc: bool,
}

/// What is attached by the links and filters that are pinned below `pins` (see `eg_skel::share::pin_dir`).
///
/// # Errors
/// A pin cannot be opened; without any pins nothing is attached.
pub fn attached(pins: &Path) -> Result<Vec<Attached>, DatapathError> {
    let folder = pins.join(super::super::LINKS);
    let mut found = Vec::new();
    for path in if folder.exists() { list(&folder)? } else { Vec::new() } {
        let Some((kind, ifindex)) = interface_pin(&path) else { continue };
        match kind {
            Kind::Xdp | Kind::Tcx => {
                let Some(link) = open_pinned(&path)? else { continue };
                let Ok(info) = link.info() else { continue };
                let program = info.prog_id;
                match &info.info {
                    LinkTypeInfo::Xdp(xdp) => {
                        let mode = xdp::carries(&link, xdp.ifindex);
                        found.push(Attached { ifindex: xdp.ifindex, program, mode, by_tc: false });
                    }
                    _ => found.push(Attached { ifindex, program, mode: None, by_tc: true }),
                }
            }
            Kind::Clsact => {
                let fail = || DatapathError::map(format!("open the pinned program {path:?}"));
                let program = Program::fd_from_pinned_path(&path).map_err(fail())?;
                let program = Program::id_from_fd(std::os::fd::AsFd::as_fd(&program)).map_err(fail())?;
                found.push(Attached { ifindex, program, mode: None, by_tc: true });
            }
            Kind::Offloads | Kind::Accepts | Kind::OutTcx | Kind::OutClsact | Kind::InTcx | Kind::InClsact => {}
        }
    }
    found.sort_unstable_by_key(|attached| attached.ifindex);
    Ok(found)
}

/// Whether a program of ours runs at the interface of that index in this network namespace.
pub(crate) fn runs(links: &Links, index: u32) -> bool {
    let link = |kind| open_pinned(&links.pin_of(kind, index)).ok().flatten();
    link(Kind::Xdp).is_some_and(|link| xdp::carries(&link, index).is_some())
        || link(Kind::Tcx).is_some_and(|link| tc::carried(&link, index).is_some())
        || tc::filters(&links.pin_of(Kind::Clsact, index), index)
}

/// At how many interfaces a program of ours runs.
///
/// # Errors
/// The pinned links cannot be listed.
pub(crate) fn count(pins: &Path) -> Result<usize, DatapathError> {
    let links = Links::open(pins.join(super::super::LINKS))?;
    let indices: BTreeSet<u32> = links.interfaces()?.into_iter().collect();
    Ok(indices.into_iter().filter(|index| runs(&links, *index)).count())
}

/// The XDP program at an interface, whoever's, and its mode; `None`: there is none.
pub fn running(ifindex: u32) -> Option<(u32, Mode)> {
    xdp::query(ifindex)
}
