// SPDX-License-Identifier: GPL-3.0-only
//! The program at an interface's ingress: a pinned tcx link, or a clsact filter where the kernel has no tcx (before
//! 6.6). Both outlive the process, and both are replaced in place.

use std::error::Error;
use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use eg_skel::abi::backend::{DecIface, DecMode};
use libbpf_rs::query::{LinkTypeInfo, ProgInfoIter};
use libbpf_rs::{Program, TC_INGRESS, TcHook, TcHookBuilder};

use super::error::BackendError;
use super::host::Link;

/// How to attach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wanted {
    /// By tcx, else by clsact.
    #[default]
    Auto,
    Tcx,
    Clsact,
}

/// Of the clsact filter. Fixed, so that the next call finds it; no tool known to us uses this number by default.
const PRIORITY: u32 = 233;
const HANDLE: u32 = 233;

/// The name that the kernel knows the program by.
const PROGRAM: &str = "eg_tc_backend";

/// More programs than anybody has at one hook.
const LINKS_MAX: usize = 64;

/// Makes the program run there, in place of ours that did before, if any: the second value says so.
pub(super) fn attach(
    folder: &Path,
    link: &Link,
    wanted: Wanted,
    program: &Program<'_>,
) -> Result<(DecMode, bool), BackendError> {
    let refused = |how| {
        let interface = link.name.clone();
        move |source: Box<dyn Error + Send + Sync>| BackendError::Attach { interface, how, source }
    };
    if wanted != Wanted::Clsact {
        match tcx(folder, link.index, program) {
            Ok(replaced) => {
                let other = clsact_remove(link.index, program.as_fd()).map_err(refused("clsact"))?;
                return Ok((DecMode::Tcx, replaced || other));
            }
            // A kernel without tcx does not know the attach type.
            Err(error) if wanted == Wanted::Auto && is_invalid(error.as_ref()) => {}
            Err(error) => return Err(refused("tcx")(error)),
        }
    }
    let foreign = clsact_program(link.index, program.as_fd()).filter(|name| name != PROGRAM);
    if let Some(program) = foreign {
        return Err(BackendError::Foreign { interface: link.name.clone(), program });
    }
    let replaced = clsact(link.index, program.as_fd()).map_err(refused("clsact"))?;
    let other = tcx_remove(folder, link.index)?;
    Ok((DecMode::Clsact, replaced || other))
}

/// Takes it away, wherever `record` says it is. That it is gone already is no error.
pub(super) fn detach(folder: &Path, index: u32, record: &DecIface) -> Result<(), BackendError> {
    tcx_remove(folder, index)?;
    if record.mode == DecMode::Clsact.code() {
        // Of a filter that is to be removed no program is needed; the call wants a descriptor, any.
        let any = io::stderr();
        clsact_remove(index, any.as_fd()).map_err(|source| BackendError::Attach {
            interface: record.name().into(),
            how: "clsact",
            source,
        })?;
    }
    Ok(())
}

/// Does the program run at that interface of this network namespace?
pub(super) fn is_attached(folder: &Path, index: u32, mode: DecMode) -> bool {
    match mode {
        DecMode::Tcx => libbpf_rs::Link::open(pin(folder, index)).is_ok_and(|link| runs_at(&link, index)),
        DecMode::Clsact => clsact_program(index, io::stderr().as_fd()).is_some_and(|name| name == PROGRAM),
    }
}

fn pin(folder: &Path, index: u32) -> PathBuf {
    // By number: bpffs refuses names with dots, and interfaces may have them.
    folder.join("links").join(format!("tcx_{index}"))
}

fn tcx(folder: &Path, index: u32, program: &Program<'_>) -> Result<bool, Box<dyn Error + Send + Sync>> {
    let path = pin(folder, index);
    if path.exists() {
        let mut link = libbpf_rs::Link::open(&path)?;
        if runs_at(&link, index) {
            link.update_prog(program)?;
            return Ok(true);
        }
        // Of an interface that is gone, or of another network namespace: there it would have no pin of its own.
        fs::remove_file(&path)?;
    }
    let options = libbpf_sys::bpf_link_create_opts {
        sz: size_of::<libbpf_sys::bpf_link_create_opts>() as libbpf_sys::size_t,
        ..Default::default()
    };
    let descriptor = program.as_fd().as_raw_fd();
    // SAFETY: `program` is open, `options` is a valid structure that says its own size.
    let answer =
        unsafe { libbpf_sys::bpf_link_create(descriptor, index.cast_signed(), libbpf_sys::BPF_TCX_INGRESS, &options) };
    // SAFETY: the kernel has just given us this descriptor, and nobody else knows it.
    let link = unsafe { OwnedFd::from_raw_fd(result(answer)?) };

    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let name = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: `name` ends in a NUL and outlives the call; the descriptor is open.
    result(unsafe { libbpf_sys::bpf_obj_pin(link.as_raw_fd(), name.as_ptr()) })?;
    Ok(false)
}

