// SPDX-License-Identifier: GPL-3.0-only
//! A backend host's end of direct server return: `bpf/tc/backend` on its interfaces, which takes the gateways' packets
//! out of their tunnels.
//!
//! `egctl backend` is the caller, and nothing of it runs between its calls: what is attached and configured lives in the
//! kernel, pinned under `<pin_root>/backend/v<ABI>/`. In the order of an attach: read the `host`, `load` the program,
//! write its tables (`config`), attach it (`hooks`), and say what else the host needs (`hints`). It changes no sysctl,
//! and no address unless asked to; it knows nothing of a gateway's maps or configuration.

mod config;
mod error;
mod hints;
mod hooks;
mod host;
mod load;
mod prefix;
mod status;

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use eg_skel::BackendMaps;
use eg_skel::abi::backend::{DecIface, DecMode};
use eg_skel::features;

use crate::datapath::Datapath;
use config::Config;
use host::{Host, Link};
use load::Loaded;

pub use error::BackendError;
pub use hints::Hint;
pub use hooks::Wanted;
pub use prefix::Prefix;
pub use status::{Interface, Status, status};

/// What `attach` is asked for: all of what the interface decapsulates, whatever it was before.
#[derive(Clone, Debug)]
pub struct Attach {
    pub pin_root: PathBuf,
    pub interface: String,
    /// Inner destinations. Empty: the addresses that the host has on `lo`, where VIPs belong; never "any", because
    /// whoever can reach an open decapsulator can deliver packets with forged addresses inside the network.
    pub vips: Vec<IpAddr>,
    /// Outer sources. Empty: any.
    pub from: Vec<Prefix>,
    /// Outer destinations. Empty: the interface's own addresses.
    pub to: Vec<IpAddr>,
    pub gue_port: u16,
    pub mode: Wanted,
    /// Give `lo` those VIPs that the host does not have.
    pub add_vips: bool,
}

/// What `attach` has done.
#[derive(Clone, Debug)]
pub struct Attached {
    pub interface: String,
    pub mode: DecMode,
    /// A program of ours ran there before, and was replaced without a gap.
    pub replaced: bool,
    pub vips: Vec<IpAddr>,
    pub from: Vec<Prefix>,
    pub to: Vec<IpAddr>,
    /// VIPs that were added to `lo`; they stay when the program goes.
    pub added: Vec<IpAddr>,
    /// What keeps the service from working, or may.
    pub hints: Vec<Hint>,
}

/// Attaches the program to an interface, or replaces what an earlier call attached. Must run inside a tokio runtime with
/// I/O.
///
/// # Errors
/// What stands in the way, before anything is changed where that can be known; a failure later leaves an interface that
/// was attached before attached.
pub async fn attach(wanted: &Attach) -> Result<Attached, BackendError> {
    let missing = Datapath::capabilities().missing;
    if !missing.is_empty() {
        return Err(BackendError::Privilege { missing });
    }
    let mut host = Host::read().await?;
    let link = ethernet(&host, &wanted.interface)?;
    let config = Config::resolve(wanted, &host, &link)?;
    let folder = load::folder(&wanted.pin_root)?;
    let flags = features::decap_flags();
    let mut loaded = load::load(&folder, wanted.gue_port, flags)?;

    let added = if wanted.add_vips { host.add_missing(&config.vips).await? } else { Vec::new() };
    let before = loaded.maps.ifaces.get(&link.index)?;
    let (change, written) = config.add(&loaded.maps, link.index);
    let placed = match written {
        Ok(()) => place(&mut loaded, &folder, &link, wanted),
        Err(error) => Err(error.into()),
    };
    let (mode, replaced) = match placed {
        Ok(placed) => placed,
        Err(error) => {
            undo(&loaded.maps, &change, link.index, before);
            remove_unused_pins(&loaded.maps, &wanted.pin_root, &folder);
            return Err(error);
        }
    };
    change.finish(&loaded.maps)?;
    forget_replaced(&loaded.maps, &folder, &link)?;

    let hints = hints::hints(&hints::Facts::read(&host, &link, &config, flags));
    let Config { vips, from, to } = config;
    Ok(Attached { interface: link.name, mode, replaced, vips, from, to, added, hints })
}

