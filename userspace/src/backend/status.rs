// SPDX-License-Identifier: GPL-3.0-only
//! What is attached and what became of the packets, read from the pins alone.

use std::net::IpAddr;
use std::path::Path;

use eg_skel::BackendMaps;
use eg_skel::abi::Count;
use eg_skel::abi::backend::{DecAddr, DecMode, Decap};
use eg_skel::maps::keys;

use super::error::BackendError;
use super::prefix::Prefix;
use super::{config, hooks, load};

/// Everything that is known without asking a process: there is none.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// By index.
    pub interfaces: Vec<Interface>,
    /// Every result, in the order of the enum; of all interfaces together, since the first was attached.
    pub results: Vec<(Decap, Count)>,
}

/// An interface that was attached.
#[derive(Clone, Debug)]
pub struct Interface {
    pub index: u32,
    /// As it was called when it was attached.
    pub name: String,
    /// How; `None`: by a version that knows a way which this one does not.
    pub mode: Option<DecMode>,
    /// The program runs there now; not so if the interface is gone or somebody detached it.
    pub running: bool,
    pub gue_port: u16,
    pub vips: Vec<IpAddr>,
    /// Empty: any.
    pub from: Vec<Prefix>,
    pub to: Vec<IpAddr>,
}

/// Reads it. A pin root without a backend's pins has no interfaces and no results.
///
/// # Errors
/// The pins cannot be read.
pub fn status(pin_root: &Path) -> Result<Status, BackendError> {
    load::quiet();
    let folder = load::pin_dir(pin_root);
    let there = folder.try_exists().map_err(|source| BackendError::Pin { path: folder.clone(), source })?;
    if !there {
        return Ok(Status::default());
    }
    let maps = BackendMaps::open(&folder)?;
    let mut status = Status::default();
    for index in keys(&maps.ifaces)? {
        let record = maps.ifaces.get(&index)?.unwrap_or_default();
        let mode = DecMode::from_code(record.mode);
        status.interfaces.push(Interface {
            index,
            name: record.name().into(),
            mode,
            running: mode.is_some_and(|mode| hooks::is_attached(&folder, index, mode)),
            gue_port: record.gue_port,
            vips: addresses(keys(&maps.vips)?, index),
            from: config::accepted(&maps, index)?,
            to: addresses(keys(&maps.to)?, index),
        });
    }
    status.interfaces.sort_by_key(|interface| interface.index);
    for result in Decap::ALL {
        status.results.push((*result, maps.results.sum(result.code())?));
    }
    Ok(status)
}

fn addresses(keys: Vec<DecAddr>, index: u32) -> Vec<IpAddr> {
    let mut found: Vec<IpAddr> =
        keys.into_iter().filter(|key| key.ifindex == index).map(|key| key.addr.into()).collect();
    found.sort_unstable();
    found
}
