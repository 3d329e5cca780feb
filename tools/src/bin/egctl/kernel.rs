// SPDX-License-Identifier: GPL-3.0-only
//! What is in the kernel, read from the pinned maps; names come from the map that the datapath pins beside them.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use eg_skel::Maps;
use eg_skel::abi::{Addr, BackendState, Be16, Cookie, Drop, Miss, PROTO_TCP, PROTO_UDP, RING_SLOTS};
use eg_skel::share::pin_dir;
use expressgateway::datapath::{self, DatapathError, Kind, Named};
use serde_json::{Value, json};

use crate::table::Table;

/// The maps of a gateway, and the names behind their numbers.
pub(crate) struct Pins {
    pub(crate) maps: Maps,
    pub(crate) names: Vec<Named>,
}

impl Pins {
    pub(crate) fn open(pin_root: &Path) -> Result<Self, String> {
        let folder = pin_dir(pin_root);
        if let Some(why) = Self::out_of_reach(pin_root) {
            return Err(why);
        }
        let maps = Maps::open(&folder).map_err(|error| format!("{}: {}", folder.display(), crate::chain(&error)))?;
        let names = datapath::names(&folder).map_err(|error| crate::chain(&error))?;
        Ok(Self { maps, names })
    }

    /// Why there is nothing to be read; `None`: there is.
    pub(crate) fn out_of_reach(pin_root: &Path) -> Option<String> {
        let folder = pin_dir(pin_root);
        match folder.try_exists() {
            Ok(true) => None,
            Ok(false) => Some(format!(
                "{}: nothing is pinned there (is the datapath on? is this [datapath].pin_root? see --pin-root)",
                folder.display()
            )),
            Err(error) => Some(format!("{}: {error} (reading pinned maps needs root)", folder.display())),
        }
    }

    pub(crate) fn name(&self, kind: Kind, id: u32) -> Value {
        self.names
            .iter()
            .find(|named| named.kind == kind && named.id == id)
            .map_or(Value::Null, |named| json!(named.name))
    }
}

pub(crate) fn failed(error: eg_skel::MapError) -> String {
    crate::chain(&error)
}

/// Columns of `egctl vips`.
pub(crate) const VIPS: [&str; 12] = [
    "listener",
    "address",
    "protocol",
    "pool",
    "epoch",
    "flows",
    "packets",
    "bytes",
    "reply packets",
    "reply bytes",
    "drops",
    "stateless",
];

/// Columns of `egctl pools`.
pub(crate) const POOLS: [&str; 11] = [
    "pool",
    "backend",
    "address",
    "state",
    "next hop",
    "ring share",
    "flows",
    "packets",
    "bytes",
    "reply packets",
    "reply bytes",
];

pub(crate) fn vips(pin_root: &Path) -> Result<Table, String> {
    let pins = Pins::open(pin_root)?;
    let mut table = Table::new(&VIPS);
    let mut ids = pins.maps.vip_ids.entries().map_err(failed)?;
    ids.retain(|(key, _)| key.is_vips());
    ids.sort_by_key(|(_, id)| *id);
    for (key, id) in ids {
        let vip = pins.maps.vips.get(id).map_err(failed)?;
        let stats = pins.maps.vip_stats.sum(id).map_err(failed)?;
        table.row(vec![
            pins.name(Kind::Vip, id),
            json!(at(key.addr, key.port).to_string()),
            json!(protocol(key.proto)),
            pins.name(Kind::Pool, vip.pool),
            json!(vip.epoch),
            json!(stats.flows),
            json!(stats.packets),
            json!(stats.bytes),
            json!(stats.reply_packets),
            json!(stats.reply_bytes),
            json!(stats.drops),
            json!(pins.maps.stateless.sum(id).map_err(failed)?),
        ]);
    }
    Ok(table)
}

