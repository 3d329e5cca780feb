// SPDX-License-Identifier: GPL-3.0-only
//! How the host is, read once before anything is judged. A fact that could not be had says why.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use eg_skel::loaded::LoadedProgram;
use eg_skel::share::pin_dir;
use expressgateway::datapath::ethtool::{Offloads, offloads};
use expressgateway::datapath::{self, Attached, Capabilities, Host, Mode};
use libbpf_rs::query::{LinkInfoIter, LinkTypeInfo};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use nix::time::{ClockId, clock_gettime};

use super::subject::Subject;
use super::tunnels::{self, Tunnel};
use crate::kernel::Pins;

pub(crate) struct Facts {
    pub(crate) capabilities: Capabilities,
    /// The nearest folder to the pin root that exists, and whether it is on a BPF file system.
    pub(crate) bpffs: Result<(PathBuf, bool), String>,
    pub(crate) other_versions: Result<Vec<PathBuf>, String>,
    /// `None`: nothing is pinned.
    pub(crate) pinned: Result<Option<Pinned>, String>,
    /// By interface index: the XDP program there, whoever's.
    pub(crate) running: HashMap<u32, Running>,
    pub(crate) host: Result<Host, String>,
    /// By interface name.
    pub(crate) offloads: HashMap<String, Offloads>,
    /// By path below /proc/sys, as far as they exist.
    pub(crate) sysctls: HashMap<String, String>,
    /// Connections to terminated addresses that connection tracking holds; `None`: it does not show them.
    pub(crate) tracked: Option<u64>,
    /// Backends of VIPs without nat, asked by the traffic's own way.
    pub(crate) tunnels: Result<Vec<Tunnel>, String>,
}

/// What a gateway has left in the kernel.
#[derive(Clone, Debug)]
pub(crate) struct Pinned {
    pub(crate) attached: Vec<Attached>,
    /// Whether the attached program was compiled; `None`: unknown, or none is attached.
    pub(crate) jited: Option<bool>,
    /// Seconds since the process's last sign of life.
    pub(crate) silent: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Running {
    pub(crate) program: u32,
    pub(crate) mode: Mode,
    /// The link that holds it; `None`: it was attached without one.
    pub(crate) link: Option<u32>,
}

impl Facts {
    pub(crate) fn gather(subject: &Subject) -> Self {
        let host = host(subject);
        let indices = subject.interfaces.iter().filter_map(|name| host.as_ref().ok()?.named(name));
        let running = indices.filter_map(|link| Some((link.index, running(link.index)?))).collect();
        let tunnels = host.as_ref().map_err(Clone::clone).and_then(|host| tunnels::ask(subject, host));
        Self {
            capabilities: Capabilities::probe(),
            bpffs: bpffs(&subject.pin_root),
            other_versions: datapath::other_versions(&subject.pin_root).map_err(|error| crate::chain(&error)),
            pinned: pinned(&subject.pin_root),
            running,
            host,
            offloads: subject.interfaces.iter().filter_map(|name| Some((name.clone(), offloads(name).ok()?))).collect(),
            sysctls: sysctls(subject),
            tracked: tracked(&subject.terminated),
            tunnels,
        }
    }

    pub(crate) fn host(&self) -> Result<&Host, String> {
        self.host.as_ref().map_err(Clone::clone)
    }

    pub(crate) fn pinned(&self) -> Result<Option<&Pinned>, String> {
        self.pinned.as_ref().map(Option::as_ref).map_err(Clone::clone)
    }

    /// A number below /proc/sys.
    pub(crate) fn number(&self, path: &str) -> Option<u64> {
        self.sysctls.get(path)?.parse().ok()
    }
}

fn host(subject: &Subject) -> Result<Host, String> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
    let mut addresses = subject.local_addresses();
    addresses.extend(subject.backends.iter().map(|backend| backend.address.ip()));
    addresses.sort_unstable();
    addresses.dedup();
    runtime.block_on(datapath::inspect(&addresses)).map_err(|error| crate::chain(&error))
}

fn bpffs(pin_root: &Path) -> Result<(PathBuf, bool), String> {
    let existing = pin_root.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let kind = statfs(existing).map_err(|error| format!("{}: {error}", existing.display()))?;
    Ok((existing.to_owned(), kind.filesystem_type() == BPF_FS_MAGIC))
}

fn pinned(pin_root: &Path) -> Result<Option<Pinned>, String> {
    let folder = pin_dir(pin_root);
    if !folder.try_exists().map_err(|error| format!("{}: {error}", folder.display()))? {
        return Ok(None);
    }
    let pins = Pins::open(pin_root)?;
    let attached = datapath::attached(&folder).map_err(|error| crate::chain(&error))?;
    let meta = pins.maps.meta.get(0).map_err(crate::kernel::failed)?;
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).map_err(|error| error.to_string())?;
    let alive = meta.alive / 1_000_000_000;
    Ok(Some(Pinned {
        jited: attached.first().and_then(|link| LoadedProgram::open(link.program).ok()).map(|program| program.jited),
        attached,
        silent: now.tv_sec().unsigned_abs().saturating_sub(alive),
    }))
}

fn running(ifindex: u32) -> Option<Running> {
    let (program, mode) = datapath::running(ifindex)?;
    let link = LinkInfoIter::default()
        .find(|link| link.prog_id == program && matches!(&link.info, LinkTypeInfo::Xdp(xdp) if xdp.ifindex == ifindex));
    Some(Running { program, mode, link: link.map(|link| link.id) })
}

fn sysctls(subject: &Subject) -> HashMap<String, String> {
    let mut paths: Vec<String> = [
        "net/core/bpf_jit_enable",
        "net/ipv4/conf/all/accept_local",
        "net/ipv4/conf/lo/accept_local",
        "net/ipv4/ip_forward",
        "net/ipv4/ip_local_port_range",
        "net/ipv6/conf/all/forwarding",
        "net/netfilter/nf_conntrack_count",
        "net/netfilter/nf_conntrack_max",
    ]
    .map(str::to_owned)
    .into();
    for interface in subject.interfaces.iter().map(String::as_str).chain(["all"]) {
        paths.extend(["rp_filter", "arp_ignore"].map(|key| format!("net/ipv4/conf/{interface}/{key}")));
    }
    let read = |path: String| Some((path.clone(), fs::read_to_string(Path::new("/proc/sys").join(path)).ok()?));
    paths.into_iter().filter_map(read).map(|(path, value)| (path, value.trim().to_owned())).collect()
}

/// A million entries are read in about a second, line by line.
fn tracked(addresses: &[IpAddr]) -> Option<u64> {
    let table = BufReader::new(File::open("/proc/net/nf_conntrack").ok()?);
    let ours = |line: &str| {
        let mut to = line.split(' ').filter_map(|word| word.strip_prefix("dst=")).filter_map(|ip| ip.parse().ok());
        to.next().is_some_and(|to: IpAddr| addresses.contains(&to))
    };
    Some(table.lines().map_while(Result::ok).filter(|line| ours(line)).count() as u64)
}
