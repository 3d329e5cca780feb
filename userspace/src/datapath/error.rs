// SPDX-License-Identifier: GPL-3.0-only
//! Why the kernel datapath cannot do what was asked: one variant for each thing an operator would act on differently.
//!
//! `app` prints these at start and on reload. Each says what, where and what was expected, and the operator's next
//! step where there is one; the kernel's own answer is in `source()`, the verifier's last lines in the text.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::PathBuf;

use eg_skel::MapError;

/// What went wrong between the plan and the kernel.
#[derive(Debug)]
pub enum DatapathError {
    /// The process lacks capabilities, named without which nothing is tried.
    Privilege { missing: Vec<&'static str> },
    /// The pin root is not on a BPF file system.
    NoBpffs { path: PathBuf },
    /// A living process works below the pin root.
    Owned { path: PathBuf, pid: Option<i32> },
    /// The pin root cannot be made or listed.
    PinRoot { path: PathBuf, source: io::Error },
    /// A configured interface does not exist in this network namespace.
    NoInterface { name: String },
    /// The interface carries an XDP program that is not ours.
    ForeignXdp { interface: String, program: u32 },
    /// The interface's ingress carries a tc program or filter that is not ours.
    ForeignTc { interface: String, what: String },
    /// The one mode of XDP that was asked for does not work at the interface.
    NoRung { interface: String, mode: &'static str, why: String },
    /// The kernel refused to attach a program, in every mode that was allowed.
    Attach { what: String, tried: String, source: io::Error },
    /// The verifier or the loader refused an object.
    Refused { object: &'static str, log: Vec<String>, source: libbpf_rs::Error },
    /// Pins made by a version with another map layout lie under the same root.
    ForeignAbi { path: PathBuf, found: String, ours: u32 },
    /// A map or a pin refused an operation.
    Map { doing: String, source: Box<dyn Error + Send + Sync> },
    /// Routes, addresses or neighbours could not be read or changed.
    Netlink { doing: String, source: rtnetlink::Error },
    /// More vips, pools or backends than the maps hold.
    Full { what: &'static str, limit: usize },
    /// The plan contradicts itself in a way that resolving should have refused.
    Plan { problem: String },
    /// Anything else of the operating system's.
    System { doing: String, source: io::Error },
}

impl DatapathError {
    pub(crate) fn map<E: Error + Send + Sync + 'static>(doing: impl Into<String>) -> impl FnOnce(E) -> DatapathError {
        let doing = doing.into();
        move |source| DatapathError::Map { doing, source: Box::new(source) }
    }

    pub(crate) fn netlink(doing: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> DatapathError {
        let doing = doing.into();
        move |source| DatapathError::Netlink { doing, source }
    }

    pub(crate) fn system(doing: impl Into<String>) -> impl FnOnce(io::Error) -> DatapathError {
        let doing = doing.into();
        move |source| DatapathError::System { doing, source }
    }
}

impl fmt::Display for DatapathError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Privilege { missing } => {
                write!(f, "datapath: the process lacks {}; run as root or grant it", missing.join(" and "))
            }
            Self::NoBpffs { path } => write!(
                f,
                "datapath.pin_root {path:?} is not on a BPF file system; mount one: mount -t bpf bpf /sys/fs/bpf"
            ),
            Self::Owned { path, pid } => {
                let who = pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"));
                write!(
                    f,
                    "datapath.pin_root {path:?} is in use by {who}: one process to a pin root; stop that one first, or choose another pin_root"
                )
            }
            Self::PinRoot { path, .. } => write!(f, "datapath.pin_root: cannot use {path:?}"),
            Self::NoInterface { name } => {
                write!(f, "datapath.interfaces: no interface {name:?} in this network namespace")
            }
            Self::ForeignXdp { interface, program } => write!(
                f,
                "attach xdp to {interface}: it carries XDP program {program}, which is not ours; detach that first, or set datapath.xdp = \"tc\" to come after it"
            ),
            Self::ForeignTc { interface, what } => {
                write!(f, "attach tc to {interface}: its ingress carries {what}, which is not ours; detach that first")
            }
            Self::NoRung { interface, mode, why } => write!(
                f,
                "attach xdp to {interface}: refused ({mode} mode, {why}); datapath.xdp = \"auto\" takes the first way that works"
            ),
            Self::Attach { what, tried, source } => write!(f, "attach {what}: refused ({tried}): {source}"),
            Self::Refused { object, log, source } => {
                write!(f, "load {object}: the kernel refused it: {source}")?;
                log.iter().try_for_each(|line| write!(f, "\n    {line}"))
            }
            Self::ForeignAbi { path, found, ours } => write!(
                f,
                "{path:?} holds pins of another version ({found}, this one is v{ours}); `egctl detach` removes them, and with them the flows they carry"
            ),
            Self::Map { doing, .. } => write!(f, "datapath: cannot {doing}"),
            Self::Netlink { doing, .. } => write!(f, "datapath: cannot {doing}"),
            Self::Full { what, limit } => write!(f, "datapath: more than {limit} {what}"),
            Self::Plan { problem } => write!(f, "datapath: {problem}"),
            Self::System { doing, .. } => write!(f, "datapath: cannot {doing}"),
        }
    }
}

/// Reading and writing maps whose shape was checked at start: what fails here is the kernel's, and says itself where.
impl From<MapError> for DatapathError {
    fn from(source: MapError) -> DatapathError {
        DatapathError::Map { doing: "use its maps".into(), source: Box::new(source) }
    }
}

impl Error for DatapathError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::PinRoot { source, .. } | Self::Attach { source, .. } | Self::System { source, .. } => Some(source),
            Self::Refused { source, .. } => Some(source),
            Self::Map { source, .. } => Some(source.as_ref()),
            Self::Netlink { source, .. } => Some(source),
            _ => None,
        }
    }
}
