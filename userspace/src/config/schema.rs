// SPDX-License-Identifier: GPL-3.0-only
//! The keys of a configuration file, their types and their limits: what one value can be wrong about by itself.
//!
//! `resolve` checks what values are wrong about together, and fills in defaults. `docs/config.md` is the prose of this
//! file. A field is `None` when the key is absent or was reported.

mod guards;

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use toml::de::DeTable;

use super::error::{At, Place, Problems};
use super::net::{self, Net};
use super::plan::{Algorithm, Fragments, Guard, LogFormat, OnBackendDown, SynCookies, UnusedPorts, XdpMode};
use super::read::Section;
use super::value;

pub(crate) use guards::Guards;

pub(crate) struct File {
    pub(crate) runtime: Runtime,
    pub(crate) observability: Observability,
    pub(crate) admin: Admin,
    pub(crate) datapath: Datapath,
    pub(crate) tls: Tls,
    pub(crate) listeners: Vec<Listener>,
    pub(crate) routes: Vec<Route>,
    pub(crate) pools: Vec<Pool>,
}

pub(crate) struct Runtime {
    pub(crate) workers: Option<At<u64>>,
    pub(crate) max_connections: Option<At<u64>>,
    pub(crate) drain_timeout_ms: Option<At<u64>>,
    pub(crate) drain_settle_ms: Option<At<u64>>,
}

pub(crate) struct Observability {
    pub(crate) metrics_bind: Option<At<SocketAddr>>,
    pub(crate) log: Option<At<String>>,
    pub(crate) log_format: Option<At<LogFormat>>,
}

pub(crate) struct Admin {
    pub(crate) api_token_hash: Option<At<[u8; 32]>>,
}

pub(crate) struct Datapath {
    pub(crate) interfaces: Vec<At<String>>,
    /// The inner `None` is `"off"`.
    pub(crate) xdp: Option<At<Option<XdpMode>>>,
    pub(crate) pin_root: Option<At<PathBuf>>,
    pub(crate) flows: Option<At<u64>>,
    pub(crate) hash_seed: Option<At<[u8; 16]>>,
    pub(crate) snat_ports: Option<At<RangeInclusive<u16>>>,
    pub(crate) timeout_opening: Option<At<Duration>>,
    pub(crate) timeout_established: Option<At<Duration>>,
    pub(crate) timeout_closing: Option<At<Duration>>,
    pub(crate) timeout_udp: Option<At<Duration>>,
    pub(crate) tunnel_sources: Vec<At<Net>>,
    pub(crate) detach_on_exit: Option<At<bool>>,
    pub(crate) guards: Guards,
}

pub(crate) struct Tls {
    pub(crate) tls13_only: Option<At<bool>>,
}

pub(crate) struct Listener {
    pub(crate) place: Place,
    pub(crate) name: Option<At<String>>,
    pub(crate) addresses: Vec<At<SocketAddr>>,
    pub(crate) protocol: Option<At<Protocol>>,
    pub(crate) http3: Option<At<bool>>,
    pub(crate) tls: Option<ListenerTls>,
    pub(crate) pool: Option<At<String>>,
    pub(crate) forward: Option<At<Forward>>,
    pub(crate) snat: Option<At<bool>>,
    pub(crate) gue_port: Option<At<u64>>,
    pub(crate) unused_ports: Option<At<UnusedPorts>>,
    pub(crate) fragments: Option<At<Fragments>>,
    pub(crate) guards: Option<At<Vec<At<Guard>>>>,
    pub(crate) flow_budget: Option<At<u64>>,
    pub(crate) syn_cookies: Option<At<SynCookies>>,
    pub(crate) syn_cookie_rate: Option<At<u64>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Forward {
    Nat,
    Ipip,
    Gue,
    L2,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http,
    Https,
    Tcp,
    Udp,
}

impl Protocol {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }

    /// Carried by the kernel, not terminated.
    pub(crate) fn is_l4(self) -> bool {
        matches!(self, Self::Tcp | Self::Udp)
    }
}

pub(crate) struct ListenerTls {
    pub(crate) place: Place,
    pub(crate) cert: Option<At<String>>,
    pub(crate) key: Option<At<String>>,
}

pub(crate) struct Route {
    pub(crate) place: Place,
    pub(crate) listener: Option<At<String>>,
    /// The inner `None` was reported.
    pub(crate) path: Option<At<Option<String>>>,
    pub(crate) pool: Option<At<String>>,
}

