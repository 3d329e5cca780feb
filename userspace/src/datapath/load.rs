// SPDX-License-Identifier: GPL-3.0-only
//! Gets the programs into the kernel with the plan's tunables, over the maps that are pinned already or new ones.
//!
//! `Datapath::start` calls it once. What it returns is loaded but attached to nothing, so a refusal here leaves what is
//! running alone. Checked first, each with an error of its own: privileges and kernel features (`probe`), a BPF file
//! system and no other process there (`owner`), pins of another ABI.

use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use eg_skel::abi;
use eg_skel::share::{self, ShareError};
use eg_skel::sock_lookup::LookupSkelBuilder;
use eg_skel::{Maps, features, tc_ingress, xdp_ingress};
use libbpf_rs::skel::{OpenSkel, Skel, SkelBuilder};
use libbpf_rs::{MapCore, MapHandle, MapMut, PrintLevel, set_print};

use super::attach::ladder::Programs;
use super::error::DatapathError;
use super::fragments::{Counters, Fragments, Parts};
use super::resize::{self, Resize};
use crate::config::plan::{DatapathPlan, XdpMode};

/// Programs in the kernel, not yet attached. Dropping it unloads what nobody attached.
pub(crate) struct Loaded {
    plan: DatapathPlan,
    /// Each loaded when the first interface needs it.
    xdp: Option<Ingress>,
    tc: Option<Ingress>,
    frags: bool,
    pub(crate) sk_lookup: OwnedFd,
    pub(crate) maps: Arc<Maps>,
    /// The flow table has another capacity than the pinned one, whose flows it has now.
    resize: Option<Resize>,
    /// Where maps and links are pinned.
    pub(crate) folder: PathBuf,
    /// Of all objects' fragments.
    held: Arc<Counters>,
    /// Holds those that `xdp` hands out.
    fragments: Option<Fragments>,
}

/// A program for interfaces, and the pin of the table of programs that it calls.
struct Ingress {
    program: OwnedFd,
    tails: PathBuf,
    /// Maps of its object that are not pinned, and that a twin must share: two programs that work on the same packets.
    own: Vec<MapHandle>,
}

impl Loaded {
    /// The programs run everywhere: what they replaced goes, its flow table and its tables of programs.
    pub(crate) fn finish(&mut self) -> Result<(), DatapathError> {
        if let Some(resize) = self.resize.take() {
            resize.finish()?;
        }
        let keep: Vec<&Path> = [&self.xdp, &self.tc].into_iter().flatten().map(|ingress| &*ingress.tails).collect();
        sweep_tails(&self.folder, &keep)
    }

    /// For an object that is loaded after the first.
    fn flows(&self) -> Flows<'_> {
        self.resize.as_ref().map_or(Flows::Pinned, |resize| Flows::Of(resize.table()))
    }
}

impl Programs for Loaded {
    fn xdp(&mut self) -> Result<(BorrowedFd<'_>, bool), DatapathError> {
        let ingress = match self.xdp.take() {
            Some(ingress) => ingress,
            None => {
                let (ingress, parts, _) = load_xdp(&self.plan, &self.folder, self.frags, self.flows())?;
                self.fragments = Fragments::start(parts, Arc::clone(&self.maps), Arc::clone(&self.held))?;
                ingress
            }
        };
        Ok((self.xdp.insert(ingress).program.as_fd(), self.frags))
    }

    fn tc(&mut self) -> Result<BorrowedFd<'_>, DatapathError> {
        let ingress = match self.tc.take() {
            Some(ingress) => ingress,
            None => load_tc(&self.plan, &self.folder, self.flows())?.0,
        };
        Ok(self.tc.insert(ingress).program.as_fd())
    }
}

/// Which flow table an object is to use.
#[derive(Clone, Copy)]
enum Flows<'a> {
    Pinned,
    /// One of its own, which is to take the pinned one's place.
    New,
    /// The one that another object has, and that is to take the pinned one's place.
    Of(&'a MapHandle),
}

/// A pinned table of programs, followed by the number of the program that calls them. The kernel empties such a table when
/// nobody holds it, and then every tail call fails: it must be pinned for as long as the program is attached.
const TAILS: &str = "tails_";

/// Lines of the verifier's log that an error shows: the last ones say which instruction was refused and why.
const LOG_LINES: usize = 20;

