// SPDX-License-Identifier: GPL-3.0-only
//! From the keys of a file to a [`Plan`]: names looked up, files read, defaults filled in, and everything checked that
//! two values can be wrong about together.
//!
//! Called by `config::load`. It goes on after an error so that all are reported; the plan it returns then is never
//! used. It reads certificate files and nothing else: what depends on the host comes in as [`Host`].

mod cookies;
mod datapath;
mod fragments;
mod guards;
mod listeners;
mod pools;

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use super::error::{At, Problems};
use super::plan::{AdminPlan, LogFormat, ObservabilityPlan, Plan, RuntimePlan, TlsPlan};
use super::schema::{File, Listener, Pool, Protocol};
use super::suggest::hint;

/// What a configuration is checked against besides itself.
#[derive(Clone, Debug)]
pub(crate) struct Host<'a> {
    /// Relative paths start here.
    pub(crate) directory: &'a Path,
    /// `net.ipv4.ip_local_port_range`, when it could be read.
    pub(crate) local_ports: Option<RangeInclusive<u16>>,
}

pub(crate) fn resolve(file: &File, host: &Host<'_>, problems: &Problems) -> Plan {
    let names = Names::new(file, problems);
    let observability = observability(file);
    admin_is_guarded(file, observability.metrics_bind, problems);
    listeners::claims(file, observability.metrics_bind, problems);
    if file.listeners.is_empty() && !problems.any() {
        let nowhere = super::error::Place { offset: 0, path: String::new() };
        problems.error(&nowhere, "no [[listeners]]: there is nothing to serve");
    }
    let edge = listeners::edge(file, &names, host, problems);
    let (datapath, unused_datapath) = datapath::datapath(file, &names, host, problems);
    Plan {
        runtime: RuntimePlan {
            workers: number(&file.runtime.workers, 0) as usize,
            max_connections: number(&file.runtime.max_connections, 0),
            drain_timeout: Duration::from_millis(number(&file.runtime.drain_timeout_ms, 10_000)),
            drain_settle: Duration::from_millis(number(&file.runtime.drain_settle_ms, 0)),
        },
        observability,
        admin: AdminPlan { token_sha256: file.admin.api_token_hash.as_ref().map(|hash| hash.value) },
        tls: TlsPlan { tls13_only: flag(&file.tls.tls13_only, false) },
        datapath,
        unused_datapath,
        edge,
    }
}

fn observability(file: &File) -> ObservabilityPlan {
    let keys = &file.observability;
    ObservabilityPlan {
        metrics_bind: keys.metrics_bind.as_ref().map_or((Ipv4Addr::LOCALHOST, 9090).into(), |bind| bind.value),
        log: keys.log.as_ref().map_or_else(|| "info".to_owned(), |log| log.value.clone()),
        log_format: keys.log_format.as_ref().map_or(LogFormat::Text, |format| format.value),
    }
}

/// Metrics and status name every service and backend: past loopback they need a token.
fn admin_is_guarded(file: &File, bind: SocketAddr, problems: &Problems) {
    if let Some(written) = &file.observability.metrics_bind
        && !bind.ip().to_canonical().is_loopback()
        && file.admin.api_token_hash.is_none()
    {
        problems.error(&written.place, format!("{bind} is not on loopback: set admin.api_token_hash first"));
    }
}

/// Listeners and pools by name, and which pools L4 listeners and routes use.
struct Names<'f> {
    listeners: HashMap<&'f str, &'f Listener>,
    pools: HashMap<&'f str, &'f Pool>,
    problems: &'f Problems,
}

impl<'f> Names<'f> {
    fn new(file: &'f File, problems: &'f Problems) -> Self {
        let mut listeners: HashMap<&str, &Listener> = HashMap::new();
        for listener in &file.listeners {
            let Some(name) = &listener.name else { continue };
            if let Some(earlier) = listeners.get(name.value.as_str()) {
                let message = format!("{:?} is already the name of {}", name.value, earlier.place.path);
                problems.error(&name.place, message);
            } else {
                listeners.insert(&name.value, listener);
            }
        }
        let pools = file.pools.iter().map(|pool| (pool.name.value.as_str(), pool)).collect();
        Self { listeners, pools, problems }
    }

    /// The pool a listener or a route names, or an error at that place.
    fn pool(&self, name: &At<String>) -> Option<&'f Pool> {
        let found = self.pools.get(name.value.as_str()).copied();
        if found.is_none() {
            let hint = hint(&name.value, sorted(self.pools.keys()));
            self.problems.error(&name.place, format!("there is no pool {:?}{hint}", name.value));
        }
        found
    }

    fn listener(&self, name: &At<String>) -> Option<&'f Listener> {
        let found = self.listeners.get(name.value.as_str()).copied();
        if found.is_none() {
            let hint = hint(&name.value, sorted(self.listeners.keys()));
            self.problems.error(&name.place, format!("there is no listener {:?}{hint}", name.value));
        }
        found
    }
}

/// In an order of their own, so that two equally near suggestions do not take turns.
fn sorted<'a, 'b: 'a>(names: impl Iterator<Item = &'a &'b str>) -> Vec<&'b str> {
    let mut names: Vec<&str> = names.copied().collect();
    names.sort_unstable();
    names
}

fn number(value: &Option<At<u64>>, default: u64) -> u64 {
    value.as_ref().map_or(default, |value| value.value)
}

fn flag(value: &Option<At<bool>>, default: bool) -> bool {
    value.as_ref().map_or(default, |value| value.value)
}

/// Listeners of one kind, those whose protocol could be read.
fn of_kind(file: &File, wanted: impl Fn(Protocol) -> bool) -> impl Iterator<Item = (&Listener, Protocol)> {
    file.listeners.iter().filter_map(move |listener| {
        let protocol = listener.protocol.as_ref()?.value;
        wanted(protocol).then_some((listener, protocol))
    })
}