pub(crate) struct Pool {
    pub(crate) name: At<String>,
    pub(crate) algorithm: Option<At<Algorithm>>,
    pub(crate) affinity: Affinity,
    pub(crate) drain_timeout: Option<At<Duration>>,
    pub(crate) on_backend_down: Option<At<OnBackendDown>>,
    pub(crate) backends: Vec<Backend>,
}

pub(crate) struct Affinity {
    pub(crate) prefix_v4: Option<At<u64>>,
    pub(crate) prefix_v6: Option<At<u64>>,
    pub(crate) timeout: Option<At<Duration>>,
}

pub(crate) struct Backend {
    pub(crate) place: Place,
    pub(crate) name: Option<At<String>>,
    pub(crate) address: Option<At<SocketAddr>>,
    pub(crate) builtin: Option<At<()>>,
    pub(crate) weight: Option<At<u64>>,
}

/// `EG_MAX_WORKERS`: the kernel's array of workers has as many places.
const MAX_WORKERS: u64 = 64;
/// An hour: a drain that takes longer is a decision, not a time limit.
const MAX_DRAIN_MS: u64 = 3_600_000;
/// From what a test needs to 16 M flows, some 5 GiB of kernel memory.
const FLOWS: RangeInclusive<u64> = 1024..=(1 << 24);
/// None at all is `syn_cookies = "always"`; ten million is what a whole machine takes in.
const SYN_RATES: RangeInclusive<u64> = 1..=10_000_000;
/// The sum over a pool stays within 32 bits for any number of backends that fits.
const WEIGHTS: RangeInclusive<u64> = 1..=1000;

pub(crate) fn file(table: &DeTable<'_>, problems: &Problems) -> File {
    let mut root = Section::root(table, problems);
    let file = File {
        runtime: runtime(root.section("runtime")),
        observability: observability(root.section("observability")),
        admin: admin(root.section("admin")),
        datapath: datapath(root.section("datapath")),
        tls: tls(root.section("tls")),
        listeners: root.tables("listeners").into_iter().map(listener).collect(),
        routes: root.tables("routes").into_iter().map(route).collect(),
        pools: root.named_tables("pools").into_iter().filter_map(|(name, table)| pool(name, table, problems)).collect(),
    };
    root.finish();
    file
}

fn runtime(mut table: Section<'_>) -> Runtime {
    let runtime = Runtime {
        workers: table.number("workers", 0..=MAX_WORKERS),
        max_connections: table.number("max_connections", 0..=crate::limits::MOST),
        drain_timeout_ms: table.number("drain_timeout_ms", 0..=MAX_DRAIN_MS),
        drain_settle_ms: table.number("drain_settle_ms", 0..=MAX_DRAIN_MS),
    };
    table.finish();
    runtime
}

fn observability(mut table: Section<'_>) -> Observability {
    let observability = Observability {
        metrics_bind: table.parsed("metrics_bind", value::address),
        log: table.parsed("log", value::log_filter),
        log_format: table.word("log_format", &[("text", LogFormat::Text), ("json", LogFormat::Json)]),
    };
    table.finish();
    observability
}

fn admin(mut table: Section<'_>) -> Admin {
    let admin = Admin { api_token_hash: table.parsed("api_token_hash", value::token_hash) };
    table.finish();
    admin
}

fn datapath(mut table: Section<'_>) -> Datapath {
    let modes = [
        ("auto", Some(XdpMode::Auto)),
        ("native", Some(XdpMode::Native)),
        ("generic", Some(XdpMode::Generic)),
        ("tc", Some(XdpMode::Tc)),
        ("off", None),
    ];
    let datapath = Datapath {
        interfaces: table.list("interfaces", false, value::interface).map(|list| list.value).unwrap_or_default(),
        xdp: table.word("xdp", &modes),
        pin_root: table.parsed("pin_root", value::absolute_path),
        flows: table.number("flows", FLOWS),
        hash_seed: table.parsed("hash_seed", value::hash_seed),
        snat_ports: table.parsed("snat_ports", value::ports),
        timeout_opening: table.parsed("timeout_opening", value::duration),
        timeout_established: table.parsed("timeout_established", value::duration),
        timeout_closing: table.parsed("timeout_closing", value::duration),
        timeout_udp: table.parsed("timeout_udp", value::duration),
        tunnel_sources: table.list("tunnel_sources", false, net::net).map(|list| list.value).unwrap_or_default(),
        detach_on_exit: table.flag("detach_on_exit"),
        guards: guards::guards(table.section("guards")),
    };
    table.finish();
    datapath
}

