// SPDX-License-Identifier: GPL-3.0-only
//! What should work here: read from the configuration, or from what a gateway has pinned.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use eg_skel::abi::{Forward, MAX_VIPS, PROTO_TCP, VIP_SNAT};
use eg_skel::loaded::LoadedProgram;
use eg_skel::share::pin_dir;
use expressgateway::config;
use expressgateway::config::plan::{DatapathPlan, ForwardPlan, XdpMode};
use expressgateway::datapath::{Kind, attached};
use nix::net::if_::if_indextoname;

use crate::kernel::{Pins, at, failed};

#[derive(Clone, Debug)]
pub(crate) struct Subject {
    /// `None`: the subject is what is pinned.
    pub(crate) file: Option<PathBuf>,
    pub(crate) pin_root: PathBuf,
    pub(crate) interfaces: Vec<String>,
    pub(crate) xdp: XdpMode,
    pub(crate) vips: Vec<Vip>,
    pub(crate) backends: Vec<Backend>,
    /// Addresses that the host's own stack answers on.
    pub(crate) terminated: Vec<IpAddr>,
    pub(crate) snat_ports: RangeInclusive<u16>,
}

#[derive(Clone, Debug)]
pub(crate) struct Vip {
    pub(crate) address: IpAddr,
    /// Backends see our address, not the client's.
    pub(crate) snat: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Backend {
    /// As `pool/name`.
    pub(crate) name: String,
    pub(crate) address: SocketAddr,
    /// The mode that adds most, of the listeners that use the pool.
    pub(crate) forwarding: Forward,
}

/// From a configuration file; `None`: it leaves the kernel alone. The file is read as `expressgateway --check` does, but
/// without a look at the host, which is what is to be judged here.
pub(crate) fn configured(file: &Path) -> Result<Option<Subject>, String> {
    let text = std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let loaded = config::from_text(&file.display().to_string(), folder, &text).map_err(|error| error.to_string())?;
    let file = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    Ok(loaded.plan.datapath.map(|plan| of_plan(file, plan)))
}

fn of_plan(file: PathBuf, plan: DatapathPlan) -> Subject {
    let backends = plan.pools.iter().flat_map(|pool| {
        pool.backends.iter().map(|backend| Backend {
            name: format!("{}/{}", pool.name, backend.name),
            address: backend.address,
            forwarding: largest(plan.vips.iter().filter(|vip| vip.pool == pool.name).map(|vip| vip.forward.mode())),
        })
    });
    Subject {
        file: Some(file),
        backends: backends.collect(),
        vips: plan
            .vips
            .iter()
            .map(|vip| Vip { address: vip.address.ip(), snat: vip.forward != ForwardPlan::Nat { snat: false } })
            .collect(),
        pin_root: plan.pin_root,
        interfaces: plan.interfaces,
        xdp: plan.xdp,
        terminated: plan.local_vips,
        snat_ports: plan.snat_ports,
    }
}

/// From the pins below `pin_root`.
pub(crate) fn pinned(pin_root: &Path) -> Result<Option<Subject>, String> {
    let pins = Pins::open(pin_root).map_err(|error| format!("{error}; or name the configuration file"))?;
    let links = attached(&pin_dir(pin_root)).map_err(|error| crate::chain(&error))?;
    let program = links.first().ok_or("no program is attached by the pinned links: name the configuration file")?;
    let tunables = LoadedProgram::open(program.program).and_then(|program| program.tunables());
    let tunables = tunables.map_err(|error| format!("XDP program {}: {error}", program.program))?;
    let tunables = tunables.ok_or("the attached program is of another version: name the configuration file")?;
    let port = |port: u32| u16::try_from(port).unwrap_or(u16::MAX);

    let (mut vips, mut modes) = (Vec::new(), Vec::new());
    for (key, id) in pins.maps.vip_ids.entries().map_err(failed)? {
        if key.is_vips()
            && (1..MAX_VIPS).contains(&id)
            && pins.names.iter().any(|named| named.kind == Kind::Vip && named.id == id)
        {
            let vip = pins.maps.vips.get(id).map_err(failed)?;
            let mode = Forward::from_code(vip.forward.into()).unwrap_or(Forward::Nat);
            modes.push((vip.pool, mode));
            vips.push(Vip { address: vip.addr.into(), snat: mode != Forward::Nat || vip.flags & VIP_SNAT != 0 });
        }
    }
    let mut backends = Vec::new();
    for named in pins.names.iter().filter(|named| named.kind == Kind::Backend) {
        let backend = pins.maps.backends.get(named.id).map_err(failed)?;
        let pool = pins.names.iter().find(|pool| pool.kind == Kind::Pool && pool.id == named.pool);
        backends.push(Backend {
            name: format!("{}/{}", pool.map_or("-", |pool| &pool.name), named.name),
            address: at(backend.addr, backend.port),
            forwarding: largest(modes.iter().filter(|(pool, _)| *pool == named.pool).map(|(_, mode)| *mode)),
        });
    }
    let listeners = pins.maps.listeners.entries().map_err(failed)?.into_iter();
    let mut terminated: Vec<IpAddr> = listeners
        .filter(|(key, _)| key.proto == PROTO_TCP)
        .map(|(key, _)| IpAddr::from(key.addr))
        .filter(|address| !address.is_unspecified() && !address.is_loopback())
        .collect();
    terminated.sort_unstable();
    terminated.dedup();
    Ok(Some(Subject {
        file: None,
        pin_root: pin_root.to_owned(),
        interfaces: links.iter().map(|link| interface(link.ifindex)).collect(),
        xdp: XdpMode::Auto,
        vips,
        backends,
        terminated,
        snat_ports: port(tunables.snat_port_min)..=port(tunables.snat_port_max),
    }))
}

/// The mode that adds most to a packet.
fn largest(modes: impl Iterator<Item = Forward>) -> Forward {
    modes.max_by_key(|mode| mode.overhead(false)).unwrap_or(Forward::Nat)
}

fn interface(index: u32) -> String {
    if_indextoname(index).map_or_else(|_| format!("#{index}"), |name| name.to_string_lossy().into_owned())
}

impl Subject {
    /// Every address that must be delivered here, each once.
    pub(crate) fn local_addresses(&self) -> Vec<IpAddr> {
        let mut all: Vec<IpAddr> = self.vips.iter().map(|vip| vip.address).chain(self.terminated.clone()).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// A command that starts the process, which does not run.
    pub(crate) fn start(&self) -> String {
        match &self.file {
            Some(file) => format!("expressgateway {}", file.display()),
            None => "systemctl start expressgateway".to_owned(),
        }
    }

    /// The configuration file, for an instruction to change it.
    pub(crate) fn file_name(&self) -> String {
        self.file.as_ref().map_or_else(|| "the configuration file".to_owned(), |file| file.display().to_string())
    }
}
