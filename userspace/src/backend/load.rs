// SPDX-License-Identifier: GPL-3.0-only
//! Gets `bpf/tc/backend` into the kernel, over the maps that are pinned already or new ones.

use std::fs;
use std::mem::MaybeUninit;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use eg_skel::abi::backend::BACKEND_ABI;
use eg_skel::tc_backend::{BackendSkel, BackendSkelBuilder};
use eg_skel::{BackendMaps, share};
use libbpf_rs::skel::{OpenSkel, Skel, SkelBuilder};
use libbpf_rs::{OpenObject, PrintLevel, Program, ProgramMut, set_print};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::error::BackendError;

/// The program in the kernel, not yet attached, and its maps.
pub(super) struct Loaded {
    skel: BackendSkel<'static>,
    pub(super) maps: BackendMaps,
}

impl Loaded {
    pub(super) fn program(&mut self) -> &Program<'_> {
        let program: &ProgramMut<'_> = &self.skel.progs.eg_tc_backend;
        program
    }
}

/// Lines of the verifier's log that an error shows: the last ones say what was refused and why.
const LOG_LINES: usize = 20;

/// What libbpf has said. Its print hook is a plain function, so its sink is a static.
static LOG: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Keeps libbpf from printing about what is asked for and not there.
pub(super) fn quiet() {
    set_print(None);
}

/// Where maps and links are pinned.
pub(super) fn pin_dir(pin_root: &Path) -> PathBuf {
    pin_root.join("backend").join(format!("v{BACKEND_ABI}"))
}

/// The same, made if it is missing.
pub(super) fn folder(pin_root: &Path) -> Result<PathBuf, BackendError> {
    let existing = pin_root.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let kind = statfs(existing).map_err(|error| BackendError::Pin { path: existing.into(), source: error.into() })?;
    if kind.filesystem_type() != BPF_FS_MAGIC {
        return Err(BackendError::NoBpffs { path: pin_root.into() });
    }
    let folder = pin_dir(pin_root);
    fs::create_dir_all(&folder).map_err(|source| BackendError::Pin { path: folder.clone(), source })?;
    Ok(folder)
}

/// Loads it. `flags`: the kernel has what `eg_skel::features::decap_flags` asks for.
pub(super) fn load(folder: &Path, gue_port: u16, flags: bool) -> Result<Loaded, BackendError> {
    set_print(Some((PrintLevel::Info, |_, line| {
        let mut log = LOG.lock().unwrap_or_else(PoisonError::into_inner);
        log.extend(line.lines().map(str::to_string));
    })));
    // Leaked: a skeleton borrows its object. Its only user is a process that attaches once and ends.
    let storage: &'static mut MaybeUninit<OpenObject> = Box::leak(Box::new(MaybeUninit::uninit()));
    let mut open = BackendSkelBuilder::default().open(storage).map_err(refused)?;
    if let Some(tunables) = open.maps.rodata_data.as_deref_mut() {
        tunables.eg_gue_port = gue_port;
        tunables.eg_decap_flags = u8::from(flags);
    }
    let share = |source| BackendError::Share { source };
    share::reuse_pinned(open.open_object_mut(), folder, None).map_err(share)?;
    let mut skel = open.load().map_err(refused)?;
    share::pin_missing(skel.object_mut(), folder).map_err(share)?;
    let maps = BackendMaps::open(folder)?;
    Ok(Loaded { skel, maps })
}

fn refused(source: libbpf_rs::Error) -> BackendError {
    let mut log = std::mem::take(&mut *LOG.lock().unwrap_or_else(PoisonError::into_inner));
    log.drain(..log.len().saturating_sub(LOG_LINES));
    BackendError::Refused { log, source }
}
