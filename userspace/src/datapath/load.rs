// SPDX-License-Identifier: GPL-3.0-only
//! Gets the programs into the kernel with the plan's tunables, over the maps that are pinned already or new ones.
//!
//! `Datapath::start` calls it once. What it returns is loaded but attached to nothing, so a refusal here leaves what is
//! running alone. Checked first, each with an error of its own: privileges and kernel features (`probe`), a BPF file
//! system, pins of another ABI, a pinned flow table of another size.

use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use eg_skel::abi;
use eg_skel::share::{self, ShareError};
use eg_skel::sock_lookup::LookupSkelBuilder;
use eg_skel::xdp_ingress::IngressSkelBuilder;
use eg_skel::{Maps, features};
use libbpf_rs::skel::{OpenSkel, Skel, SkelBuilder};
use libbpf_rs::{PrintLevel, set_print};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::error::DatapathError;
use crate::config::plan::DatapathPlan;

/// Programs in the kernel, not yet attached. Dropping it unloads what nobody attached.
pub(crate) struct Loaded {
    pub(crate) xdp: OwnedFd,
    pub(crate) sk_lookup: OwnedFd,
    pub(crate) maps: Arc<Maps>,
    /// Where maps and links are pinned.
    pub(crate) folder: PathBuf,
}

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
    let xdp = load_xdp(plan, &folder)?;
    let sk_lookup = load_sk_lookup(&folder)?;
    let maps = Arc::new(Maps::open(&folder)?);
    Ok(Loaded { xdp, sk_lookup, maps, folder })
}

fn load_xdp(plan: &DatapathPlan, folder: &Path) -> Result<OwnedFd, DatapathError> {
    const OBJECT: &str = "bpf/xdp/ingress";
    let mut storage = MaybeUninit::uninit();
    let mut open = IngressSkelBuilder::default().open(&mut storage).map_err(refused(OBJECT))?;
    open.maps.eg_flows.set_max_entries(plan.flows).map_err(refused(OBJECT))?;
    let frags = features::xdp_frags();
    if frags {
        open.progs.eg_xdp_ingress.set_flags(features::XDP_HAS_FRAGS);
    }
    if let Some(tunables) = open.maps.rodata_data.as_deref_mut() {
        tunables.eg_snat_port_min = u32::from(*plan.snat_ports.start());
        tunables.eg_snat_port_max = u32::from(*plan.snat_ports.end());
        tunables.eg_jiffies_hz = features::jiffies_hz().map_err(DatapathError::system("ask for the kernel's tick"))?;
        tunables.eg_xdp_frags = u8::from(frags);
    }
    share::reuse_pinned(open.open_object_mut(), folder).map_err(|error| shared(error, folder))?;
    let mut skel = open.load().map_err(refused(OBJECT))?;
    share::pin_missing(skel.object_mut(), folder).map_err(|error| shared(error, folder))?;
    skel.progs.eg_xdp_ingress.as_fd().try_clone_to_owned().map_err(DatapathError::system("keep the XDP program"))
}

fn load_sk_lookup(folder: &Path) -> Result<OwnedFd, DatapathError> {
    const OBJECT: &str = "bpf/sock/lookup";
    let mut storage = MaybeUninit::uninit();
    let mut open = LookupSkelBuilder::default().open(&mut storage).map_err(refused(OBJECT))?;
    share::reuse_pinned(open.open_object_mut(), folder).map_err(|error| shared(error, folder))?;
    let mut skel = open.load().map_err(refused(OBJECT))?;
    share::pin_missing(skel.object_mut(), folder).map_err(|error| shared(error, folder))?;
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

fn shared(error: ShareError, folder: &Path) -> DatapathError {
    match error {
        ShareError::Differs { map, property: "max_entries", pinned, wanted } if map == "eg_flows" => {
            DatapathError::Capacity { map: "eg_flows", path: folder.join(map), pinned, wanted }
        }
        error => DatapathError::map("share the pinned maps")(error),
    }
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

/// Folders of pins below `root` that a process of this version refuses to start beside.
///
/// # Errors
/// The folder cannot be listed; one that does not exist has none.
pub fn other_versions(root: &Path) -> Result<Vec<PathBuf>, DatapathError> {
    if !root.exists() {
        return Ok(Vec::new());
    }
    let ours = share::pin_dir(root);
    Ok(versions(root)?.into_iter().map(|(path, _)| path).filter(|path| *path != ours).collect())
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
