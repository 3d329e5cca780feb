// SPDX-License-Identifier: GPL-3.0-only
//! Why a backend host cannot do what was asked; each says what, where, and what to do about it.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::PathBuf;

use eg_skel::MapError;
use eg_skel::share::ShareError;

/// What went wrong.
#[derive(Debug)]
pub enum BackendError {
    /// The process lacks capabilities.
    Privilege { missing: Vec<&'static str> },
    /// No such interface in this network namespace.
    NoInterface { interface: String },
    /// The interface carries no Ethernet frames.
    NotEthernet { interface: String },
    /// Nothing of ours is attached there.
    NotAttached { interface: String },
    /// None was named, and `lo` has no address that could be one.
    NoVip,
    /// None was named, and the interface has no address.
    NoAddress { interface: String },
    /// The pin root is not on a BPF file system.
    NoBpffs { path: PathBuf },
    /// A pin or its folder cannot be made, read or removed.
    Pin { path: PathBuf, source: io::Error },
    /// The verifier or the loader refused the program.
    Refused { log: Vec<String>, source: libbpf_rs::Error },
    /// The pinned maps are not those of this version.
    Share { source: ShareError },
    /// The kernel refused to attach the program.
    Attach { interface: String, how: &'static str, source: Box<dyn Error + Send + Sync> },
    /// Somebody else's filter has the handle and priority that ours would have.
    Foreign { interface: String, program: String },
    /// A map refused an operation.
    Map { source: MapError },
    /// Interfaces or addresses could not be read or changed.
    Netlink { doing: String, source: Box<dyn Error + Send + Sync> },
}

impl fmt::Display for BackendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Privilege { missing } => write!(f, "this needs {}; run as root", missing.join(" and ")),
            Self::NoInterface { interface } => write!(f, "no interface {interface:?} in this network namespace"),
            Self::NotEthernet { interface } => {
                write!(f, "{interface}: carries no Ethernet frames; the program works on Ethernet interfaces only")
            }
            Self::NotAttached { interface } => write!(f, "{interface}: nothing of ours is attached there"),
            Self::NoVip => write!(
                f,
                "no VIP: lo has no address but loopback; name them with --vip ADDR (and --add-vips to give them to lo)"
            ),
            Self::NoAddress { interface } => write!(
                f,
                "{interface}: has no address that gateways could send to; give it one, or name it with --to ADDR"
            ),
            Self::NoBpffs { path } => {
                write!(f, "{path:?} is not on a BPF file system; mount one: mount -t bpf bpf /sys/fs/bpf")
            }
            Self::Pin { path, .. } => write!(f, "cannot use the pin {path:?}"),
            Self::Refused { log, source } => {
                write!(f, "load bpf/tc/backend: the kernel refused it: {source}")?;
                log.iter().try_for_each(|line| write!(f, "\n    {line}"))
            }
            Self::Share { .. } => write!(f, "the pinned maps are of another version; detach with that one first"),
            Self::Attach { interface, how, .. } => write!(f, "attach to {interface} by {how}: refused"),
            Self::Foreign { interface, program } => write!(
                f,
                "attach to {interface} by clsact: program {program:?}, which is not ours, has our priority and handle"
            ),
            Self::Map { .. } => write!(f, "cannot use the maps"),
            Self::Netlink { doing, .. } => write!(f, "cannot {doing}"),
        }
    }
}

impl Error for BackendError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Pin { source, .. } => Some(source),
            Self::Share { source } => Some(source),
            Self::Attach { source, .. } | Self::Netlink { source, .. } => Some(source.as_ref()),
            Self::Map { source } => Some(source),
            _ => None,
        }
    }
}

impl From<MapError> for BackendError {
    fn from(source: MapError) -> BackendError {
        BackendError::Map { source }
    }
}