pub(crate) fn pools(pin_root: &Path) -> Result<Table, String> {
    let pins = Pins::open(pin_root)?;
    let mut table = Table::new(&POOLS);
    let mut pools: Vec<&Named> = pins.names.iter().filter(|named| named.kind == Kind::Pool).collect();
    pools.sort_by(|a, b| a.name.cmp(&b.name));
    for pool in pools {
        let mut slots: HashMap<u32, u32> = HashMap::new();
        for slot in pins.maps.rings.get(pool.id).map_err(failed)?.unwrap_or_default() {
            *slots.entry(slot.primary).or_default() += 1;
        }
        let members = pins.names.iter().filter(|named| named.kind == Kind::Backend && named.pool == pool.id);
        let mut members: Vec<&Named> = members.collect();
        members.sort_by(|a, b| a.name.cmp(&b.name));
        for member in members {
            let backend = pins.maps.backends.get(member.id).map_err(failed)?;
            let stats = pins.maps.backend_stats.sum(member.id).map_err(failed)?;
            let share = f64::from(slots.get(&member.id).copied().unwrap_or(0)) / f64::from(RING_SLOTS);
            table.row(vec![
                json!(pool.name),
                json!(member.name),
                json!(at(backend.addr, backend.port).to_string()),
                json!(BackendState::from_code(backend.state.into()).map_or("unknown", BackendState::label)),
                if backend.ifindex == 0 { Value::Null } else { json!(hop(backend.dmac, backend.ifindex)) },
                json!((share * 1000.0).round() / 1000.0),
                json!(stats.flows),
                json!(stats.packets),
                json!(stats.bytes),
                json!(stats.reply_packets),
                json!(stats.reply_bytes),
            ]);
        }
    }
    Ok(table)
}

pub(crate) fn drops(pin_root: &Path) -> Result<Table, String> {
    let pins = Pins::open(pin_root)?;
    let mut table = Table::new(&["what", "why", "packets", "bytes"]);
    let totals = pins.maps.totals().map_err(failed)?;
    for (what, count) in [
        ("received", totals.received()),
        ("forwarded", totals.forwarded),
        ("passed", totals.passed),
        ("dropped", totals.dropped),
        ("answered", totals.answered),
    ] {
        table.row(vec![json!(what), Value::Null, json!(count.packets), json!(count.bytes)]);
    }
    for reason in Drop::ALL {
        let count = pins.maps.drops.sum(reason.code()).map_err(failed)?;
        if count.packets > 0 {
            table.row(vec![json!("dropped"), json!(reason.label()), json!(count.packets), json!(count.bytes)]);
        }
    }
    for became in Cookie::ALL {
        let packets = pins.maps.cookie_stats.sum(became.code()).map_err(failed)?;
        if packets > 0 {
            table.row(vec![json!("syn cookie"), json!(became.label()), json!(packets), Value::Null]);
        }
    }
    for miss in Miss::ALL {
        let packets = pins.maps.misses.sum(miss.code()).map_err(failed)?;
        if packets > 0 {
            table.row(vec![json!("flow missed"), json!(miss.label()), json!(packets), Value::Null]);
        }
    }
    Ok(table)
}

/// With `force` also beside a living process, which is then left without programs.
pub(crate) fn detach(pin_root: &Path, force: bool) -> Result<String, String> {
    let _owner = match datapath::Owner::of_existing(pin_root) {
        Err(error @ DatapathError::Owned { .. }) if force => {
            eprintln!("egctl: {error}: detaching all the same");
            None
        }
        Err(DatapathError::Owned { path, pid }) => {
            let who = pid.map_or_else(|| "a process".to_owned(), |pid| format!("process {pid}"));
            return Err(format!(
                "{path:?} is in use by {who}, which would be left without programs: stop it first (with \
                 [datapath].detach_on_exit it detaches by itself), or detach --force"
            ));
        }
        owner => owner.map_err(|error| crate::chain(&error))?,
    };
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
    let detached = runtime.block_on(datapath::detach(pin_root)).map_err(|error| crate::chain(&error))?;
    Ok(format!("{detached}\n"))
}

pub(crate) fn at(addr: Addr, port: Be16) -> SocketAddr {
    SocketAddr::new(IpAddr::from(addr), port.into())
}

pub(crate) fn protocol(number: u8) -> String {
    match number {
        PROTO_TCP => "tcp".to_owned(),
        PROTO_UDP => "udp".to_owned(),
        other => other.to_string(),
    }
}

fn hop(mac: [u8; 6], ifindex: u32) -> String {
    let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
    format!("{mac} by interface {ifindex}")
}