/// What libbpf has said during the current load. libbpf's print hook is a plain function, so its sink is a static; one
/// load runs at a time, on the control thread.
static LOG: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Loads what the plan needs for certain; the first of the ladder's objects makes the maps.
pub(crate) fn load(plan: &DatapathPlan, held: &Arc<Counters>) -> Result<Loaded, DatapathError> {
    let folder = pin_folder(&plan.pin_root)?;
    set_print(Some((PrintLevel::Info, |_, line| {
        let mut log = LOG.lock().unwrap_or_else(PoisonError::into_inner);
        log.extend(line.lines().map(str::to_string));
    })));
    let flows = match resize::pinned(&folder)? {
        Some(pinned) if pinned != entries(plan) => Flows::New,
        _ => Flows::Pinned,
    };
    let frags = features::xdp_frags();
    forget_sources(&folder, plan.guards.sources)?;
    let (xdp, tc, parts, flows) = match plan.xdp {
        XdpMode::Tc => {
            let (tc, flows) = load_tc(plan, &folder, flows)?;
            (None, Some(tc), None, flows)
        }
        XdpMode::Auto | XdpMode::Native | XdpMode::Generic => {
            let (xdp, parts, flows) = load_xdp(plan, &folder, frags, flows)?;
            (Some(xdp), None, Some(parts), flows)
        }
    };
    let sk_lookup = load_sk_lookup(&folder)?;
    let (maps, resize) = match flows {
        Some(flows) => (Maps::open_with_flows(&folder, &flows)?, Some(Resize::begin(&folder, flows)?)),
        None => (Maps::open(&folder)?, None),
    };
    let maps = Arc::new(maps);
    let hold = |parts| Fragments::start(parts, Arc::clone(&maps), Arc::clone(held));
    let fragments = parts.map(hold).transpose()?.flatten();
    let (plan, held) = (plan.clone(), Arc::clone(held));
    Ok(Loaded { plan, xdp, tc, frags, sk_lookup, maps, resize, folder, held, fragments })
}

/// Under NAT a flow is two entries.
fn entries(plan: &DatapathPlan) -> u32 {
    plan.flows.saturating_mul(2)
}

/// Before load: what the two objects have in common, and no type says.
macro_rules! configure {
    ($open:ident, $plan:ident, $folder:ident, $object:ident, $flows:ident, $frags:expr) => {
        $open.maps.eg_flows.set_max_entries(entries($plan)).map_err(refused($object))?;
        $open.maps.eg_sources.set_max_entries($plan.guards.sources).map_err(refused($object))?;
        if let Some(tunables) = $open.maps.rodata_data.as_deref_mut() {
            let hz = features::jiffies_hz().map_err(DatapathError::system("ask for the kernel's tick"))?;
            tunables.eg_snat_port_min = u32::from(*$plan.snat_ports.start());
            tunables.eg_snat_port_max = u32::from(*$plan.snat_ports.end());
            let seconds = |timeout: Duration| u32::try_from(timeout.as_secs()).unwrap_or(u32::MAX);
            tunables.eg_timeout_opening_s = seconds($plan.timeouts.opening);
            tunables.eg_timeout_open_s = seconds($plan.timeouts.open);
            tunables.eg_timeout_closing_s = seconds($plan.timeouts.closing);
            tunables.eg_timeout_udp_s = seconds($plan.timeouts.udp);
            tunables.eg_flow_entries = entries($plan);
            tunables.eg_jiffies_hz = hz;
            tunables.eg_xdp_frags = u8::from($frags);
            tunables.eg_syn_cookies = u8::from(features::syn_cookies());
        }
        if let Flows::Of(table) = $flows {
            $open.maps.eg_flows.reuse_fd(table.as_fd()).map_err(refused($object))?;
        }
        let except = (!matches!($flows, Flows::Pinned)).then_some(resize::FLOWS);
        share::reuse_pinned($open.open_object_mut(), $folder, except).map_err(shared)?;
    };
}

