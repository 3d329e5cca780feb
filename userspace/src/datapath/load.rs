// SPDX-License-Identifier: GPL-3.0-only
//! Gets the programs into the kernel with the plan's tunables, over the maps that are pinned already or new ones.
//!
//! `Datapath::start` calls it once. What it returns is loaded but attached to nothing, so a refusal here leaves what is
//! running alone. Checked first, each with an error of its own: privileges and kernel features (`probe`), a BPF file
//! system, pins of another ABI.

use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use eg_skel::abi;
use eg_skel::share::{self, ShareError};
use eg_skel::sock_lookup::LookupSkelBuilder;
use eg_skel::xdp_ingress::IngressSkelBuilder;
use eg_skel::{Maps, features};
use libbpf_rs::skel::{OpenSkel, Skel, SkelBuilder};
use libbpf_rs::{MapCore, MapHandle, PrintLevel, set_print};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::error::DatapathError;
use super::resize::{self, Resize};
use crate::config::plan::DatapathPlan;

/// Programs in the kernel, not yet attached. Dropping it unloads what nobody attached.
pub(crate) struct Loaded {
    pub(crate) xdp: OwnedFd,
    /// The pin of the table of programs that `xdp` calls; what earlier loads left is removed by `sweep_tails`.
    pub(crate) tails: PathBuf,
    pub(crate) sk_lookup: OwnedFd,
    pub(crate) maps: Arc<Maps>,
    /// The flow table has another capacity than the pinned one, whose flows it has now.
    pub(crate) resize: Option<Resize>,
    /// Where maps and links are pinned.
    pub(crate) folder: PathBuf,
}

/// A pinned table of programs, followed by the number of the program that calls them. The kernel empties such a table when
/// nobody holds it, and then every tail call fails: it must be pinned for as long as the program is attached.
const TAILS: &str = "tails_";

/// Lines of the verifier's log that an error shows: the last ones say which instruction was refused and why.
const LOG_LINES: usize = 20;

/// What libbpf has said during the current load. libbpf's print hook is a plain function, so its sink is a static; one
/// load runs at a time, on the control thread.
static LOG: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Loads both objects.
pub(crate) fn load(plan: &DatapathPlan) -> Result<Loaded, DatapathError> {
    let folder = pin_folder(&plan.pin_root)?;
    set_print(Some((PrintLevel::Info, |_, line| {
        let mut log = LOG.lock().unwrap_or_else(PoisonError::into_inner);
        log.extend(line.lines().map(str::to_string));
    })));
    let (xdp, tails, flows) = load_xdp(plan, &folder)?;
    let sk_lookup = load_sk_lookup(&folder)?;
    let (maps, resize) = match flows {
        Some(flows) => (Maps::open_with_flows(&folder, &flows)?, Some(Resize::begin(&folder, flows)?)),
        None => (Maps::open(&folder)?, None),
    };
    let maps = Arc::new(maps);
    Ok(Loaded { xdp, tails, sk_lookup, maps, resize, folder })
}

/// The program, its table of programs, and its flow table if that is to take the pinned one's place.
fn load_xdp(plan: &DatapathPlan, folder: &Path) -> Result<(OwnedFd, PathBuf, Option<MapHandle>), DatapathError> {
    const OBJECT: &str = "bpf/xdp/ingress";
    let mut storage = MaybeUninit::uninit();
    let mut open = IngressSkelBuilder::default().open(&mut storage).map_err(refused(OBJECT))?;
    // Under NAT a flow is two entries.
    let entries = plan.flows.saturating_mul(2);
    open.maps.eg_flows.set_max_entries(entries).map_err(refused(OBJECT))?;
    let resized = resize::pinned(folder)?.is_some_and(|pinned| pinned != entries);
    open.maps.eg_sources.set_max_entries(plan.guards.sources).map_err(refused(OBJECT))?;
    forget_sources(folder, plan.guards.sources)?;
    let frags = features::xdp_frags();
    if frags {
        for mut program in open.open_object_mut().progs_mut() {
            program.set_flags(features::XDP_HAS_FRAGS);
        }
    }
    if let Some(tunables) = open.maps.rodata_data.as_deref_mut() {
        tunables.eg_snat_port_min = u32::from(*plan.snat_ports.start());
        tunables.eg_snat_port_max = u32::from(*plan.snat_ports.end());
        let seconds = |timeout: Duration| u32::try_from(timeout.as_secs()).unwrap_or(u32::MAX);
        tunables.eg_timeout_opening_s = seconds(plan.timeouts.opening);
        tunables.eg_timeout_open_s = seconds(plan.timeouts.open);
        tunables.eg_timeout_closing_s = seconds(plan.timeouts.closing);
        tunables.eg_timeout_udp_s = seconds(plan.timeouts.udp);
        tunables.eg_jiffies_hz = features::jiffies_hz().map_err(DatapathError::system("ask for the kernel's tick"))?;
        tunables.eg_xdp_frags = u8::from(frags);
    }
    let except = resized.then_some(resize::FLOWS);
    share::reuse_pinned(open.open_object_mut(), folder, except).map_err(shared)?;
    let mut skel = open.load().map_err(refused(OBJECT))?;
    share::pin_missing(skel.object_mut(), folder).map_err(shared)?;
    let flows = resized.then(|| MapHandle::try_from(&skel.maps.eg_flows)).transpose();
    let flows = flows.map_err(DatapathError::map("keep the new flow table"))?;
    let program = skel.progs.eg_xdp_ingress.as_fd();
    let id = libbpf_rs::Program::id_from_fd(program).map_err(refused(OBJECT))?;
    let tails = folder.join(format!("{TAILS}{id}"));
    skel.maps.xdp_tails.pin(&tails).map_err(DatapathError::map("pin the table of programs"))?;
    let program = program.try_clone_to_owned().map_err(DatapathError::system("keep the XDP program"))?;
    Ok((program, tails, flows))
}

