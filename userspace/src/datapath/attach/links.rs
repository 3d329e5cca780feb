// SPDX-License-Identifier: GPL-3.0-only
//! Pinned links: programs at interfaces and at the network namespace that stay when the process does not.
//!
//! A link that we find pinned gets the new program in one atomic step, so no packet sees a gap; one that is missing is
//! made and pinned; one that belongs to another interface or namespace by now is dropped. Pins are named by interface
//! index, because bpffs refuses names with dots and interfaces may have them.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use libbpf_rs::query::LinkTypeInfo;

use super::super::error::DatapathError;
use super::{offloads, probes, tc};

const SK_LOOKUP_PIN: &str = "sk_lookup";

/// What may be pinned for an interface, each under a prefix of its own and the interface's index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A link of an XDP program.
    Xdp,
    /// A link of a tcx program.
    Tcx,
    /// The program of a clsact filter, which is no link.
    Clsact,
    /// What was turned off at the interface, `offloads`.
    Offloads,
    /// What probes need, `probes`: at the loopback device's egress, at the ingress of the others, and that the loopback
    /// device was made to accept answers.
    OutTcx,
    OutClsact,
    InTcx,
    InClsact,
    Accepts,
}

impl Kind {
    const ALL: [Kind; 9] = [
        Kind::Xdp,
        Kind::Tcx,
        Kind::Clsact,
        Kind::Offloads,
        Kind::OutTcx,
        Kind::OutClsact,
        Kind::InTcx,
        Kind::InClsact,
        Kind::Accepts,
    ];

    fn prefix(self) -> &'static str {
        match self {
            Kind::Xdp => "xdp_",
            Kind::Tcx => "tcx_",
            Kind::Clsact => "clsact_",
            Kind::Offloads => "offloads_",
            Kind::OutTcx => "out_tcx_",
            Kind::OutClsact => "out_clsact_",
            Kind::InTcx => "in_tcx_",
            Kind::InClsact => "in_clsact_",
            Kind::Accepts => "accepts_",
        }
    }

    /// Undoes what the pin stands for, and forgets it. False: there was nothing.
    fn remove(self, path: &Path, index: u32) -> Result<bool, DatapathError> {
        match self {
            Kind::Xdp | Kind::Tcx | Kind::OutTcx | Kind::InTcx => remove_link(path),
            Kind::Clsact => tc::remove_filter(path, tc::Spot::rung(index)),
            Kind::Offloads => offloads::restore(path, index),
            Kind::OutClsact => tc::remove_filter(path, probes::out()),
            Kind::InClsact => tc::remove_filter(path, probes::answers_at(index)),
            Kind::Accepts => probes::accept_no_more(path),
        }
    }

    /// At the loopback device, whatever the configured interfaces are.
    fn is_of_loopback(self) -> bool {
        matches!(self, Kind::OutTcx | Kind::OutClsact | Kind::Accepts)
    }

    /// A setting of the host's, and no program.
    fn is_setting(self) -> bool {
        matches!(self, Kind::Offloads | Kind::Accepts)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.prefix().trim_end_matches('_'))
    }
}

pub(super) fn interface_pin(path: &Path) -> Option<(Kind, u32)> {
    let name = path.file_name()?.to_str()?;
    Kind::ALL.into_iter().find_map(|kind| Some((kind, name.strip_prefix(kind.prefix())?.parse().ok()?)))
}

/// The folder of pinned links.
pub(crate) struct Links {
    folder: PathBuf,
}

