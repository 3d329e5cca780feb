// SPDX-License-Identifier: GPL-3.0-only
//! What the kernel is to carry: L4 listeners as VIPs, their pools, and the addresses to make local.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::{File, Host, Names, cookies, flag, fragments, guards, number, of_kind, pools};
use crate::config::error::{At, Place, Problems};
use crate::config::plan::{
    DatapathPlan, ForwardPlan, PoolPlan, Proto, Timeouts, TunnelSources, UnusedDatapath, UnusedPorts, VipPlan, XdpMode,
};
use crate::config::schema::{Forward, Listener, Pool, Protocol};

/// The port that the IANA assigned to GUE.
const GUE_PORT: u16 = 6080;

const PIN_ROOT: &str = "/sys/fs/bpf/expressgateway";
const FLOWS: u64 = 1 << 20;

/// `EG_MAX_VIPS` and `EG_MAX_POOLS`: the kernel's arrays, whose element 0 is never used.
const MAX_VIPS: usize = 4095;
const MAX_POOLS: usize = 4095;
/// A Maglev table spreads well while it has at least 100 slots a backend (Maglev, NSDI 2016, section 3.4); the ring has
/// 65,537.
const MAX_BACKENDS: usize = 655;

/// The kernel's part, or what of it was written although the kernel is to be left alone.
pub(super) fn datapath(
    file: &File,
    names: &Names<'_>,
    host: &Host<'_>,
    problems: &Problems,
) -> (Option<DatapathPlan>, Option<UnusedDatapath>) {
    let keys = &file.datapath;
    let mode = keys.xdp.as_ref().map_or(Some(XdpMode::Auto), |mode| mode.value);
    let mut vips = Vec::new();
    let unused = unused_ports(file, problems);
    fragments::alone(file, problems);
    let mut used: BTreeMap<&str, PoolPlan> = BTreeMap::new();
    for (listener, protocol) in of_kind(file, Protocol::is_l4) {
        misplaced(listener, protocol, problems);
        if let Some(protocol) = &listener.protocol {
            let word = protocol.value.word();
            if mode.is_none() {
                let why = format!("{word} is carried by the kernel, and datapath.xdp is \"off\"");
                problems.error(&protocol.place, why);
            } else if keys.interfaces.is_empty() {
                let why = format!("{word} is carried by the kernel, and datapath.interfaces is empty");
                problems.error(&protocol.place, why);
            }
        }
        let Some(pool) = &listener.pool else {
            problems.error(&listener.place, "missing pool: the [pools.NAME] that takes this listener's connections");
            continue;
        };
        let Some(pool) = names.pool(pool) else { continue };
        if used.insert(&pool.name.value, pools::kernel(pool)).is_none() {
            carriable(pool, listener, problems);
        }
        let chosen = guards::chosen(listener, protocol, problems);
        let fragments = fragments::chosen(listener, protocol, pool, problems);
        for address in &listener.addresses {
            vip(address, listener, pool, problems);
            vips.push(VipPlan {
                listener: listener.name.as_ref().map(|name| name.value.clone()).unwrap_or_default(),
                address: address.value,
                proto: if protocol == Protocol::Tcp { Proto::Tcp } else { Proto::Udp },
                pool: pool.name.value.clone(),
                forward: forward(listener),
                unused_ports: unused.get(&address.value.ip()).copied().unwrap_or_default(),
                fragments,
                guards: chosen.clone(),
                flow_budget: guards::flow_budget(listener, forward(listener), pools::kernel(pool).algorithm),
            });
        }
    }
    capacity(&vips, used.len(), file, problems);
    interfaces(file, problems);
    let snat_ports = keys.snat_ports.as_ref().map_or(10_240..=32_767, |ports| ports.value.clone());
    if let Some(local) = &host.local_ports
        && vips.iter().any(|vip| vip.forward == ForwardPlan::Nat { snat: true })
        && snat_ports.start() <= local.end()
        && local.start() <= snat_ports.end()
    {
        // Replies to the host's own connections would look like replies to flows.
        let nowhere = Place { offset: 0, path: "datapath.snat_ports".to_owned() };
        let place = keys.snat_ports.as_ref().map_or(&nowhere, |ports| &ports.place);
        let (first, last, low, high) = (snat_ports.start(), snat_ports.end(), local.start(), local.end());
        let message =
            format!("{first}-{last} overlaps this host's own ports {low}-{high} (net.ipv4.ip_local_port_range)");
        problems.error(place, message);
    }
    let guards = guards::guards(file, &vips, host, problems);
    let on = mode.is_some() && !keys.interfaces.is_empty();
    let local_vips = if on { local_vips(file, problems) } else { Vec::new() };
    let cookies = cookies::cookies(file, on, problems);
    let plan = DatapathPlan {
        interfaces: keys.interfaces.iter().map(|name| name.value.clone()).collect(),
        xdp: mode.unwrap_or(XdpMode::Auto),
        pin_root: keys.pin_root.as_ref().map_or_else(|| PathBuf::from(PIN_ROOT), |path| path.value.clone()),
        flows: u32::try_from(number(&keys.flows, FLOWS)).unwrap_or(u32::MAX),
        hash_seed: keys.hash_seed.as_ref().map(|seed| seed.value),
        snat_ports,
        timeouts: timeouts(file, problems),
        tunnel_sources: tunnel_sources(file, problems),
        detach_on_exit: flag(&keys.detach_on_exit, false),
        guards,
        vips,
        pools: used.into_values().collect(),
        local_vips,
        cookies: if on { cookies } else { Vec::new() },
    };
    if on { (Some(plan), None) } else { (None, Some(UnusedDatapath { off: mode.is_none(), keys: plan })) }
}

