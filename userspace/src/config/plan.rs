// SPDX-License-Identifier: GPL-3.0-only
//! The plan: a valid, resolved configuration, with every default filled in and every name looked up.
//!
//! `resolve` makes it, `diff` compares two, `app` and the datapath obey it. It is plain data: comparing two plans
//! compares two configurations, and nothing in it owns a socket, a map or a thread. What it deliberately lacks is
//! positions: whoever holds a plan has no error left to report against the file.

mod cookies;
mod guards;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::net::Net;

use eg_skel::abi::Forward;

pub use cookies::{CookiePlan, SynCookies};
pub use eg_balance::Algorithm;
pub use guards::{Guard, GuardSet, GuardsPlan, Limit, PrefixList};

/// Everything the process was told to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub runtime: RuntimePlan,
    pub observability: ObservabilityPlan,
    pub admin: AdminPlan,
    pub tls: TlsPlan,
    /// `None`: no interface is configured, or `datapath.xdp = "off"`; the kernel is left alone.
    pub datapath: Option<DatapathPlan>,
    /// What `[datapath]` says then, which nothing obeys and `dump` prints.
    pub unused_datapath: Option<UnusedDatapath>,
    pub edge: EdgePlan,
}

/// `[runtime]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimePlan {
    /// 0: one per core.
    pub workers: usize,
    /// Client connections at which accepting pauses; 0: as many as descriptors allow.
    pub max_connections: u64,
    /// How long in-flight work may take after accepting has stopped.
    pub drain_timeout: Duration,
    /// How long `/readyz` says 503 before accepting stops, for whoever watches it to notice.
    pub drain_settle: Duration,
}

/// `[observability]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservabilityPlan {
    pub metrics_bind: SocketAddr,
    /// A `tracing` filter directive list, such as `info` or `info,eg_l7=debug`.
    pub log: String,
    pub log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

/// `[admin]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AdminPlan {
    /// SHA-256 of the bearer token. `None`: no token, and `metrics_bind` is on loopback.
    pub token_sha256: Option<[u8; 32]>,
}

/// `[tls]`: what holds for every listener.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsPlan {
    pub tls13_only: bool,
}

/// `[datapath]` of a configuration that leaves the kernel alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnusedDatapath {
    /// By `xdp = "off"`; else because there are no interfaces.
    pub off: bool,
    /// Without VIPs and pools.
    pub keys: DatapathPlan,
}

/// What the kernel is to carry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatapathPlan {
    pub interfaces: Vec<String>,
    pub xdp: XdpMode,
    /// Maps and links are pinned below, in `v<EG_ABI>/`.
    pub pin_root: PathBuf,
    /// Flows that `eg_flows` has room for; under NAT each is two entries.
    pub flows: u32,
    /// `None`: random, made once and kept with the pins.
    pub hash_seed: Option<[u8; 16]>,
    pub snat_ports: RangeInclusive<u16>,
    pub timeouts: Timeouts,
    /// What the sources of outer headers are taken from; `None`: our own address towards the backend.
    pub tunnel_sources: TunnelSources,
    pub detach_on_exit: bool,
    pub guards: GuardsPlan,
    /// One per address of each L4 listener, in the file's order.
    pub vips: Vec<VipPlan>,
    /// The pools that L4 listeners use, by name.
    pub pools: Vec<PoolPlan>,
    /// Addresses of L7 listeners to make local to this host, each once.
    pub local_vips: Vec<IpAddr>,
    /// Those of them with SYN cookies.
    pub cookies: Vec<CookiePlan>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpMode {
    /// Native, then generic, then tc.
    Auto,
    Native,
    Generic,
    /// Behind the driver, on the kernel's own packets; keeps offloads.
    Tc,
}

/// One address of an L4 listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VipPlan {
    pub listener: String,
    pub address: SocketAddr,
    pub proto: Proto,
    pub pool: String,
    pub forward: ForwardPlan,
    /// What happens to packets to this address on ports that no listener has.
    pub unused_ports: UnusedPorts,
    /// What fragments that come before their first are picked by.
    pub fragments: Fragments,
    /// Which of `[datapath.guards]` hold here.
    pub guards: GuardSet,
    /// New flows a second that are remembered; 0: no limit.
    pub flow_budget: u32,
}

/// How a VIP's fragments find their flow's backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fragments {
    /// They follow their first; those before it are held until it comes.
    #[default]
    Hold,
    /// Every packet is picked by addresses and protocol alone, so none needs another.
    Stable,
}

impl Fragments {
    /// The configuration's words.
    pub const WORDS: [(&'static str, Fragments); 2] = [("hold", Fragments::Hold), ("stable", Fragments::Stable)];

    /// The configuration's word.
    pub fn word(self) -> &'static str {
        match self {
            Fragments::Hold => "hold",
            Fragments::Stable => "stable",
        }
    }
}

/// The rest of a VIP's address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnusedPorts {
    #[default]
    Drop,
    /// To the host's own stack.
    Pass,
    /// TCP is reset, the rest dropped.
    Reset,
}

