// SPDX-License-Identifier: GPL-3.0-only
//! `vips` and `pools` of a host where nothing is pinned: what the process says it serves, over its admin address.
//!
//! The same columns as from the kernel, so that scripts need no second case; what only the kernel knows is null. Which source
//! answered is said on stderr.

use std::path::Path;

use serde_json::Value;

use crate::admin::{Admin, list};
use crate::kernel::{self, Pins};
use crate::table::Table;

pub(crate) fn vips(pin_root: &Path, admin: &Admin) -> Result<Table, String> {
    let Some(why) = Pins::out_of_reach(pin_root) else { return kernel::vips(pin_root) };
    let status = ask(admin, &why)?;
    let mut table = Table::new(&kernel::VIPS);
    for listener in list(&status["listeners"]) {
        for at in list(&listener["addresses"]) {
            let pools = match &listener["pool"] {
                // One row an address: a listener with several routes names each pool.
                Value::Null => words(list(&listener["routes"]).iter().map(|route| &route["pool"])),
                pool => pool.clone(),
            };
            let protocol = match at["transport"].as_str() {
                Some("udp") if listener["layer"] == 7 => Value::from("https (http/3)"),
                _ => listener["protocol"].clone(),
            };
            table.row(row([listener["name"].clone(), at["address"].clone(), protocol, pools], kernel::VIPS.len()));
        }
    }
    Ok(table)
}

pub(crate) fn pools(pin_root: &Path, admin: &Admin) -> Result<Table, String> {
    let Some(why) = Pins::out_of_reach(pin_root) else { return kernel::pools(pin_root) };
    let status = ask(admin, &why)?;
    let mut table = Table::new(&kernel::POOLS);
    for pool in list(&status["pools"]) {
        for backend in list(&pool["backends"]) {
            let at = if backend["address"].is_null() { &backend["builtin"] } else { &backend["address"] };
            table.row(row([pool["name"].clone(), backend["name"].clone(), at.clone()], kernel::POOLS.len()));
        }
    }
    Ok(table)
}

fn ask(admin: &Admin, why: &str) -> Result<Value, String> {
    let status = admin.json("/status").map_err(|error| format!("{why}; and over the admin address: {error}"))?;
    eprintln!("egctl: {why}: what follows is what the process at {} says, without the kernel's figures", admin.address);
    Ok(status)
}

/// Known values, then nulls.
fn row<const N: usize>(known: [Value; N], columns: usize) -> Vec<Value> {
    let mut row = Vec::from(known);
    row.resize(columns, Value::Null);
    row
}

/// Each once, in their order.
fn words<'v>(values: impl Iterator<Item = &'v Value>) -> Value {
    let mut words: Vec<&str> = Vec::new();
    for word in values.filter_map(Value::as_str) {
        if !words.contains(&word) {
            words.push(word);
        }
    }
    Value::from(words.join(", "))
}