fn tls(mut table: Section<'_>) -> Tls {
    let tls = Tls { tls13_only: table.flag("tls13_only") };
    table.finish();
    tls
}

fn listener(mut table: Section<'_>) -> Listener {
    let protocols =
        [Protocol::Http, Protocol::Https, Protocol::Tcp, Protocol::Udp].map(|protocol| (protocol.word(), protocol));
    let forwards = [("nat", Forward::Nat), ("ipip", Forward::Ipip), ("gue", Forward::Gue), ("l2", Forward::L2)];
    let name = table.parsed("name", value::name);
    let addresses = table.list("address", true, value::address);
    let protocol = table.word("protocol", &protocols);
    // A key that was reported is not missing as well.
    if table.absent("name") {
        table.missing("name", "what metrics, logs and routes call this listener");
    }
    if table.absent("address") {
        table.missing("address", "\"ip:port\" or a list of them");
    }
    if table.absent("protocol") {
        table.missing("protocol", "\"http\", \"https\", \"tcp\" or \"udp\"");
    }
    let listener = Listener {
        place: table.place().clone(),
        name,
        addresses: addresses.map(|list| list.value).unwrap_or_default(),
        protocol,
        http3: table.flag("http3"),
        tls: table.section_if_present("tls").map(listener_tls),
        pool: table.text("pool"),
        forward: table.word("forward", &forwards),
        snat: table.flag("snat"),
        gue_port: table.number("gue_port", 1..=65535),
        unused_ports: table.word("unused_ports", &UnusedPorts::WORDS),
        fragments: table.word("fragments", &Fragments::WORDS),
        guards: guards::chosen(&mut table),
        flow_budget: table.number("flow_budget", guards::RATES),
        syn_cookies: table.word("syn_cookies", &SynCookies::WORDS),
        syn_cookie_rate: table.number("syn_cookie_rate", SYN_RATES),
    };
    table.finish();
    listener
}

fn listener_tls(mut table: Section<'_>) -> ListenerTls {
    let tls = ListenerTls { place: table.place().clone(), cert: table.text("cert"), key: table.text("key") };
    for key in ["cert", "key"] {
        if table.absent(key) {
            table.missing(key, "a PEM file; leave the whole tls table out for a self-signed certificate");
        }
    }
    table.finish();
    tls
}

fn route(mut table: Section<'_>) -> Route {
    let path = table.parsed("path", value::path_prefix).map(|at| at.map(Some));
    let reported = At { value: None, place: table.place().clone() };
    let route = Route {
        place: table.place().clone(),
        listener: table.text("listener"),
        path: if table.absent("path") { None } else { path.or(Some(reported)) },
        pool: table.text("pool"),
    };
    if table.absent("listener") {
        table.missing("listener", "the name of an http or https listener");
    }
    if table.absent("pool") {
        table.missing("pool", "the name of a [pools.NAME]");
    }
    table.finish();
    route
}

fn pool(name: At<String>, mut table: Section<'_>, problems: &Problems) -> Option<Pool> {
    let algorithms = Algorithm::ALL.map(|algorithm| (algorithm.name(), algorithm));
    let algorithm = table.word("algorithm", &algorithms);
    let drain_timeout = table.parsed("drain_timeout", value::duration);
    let affinity = Affinity {
        prefix_v4: table.number("affinity_prefix_v4", 0..=32),
        prefix_v6: table.number("affinity_prefix_v6", 0..=128),
        timeout: table.parsed("affinity_timeout", value::duration),
    };
    let on_backend_down = table.word("on_backend_down", &OnBackendDown::WORDS);
    if table.absent("backends") {
        table.missing("backends", "at least one [[pools.NAME.backends]]");
    }
    let backends = table.tables("backends").into_iter().map(backend).collect();
    table.finish();
    if let Err(error) = value::name(&name.value) {
        problems.error(&name.place, error);
        return None;
    }
    Some(Pool { name, algorithm, affinity, drain_timeout, on_backend_down, backends })
}

fn backend(mut table: Section<'_>) -> Backend {
    let backend = Backend {
        place: table.place().clone(),
        name: table.parsed("name", value::name),
        address: table.parsed("address", value::address),
        builtin: table.word("builtin", &[("welcome", ())]),
        weight: table.number("weight", WEIGHTS),
    };
    match (table.absent("address"), table.absent("builtin")) {
        (true, true) => table.missing("address", "\"ip:port\", or builtin = \"welcome\""),
        (false, false) => table.conflict("address and builtin exclude each other"),
        _ => {}
    }
    table.finish();
    backend
}
