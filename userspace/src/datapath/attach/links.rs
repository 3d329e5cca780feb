// SPDX-License-Identifier: GPL-3.0-only
//! Pinned links: programs at interfaces and at the network namespace that stay when the process does not.
//!
//! A link that we find pinned gets the new program in one atomic step, so no packet sees a gap; one that is missing is
//! made and pinned; one that belongs to another interface or namespace by now is dropped. Pins are named by interface
//! index, because bpffs refuses names with dots and interfaces may have them.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use libbpf_rs::query::LinkTypeInfo;

use super::super::error::DatapathError;
use crate::config::plan::XdpMode;

/// `XDP_FLAGS_*` of linux/if_link.h.
const SKB_MODE: u32 = 1 << 1;
const DRV_MODE: u32 = 1 << 2;
/// `XDP_ATTACHED_*` of linux/if_link.h, as `bpf_xdp_query` gives them.
const ATTACHED_DRV: u8 = 1;
const ATTACHED_SKB: u8 = 2;

const XDP_PIN: &str = "xdp_";
const SK_LOOKUP_PIN: &str = "sk_lookup";

/// How an interface runs the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Native,
    Generic,
}

/// A pinned link of ours to an interface of this network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attached {
    pub ifindex: u32,
    pub program: u32,
    /// `None`: the link is there and its program does not run: the interface is gone, or is another namespace's.
    pub mode: Option<Mode>,
}

/// What is attached by the links that are pinned below `pins` (see `eg_skel::share::pin_dir`), as any process may ask.
///
/// # Errors
/// A pin cannot be opened; without any pins nothing is attached.
pub fn attached(pins: &Path) -> Result<Vec<Attached>, DatapathError> {
    let folder = pins.join(super::super::LINKS);
    let mut found = Vec::new();
    for path in if folder.exists() { list(&folder)? } else { Vec::new() } {
        let Some(link) = open_pinned(&path)? else { continue };
        let Ok(info) = link.info() else { continue };
        if let LinkTypeInfo::Xdp(xdp) = &info.info {
            found.push(Attached { ifindex: xdp.ifindex, program: info.prog_id, mode: carries(&link, xdp.ifindex) });
        }
    }
    found.sort_unstable_by_key(|attached| attached.ifindex);
    Ok(found)
}

/// The XDP program at an interface, whoever's, and its mode; `None`: there is none.
pub fn running(ifindex: u32) -> Option<(u32, Mode)> {
    query(ifindex)
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

    /// Runs `program` at the ingress of an interface, replacing our previous program there without a gap.
    pub(crate) fn xdp(
        &self,
        name: &str,
        ifindex: u32,
        wanted: XdpMode,
        program: BorrowedFd<'_>,
    ) -> Result<Mode, DatapathError> {
        let path = self.folder.join(format!("{XDP_PIN}{ifindex}"));
        if let Some(link) = open_pinned(&path)? {
            if let Some(mode) = carries(&link, ifindex).filter(|mode| allows(wanted, *mode)) {
                update(&link, program).map_err(|source| DatapathError::Attach {
                    what: format!("xdp to {name}"),
                    tried: "replacing our own program".into(),
                    source,
                })?;
                return Ok(mode);
            }
            drop_link(&path, &link);
        }
        let (mode, link) = create_xdp(name, ifindex, wanted, program)?;
        pin(&link, &path)?;
        Ok(mode)
    }

    /// Detaches our program from every interface that is not in `keep`.
    pub(crate) fn xdp_keep_only(&self, keep: &[u32]) -> Result<(), DatapathError> {
        for path in list(&self.folder)? {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let Some(index) = name.strip_prefix(XDP_PIN).and_then(|index| index.parse::<u32>().ok()) else { continue };
            if keep.contains(&index) {
                continue;
            }
            if let Some(link) = open_pinned(&path)? {
                drop_link(&path, &link);
                tracing::info!(ifindex = index, "xdp detached");
            }
        }
        Ok(())
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
        pin(&link, &path)
    }

    /// Detaches everything and removes the folder.
    pub(crate) fn detach_all(self) -> Result<usize, DatapathError> {
        let mut detached = 0;
        for path in list(&self.folder)? {
            if let Some(link) = open_pinned(&path)? {
                drop_link(&path, &link);
                detached += 1;
            }
        }
        fs::remove_dir(&self.folder).map_err(|source| DatapathError::PinRoot { path: self.folder, source })?;
        Ok(detached)
    }
}

fn allows(wanted: XdpMode, mode: Mode) -> bool {
    match wanted {
        XdpMode::Auto => true,
        XdpMode::Native => mode == Mode::Native,
        XdpMode::Generic => mode == Mode::Generic,
    }
}

