// SPDX-License-Identifier: GPL-3.0-only
//! The effective configuration as TOML: every default written out, every path absolute.
//!
//! `--dump` prints it. What it prints loads back to the same plan; listeners that the process terminates come before
//! those that the kernel carries, whatever the order in the file was.

mod guards;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

use serde::Serialize;

use super::plan::{
    AffinityPlan, Algorithm, Certificate, DatapathPlan, EdgeAlgorithm, ForwardPlan, LogFormat, Plan, PoolPlan, Proto,
    SchemePlan, SynCookies, Target, TunnelSources, XdpMode,
};
use super::value;

#[derive(Serialize)]
struct File<'p> {
    runtime: Runtime,
    observability: Observability<'p>,
    admin: Admin,
    tls: Tls,
    datapath: Datapath<'p>,
    listeners: Vec<Listener<'p>>,
    routes: Vec<Route<'p>>,
    pools: BTreeMap<&'p str, Pool>,
}

#[derive(Serialize)]
struct Runtime {
    workers: usize,
    max_connections: u64,
    drain_timeout_ms: u128,
    drain_settle_ms: u128,
}

#[derive(Serialize)]
struct Observability<'p> {
    metrics_bind: SocketAddr,
    log: &'p str,
    log_format: &'static str,
}

#[derive(Serialize)]
struct Admin {
    #[serde(skip_serializing_if = "Option::is_none")]
    api_token_hash: Option<String>,
}

#[derive(Serialize)]
struct Tls {
    tls13_only: bool,
}

#[derive(Serialize, Default)]
struct Datapath<'p> {
    interfaces: &'p [String],
    #[serde(skip_serializing_if = "Option::is_none", flatten)]
    rest: Option<DatapathRest<'p>>,
}

#[derive(Serialize)]
struct DatapathRest<'p> {
    xdp: &'static str,
    pin_root: &'p Path,
    flows: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    hash_seed: Option<String>,
    snat_ports: String,
    timeout_opening: String,
    timeout_established: String,
    timeout_closing: String,
    timeout_udp: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tunnel_sources: Vec<String>,
    detach_on_exit: bool,
    guards: guards::Guards<'p>,
}

#[derive(Serialize, Default)]
struct Listener<'p> {
    name: &'p str,
    address: Vec<SocketAddr>,
    protocol: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    http3: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pool: Option<&'p str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    forward: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    snat: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gue_port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unused_ports: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fragments: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    guards: Option<Vec<&'static str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    flow_budget: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    syn_cookies: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    syn_cookie_rate: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls: Option<ListenerTls<'p>>,
}

#[derive(Serialize)]
struct ListenerTls<'p> {
    cert: &'p Path,
    key: &'p Path,
}

#[derive(Serialize)]
struct Route<'p> {
    listener: &'p str,
    path: &'p str,
    pool: &'p str,
}

#[derive(Serialize)]
struct Pool {
    algorithm: &'static str,
    #[serde(skip_serializing_if = "Option::is_none", flatten)]
    affinity: Option<Affinity>,
    #[serde(skip_serializing_if = "Option::is_none")]
    drain_timeout: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    on_backend_down: Option<&'static str>,
    backends: Vec<Backend>,
}

#[derive(Serialize)]
struct Affinity {
    affinity_prefix_v4: u8,
    affinity_prefix_v6: u8,
    affinity_timeout: String,
}

#[derive(Serialize)]
struct Backend {
    /// Absent when it is the default, the address itself, which would not pass for a name.
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    builtin: Option<&'static str>,
    weight: u32,
}

/// # Errors
/// A path that is not UTF-8, which TOML cannot hold.
pub fn dump(plan: &Plan) -> Result<String, toml::ser::Error> {
    toml::to_string(&File {
        runtime: Runtime {
            workers: plan.runtime.workers,
            max_connections: plan.runtime.max_connections,
            drain_timeout_ms: plan.runtime.drain_timeout.as_millis(),
            drain_settle_ms: plan.runtime.drain_settle.as_millis(),
        },
        observability: Observability {
            metrics_bind: plan.observability.metrics_bind,
            log: &plan.observability.log,
            log_format: match plan.observability.log_format {
                LogFormat::Text => "text",
                LogFormat::Json => "json",
            },
        },
        admin: Admin { api_token_hash: plan.admin.token_sha256.map(|hash| format!("sha256:{}", value::hex(&hash))) },
        tls: Tls { tls13_only: plan.tls.tls13_only },
        datapath: match (&plan.datapath, &plan.unused_datapath) {
            (Some(plan), _) => datapath(plan, false),
            (None, Some(unused)) => datapath(&unused.keys, unused.off),
            (None, None) => Datapath::default(),
        },
        listeners: terminated(plan).chain(carried(plan)).collect(),
        routes: routes(plan),
        pools: pools(plan),
    })
}

