// SPDX-License-Identifier: GPL-3.0-only
//! The twin behind `egctl explain`: `xdp/ingress` loaded once more with `eg_dry_run`, over the maps of a program that
//! carries traffic and with what that one was told. It decides as that one would, on a packet of the caller's, and writes
//! to no map but its own.
//!
//! It stands in for `tc/ingress` as well: both decide by the same `lib/decide.h`. It is attached to nothing, and gone when
//! dropped.

use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::path::Path;
use std::ptr;

use eg_abi::{Addr, Be16, Drop as Reason, FlowKey, Miss, Verdict};
use libbpf_rs::skel::{OpenSkel, SkelBuilder};
use libbpf_rs::{MapHandle, OpenObject};

use crate::features;
use crate::program::{self, Ran};
use crate::share::{self, ShareError};
use crate::xdp_ingress::types::{explained, pkt};
use crate::xdp_ingress::{IngressSkel, IngressSkelBuilder};

/// What a program was told before it was loaded: `bpf/lib/tunables.h`.
pub use crate::xdp_ingress::types::rodata as Told;

/// The loaded twin.
pub struct Twin<'o> {
    skel: IngressSkel<'o>,
}

/// What the entry returned: the numbers of `enum xdp_action`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Aborted,
    Drop,
    Pass,
    /// Back out of the interface that it came in by.
    Tx,
    Redirect,
}

/// What would become of a frame.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub action: Action,
    /// The frame as it would leave.
    pub bytes: Vec<u8>,
    pub noted: Noted,
}

/// How a packet was understood before anything was looked up: `bpf/lib/parse.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// TCP or UDP, whole.
    Whole,
    NotOurs,
    Malformed,
    Fragment,
    /// An ICMP error.
    Icmp,
}

/// Who said which backend a new flow gets: `enum chosen` of `bpf/lib/explain.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chosen {
    /// This slot of the pool's ring.
    Slot(u32),
    /// Whom the source's last flow had.
    Affinity,
    /// What is counted.
    Load,
    /// The closing flow that is opened again.
    Closing,
}

/// Steps on the way, as the program noted them.
#[derive(Clone, Debug)]
pub struct Noted {
    pub parsed: Parsed,
    /// As it arrived; ports are 0 where they were not read.
    pub key: FlowKey,
    pub v6: bool,
    /// Bytes of L3.
    pub length: u32,
    /// Where the IP header begins.
    pub l3: u16,
    pub ttl: u8,
    pub tcp_flags: u8,
    pub ifindex: u32,
    /// 0: none is known.
    pub vip: u32,
    pub backend: u32,
    /// `None`: it came to no end, which an error of the program's own alone explains.
    pub verdict: Option<Verdict>,
    pub reason: Option<Reason>,
    /// Flows that were found and did not count.
    pub misses: Vec<Miss>,
    /// No established flow took it.
    pub half_open: bool,
    /// Nor a half-open one.
    pub fresh: bool,
    /// It goes from the backend to the client.
    pub reply: bool,
    /// A socket of this host wants it.
    pub local: bool,
    /// A SYN cookie answers it, if the kernel makes one. The frame that comes out then has another's numbers.
    pub cookie: bool,
    /// A fragment that waits for its datagram's first, if the process holds such. `verdict` says what else.
    pub held: bool,
    pub chosen: Option<Chosen>,
    /// The choice is made by chance.
    pub random: bool,
}

/// Why there is no twin.
#[derive(Debug)]
pub enum TwinError {
    /// libbpf or the kernel refused the object.
    Refused { operation: &'static str, source: libbpf_rs::Error },
    /// A map is missing, or of another shape.
    Share(ShareError),
}

impl fmt::Display for TwinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TwinError::Refused { operation, .. } => write!(f, "cannot {operation} the program's twin"),
            TwinError::Share(_) => f.write_str("the program's twin cannot use the maps"),
        }
    }
}

impl std::error::Error for TwinError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            TwinError::Refused { source, .. } => Some(source),
            TwinError::Share(source) => Some(source),
        }
    }
}

impl fmt::Debug for Twin<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Twin").finish_non_exhaustive()
    }
}

