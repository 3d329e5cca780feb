// SPDX-License-Identifier: GPL-3.0-only
//! Puts another program of ours where one runs already, in one step, and changes nothing else: the way that a capture's
//! twin comes and goes.

use std::io;
use std::os::fd::AsFd;

use super::super::error::DatapathError;
use super::ladder::Programs;
use super::links::{Kind, Links, open_pinned, update};
use super::{tc, xdp};

/// What runs our program at an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hook {
    Xdp,
    Tcx,
    Clsact,
}

/// By which hook our program runs at the interface; `None`: by none.
pub(crate) fn hook(links: &Links, index: u32) -> Result<Option<Hook>, DatapathError> {
    if open_pinned(&links.pin_of(Kind::Xdp, index))?.is_some_and(|link| xdp::carries(&link, index).is_some()) {
        return Ok(Some(Hook::Xdp));
    }
    if open_pinned(&links.pin_of(Kind::Tcx, index))?.is_some_and(|link| tc::carried(&link, index).is_some()) {
        return Ok(Some(Hook::Tcx));
    }
    Ok(tc::filters(&links.pin_of(Kind::Clsact, index), index).then_some(Hook::Clsact))
}

/// Replaces our program at the interface by that of `programs`. False: none of ours runs there.
pub(crate) fn swap(links: &Links, index: u32, programs: &mut impl Programs) -> Result<bool, DatapathError> {
    let Some(hook) = hook(links, index)? else { return Ok(false) };
    let refused = |source: io::Error| DatapathError::Attach {
        what: format!("to interface {index}"),
        tried: "replacing our own program".into(),
        source,
    };
    let link = |kind| {
        let gone = || refused(io::Error::from(io::ErrorKind::NotFound));
        open_pinned(&links.pin_of(kind, index))?.ok_or_else(gone)
    };
    match hook {
        Hook::Xdp => update(&link(Kind::Xdp)?, programs.xdp()?.0.as_fd()).map_err(refused)?,
        Hook::Tcx => update(&link(Kind::Tcx)?, programs.tc()?.as_fd()).map_err(refused)?,
        Hook::Clsact => tc::attach_filter(&links.pin_of(Kind::Clsact, index), tc::Spot::rung(index), programs.tc()?)
            .map_err(refused)?,
    }
    Ok(true)
}