fn datapath(plan: &DatapathPlan, off: bool) -> Datapath<'_> {
    let rest = DatapathRest {
        xdp: match plan.xdp {
            _ if off => "off",
            XdpMode::Auto => "auto",
            XdpMode::Native => "native",
            XdpMode::Generic => "generic",
            XdpMode::Tc => "tc",
        },
        pin_root: &plan.pin_root,
        flows: plan.flows,
        hash_seed: plan.hash_seed.map(|seed| value::hex(&seed)),
        snat_ports: format!("{}-{}", plan.snat_ports.start(), plan.snat_ports.end()),
        timeout_opening: value::duration_text(plan.timeouts.opening),
        timeout_established: value::duration_text(plan.timeouts.open),
        timeout_closing: value::duration_text(plan.timeouts.closing),
        timeout_udp: value::duration_text(plan.timeouts.udp),
        tunnel_sources: tunnel_sources(plan.tunnel_sources),
        detach_on_exit: plan.detach_on_exit,
        guards: guards::guards(&plan.guards),
    };
    Datapath { interfaces: &plan.interfaces, rest: Some(rest) }
}

fn tunnel_sources(sources: TunnelSources) -> Vec<String> {
    sources.v4.into_iter().chain(sources.v6).map(|prefix| prefix.to_string()).collect()
}

fn terminated(plan: &Plan) -> impl Iterator<Item = Listener<'_>> {
    plan.edge.listeners.iter().map(|listener| {
        let (protocol, http3, tls) = match &listener.scheme {
            SchemePlan::Http => ("http", None, None),
            SchemePlan::Https { certificate, http3 } => {
                let tls = match certificate {
                    Certificate::SelfSigned => None,
                    Certificate::Files { cert, key, .. } => Some(ListenerTls { cert, key }),
                };
                ("https", Some(*http3), tls)
            }
        };
        let address = listener.addresses.clone();
        let syn_cookies = Some(listener.syn_cookies.word());
        let syn_cookie_rate = (listener.syn_cookies == SynCookies::Flood).then_some(listener.syn_cookie_rate);
        let name = &listener.name;
        Listener { name, address, protocol, http3, tls, syn_cookies, syn_cookie_rate, ..Listener::default() }
    })
}

/// VIPs of one listener follow each other: one table for each run of them.
fn carried(plan: &Plan) -> impl Iterator<Item = Listener<'_>> {
    let vips = plan.datapath.as_ref().map(|datapath| datapath.vips.as_slice()).unwrap_or_default();
    vips.chunk_by(|one, next| one.listener == next.listener).filter_map(|run| {
        let first = run.first()?;
        Some(Listener {
            name: &first.listener,
            address: run.iter().map(|vip| vip.address).collect(),
            protocol: match first.proto {
                Proto::Tcp => "tcp",
                Proto::Udp => "udp",
            },
            pool: Some(&first.pool),
            forward: Some(first.forward.word()),
            snat: match first.forward {
                ForwardPlan::Nat { snat } => Some(snat),
                _ => None,
            },
            gue_port: match first.forward {
                ForwardPlan::Gue { port } => Some(port),
                _ => None,
            },
            unused_ports: Some(first.unused_ports.word()),
            fragments: (first.proto == Proto::Udp).then_some(first.fragments.word()),
            guards: Some(guards::chosen(&first.guards, first.proto)),
            flow_budget: Some(first.flow_budget),
            ..Listener::default()
        })
    })
}

fn routes(plan: &Plan) -> Vec<Route<'_>> {
    let mut routes = Vec::new();
    for listener in &plan.edge.listeners {
        for route in &listener.routes {
            routes.push(Route { listener: &listener.name, path: &route.path, pool: &route.pool });
        }
    }
    routes
}

fn pools(plan: &Plan) -> BTreeMap<&str, Pool> {
    let mut pools = BTreeMap::new();
    for pool in &plan.edge.pools {
        let backends = pool.backends.iter().map(|backend| {
            let (address, builtin) = match backend.target {
                Target::Address(address) => (Some(address), None),
                Target::Welcome => (None, Some("welcome")),
            };
            Backend { name: given(&backend.name, address), address, builtin, weight: backend.weight }
        });
        let algorithm = match pool.algorithm {
            EdgeAlgorithm::RoundRobin => "round-robin",
            EdgeAlgorithm::Maglev => "maglev",
        };
        pools.insert(
            pool.name.as_str(),
            Pool {
                algorithm,
                affinity: None,
                drain_timeout: None,
                on_backend_down: None,
                backends: backends.collect(),
            },
        );
    }
    for pool in plan.datapath.iter().flat_map(|datapath| &datapath.pools) {
        let backends = pool.backends.iter().map(|backend| Backend {
            name: given(&backend.name, Some(backend.address)),
            address: Some(backend.address),
            builtin: None,
            weight: backend.weight,
        });
        let drain_timeout = Some(value::duration_text(pool.drain_timeout));
        let on_backend_down = Some(pool.on_backend_down.word());
        let backends = backends.collect();
        pools.insert(
            &pool.name,
            Pool {
                algorithm: pool.algorithm.name(),
                affinity: affinity(pool),
                drain_timeout,
                on_backend_down,
                backends,
            },
        );
    }
    pools
}

fn affinity(pool: &PoolPlan) -> Option<Affinity> {
    let AffinityPlan { prefix_v4, prefix_v6, timeout } = pool.affinity;
    (pool.algorithm == Algorithm::SessionAffinity).then(|| Affinity {
        affinity_prefix_v4: prefix_v4,
        affinity_prefix_v6: prefix_v6,
        affinity_timeout: value::duration_text(timeout),
    })
}

fn given(name: &str, address: Option<SocketAddr>) -> Option<String> {
    let default = address.map_or_else(|| "welcome".to_owned(), |address| address.to_string());
    (name != default).then(|| name.to_owned())
}