impl<'o> Twin<'o> {
    /// A twin of the program that was `told` this and has its maps pinned in `dir`.
    ///
    /// # Errors
    /// A map is missing or of another shape, or the kernel refuses the program.
    pub fn of_pinned(storage: &'o mut MaybeUninit<OpenObject>, told: Told, dir: &Path) -> Result<Twin<'o>, TwinError> {
        Twin::load(storage, |ours| *ours = told, |map| MapHandle::from_pinned_path(dir.join(map)))
    }

    /// A twin that is told by `tell`, over the maps that `find` gives by their names.
    ///
    /// # Errors
    /// A map is missing or of another shape, or the kernel refuses the program.
    pub fn load(
        storage: &'o mut MaybeUninit<OpenObject>,
        tell: impl FnOnce(&mut Told),
        find: impl FnMut(&str) -> libbpf_rs::Result<MapHandle>,
    ) -> Result<Twin<'o>, TwinError> {
        let refused = |operation| move |source| TwinError::Refused { operation, source };
        let mut open = IngressSkelBuilder::default().open(storage).map_err(refused("open"))?;
        let mut frags = false;
        if let Some(told) = open.maps.rodata_data.as_deref_mut() {
            tell(told);
            told.eg_dry_run = 1;
            frags = told.eg_xdp_frags != 0;
        }
        if frags {
            for mut program in open.open_object_mut().progs_mut() {
                program.set_flags(features::XDP_HAS_FRAGS);
            }
        }
        share::reuse_all(open.open_object_mut(), find).map_err(TwinError::Share)?;
        Ok(Twin { skel: open.load().map_err(refused("load"))? })
    }

    /// What would become of `frame`, were it to come in by the interface `ifindex` of this thread's network namespace; 0:
    /// by the loopback interface.
    ///
    /// # Errors
    /// The kernel refuses to run it: the frame is shorter than an Ethernet header or longer than it takes, the interface
    /// is gone, or (before 5.15) it cannot be told an interface.
    pub fn run(&mut self, frame: &[u8], ifindex: u32) -> io::Result<Outcome> {
        let Some(bss) = self.skel.maps.bss_data.as_deref_mut() else {
            return Err(io::Error::other("the twin has no memory"));
        };
        let noted = &raw mut bss.explained;
        // SAFETY: the memory is ours for as long as the skeleton lives. The kernel writes there during the run alone.
        unsafe { ptr::write_volatile(noted, explained::default()) };
        let Ran { answer: number, bytes } = program::run(self.skel.progs.eg_xdp_ingress.as_fd(), frame, ifindex, 0)?;
        // SAFETY: as above; all fields are integers, so any bytes are a value.
        let noted = unsafe { ptr::read_volatile(noted) };
        let action = match number {
            0 => Action::Aborted,
            1 => Action::Drop,
            2 => Action::Pass,
            3 => Action::Tx,
            4 => Action::Redirect,
            other => return Err(io::Error::other(format!("the program returned {other}"))),
        };
        Ok(Outcome { action, bytes, noted: Noted::read(&noted) })
    }
}

impl Noted {
    fn read(noted: &explained) -> Noted {
        let p = &noted.p;
        Noted {
            parsed: match noted.parsed {
                0 => Parsed::Whole,
                -2 => Parsed::Malformed,
                -3 => Parsed::Fragment,
                -4 => Parsed::Icmp,
                _ => Parsed::NotOurs,
            },
            key: key(p),
            v6: p.v6 != 0,
            length: p.len,
            l3: p.l3,
            ttl: p.ttl,
            tcp_flags: p.tcp_flags,
            ifindex: p.ifindex,
            vip: p.vip,
            backend: p.backend,
            verdict: noted.ended.checked_sub(1).and_then(Verdict::from_code),
            reason: Reason::from_code(noted.reason),
            misses: Miss::ALL.iter().copied().filter(|miss| noted.misses >> miss.code() & 1 == 1).collect(),
            half_open: noted.half_open != 0,
            fresh: noted.fresh != 0,
            reply: noted.reply != 0,
            local: noted.local != 0,
            cookie: noted.cookie != 0,
            held: noted.held != 0,
            chosen: match noted.chosen {
                1 => Some(Chosen::Slot(noted.slot)),
                2 => Some(Chosen::Affinity),
                3 => Some(Chosen::Load),
                4 => Some(Chosen::Closing),
                _ => None,
            },
            random: noted.random != 0,
        }
    }
}

fn key(p: &pkt) -> FlowKey {
    FlowKey {
        saddr: Addr { b: p.key.saddr.b },
        daddr: Addr { b: p.key.daddr.b },
        sport: Be16(p.key.sport.to_ne_bytes()),
        dport: Be16(p.key.dport.to_ne_bytes()),
        proto: p.key.proto,
        pad: p.key.pad,
    }
}