/// Detaches at once, then forgets: removing the pin alone would detach some time later.
fn tcx_remove(folder: &Path, index: u32) -> Result<bool, BackendError> {
    let path = pin(folder, index);
    if !path.exists() {
        return Ok(false);
    }
    let fail = |source: io::Error| BackendError::Pin { path: path.clone(), source };
    let link = libbpf_rs::Link::open(&path).map_err(|error| fail(io::Error::other(error)))?;
    if let Err(error) = link.detach() {
        tracing::debug!(?path, %error, "the link was detached already");
    }
    fs::remove_file(&path).map_err(fail)?;
    Ok(true)
}

/// An index alone would not do: another network namespace may use the same.
fn runs_at(link: &libbpf_rs::Link, index: u32) -> bool {
    let Ok(info) = link.info() else { return false };
    let at = matches!(info.info, LinkTypeInfo::Tcx(tcx) if tcx.ifindex == index);
    at && tcx_links(index).contains(&info.id)
}

fn tcx_links(index: u32) -> Vec<u32> {
    let mut ids = [0u32; LINKS_MAX];
    let mut query = libbpf_sys::bpf_prog_query_opts {
        sz: size_of::<libbpf_sys::bpf_prog_query_opts>() as libbpf_sys::size_t,
        link_ids: ids.as_mut_ptr(),
        ..Default::default()
    };
    query.__bindgen_anon_1.count = LINKS_MAX as u32;
    // The kernel fills link ids only beside program ids.
    let mut programs = [0u32; LINKS_MAX];
    query.prog_ids = programs.as_mut_ptr();
    // SAFETY: `query` says its own size and how many numbers fit behind its pointers, which outlive the call.
    let answer =
        unsafe { libbpf_sys::bpf_prog_query_opts(index.cast_signed(), libbpf_sys::BPF_TCX_INGRESS, &mut query) };
    if answer != 0 {
        return Vec::new();
    }
    // SAFETY: every variant of the union is a u32.
    let count = unsafe { query.__bindgen_anon_1.count } as usize;
    ids.into_iter().take(count).filter(|id| *id != 0).collect()
}

fn hook(index: u32, program: BorrowedFd<'_>) -> TcHook {
    TcHookBuilder::new(program)
        .ifindex(index.cast_signed())
        .replace(true)
        .handle(HANDLE)
        .priority(PRIORITY)
        .hook(TC_INGRESS)
}

fn clsact(index: u32, program: BorrowedFd<'_>) -> Result<bool, Box<dyn Error + Send + Sync>> {
    let mut hook = hook(index, program);
    hook.create()?;
    let replaced = hook.query().is_ok();
    hook.attach()?;
    Ok(replaced)
}

/// The qdisc stays: others may use it, and an empty one does nothing.
fn clsact_remove(index: u32, any: BorrowedFd<'_>) -> Result<bool, Box<dyn Error + Send + Sync>> {
    match clsact_program(index, any) {
        Some(name) if name == PROGRAM => {
            hook(index, any).detach()?;
            Ok(true)
        }
        _ => Ok(false),
    }
}

/// The name of the program in our filter's place.
fn clsact_program(index: u32, any: BorrowedFd<'_>) -> Option<String> {
    let id = hook(index, any).query().ok()?;
    let found = ProgInfoIter::default().find(|program| program.id == id);
    Some(found.map_or_else(|| format!("program {id}"), |program| program.name.to_string_lossy().into_owned()))
}

fn is_invalid(error: &(dyn Error + Send + Sync + 'static)) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.raw_os_error() == Some(nix::libc::EINVAL))
}

/// libbpf 1.x returns a negated errno.
fn result(answer: i32) -> io::Result<i32> {
    if answer < 0 { Err(io::Error::from_raw_os_error(-answer)) } else { Ok(answer) }
}
