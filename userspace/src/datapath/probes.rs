// SPDX-License-Identifier: GPL-3.0-only
//! Lets health probes of direct-mode VIPs go the traffic's own way: loads the programs, tells them which mark means which
//! VIP and backend, has them attached; and takes all of that back when the last such VIP is gone.
//!
//! `Datapath` calls it after each plan, when VIPs and backends are in the maps. Who probes is not decided here: whoever
//! marks a socket by `eg_probes` (`egctl doctor`).

use std::collections::{BTreeSet, HashSet};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use eg_skel::abi::{MAX_PROBES, PROBE_MARK, Probe};
use eg_skel::tc_egress::EgressSkelBuilder;
use eg_skel::{MapError, ProbeMaps, share};
use libbpf_rs::skel::{OpenSkel, Skel, SkelBuilder};

use super::attach::links::Links;
use super::attach::probes::{Programs, attach, detach};
use super::error::DatapathError;
use super::load::{refused, shared};

/// What there is for probes.
#[derive(Default)]
pub(crate) struct Probes {
    /// Loaded when the first VIP asks for it.
    programs: Option<(OwnedFd, OwnedFd)>,
}

impl Probes {
    /// Makes exactly these pairs ones that can be probed. `folder`: where maps are pinned; `interfaces`: where answers come
    /// in.
    pub(crate) fn follow(
        &mut self,
        folder: &Path,
        links: &Links,
        interfaces: &[u32],
        pairs: &HashSet<Probe>,
    ) -> Result<(), DatapathError> {
        if pairs.is_empty() {
            self.programs = None;
            // Also what an earlier process has left.
            if let Some(maps) = ProbeMaps::open(folder)? {
                write(&maps, pairs)?;
            }
            return detach(links);
        }
        let (egress, answer) = match self.programs.take() {
            Some(programs) => programs,
            None => load(folder)?,
        };
        let (egress, answer) = self.programs.insert((egress, answer));
        let missing = MapError::Missing { map: "eg_probes", source: None };
        let maps = ProbeMaps::open(folder)?.ok_or(missing)?;
        let attached = attach(links, Programs { egress: egress.as_fd(), answer: answer.as_fd() }, interfaces);
        // A mark that no program knows would have this host answer itself.
        let none = HashSet::new();
        write(&maps, if attached.is_ok() { pairs } else { &none })?;
        attached
    }
}

fn load(folder: &Path) -> Result<(OwnedFd, OwnedFd), DatapathError> {
    const OBJECT: &str = "bpf/tc/egress";
    let mut storage = MaybeUninit::uninit();
    let mut open = EgressSkelBuilder::default().open(&mut storage).map_err(refused(OBJECT))?;
    share::reuse_pinned(open.open_object_mut(), folder, None).map_err(shared)?;
    let mut skel = open.load().map_err(refused(OBJECT))?;
    share::pin_missing(skel.object_mut(), folder).map_err(shared)?;
    let keep = |program: std::os::fd::BorrowedFd<'_>| {
        program.try_clone_to_owned().map_err(DatapathError::system("keep a program of probes"))
    };
    Ok((keep(skel.progs.eg_tc_egress.as_fd())?, keep(skel.progs.eg_tc_answer.as_fd())?))
}

/// A pair keeps its mark for as long as it is one, across restarts too. Those that are gone go first: no mark ever means
/// two things.
fn write(maps: &ProbeMaps, pairs: &HashSet<Probe>) -> Result<(), DatapathError> {
    let mut missing = pairs.clone();
    let mut taken = BTreeSet::new();
    for (mark, pair) in maps.probes.entries()? {
        if missing.remove(&pair) {
            taken.insert(mark);
        } else {
            maps.probes.delete(&mark)?;
        }
    }
    let mut free = (PROBE_MARK + 1..=PROBE_MARK + MAX_PROBES).filter(|mark| !taken.contains(mark));
    let mut left = missing.len();
    for pair in missing {
        let Some(mark) = free.next() else { break };
        maps.probes.set(&mark, &pair)?;
        left -= 1;
    }
    if left > 0 {
        tracing::warn!(pairs = left, limit = MAX_PROBES, "too many pairs of vip and backend: these cannot be probed");
    }
    Ok(())
}