impl UnusedPorts {
    /// The configuration's words.
    pub const WORDS: [(&'static str, UnusedPorts); 3] =
        [("drop", UnusedPorts::Drop), ("pass", UnusedPorts::Pass), ("reset", UnusedPorts::Reset)];

    /// The configuration's word.
    pub fn word(self) -> &'static str {
        match self {
            UnusedPorts::Drop => "drop",
            UnusedPorts::Pass => "pass",
            UnusedPorts::Reset => "reset",
        }
    }
}

/// What becomes of a flow whose backend is down, or gone after its drain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnBackendDown {
    /// It waits for its backend.
    #[default]
    Keep,
    /// It goes to another.
    Repick,
    /// TCP is reset, the rest goes to another.
    Reset,
}

impl OnBackendDown {
    /// The configuration's words.
    pub const WORDS: [(&'static str, OnBackendDown); 3] =
        [("keep", OnBackendDown::Keep), ("repick", OnBackendDown::Repick), ("reset", OnBackendDown::Reset)];

    /// The configuration's word.
    pub fn word(self) -> &'static str {
        match self {
            OnBackendDown::Keep => "keep",
            OnBackendDown::Repick => "repick",
            OnBackendDown::Reset => "reset",
        }
    }
}

/// How a VIP's packets reach a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForwardPlan {
    /// `snat`: write our own source address too, so that replies come back through us whatever the backend's routes say.
    Nat {
        snat: bool,
    },
    Ipip,
    /// To this UDP port of the backend.
    Gue {
        port: u16,
    },
    /// To the backend's MAC address: it must be on one of our links.
    L2,
}

impl ForwardPlan {
    /// The mode, as the kernel side numbers it.
    pub fn mode(self) -> Forward {
        match self {
            ForwardPlan::Nat { .. } => Forward::Nat,
            ForwardPlan::Ipip => Forward::Ipip,
            ForwardPlan::Gue { .. } => Forward::Gue,
            ForwardPlan::L2 => Forward::L2,
        }
    }

    /// The configuration's word.
    pub fn word(self) -> &'static str {
        self.mode().label()
    }

    /// Whether replies bypass us: the backend answers from the VIP itself.
    pub fn is_direct(self) -> bool {
        !matches!(self, ForwardPlan::Nat { .. })
    }
}

/// How long a half of a flow may be idle, by its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Half-open.
    pub opening: Duration,
    /// Established TCP.
    pub open: Duration,
    /// TCP after a FIN or RST.
    pub closing: Duration,
    pub udp: Duration,
}

impl Default for Timeouts {
    /// Those of `bpf/lib/tunables.h`, where the reasons are.
    fn default() -> Timeouts {
        let of = Duration::from_secs;
        Timeouts { opening: of(70), open: of(7440), closing: of(60), udp: of(300) }
    }
}

/// Prefixes whose host bits vary with the flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TunnelSources {
    pub v4: Option<Net>,
    pub v6: Option<Net>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Proto {
    Tcp,
    Udp,
}

/// A pool as the kernel sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolPlan {
    pub name: String,
    pub algorithm: Algorithm,
    pub affinity: AffinityPlan,
    pub backends: Vec<BackendPlan>,
    /// How long a removed backend keeps the flows that it has.
    pub drain_timeout: Duration,
    pub on_backend_down: OnBackendDown,
}

/// What session affinity takes for one client, and how long it remembers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AffinityPlan {
    /// Leading bits of an IPv4 source address.
    pub prefix_v4: u8,
    /// Leading bits of an IPv6 source address.
    pub prefix_v6: u8,
    /// Since its last new flow; zero remembers nothing, and the ring alone decides.
    pub timeout: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendPlan {
    pub name: String,
    pub address: SocketAddr,
    pub weight: u32,
}

/// What the process terminates itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EdgePlan {
    pub listeners: Vec<ListenerPlan>,
    /// The pools that routes name, by name.
    pub pools: Vec<EdgePoolPlan>,
}

/// One `http` or `https` listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerPlan {
    pub name: String,
    pub addresses: Vec<SocketAddr>,
    pub scheme: SchemePlan,
    pub syn_cookies: SynCookies,
    /// SYNs a second that the stack answers, by `SynCookies::Flood`.
    pub syn_cookie_rate: u32,
    /// In the file's order; a longer prefix wins whatever the order.
    pub routes: Vec<RoutePlan>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SchemePlan {
    Http,
    Https { certificate: Certificate, http3: bool },
}

/// Where an `https` listener's certificate comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Certificate {
    /// Made when the process starts and kept in the state directory.
    SelfSigned,
    Files {
        cert: PathBuf,
        key: PathBuf,
        cert_pem: Pem,
        key_pem: Pem,
    },
}

/// What a PEM file held when the configuration was read. Its `Debug` never shows the bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Pem(pub Arc<[u8]>);

impl fmt::Debug for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pem({} bytes)", self.0.len())
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoutePlan {
    /// Prefix; starts with `/`.
    pub path: String,
    pub pool: String,
}

/// A pool as the L7 side sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EdgePoolPlan {
    pub name: String,
    pub algorithm: EdgeAlgorithm,
    pub backends: Vec<EdgeBackendPlan>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EdgeAlgorithm {
    RoundRobin,
    Maglev,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EdgeBackendPlan {
    pub name: String,
    pub target: Target,
    pub weight: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Address(SocketAddr),
    /// The backend that comes with the process, on a loopback port known only once it runs.
    Welcome,
}