/// NAT unless the operator says otherwise.
fn forward(listener: &Listener) -> ForwardPlan {
    match listener.forward.as_ref().map_or(Forward::Nat, |forward| forward.value) {
        Forward::Nat => ForwardPlan::Nat { snat: flag(&listener.snat, true) },
        Forward::Ipip => ForwardPlan::Ipip,
        Forward::Gue => {
            let port = number(&listener.gue_port, u64::from(GUE_PORT));
            ForwardPlan::Gue { port: u16::try_from(port).unwrap_or(GUE_PORT) }
        }
        Forward::L2 => ForwardPlan::L2,
    }
}

/// Whole seconds, one at least: what the kernel side counts in.
fn timeouts(file: &File, problems: &Problems) -> Timeouts {
    let keys = &file.datapath;
    let default = Timeouts::default();
    let of = |key: &Option<At<Duration>>, default| {
        let Some(at) = key else { return default };
        if at.value.as_secs() == 0 || at.value.subsec_nanos() != 0 {
            problems.error(&at.place, "expected whole seconds, at least \"1s\"");
        }
        at.value
    };
    Timeouts {
        opening: of(&keys.timeout_opening, default.opening),
        open: of(&keys.timeout_established, default.open),
        closing: of(&keys.timeout_closing, default.closing),
        udp: of(&keys.timeout_udp, default.udp),
    }
}

/// One prefix a family.
fn tunnel_sources(file: &File, problems: &Problems) -> TunnelSources {
    let mut sources = TunnelSources::default();
    for prefix in &file.datapath.tunnel_sources {
        let family = if prefix.value.address().is_ipv4() { &mut sources.v4 } else { &mut sources.v6 };
        if family.replace(prefix.value).is_some() {
            problems.error(&prefix.place, "at most one prefix of each family");
        }
    }
    sources
}

fn misplaced(listener: &Listener, protocol: Protocol, problems: &Problems) {
    let word = protocol.word();
    let chosen = forward(listener);
    cookies::misplaced(listener, protocol, problems);
    if let Some(snat) = listener.snat.as_ref().filter(|_| chosen.is_direct()) {
        problems.error(&snat.place, format!("is for forward = \"nat\", this one is {:?}", chosen.word()));
    }
    if let Some(port) = listener.gue_port.as_ref().filter(|_| !matches!(chosen, ForwardPlan::Gue { .. })) {
        problems.error(&port.place, format!("is for forward = \"gue\", this one is {:?}", chosen.word()));
    }
    listener
        .http3
        .iter()
        .for_each(|at| problems.error(&at.place, format!("is for https listeners, this one is {word}")));
    listener
        .tls
        .iter()
        .for_each(|tls| problems.error(&tls.place, format!("is for https listeners, this one is {word}")));
}