fn create_xdp(
    name: &str,
    ifindex: u32,
    wanted: XdpMode,
    program: BorrowedFd<'_>,
) -> Result<(Mode, OwnedFd), DatapathError> {
    let create = |flags| link_create(program, ifindex.cast_signed(), libbpf_sys::BPF_XDP, flags);
    let fail = |tried: &str, source: io::Error| match foreign(ifindex, &source) {
        Some(program) => DatapathError::ForeignXdp { interface: name.into(), program },
        None => DatapathError::Attach { what: format!("xdp to {name}"), tried: tried.into(), source },
    };
    match wanted {
        XdpMode::Generic => create(SKB_MODE).map(|link| (Mode::Generic, link)).map_err(|error| fail("generic", error)),
        XdpMode::Native => create(DRV_MODE)
            .map(|link| (Mode::Native, link))
            .map_err(|error| fail("native; set datapath.xdp = \"generic\" for a driver that lacks it", error)),
        XdpMode::Auto => match create(DRV_MODE) {
            Ok(link) => Ok((Mode::Native, link)),
            Err(native) if foreign(ifindex, &native).is_some() => Err(fail("native", native)),
            Err(native) => {
                let link = create(SKB_MODE).map_err(|error| fail(&format!("native: {native}; then generic"), error))?;
                tracing::warn!(interface = name, reason = %native, "xdp: no native mode, the slower generic one is used");
                Ok((Mode::Generic, link))
            }
        },
    }
}

/// The program that is in our way, if that is why attaching failed.
fn foreign(ifindex: u32, error: &io::Error) -> Option<u32> {
    let in_the_way = matches!(error.raw_os_error(), Some(nix::libc::EBUSY | nix::libc::EEXIST));
    in_the_way.then(|| query(ifindex).map_or(0, |found| found.0))
}

/// The program attached to an interface and its mode; `None`: there is none.
fn query(ifindex: u32) -> Option<(u32, Mode)> {
    let mut found = libbpf_sys::bpf_xdp_query_opts {
        sz: size_of::<libbpf_sys::bpf_xdp_query_opts>() as libbpf_sys::size_t,
        ..Default::default()
    };
    // SAFETY: `found` is a valid, writable structure that says its own size.
    let answer = unsafe { libbpf_sys::bpf_xdp_query(ifindex.cast_signed(), 0, &mut found) };
    if answer != 0 {
        return None;
    }
    match found.attach_mode {
        ATTACHED_DRV => Some((found.prog_id, Mode::Native)),
        ATTACHED_SKB => Some((found.prog_id, Mode::Generic)),
        _ => None,
    }
}

/// Whether `link` is what runs at the interface of that index in this namespace, and how. An index alone would not do:
/// another namespace may use the same.
fn carries(link: &libbpf_rs::Link, ifindex: u32) -> Option<Mode> {
    let info = link.info().ok()?;
    match info.info {
        LinkTypeInfo::Xdp(xdp) if xdp.ifindex == ifindex => {}
        _ => return None,
    }
    query(ifindex).filter(|(program, _)| *program == info.prog_id).map(|(_, mode)| mode)
}

fn open_pinned(path: &Path) -> Result<Option<libbpf_rs::Link>, DatapathError> {
    if !path.exists() {
        return Ok(None);
    }
    libbpf_rs::Link::open(path).map(Some).map_err(DatapathError::map(format!("open the pinned link {path:?}")))
}

/// Detaches at once, then forgets. Removing the pin alone would detach some time later.
fn drop_link(path: &Path, link: &libbpf_rs::Link) {
    if let Err(error) = link.detach() {
        tracing::debug!(?path, %error, "the link was detached already");
    }
    if let Err(error) = fs::remove_file(path) {
        tracing::warn!(?path, %error, "cannot remove a pin");
    }
}

fn update(link: &libbpf_rs::Link, program: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: both descriptors are open for the duration of the call; a null pointer means no options.
    let answer =
        unsafe { libbpf_sys::bpf_link_update(link.as_fd().as_raw_fd(), program.as_raw_fd(), std::ptr::null()) };
    result(answer).map(drop)
}

fn link_create(program: BorrowedFd<'_>, target: i32, kind: u32, flags: u32) -> io::Result<OwnedFd> {
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

fn pin(link: &OwnedFd, path: &Path) -> Result<(), DatapathError> {
    let fail = |source| DatapathError::PinRoot { path: path.to_path_buf(), source };
    let name = std::ffi::CString::new(path.as_os_str().as_bytes()).map_err(|error| fail(error.into()))?;
    // SAFETY: `name` ends in a NUL and outlives the call; the descriptor is open.
    let answer = unsafe { libbpf_sys::bpf_obj_pin(link.as_raw_fd(), name.as_ptr()) };
    result(answer).map(drop).map_err(fail)
}

/// libbpf 1.x returns a negated errno.
fn result(answer: i32) -> io::Result<i32> {
    if answer < 0 { Err(io::Error::from_raw_os_error(-answer)) } else { Ok(answer) }
}

fn list(folder: &Path) -> Result<Vec<PathBuf>, DatapathError> {
    let fail = |source| DatapathError::PinRoot { path: folder.to_path_buf(), source };
    fs::read_dir(folder).map_err(fail)?.map(|entry| entry.map(|entry| entry.path()).map_err(fail)).collect()
}
