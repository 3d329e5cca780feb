// SPDX-License-Identifier: GPL-3.0-only
//! What sends health probes the traffic's own way (`bpf/tc/egress.bpf.c`): a program where packets leave by the loopback
//! device, one where the backends' answers come in, and the loopback device's leave to accept those answers.
//!
//! `datapath::probes` is the caller, while some VIP is forwarded without nat. Pinned and replaced in one step, as the
//! rungs are. Programs of others there are left alone: we only add ours behind them.

use std::fs;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;

use libbpf_rs::MapHandle;

use super::super::error::DatapathError;
use super::links::{Kind, Links, open_pinned};
use super::offloads::{recall, remember, this_namespace};
use super::tc::{self, Spot};

/// The loopback device of every network namespace.
const LOOPBACK: u32 = 1;

/// Of the clsact filters, below 6.6: behind the rung's.
pub(super) const PRIORITY: u16 = 2;

/// IPv4 refuses what comes in with an address of the host's as its source. Set for the loopback device alone, by which
/// nothing comes in but what the host itself sends there, and the answers that `eg_tc_answer` lets in.
const ACCEPT_LOCAL: &str = "/proc/sys/net/ipv4/conf/lo/accept_local";

pub(super) fn out() -> Spot {
    Spot { ifindex: LOOPBACK, egress: true, priority: PRIORITY }
}

pub(super) fn answers_at(ifindex: u32) -> Spot {
    Spot { ifindex, egress: false, priority: PRIORITY }
}

/// The two programs.
#[derive(Clone, Copy)]
pub(crate) struct Programs<'a> {
    pub(crate) egress: BorrowedFd<'a>,
    pub(crate) answer: BorrowedFd<'a>,
}

/// Attaches them: probes leave, and answers come in by `interfaces`. The way back is there before the way out.
pub(crate) fn attach(links: &Links, programs: Programs<'_>, interfaces: &[u32]) -> Result<(), DatapathError> {
    accept(links)?;
    // What comes in by loopback is there already: taken in anew it would meet the program again.
    for &ifindex in interfaces.iter().filter(|ifindex| **ifindex != LOOPBACK) {
        put(links, [Kind::InTcx, Kind::InClsact], answers_at(ifindex), programs.answer)?;
    }
    put(links, [Kind::OutTcx, Kind::OutClsact], out(), programs.egress)
}

/// Takes away what is there of it.
pub(crate) fn detach(links: &Links) -> Result<(), DatapathError> {
    for kind in [Kind::OutTcx, Kind::OutClsact, Kind::Accepts] {
        links.remove(kind, LOOPBACK)?;
    }
    for ifindex in links.interfaces()? {
        links.remove(Kind::InTcx, ifindex)?;
        links.remove(Kind::InClsact, ifindex)?;
    }
    Ok(())
}

/// By a tcx link, or, where the kernel has none, by a filter.
fn put(links: &Links, [tcx, clsact]: [Kind; 2], spot: Spot, program: BorrowedFd<'_>) -> Result<(), DatapathError> {
    let by_tcx = tc::tcx_programs(spot.ifindex, spot.egress).is_some();
    let done = if by_tcx {
        let path = links.pin_of(tcx, spot.ifindex);
        let link = open_pinned(&path)?;
        let runs = link.filter(|link| tc::carried_at(link, spot.ifindex, spot.egress).is_some());
        let kind = if spot.egress { libbpf_sys::BPF_TCX_EGRESS } else { libbpf_sys::BPF_TCX_INGRESS };
        tc::attach_link(&path, runs, spot.ifindex, kind, program)
    } else {
        tc::attach_filter(&links.pin_of(clsact, spot.ifindex), spot, program)
    };
    done.map_err(|source| DatapathError::Attach {
        what: format!("the probes' program to interface {}", spot.ifindex),
        tried: if by_tcx { "tcx" } else { "clsact" }.into(),
        source,
    })
}

/// The program that takes answers in at an interface, by tcx.
pub(super) fn answering(links: &Links, ifindex: u32) -> Option<u32> {
    let link = open_pinned(&links.pin_of(Kind::InTcx, ifindex)).ok().flatten()?;
    tc::carried(&link, ifindex)
}

/// What was set by somebody else stays so for ever.
fn accept(links: &Links) -> Result<(), DatapathError> {
    let fail = |source: io::Error| DatapathError::System { doing: format!("set {ACCEPT_LOCAL}"), source };
    if fs::read_to_string(ACCEPT_LOCAL).map_err(fail)?.trim() != "0" {
        return Ok(());
    }
    // Remembered first: who is killed in between leaves it to be taken back.
    remember(&links.pin_of(Kind::Accepts, LOOPBACK), 1)?;
    fs::write(ACCEPT_LOCAL, "1").map_err(fail)
}

/// Takes it back, if we gave it and this is the namespace.
pub(super) fn accept_no_more(path: &Path) -> Result<bool, DatapathError> {
    if !path.exists() {
        return Ok(false);
    }
    let map = MapHandle::from_pinned_path(path).map_err(DatapathError::map(format!("open the pinned map {path:?}")))?;
    let [_, namespace] = recall(&map)?;
    if namespace == this_namespace()?
        && let Err(error) = fs::write(ACCEPT_LOCAL, "0")
    {
        tracing::warn!(%error, "cannot set {ACCEPT_LOCAL} back to 0");
    }
    fs::remove_file(path).map_err(|source| DatapathError::PinRoot { path: path.into(), source })?;
    Ok(true)
}