/// Removes the tables of programs that no attached program calls any more: all but `keep`.
pub(crate) fn sweep_tails(folder: &Path, keep: &Path) -> Result<(), DatapathError> {
    let fail = |source| DatapathError::PinRoot { path: folder.to_path_buf(), source };
    for entry in fs::read_dir(folder).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        let is_table = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(TAILS));
        if is_table && path != keep {
            fs::remove_file(&path).map_err(fail)?;
        }
    }
    Ok(())
}

/// A table of sources that has another size is left to the programs that run with it: buckets are a few seconds' memory,
/// and all that is lost by a new table is that each begins full.
fn forget_sources(folder: &Path, capacity: u32) -> Result<(), DatapathError> {
    let path = folder.join("eg_sources");
    // No pin is the first start's; one that cannot be read is named when it is to be shared.
    let Ok(pinned) = MapHandle::from_pinned_path(&path) else { return Ok(()) };
    if pinned.max_entries() != capacity {
        fs::remove_file(&path).map_err(DatapathError::system("unpin the old table of sources"))?;
    }
    Ok(())
}

fn load_sk_lookup(folder: &Path) -> Result<OwnedFd, DatapathError> {
    const OBJECT: &str = "bpf/sock/lookup";
    let mut storage = MaybeUninit::uninit();
    let mut open = LookupSkelBuilder::default().open(&mut storage).map_err(refused(OBJECT))?;
    share::reuse_pinned(open.open_object_mut(), folder, None).map_err(shared)?;
    let mut skel = open.load().map_err(refused(OBJECT))?;
    share::pin_missing(skel.object_mut(), folder).map_err(shared)?;
    skel.progs.eg_sk_lookup.as_fd().try_clone_to_owned().map_err(DatapathError::system("keep the sk_lookup program"))
}

/// A refusal with the end of what libbpf and the verifier said about it.
fn refused(object: &'static str) -> impl FnOnce(libbpf_rs::Error) -> DatapathError {
    LOG.lock().unwrap_or_else(PoisonError::into_inner).clear();
    move |source| {
        let mut log = std::mem::take(&mut *LOG.lock().unwrap_or_else(PoisonError::into_inner));
        log.drain(..log.len().saturating_sub(LOG_LINES));
        DatapathError::Refused { object, log, source }
    }
}

fn shared(error: ShareError) -> DatapathError {
    DatapathError::map("share the pinned maps")(error)
}

/// Makes `<pin_root>/v<ABI>`, on bpffs and alone there.
fn pin_folder(root: &Path) -> Result<PathBuf, DatapathError> {
    let existing = root.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let kind =
        statfs(existing).map_err(|error| DatapathError::PinRoot { path: existing.into(), source: error.into() })?;
    if kind.filesystem_type() != BPF_FS_MAGIC {
        return Err(DatapathError::NoBpffs { path: root.into() });
    }
    let folder = share::pin_dir(root);
    fs::create_dir_all(&folder).map_err(|source| DatapathError::PinRoot { path: folder.clone(), source })?;
    for (path, name) in versions(root)? {
        if path != folder {
            return Err(DatapathError::ForeignAbi { path, found: name, ours: abi::ABI });
        }
    }
    Ok(folder)
}

/// The folders `v<number>` below a pin root.
pub(crate) fn versions(root: &Path) -> Result<Vec<(PathBuf, String)>, DatapathError> {
    let fail = |source: io::Error| DatapathError::PinRoot { path: root.into(), source };
    let mut found = Vec::new();
    for entry in fs::read_dir(root).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.strip_prefix('v').is_some_and(|number| number.parse::<u32>().is_ok()) {
            found.push((entry.path(), name));
        }
    }
    Ok(found)
}