/// After load: the program, and its flow table if that is new.
macro_rules! finish {
    ($skel:ident, $program:ident, $tails:ident, $folder:ident, $flows:ident) => {{
        share::pin_missing($skel.object_mut(), $folder).map_err(shared)?;
        let new = matches!($flows, Flows::New).then(|| MapHandle::try_from(&$skel.maps.eg_flows)).transpose();
        let new = new.map_err(DatapathError::map("keep the new flow table"))?;
        let own = [&$skel.maps.held, &$skel.maps.frag_locks, &$skel.maps.event_gate].map(MapHandle::try_from);
        let own = own.into_iter().collect::<Result<_, _>>().map_err(DatapathError::map("keep a program's own maps"))?;
        (ingress($skel.progs.$program.as_fd(), &mut $skel.maps.$tails, own, $folder)?, new)
    }};
}

mod twin;
pub(crate) use twin::{Sinks, Twins, Wanted};

fn load_xdp(
    plan: &DatapathPlan,
    folder: &Path,
    frags: bool,
    flows: Flows<'_>,
) -> Result<(Ingress, Parts, Option<MapHandle>), DatapathError> {
    const OBJECT: &str = "bpf/xdp/ingress";
    let mut storage = MaybeUninit::uninit();
    let mut open = xdp_ingress::IngressSkelBuilder::default().open(&mut storage).map_err(refused(OBJECT))?;
    if frags {
        for mut program in open.open_object_mut().progs_mut() {
            program.set_flags(features::XDP_HAS_FRAGS);
        }
    }
    configure!(open, plan, folder, OBJECT, flows, frags);
    let mut skel = open.load().map_err(refused(OBJECT))?;
    let keep = |program: BorrowedFd<'_>| program.try_clone_to_owned().map_err(DatapathError::system("keep a program"));
    let parts = Parts {
        held: MapHandle::try_from(&skel.maps.held).map_err(DatapathError::map("keep the perf buffer"))?,
        ingress: keep(skel.progs.eg_xdp_ingress.as_fd())?,
        give_up: keep(skel.progs.eg_xdp_give_up.as_fd())?,
    };
    let (ingress, flows) = finish!(skel, eg_xdp_ingress, xdp_tails, folder, flows);
    Ok((ingress, parts, flows))
}

fn load_tc(
    plan: &DatapathPlan,
    folder: &Path,
    flows: Flows<'_>,
) -> Result<(Ingress, Option<MapHandle>), DatapathError> {
    const OBJECT: &str = "bpf/tc/ingress";
    let mut storage = MaybeUninit::uninit();
    let mut open = tc_ingress::IngressSkelBuilder::default().open(&mut storage).map_err(refused(OBJECT))?;
    configure!(open, plan, folder, OBJECT, flows, false);
    let mut skel = open.load().map_err(refused(OBJECT))?;
    Ok(finish!(skel, eg_tc_ingress, tc_tails, folder, flows))
}

fn ingress(
    program: BorrowedFd<'_>,
    tails: &mut MapMut<'_>,
    own: Vec<MapHandle>,
    folder: &Path,
) -> Result<Ingress, DatapathError> {
    let id = libbpf_rs::Program::id_from_fd(program).map_err(DatapathError::map("ask for a program's number"))?;
    let path = folder.join(format!("{TAILS}{id}"));
    tails.pin(&path).map_err(DatapathError::map("pin the table of programs"))?;
    let program = program.try_clone_to_owned().map_err(DatapathError::system("keep a program"))?;
    Ok(Ingress { program, tails: path, own })
}

/// Removes the tables of programs that no attached program calls any more: all but `keep`.
fn sweep_tails(folder: &Path, keep: &[&Path]) -> Result<(), DatapathError> {
    let fail = |source| DatapathError::PinRoot { path: folder.to_path_buf(), source };
    for entry in fs::read_dir(folder).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        let is_table = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(TAILS));
        if is_table && !keep.contains(&path.as_path()) {
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
pub(super) fn refused(object: &'static str) -> impl FnOnce(libbpf_rs::Error) -> DatapathError {
    LOG.lock().unwrap_or_else(PoisonError::into_inner).clear();
    move |source| {
        let mut log = std::mem::take(&mut *LOG.lock().unwrap_or_else(PoisonError::into_inner));
        log.drain(..log.len().saturating_sub(LOG_LINES));
        DatapathError::Refused { object, log, source }
    }
}

pub(super) fn shared(error: ShareError) -> DatapathError {
    DatapathError::map("share the pinned maps")(error)
}

/// Makes `<pin_root>/v<ABI>`, alone there. The root is ours (`owner`).
fn pin_folder(root: &Path) -> Result<PathBuf, DatapathError> {
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