/// Whether the kernel can balance over this pool at all.
fn carriable(pool: &Pool, listener: &Listener, problems: &Problems) {
    let user = &listener.place.path;
    if pool.backends.len() > MAX_BACKENDS {
        let message =
            format!("{} backends: at most {MAX_BACKENDS} in a pool that {user} uses at L4", pool.backends.len());
        problems.error(&pool.name.place, message);
    }
    for backend in &pool.backends {
        if let Some(builtin) = &backend.builtin {
            let message = format!("\"welcome\" is for routes; {user} uses this pool at L4, out of the process's reach");
            problems.error(&builtin.place, message);
        }
        if let Some(address) = backend.address.as_ref().filter(|at| at.value.ip().to_canonical().is_loopback()) {
            let message = format!("{} is on loopback, where the kernel datapath of {user} cannot send", address.value);
            problems.error(&address.place, message);
        }
    }
}

fn vip(address: &At<std::net::SocketAddr>, listener: &Listener, pool: &Pool, problems: &Problems) {
    let ip = address.value.ip();
    if ip.is_unspecified() || ip.is_multicast() || ip.to_canonical().is_loopback() {
        problems.error(&address.place, format!("{ip} cannot be a VIP: expected an address that packets are sent to"));
    }
    if address.value.port() == 0 {
        problems.error(&address.place, "port 0 cannot be a VIP: expected 1 to 65535");
    }
    let forward = forward(listener);
    let word = forward.word();
    let mut backends = pool.backends.iter().filter_map(|backend| backend.address.as_ref());
    if !matches!(forward, ForwardPlan::Ipip | ForwardPlan::Gue { .. })
        && let Some(backend) = backends.clone().find(|backend| backend.value.is_ipv4() != address.value.is_ipv4())
    {
        let message = format!(
            "forward = {word:?} keeps the address family: VIP {} and {} {} differ",
            address.value, backend.place.path, backend.value
        );
        problems.error(&address.place, message);
    }
    if forward.is_direct()
        && let Some(backend) = backends.find(|backend| backend.value.port() != address.value.port())
    {
        let message = format!(
            "forward = {word:?} keeps the port: VIP {} and {} {} differ",
            address.value, backend.place.path, backend.value
        );
        problems.error(&address.place, message);
    }
}

/// What is left of an address belongs to all of its listeners: those that say what becomes of it must agree.
fn unused_ports(file: &File, problems: &Problems) -> HashMap<IpAddr, UnusedPorts> {
    let mut said: HashMap<IpAddr, (&Listener, UnusedPorts)> = HashMap::new();
    for (listener, _) in of_kind(file, Protocol::is_l4) {
        let Some(policy) = &listener.unused_ports else { continue };
        for address in &listener.addresses {
            let (earlier, word) = *said.entry(address.value.ip()).or_insert((listener, policy.value));
            if word != policy.value {
                let ip = address.value.ip();
                let place = &earlier.place.path;
                problems.error(&policy.place, format!("{place} says {:?} for the rest of {ip}", word.word()));
            }
        }
    }
    said.into_iter().map(|(ip, (_, policy))| (ip, policy)).collect()
}

fn capacity(vips: &[VipPlan], pools: usize, file: &File, problems: &Problems) {
    let place = Place { offset: 0, path: "listeners".to_owned() };
    if vips.len() > MAX_VIPS {
        problems.error(&place, format!("{} VIPs: at most {MAX_VIPS}", vips.len()));
    }
    if pools > MAX_POOLS {
        problems.error(&place, format!("{pools} pools at L4 of {}: at most {MAX_POOLS}", file.pools.len()));
    }
}

fn interfaces(file: &File, problems: &Problems) {
    let mut seen: HashMap<&str, &At<String>> = HashMap::new();
    for interface in &file.datapath.interfaces {
        if let Some(earlier) = seen.insert(&interface.value, interface) {
            problems.error(&interface.place, format!("{:?} is {} already", interface.value, earlier.place.path));
        }
    }
}

/// Addresses of L7 listeners that this host must answer for. With the datapath on, sockets are found by lookup, so a
/// port must be known: 0 would match nothing.
fn local_vips(file: &File, problems: &Problems) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for (listener, _) in of_kind(file, |protocol| !protocol.is_l4()) {
        for address in &listener.addresses {
            let ip = address.value.ip();
            if address.value.port() == 0 {
                problems.error(&address.place, "port 0 (any free port) is impossible while datapath.interfaces is set");
            }
            if !ip.is_unspecified() && !ip.to_canonical().is_loopback() && !found.contains(&ip) {
                found.push(ip);
            }
        }
    }
    found
}