impl Links {
    /// `folder` is made if it is missing; its parent exists and is on bpffs.
    pub(crate) fn open(folder: PathBuf) -> Result<Links, DatapathError> {
        match fs::create_dir(&folder) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(source) => return Err(DatapathError::PinRoot { path: folder, source }),
        }
        Ok(Links { folder })
    }

    /// Detaches our programs from every interface that is not in `keep`, and gives those their offloads back.
    pub(crate) fn keep_only(&self, keep: &[u32]) -> Result<(), DatapathError> {
        for path in list(&self.folder)? {
            let Some((kind, index)) = interface_pin(&path) else { continue };
            if !kind.is_of_loopback() && !keep.contains(&index) && kind.remove(&path, index)? {
                tracing::info!(ifindex = index, %kind, "detached");
            }
        }
        Ok(())
    }

    /// The indices of interfaces that something is pinned for.
    pub(super) fn interfaces(&self) -> Result<Vec<u32>, DatapathError> {
        let pins = list(&self.folder)?;
        Ok(pins.iter().filter_map(|path| interface_pin(path)).map(|(_, index)| index).collect())
    }

    /// Where something at an interface is pinned.
    pub(super) fn pin_of(&self, kind: Kind, index: u32) -> PathBuf {
        self.folder.join(format!("{}{index}", kind.prefix()))
    }

    /// Removes what of this kind is ours at an interface, if it is there.
    pub(super) fn remove(&self, kind: Kind, index: u32) -> Result<bool, DatapathError> {
        kind.remove(&self.pin_of(kind, index), index)
    }

    /// Runs `program` for every socket lookup of the current network namespace.
    pub(crate) fn sk_lookup(&self, program: BorrowedFd<'_>) -> Result<(), DatapathError> {
        let refused = |tried: &str| {
            let tried = tried.to_string();
            move |source| DatapathError::Attach { what: "sk_lookup".into(), tried, source }
        };
        let path = self.folder.join(SK_LOOKUP_PIN);
        let namespace = File::open("/proc/thread-self/ns/net").map_err(refused("opening the network namespace"))?;
        let inode = namespace.metadata().map_err(refused("opening the network namespace"))?.ino();
        if let Some(link) = open_pinned(&path)? {
            let here = match link.info().map(|info| info.info) {
                Ok(LinkTypeInfo::NetNs(netns)) => u64::from(netns.ino) == inode,
                _ => false,
            };
            if here {
                return update(&link, program).map_err(refused("replacing our own program"));
            }
            drop_link(&path, &link);
        }
        let link = link_create(program, namespace.as_raw_fd(), libbpf_sys::BPF_SK_LOOKUP, 0)
            .map_err(refused("the current network namespace"))?;
        pin(link.as_fd(), &path)
    }

    /// Detaches everything and removes the folder.
    pub(crate) fn detach_all(self) -> Result<usize, DatapathError> {
        let mut detached = 0;
        for path in list(&self.folder)? {
            let removed = match interface_pin(&path) {
                Some((kind, index)) => kind.remove(&path, index)? && !kind.is_setting(),
                None => remove_link(&path)?,
            };
            detached += usize::from(removed);
        }
        fs::remove_dir(&self.folder).map_err(|source| DatapathError::PinRoot { path: self.folder, source })?;
        Ok(detached)
    }
}

pub(super) fn open_pinned(path: &Path) -> Result<Option<libbpf_rs::Link>, DatapathError> {
    if !path.exists() {
        return Ok(None);
    }
    libbpf_rs::Link::open(path).map(Some).map_err(DatapathError::map(format!("open the pinned link {path:?}")))
}

fn remove_link(path: &Path) -> Result<bool, DatapathError> {
    let Some(link) = open_pinned(path)? else { return Ok(false) };
    drop_link(path, &link);
    Ok(true)
}

/// Detaches at once, then forgets. Removing the pin alone would detach some time later.
pub(super) fn drop_link(path: &Path, link: &libbpf_rs::Link) {
    if let Err(error) = link.detach() {
        tracing::debug!(?path, %error, "the link was detached already");
    }
    if let Err(error) = fs::remove_file(path) {
        tracing::warn!(?path, %error, "cannot remove a pin");
    }
}

pub(super) fn update(link: &libbpf_rs::Link, program: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: both descriptors are open for the duration of the call; a null pointer means no options.
    let answer =
        unsafe { libbpf_sys::bpf_link_update(link.as_fd().as_raw_fd(), program.as_raw_fd(), std::ptr::null()) };
    result(answer).map(drop)
}

pub(super) fn link_create(program: BorrowedFd<'_>, target: i32, kind: u32, flags: u32) -> io::Result<OwnedFd> {
    let options = libbpf_sys::bpf_link_create_opts {
        sz: size_of::<libbpf_sys::bpf_link_create_opts>() as libbpf_sys::size_t,
        flags,
        ..Default::default()
    };
    // SAFETY: `program` is open, `options` is a valid structure that says its own size.
    let answer = unsafe { libbpf_sys::bpf_link_create(program.as_raw_fd(), target, kind, &options) };
    let descriptor = result(answer)?;
    // SAFETY: the kernel has just given us this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Makes a link, a program or a map outlive the process.
pub(super) fn pin(object: BorrowedFd<'_>, path: &Path) -> Result<(), DatapathError> {
    let fail = |source| DatapathError::PinRoot { path: path.to_path_buf(), source };
    let name = std::ffi::CString::new(path.as_os_str().as_bytes()).map_err(|error| fail(error.into()))?;
    // SAFETY: `name` ends in a NUL and outlives the call; the descriptor is open.
    let answer = unsafe { libbpf_sys::bpf_obj_pin(object.as_raw_fd(), name.as_ptr()) };
    result(answer).map(drop).map_err(fail)
}

/// libbpf 1.x returns a negated errno.
pub(super) fn result(answer: i32) -> io::Result<i32> {
    if answer < 0 { Err(io::Error::from_raw_os_error(-answer)) } else { Ok(answer) }
}

pub(super) fn list(folder: &Path) -> Result<Vec<PathBuf>, DatapathError> {
    let fail = |source| DatapathError::PinRoot { path: folder.to_path_buf(), source };
    fs::read_dir(folder).map_err(fail)?.map(|entry| entry.map(|entry| entry.path()).map_err(fail)).collect()
}