/// Attaches, with a record of it that is there first: a program that nobody knows of would run for ever.
fn place(loaded: &mut Loaded, folder: &Path, link: &Link, wanted: &Attach) -> Result<(DecMode, bool), BackendError> {
    let record = |mode| DecIface::new(&link.name, mode, wanted.gue_port);
    if loaded.maps.ifaces.get(&link.index)?.is_none() {
        loaded.maps.ifaces.set(&link.index, &record(DecMode::Tcx))?;
    }
    let (mode, replaced) = hooks::attach(folder, link, wanted.mode, loaded.program())?;
    loaded.maps.ifaces.set(&link.index, &record(mode))?;
    Ok((mode, replaced))
}

/// Puts back what an attach that failed has written. Its own failure is logged only: the first error is what is told.
fn undo(maps: &BackendMaps, change: &config::Change, index: u32, before: Option<DecIface>) {
    let record = match before {
        Some(record) => maps.ifaces.set(&index, &record),
        None => maps.ifaces.delete(&index).map(drop),
    };
    if let Err(error) = change.undo(maps).and(record) {
        tracing::warn!(%error, "cannot put back what was there before");
    }
}

/// Takes the program off an interface. With the last one the maps go as well, and with them the counters. Must run
/// inside a tokio runtime with I/O.
///
/// # Errors
/// The interface was not attached, or cannot be detached.
pub async fn detach(pin_root: &Path, interface: &str) -> Result<(), BackendError> {
    load::quiet();
    let folder = load::pin_dir(pin_root);
    if !folder.exists() {
        return Err(BackendError::NotAttached { interface: interface.into() });
    }
    let maps = BackendMaps::open(&folder)?;
    let host = Host::read().await?;
    let index = host.links.iter().find(|link| link.name == interface).map(|link| link.index);
    let mut found = false;
    for known in eg_skel::maps::keys(&maps.ifaces)? {
        let record = maps.ifaces.get(&known)?.unwrap_or_default();
        // By index if the interface exists, renamed or not; by the name of old if it is gone.
        if Some(known) == index || (index.is_none() && record.name() == interface) {
            forget(&maps, &folder, known, &record)?;
            found = true;
        }
    }
    if !found {
        return Err(BackendError::NotAttached { interface: interface.into() });
    }
    remove_unused_pins(&maps, pin_root, &folder);
    Ok(())
}

fn ethernet(host: &Host, name: &str) -> Result<Link, BackendError> {
    let link = host.links.iter().find(|link| link.name == name);
    let link = link.ok_or_else(|| BackendError::NoInterface { interface: name.into() })?;
    // The program cuts behind an Ethernet header. Loopback has one too, and nothing arrives there encapsulated.
    if !link.ethernet {
        return Err(BackendError::NotEthernet { interface: name.into() });
    }
    Ok(link.clone())
}

/// Drops what is left of an interface of the same name that is gone: its index never comes back.
fn forget_replaced(maps: &BackendMaps, folder: &Path, link: &Link) -> Result<(), BackendError> {
    for known in eg_skel::maps::keys(&maps.ifaces)? {
        let record = maps.ifaces.get(&known)?.unwrap_or_default();
        if known != link.index && record.name() == link.name {
            forget(maps, folder, known, &record)?;
        }
    }
    Ok(())
}

fn forget(maps: &BackendMaps, folder: &Path, index: u32, record: &DecIface) -> Result<(), BackendError> {
    hooks::detach(folder, index, record)?;
    config::clear(maps, index)?;
    maps.ifaces.delete(&index)?;
    Ok(())
}

/// Removes the pins if no interface is attached. A folder that holds something else stays, and so do those above it.
fn remove_unused_pins(maps: &BackendMaps, pin_root: &Path, folder: &Path) {
    if !eg_skel::maps::keys(&maps.ifaces).is_ok_and(|known| known.is_empty()) {
        return;
    }
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    for entry in entries {
        if let Err(error) = fs::remove_file(entry.path()).or_else(|_| fs::remove_dir(entry.path())) {
            tracing::warn!(path = ?entry.path(), %error, "cannot remove a pin");
        }
    }
    for folder in [Some(folder), folder.parent(), Some(pin_root)].into_iter().flatten() {
        if let Err(error) = fs::remove_dir(folder) {
            tracing::debug!(?folder, %error, "the folder stays");
        }
    }
}
