// SPDX-License-Identifier: GPL-3.0-only
//! The tc rung: a tcx link where the kernel has them (6.6 and later), else a filter of a clsact queueing discipline.
//!
//! `ladder` is the caller. The link is pinned and gets a new program in one step, as XDP's does. A filter is no link: it
//! has a handle and a priority of ours, is replaced under them in one step, and the pin is of its program, by which we
//! know it again. What others have attached at the interface's ingress is an error, since it would judge our packets
//! before us or be passed by; the clsact discipline itself, empty, stays behind when the filter goes.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use libbpf_rs::query::LinkTypeInfo;
use libbpf_sys::{bpf_prog_query_opts, bpf_tc_hook, bpf_tc_opts, size_t};

use super::super::error::DatapathError;
use super::links::{Kind, Links, drop_link, link_create, open_pinned, pin, result, update};

/// Our filter's place. The first priority: what follows sees only what we pass. The handle is any number but 0.
pub(crate) const PRIORITY: u16 = 1;
pub(crate) const HANDLE: u32 = 0xe9;

/// Programs that the kernel lets one interface have at one hook (BPF_MPROG_MAX).
const PROGRAMS_MAX: usize = 64;

/// Runs `program` at the ingress of an interface, replacing our previous program there without a gap. `filters`:
/// handle and priority of what clsact has there.
pub(super) fn attach(
    links: &Links,
    name: &str,
    ifindex: u32,
    program: BorrowedFd<'_>,
    filters: &[(u32, u16)],
) -> Result<&'static str, DatapathError> {
    let tcx = tcx_programs(ifindex);
    let ours = |(handle, priority): &(u32, u16)| *handle == HANDLE && *priority == PRIORITY;
    let foreign = |what: String| Err(DatapathError::ForeignTc { interface: name.into(), what });
    if let Some((handle, priority)) = filters.iter().find(|filter| tcx.is_some() || !ours(filter)) {
        return foreign(format!("tc filter {handle:#x} of priority {priority}"));
    }
    match tcx {
        Some(programs) => {
            let path = links.pin_of(Kind::Tcx, ifindex);
            let link = open_pinned(&path)?;
            let own = link.as_ref().and_then(|link| carried(link, ifindex));
            if let Some(program) = programs.iter().find(|program| Some(**program) != own) {
                return foreign(format!("tcx program {program}"));
            }
            attach_link(&path, link.filter(|_| own.is_some()), ifindex, program).map_err(refused(name, "tcx"))?;
            Ok("tcx")
        }
        None => {
            let path = links.pin_of(Kind::Clsact, ifindex);
            let there = filter_program(ifindex);
            if let Some(program) = there.filter(|program| Some(*program) != pinned_program(&path)) {
                return foreign(format!("tc filter {HANDLE:#x} of priority {PRIORITY}, program {program}"));
            }
            attach_filter(&path, ifindex, program).map_err(refused(name, "clsact"))?;
            Ok("clsact")
        }
    }
}

fn refused(name: &str, tried: &str) -> impl FnOnce(io::Error) -> DatapathError {
    let (what, tried) = (format!("tc to {name}"), tried.to_string());
    move |source| DatapathError::Attach { what, tried, source }
}

fn attach_link(path: &Path, link: Option<libbpf_rs::Link>, ifindex: u32, program: BorrowedFd<'_>) -> io::Result<()> {
    if let Some(link) = link {
        return update(&link, program);
    }
    // A link of an interface that is gone, or has another namespace's index.
    if let Some(stale) = open_pinned(path).map_err(io::Error::other)? {
        drop_link(path, &stale);
    }
    let link = link_create(program, ifindex.cast_signed(), libbpf_sys::BPF_TCX_INGRESS, 0)?;
    pin(link.as_fd(), path).map_err(io::Error::other)
}

pub(super) fn attach_filter(path: &Path, ifindex: u32, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut hook = hook(ifindex);
    // SAFETY: `hook` is a valid structure that says its own size.
    match result(unsafe { libbpf_sys::bpf_tc_hook_create(&mut hook) }) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let mut options = bpf_tc_opts { prog_fd: program.as_raw_fd(), flags: libbpf_sys::BPF_TC_F_REPLACE, ..options() };
    // SAFETY: both are valid structures that say their own sizes, and the program is open.
    result(unsafe { libbpf_sys::bpf_tc_attach(&hook, &mut options) })?;
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    pin(program, path).map_err(io::Error::other)
}

/// Takes our filter away, if it is still ours, and forgets it.
pub(super) fn remove_filter(path: &Path, ifindex: u32) -> Result<bool, DatapathError> {
    if !path.exists() {
        return Ok(false);
    }
    let ours = pinned_program(path);
    if ours.is_some() && filter_program(ifindex) == ours {
        let hook = hook(ifindex);
        // libbpf wants the place alone.
        let options = options();
        // SAFETY: both are valid structures that say their own sizes.
        result(unsafe { libbpf_sys::bpf_tc_detach(&hook, &options) })
            .map_err(DatapathError::system(format!("remove the tc filter of interface {ifindex}")))?;
    }
    fs::remove_file(path).map_err(|source| DatapathError::PinRoot { path: path.into(), source })?;
    Ok(true)
}

/// Whether our filter is at the interface.
pub(super) fn filters(path: &Path, ifindex: u32) -> bool {
    path.exists() && pinned_program(path).is_some_and(|ours| filter_program(ifindex) == Some(ours))
}

