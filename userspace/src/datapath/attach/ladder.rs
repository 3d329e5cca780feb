// SPDX-License-Identifier: GPL-3.0-only
//! Which way a program gets to an interface's packets: native XDP, generic XDP, tc; the first that works.
//!
//! `Datapath::apply` calls it for each interface. Where another rung of ours is in use, the new one is attached before
//! the old one is detached. For that moment a packet meets XDP first, and tc only if XDP passes it, so none is forwarded
//! twice, and no packet of a flow reaches the host's own stack, which would reset it; what passes both is counted twice.

use std::os::fd::BorrowedFd;

use super::super::error::DatapathError;
use super::links::{Kind, Links, drop_link, open_pinned, pin, update};
use super::xdp::{self, Mode};
use super::{offloads, tc};
use crate::config::plan::XdpMode;

/// How an interface runs our program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rung {
    Native,
    Generic,
    /// By `tcx` or `clsact`.
    Tc(&'static str),
}

impl Rung {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Rung::Native => "native xdp",
            Rung::Generic => "generic xdp",
            Rung::Tc(by) => by,
        }
    }
}

impl From<Mode> for Rung {
    fn from(mode: Mode) -> Rung {
        match mode {
            Mode::Native => Rung::Native,
            Mode::Generic => Rung::Generic,
        }
    }
}

/// An interface, and what is known about it.
pub(crate) struct Place<'a> {
    pub(crate) name: &'a str,
    pub(crate) index: u32,
    pub(crate) mtu: u32,
    /// Handle and priority of the clsact filters at its ingress.
    pub(crate) filters: Vec<(u32, u16)>,
}

/// The programs, each loaded when the first interface needs it.
pub(crate) trait Programs {
    /// For XDP, and whether it takes frames in several buffers.
    fn xdp(&mut self) -> Result<(BorrowedFd<'_>, bool), DatapathError>;
    fn tc(&mut self) -> Result<BorrowedFd<'_>, DatapathError>;
}

/// Attaches at one interface, and detaches what of ours it had by other rungs. Gives the rung, and why it is not a
/// higher one.
pub(crate) fn climb(
    links: &Links,
    place: &Place<'_>,
    wanted: XdpMode,
    programs: &mut impl Programs,
) -> Result<(Rung, Option<String>), DatapathError> {
    let (rung, why) = match wanted {
        XdpMode::Tc => (tc(links, place, programs)?, None),
        XdpMode::Native => match by_xdp(links, place, &[Mode::Native], programs)? {
            Ok((mode, _)) => (mode.into(), None),
            Err(why) => return Err(no_rung(place, "native", why)),
        },
        XdpMode::Generic => match by_xdp(links, place, &[Mode::Generic], programs)? {
            Ok((mode, _)) => (mode.into(), None),
            Err(why) => return Err(no_rung(place, "generic", why)),
        },
        XdpMode::Auto => match by_xdp(links, place, &[Mode::Native, Mode::Generic], programs)? {
            Ok((mode, why)) => (mode.into(), why),
            Err(why) => (tc(links, place, programs)?, Some(why)),
        },
    };
    let is_tc = matches!(rung, Rung::Tc(_));
    if is_tc {
        links.remove(Kind::Xdp, place.index)?;
    } else {
        links.remove(Kind::Tcx, place.index)?;
        links.remove(Kind::Clsact, place.index)?;
    }
    offloads::turn_off(links, place.name, place.index, !is_tc)?;
    Ok((rung, why))
}

fn no_rung(place: &Place<'_>, mode: &'static str, why: String) -> DatapathError {
    DatapathError::NoRung { interface: place.name.into(), mode, why }
}

fn tc(links: &Links, place: &Place<'_>, programs: &mut impl Programs) -> Result<Rung, DatapathError> {
    tc::attach(links, place.name, place.index, programs.tc()?, &place.filters).map(Rung::Tc)
}

/// The first of `modes` that works, and why not those before; else why none.
#[allow(clippy::type_complexity)]
fn by_xdp(
    links: &Links,
    place: &Place<'_>,
    modes: &[Mode],
    programs: &mut impl Programs,
) -> Result<Result<(Mode, Option<String>), String>, DatapathError> {
    let path = links.pin_of(Kind::Xdp, place.index);
    if let Some(link) = open_pinned(&path)? {
        if let Some(mode) = xdp::carries(&link, place.index).filter(|mode| modes.contains(mode)) {
            update(&link, programs.xdp()?.0).map_err(|source| DatapathError::Attach {
                what: format!("xdp to {}", place.name),
                tried: "replacing our own program".into(),
                source,
            })?;
            return Ok(Ok((mode, None)));
        }
        // The kernel lets an interface have one mode at a time: tc stands in between.
        if xdp::carries(&link, place.index).is_some()
            && let Err(error) = tc(links, place, programs)
        {
            tracing::warn!(interface = place.name, %error, "a gap, while the mode of xdp changes");
        }
        drop_link(&path, &link);
    }
    let mut reasons = Vec::new();
    for &mode in modes {
        let (program, frags) = programs.xdp()?;
        match xdp::create(place.index, mode, program) {
            Ok(link) => {
                pin(std::os::fd::AsFd::as_fd(&link), &path)?;
                return Ok(Ok((mode, (!reasons.is_empty()).then(|| reasons.join("; ")))));
            }
            Err(error) => {
                if let Some(foreign) = xdp::foreign(place.name, place.index, &error) {
                    return Err(foreign);
                }
                reasons.push(format!("{}: {}", Rung::from(mode).name(), xdp::why(&error, mode, place.mtu, frags)));
            }
        }
    }
    Ok(Err(reasons.join("; ")))
}
