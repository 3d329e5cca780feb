// SPDX-License-Identifier: GPL-3.0-only
//! The programs once more, as twins that capture (`bpf/lib/capture.h`): told what their siblings were told and what to
//! capture, over the same maps, with tables of programs of their own.
//!
//! `capture` loads them and puts them in their siblings' place. Their tables are pinned as any program's are: should the
//! process die, the kernel goes on by the twins, and the next start sweeps what they leave.

use std::fs;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use eg_skel::{features, share, tc_capture, xdp_capture};
use libbpf_rs::skel::{OpenSkel, Skel, SkelBuilder};
use libbpf_rs::{MapCore, MapHandle, MapType, OpenObject};

use super::super::attach::ladder::Programs;
use super::super::error::DatapathError;
use super::{Flows, Ingress, Loaded, entries, ingress, refused, resize, shared};
use crate::config::plan::DatapathPlan;

/// What is captured, as the programs are told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Jiffies.
    pub(crate) until: u64,
    pub(crate) snap: u32,
    /// A bit for each verdict.
    pub(crate) verdicts: u32,
    /// 0: any.
    pub(crate) reason: u32,
    /// Both 0: any.
    pub(crate) vips: [u32; 2],
    /// Of the mapped form, as on the wire.
    pub(crate) client: [u32; 4],
    pub(crate) mask: [u32; 4],
}

/// Where twins write: one of each for all of them.
pub(crate) struct Sinks {
    /// The perf event array.
    pub(crate) captured: MapHandle,
    pub(crate) lost: MapHandle,
}

impl Sinks {
    pub(crate) fn new() -> Result<Sinks, DatapathError> {
        let options = libbpf_sys::bpf_map_create_opts {
            sz: size_of::<libbpf_sys::bpf_map_create_opts>() as libbpf_sys::size_t,
            ..Default::default()
        };
        let create = |kind, name, value: u32, entries| {
            MapHandle::create(kind, Some(name), 4, value, entries, &options)
                .map_err(DatapathError::map(format!("create the map {name}")))
        };
        let cpus = libbpf_rs::num_possible_cpus().map_err(DatapathError::map("count the CPUs"))?;
        let cpus = u32::try_from(cpus).unwrap_or(u32::MAX);
        Ok(Sinks {
            captured: create(MapType::PerfEventArray, "captured", 4, cpus)?,
            lost: create(MapType::PercpuArray, "capture_lost", 8, 1)?,
        })
    }
}

/// What a twin has beside the pinned maps.
pub(super) struct Beside<'a> {
    pub(super) wanted: &'a Wanted,
    sinks: &'a Sinks,
    own: &'a [MapHandle],
}

impl Beside<'_> {
    /// Before load: maps that are not the twin's own are its sibling's, or those that it writes to.
    pub(super) fn share(&self, object: &mut OpenObject) -> libbpf_rs::Result<()> {
        let given = || self.own.iter().chain([&self.sinks.captured, &self.sinks.lost]);
        for mut map in object.maps_mut() {
            if let Some(handle) = given().find(|handle| handle.name() == map.name()) {
                map.reuse_fd(handle.as_fd())?;
            }
        }
        Ok(())
    }
}

/// All that loading twins takes, for a thread that may block.
pub(crate) struct Loading {
    plan: DatapathPlan,
    folder: PathBuf,
    frags: bool,
    /// The siblings' own maps, of each that is to have a twin.
    xdp: Option<Vec<MapHandle>>,
    tc: Option<Vec<MapHandle>>,
}

impl Loaded {
    /// Prepares twins of the programs that are asked for and loaded. No load may be under way or begin meanwhile.
    pub(crate) fn twins(&self, xdp: bool, tc: bool) -> Result<Loading, DatapathError> {
        let own = |wanted: bool, sibling: &Option<Ingress>| {
            let maps = sibling.as_ref().filter(|_| wanted).map(|sibling| sibling.own.iter().map(MapHandle::try_from));
            maps.map(Iterator::collect).transpose().map_err(DatapathError::map("share a program's own maps"))
        };
        Ok(Loading {
            plan: self.plan.clone(),
            folder: self.folder.clone(),
            frags: self.frags,
            xdp: own(xdp, &self.xdp)?,
            tc: own(tc, &self.tc)?,
        })
    }
}