fn hook(ifindex: u32) -> bpf_tc_hook {
    bpf_tc_hook {
        sz: size_of::<bpf_tc_hook>() as size_t,
        ifindex: ifindex.cast_signed(),
        attach_point: libbpf_sys::BPF_TC_INGRESS,
        ..Default::default()
    }
}

fn options() -> bpf_tc_opts {
    bpf_tc_opts {
        sz: size_of::<bpf_tc_opts>() as size_t,
        handle: HANDLE,
        priority: u32::from(PRIORITY),
        ..Default::default()
    }
}

/// The program of the filter in our place.
fn filter_program(ifindex: u32) -> Option<u32> {
    let (hook, mut options) = (hook(ifindex), options());
    // SAFETY: both are valid structures that say their own sizes.
    let answer = unsafe { libbpf_sys::bpf_tc_query(&hook, &mut options) };
    (answer == 0).then_some(options.prog_id)
}

fn pinned_program(path: &Path) -> Option<u32> {
    let name = std::ffi::CString::new(path.as_os_str().as_bytes()).ok()?;
    // SAFETY: `name` ends in a NUL and outlives the call.
    let descriptor = result(unsafe { libbpf_sys::bpf_obj_get(name.as_ptr()) }).ok()?;
    // SAFETY: the kernel has just given us this descriptor, and nobody else knows it.
    let program = unsafe { OwnedFd::from_raw_fd(descriptor) };
    libbpf_rs::Program::id_from_fd(program.as_fd()).ok()
}

/// The program that a pinned link of ours runs at the interface of that index in this namespace.
pub(super) fn carried(link: &libbpf_rs::Link, ifindex: u32) -> Option<u32> {
    let info = link.info().ok()?;
    match info.info {
        LinkTypeInfo::Tcx(tcx) if tcx.ifindex == ifindex => {}
        _ => return None,
    }
    tcx_programs(ifindex)?.into_iter().find(|program| *program == info.prog_id)
}

/// Programs that run by tcx at the ingress of an interface; `None`: this kernel has no tcx.
pub(crate) fn tcx_programs(ifindex: u32) -> Option<Vec<u32>> {
    let mut programs = [0_u32; PROGRAMS_MAX];
    let mut query = bpf_prog_query_opts {
        sz: size_of::<bpf_prog_query_opts>() as size_t,
        prog_ids: programs.as_mut_ptr(),
        __bindgen_anon_1: libbpf_sys::bpf_prog_query_opts__bindgen_ty_1 { count: PROGRAMS_MAX as u32 },
        ..Default::default()
    };
    // SAFETY: `query` says its own size, and how many programs its array has room for; both outlive the call.
    let answer =
        unsafe { libbpf_sys::bpf_prog_query_opts(ifindex.cast_signed(), libbpf_sys::BPF_TCX_INGRESS, &mut query) };
    result(answer).ok()?;
    // SAFETY: both members of the union are the same number.
    let count = unsafe { query.__bindgen_anon_1.count } as usize;
    Some(programs.into_iter().take(count).collect())
}

#[cfg(test)]
mod tests {
    use nix::sched::{CloneFlags, unshare};
    use nix::unistd::Uid;

    use super::*;

    /// Leaves the packet to the next filter.
    fn program() -> OwnedFd {
        eg_skel::program::returning(libbpf_sys::BPF_PROG_TYPE_SCHED_CLS, c"eg_unit_next", -1).unwrap()
    }

    fn id(program: &OwnedFd) -> Option<u32> {
        libbpf_rs::Program::id_from_fd(program.as_fd()).ok()
    }

    /// What the rung is below 6.6, also where the kernel has tcx and would not choose it.
    #[test]
    fn a_filter_is_replaced_in_place_and_only_ours_is_removed() {
        const LOOPBACK: u32 = 1;
        let bpffs = Path::new("/sys/fs/bpf");
        let mounted = nix::sys::statfs::statfs(bpffs);
        if !Uid::effective().is_root()
            || !mounted.is_ok_and(|kind| kind.filesystem_type() == nix::sys::statfs::BPF_FS_MAGIC)
            || unshare(CloneFlags::CLONE_NEWNET).is_err()
        {
            println!("skipped, because we are not root, or /sys/fs/bpf is not mounted");
            return;
        }
        let path = bpffs.join(format!("eg-unit-{}", std::process::id()));
        let (first, second, others) = (program(), program(), program());
        assert_eq!(filter_program(LOOPBACK), None);
        attach_filter(&path, LOOPBACK, first.as_fd()).unwrap();
        assert_eq!((filter_program(LOOPBACK), pinned_program(&path)), (id(&first), id(&first)));
        attach_filter(&path, LOOPBACK, second.as_fd()).unwrap();
        assert_eq!((filter_program(LOOPBACK), pinned_program(&path)), (id(&second), id(&second)));

        assert!(remove_filter(&path, LOOPBACK).unwrap());
        assert_eq!((filter_program(LOOPBACK), path.exists()), (None, false));
        assert!(!remove_filter(&path, LOOPBACK).unwrap(), "there is none any more");

        attach_filter(&path, LOOPBACK, first.as_fd()).unwrap();
        let (hook, mut theirs) = (hook(LOOPBACK), options());
        theirs.prog_fd = others.as_raw_fd();
        theirs.flags = libbpf_sys::BPF_TC_F_REPLACE;
        // SAFETY: both are valid structures that say their own sizes, and the program is open.
        assert_eq!(unsafe { libbpf_sys::bpf_tc_attach(&hook, &mut theirs) }, 0);
        assert!(remove_filter(&path, LOOPBACK).unwrap(), "our pin goes");
        assert_eq!(filter_program(LOOPBACK), id(&others), "and what replaced our filter stays");
    }
}