impl Loading {
    /// A second or more: the kernel verifies them anew.
    pub(crate) fn load(self, wanted: &Wanted, sinks: &Sinks) -> Result<Twins, DatapathError> {
        let Loading { plan, folder, frags, xdp, tc } = self;
        let mut twins = Twins { xdp: None, tc: None, frags };
        if let Some(own) = xdp {
            let beside = Beside { wanted, sinks, own: &own };
            twins.xdp = Some(load_xdp(&plan, &folder, frags, &beside)?);
        }
        if let Some(own) = tc {
            let beside = Beside { wanted, sinks, own: &own };
            twins.tc = Some(load_tc(&plan, &folder, &beside)?);
        }
        Ok(twins)
    }
}

/// Before load: what to capture.
macro_rules! tell {
    ($open:ident, $beside:ident) => {
        if let Some(tunables) = $open.maps.rodata_data.as_deref_mut() {
            let Wanted { until, snap, verdicts, reason, vips, client, mask } = $beside.wanted.clone();
            tunables.eg_capture_until = until;
            tunables.eg_capture_snap = snap;
            tunables.eg_capture_verdicts = verdicts;
            tunables.eg_capture_reason = reason;
            tunables.eg_capture_vips = vips;
            tunables.eg_capture_client = client;
            tunables.eg_capture_mask = mask;
        }
        $beside.share($open.open_object_mut()).map_err(refused(OBJECT))?;
    };
}

fn load_xdp(plan: &DatapathPlan, folder: &Path, frags: bool, beside: &Beside<'_>) -> Result<Ingress, DatapathError> {
    const OBJECT: &str = "bpf/xdp/capture";
    let flows = Flows::Pinned;
    let mut storage = MaybeUninit::uninit();
    let mut open = xdp_capture::CaptureSkelBuilder::default().open(&mut storage).map_err(refused(OBJECT))?;
    if frags {
        for mut program in open.open_object_mut().progs_mut() {
            program.set_flags(features::XDP_HAS_FRAGS);
        }
    }
    configure!(open, plan, folder, OBJECT, flows, frags);
    tell!(open, beside);
    let mut skel = open.load().map_err(refused(OBJECT))?;
    let (ingress, _): (_, Option<MapHandle>) = finish!(skel, eg_xdp_ingress, xdp_tails, folder, flows);
    Ok(ingress)
}

fn load_tc(plan: &DatapathPlan, folder: &Path, beside: &Beside<'_>) -> Result<Ingress, DatapathError> {
    const OBJECT: &str = "bpf/tc/capture";
    let flows = Flows::Pinned;
    let mut storage = MaybeUninit::uninit();
    let mut open = tc_capture::CaptureSkelBuilder::default().open(&mut storage).map_err(refused(OBJECT))?;
    configure!(open, plan, folder, OBJECT, flows, false);
    tell!(open, beside);
    let mut skel = open.load().map_err(refused(OBJECT))?;
    let (ingress, _): (_, Option<MapHandle>) = finish!(skel, eg_tc_ingress, tc_tails, folder, flows);
    Ok(ingress)
}

/// Loaded twins. Dropped once no packet is in them any more: their tables of programs go, and a tail call would fail.
pub(crate) struct Twins {
    xdp: Option<Ingress>,
    tc: Option<Ingress>,
    frags: bool,
}

impl Programs for Twins {
    fn xdp(&mut self) -> Result<(BorrowedFd<'_>, bool), DatapathError> {
        let frags = self.frags;
        given(&self.xdp, "XDP").map(|program| (program, frags))
    }

    fn tc(&mut self) -> Result<BorrowedFd<'_>, DatapathError> {
        given(&self.tc, "tc")
    }
}

fn given<'a>(twin: &'a Option<Ingress>, hook: &str) -> Result<BorrowedFd<'a>, DatapathError> {
    let missing = || DatapathError::Plan { problem: format!("no {hook} program captures") };
    twin.as_ref().map(|twin| twin.program.as_fd()).ok_or_else(missing)
}

impl Drop for Twins {
    fn drop(&mut self) {
        for twin in [&self.xdp, &self.tc].into_iter().flatten() {
            if let Err(error) = fs::remove_file(&twin.tails) {
                tracing::warn!(path = ?twin.tails, %error, "cannot remove a pin");
            }
        }
    }
}
