// SPDX-License-Identifier: GPL-3.0-only
//! Small networks of namespaces with real sockets: a client, a gateway, backends, IPv4 and IPv6 on every link.
//!
//! Tests under `tests/topology*` build one, start the built `expressgateway` in its gateway and talk to it as clients
//! and backends do. Every name is unique to the process and the topology, and everything is removed on drop, also when
//! a test panics.
//!
//! Two shapes. *Two arms*: the client on one side of the gateway, each backend on a link of its own on the other.
//! *One arm*: all on one switch, the gateway with a single interface.
//!
//! veth has traps that make frames vanish silently: a frame that XDP sends arrives only if the receiving end runs an XDP
//! program too (so every end that may receive one runs XDP_PASS), and senders must compute checksums themselves.

pub mod config;
pub mod direct;
pub mod dsr;
pub mod echo;
pub mod egctl;
pub mod expect;
pub mod flood;
pub mod foreign;
pub mod gateway;
pub mod inject;
mod netns;
mod pass;
pub mod tally;
pub mod wire;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

pub use netns::Netns;
pub use pass::Pass;

/// How the gateway is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arms {
    One,
    Two,
}

/// The network. VIPs are `vip(version)`, on the client's link, so that the gateway must answer for them.
pub struct Topology {
    pub client: Netns,
    pub gateway: Netns,
    pub backends: Vec<Netns>,
    /// The gateway's interfaces, for `datapath.interfaces`.
    pub interfaces: Vec<String>,
    /// Removed on drop with all that is pinned below.
    pub pin_root: PathBuf,
    arms: Arms,
    offloads: bool,
    _switch: Option<Netns>,
    /// On two arms the client's, then the backends'.
    passes: Vec<Pass>,
}

static TOPOLOGIES: AtomicU32 = AtomicU32::new(0);

impl Topology {
    /// Builds the network.
    ///
    /// # Panics
    /// If the host refuses a step: the caller has checked what it needs with `require`.
    pub fn new(arms: Arms, backends: usize) -> Topology {
        Topology::build(arms, backends, false)
    }

    /// The same with checksum and segmentation offload on, as hosts have it. XDP does not work between such ends, tc does.
    pub fn with_offloads(arms: Arms, backends: usize) -> Topology {
        Topology::build(arms, backends, true)
    }

    fn build(arms: Arms, backends: usize, offloads: bool) -> Topology {
        mount_bpffs();
        allow_descriptors();
        let unique = format!("eg{}-{}", std::process::id(), TOPOLOGIES.fetch_add(1, Ordering::Relaxed));
        let space = |role: &str| Netns::new(&format!("{unique}-{role}"));
        let mut topology = Topology {
            client: space("client"),
            gateway: space("gateway"),
            backends: (0..backends).map(|number| space(&format!("b{number}"))).collect(),
            interfaces: Vec::new(),
            pin_root: PathBuf::from(format!("/sys/fs/bpf/{unique}")),
            arms,
            offloads,
            _switch: (arms == Arms::One).then(|| space("switch")),
            passes: Vec::new(),
        };
        match arms {
            Arms::Two => topology.connect_two_arms(),
            Arms::One => topology.connect_one_arm(),
        }
        topology
    }

    fn connect_two_arms(&mut self) {
        self.interfaces.push("c0".into());
        self.interfaces.extend((0..self.backends.len()).map(|number| format!("b{number}")));
        for interface in self.interfaces.clone() {
            self.passes.extend(self.connect(&interface));
        }
    }

    /// Lays the cable of two arms that ends in the gateway's `interface`: also anew, after that one was deleted. Frames arrive
    /// at its other end while what it returns lives.
    pub fn connect(&self, interface: &str) -> Option<Pass> {
        let number = interface.strip_prefix('b').and_then(|number| number.parse::<usize>().ok());
        let (far, v4, v6) = match number {
            None => (&self.client, "10.10.0".to_owned(), "fd10:".to_owned()),
            Some(number) => (&self.backends[number], format!("10.20.{number}"), format!("fd20:{number}:")),
        };
        cable(&self.gateway, interface, far, "eth0", self.offloads);
        address(&self.gateway, interface, &[&format!("{v4}.1/24"), &format!("{v6}:1/64")]);
        address(far, "eth0", &[&format!("{v4}.2/24"), &format!("{v6}:2/64")]);
        far.ip(&format!("route add default via {v4}.1"));
        far.ip(&format!("-6 route add default via {v6}:1"));
        (!self.offloads).then(|| Pass::attach(far, "eth0"))
    }

    fn connect_one_arm(&mut self) {
        let Some(switch) = &self._switch else { return };
        switch.ip("link add br0 type bridge");
        switch.ip("link set br0 up");
        let mut hosts = vec![(&self.gateway, "gw".to_string(), 1)];
        hosts.push((&self.client, "client".into(), 2));
        hosts
            .extend(self.backends.iter().enumerate().map(|(number, space)| (space, format!("b{number}"), 10 + number)));
        for (space, port, host) in hosts {
            cable(switch, &port, space, "eth0", self.offloads);
            switch.ip(&format!("link set {port} master br0"));
            address(space, "eth0", &[&format!("10.10.0.{host}/24"), &format!("fd10::{host}/64")]);
        }
        self.interfaces.push("eth0".into());
        self.passes.extend((!self.offloads).then(|| Pass::attach(switch, "gw")));
    }

    /// Counts numbered datagrams at each backend, where they end; the rest passes. Two arms only.
    pub fn count_arrivals(&mut self) -> Vec<tally::Tally> {
        assert_eq!(self.arms, Arms::Two, "on one arm the switch passes frames on");
        self.passes.truncate(1);
        self.backends.iter().map(|space| tally::Tally::arriving(space, "eth0")).collect()
    }

    /// Sets the MTU of everything between gateway and backends; the client's stays.
    pub fn widen(&self, mtu: u16) {
        for (number, backend) in self.backends.iter().enumerate() {
            backend.ip(&format!("link set eth0 mtu {mtu}"));
            match &self._switch {
                Some(switch) => switch.ip(&format!("link set b{number} mtu {mtu}")),
                None => self.gateway.ip(&format!("link set b{number} mtu {mtu}")),
            }
        }
        if let Some(switch) = &self._switch {
            switch.ip(&format!("link set gw mtu {mtu}"));
            switch.ip(&format!("link set br0 mtu {mtu}"));
            self.gateway.ip(&format!("link set eth0 mtu {mtu}"));
        }
    }

    /// Makes every backend one that answers for the VIPs itself: they are local there, nobody asks for them there, and
    /// tunnels end there.
    pub fn serve_directly(&self) {
        let egctl = gateway::binary("egctl");
        let egctl = egctl.to_str().expect("a plain path");
        for (number, backend) in self.backends.iter().enumerate() {
            for setting in ["arp_ignore=1", "arp_announce=2", "rp_filter=0"] {
                backend.run("sysctl", &["-qw", &format!("net.ipv4.conf.all.{setting}")]);
            }
            backend.ip(&format!("addr add {}/32 dev lo", self.vip(false)));
            backend.ip(&format!("addr add {}/128 dev lo nodad", self.vip(true)));
            let (root, vips) =
                (self.pin_root.join(format!("on-b{number}")), [false, true].map(|v6| self.vip(v6).to_string()));
            let root = root.to_str().expect("a plain path");
            let mut arguments = vec!["--pin-root", root, "backend", "attach", "eth0"];
            vips.iter().for_each(|vip| arguments.extend(["--vip", vip]));
            backend.run(egctl, &arguments);
        }
    }

    /// A VIP on the client's link, the same in every topology.
    pub fn vip(&self, v6: bool) -> IpAddr {
        if v6 { "fd10::100".parse().unwrap() } else { "10.10.0.100".parse().unwrap() }
    }

    /// Where a backend listens.
    pub fn backend_address(&self, number: usize, v6: bool, port: u16) -> SocketAddr {
        let ip: IpAddr = match (self.arms, v6) {
            (Arms::Two, false) => format!("10.20.{number}.2").parse().unwrap(),
            (Arms::Two, true) => format!("fd20:{number}::2").parse().unwrap(),
            (Arms::One, false) => format!("10.10.0.{}", 10 + number).parse().unwrap(),
            (Arms::One, true) => format!("fd10::{}", 10 + number).parse().unwrap(),
        };
        SocketAddr::new(ip, port)
    }
}

impl Drop for Topology {
    fn drop(&mut self) {
        remove_tree(&self.pin_root);
    }
}

/// Two ends of a cable, up, sending finished checksums.
fn veth(one: &Netns, one_name: &str, other: &Netns, other_name: &str) {
    cable(one, one_name, other, other_name, false);
}

/// The same; with `offloads`, checksums and segmentation are left to whoever receives.
fn cable(one: &Netns, one_name: &str, other: &Netns, other_name: &str, offloads: bool) {
    one.ip(&format!("link add {one_name} type veth peer name {other_name} netns {}", other.name()));
    for (space, name) in [(one, one_name), (other, other_name)] {
        if !offloads {
            space.run("ethtool", &["-K", name, "tx", "off"]);
        }
        space.ip(&format!("link set {name} up"));
    }
}

fn address(space: &Netns, interface: &str, addresses: &[&str]) {
    for address in addresses {
        // No duplicate address detection: it would keep an address unusable for a second.
        let nodad = if address.contains(':') { " nodad" } else { "" };
        space.ip(&format!("addr add {address} dev {interface}{nodad}"));
    }
}

/// Both ends of a thousand connections are this process's.
fn allow_descriptors() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("RLIMIT_NOFILE");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("RLIMIT_NOFILE");
}

fn mount_bpffs() {
    let mounted = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    if !mounted.lines().any(|line| line.split(' ').nth(1) == Some("/sys/fs/bpf")) {
        // Another test process may do the same at this moment: that it is mounted afterwards is what counts.
        let _ = Command::new("mount").args(["-t", "bpf", "bpf", "/sys/fs/bpf"]).status();
    }
}

fn remove_tree(path: &Path) {
    if let Ok(entries) = std::fs::read_dir(path) {
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                remove_tree(&entry.path());
            } else {
                let _ = std::fs::remove_file(entry.path());
            }
        }
        let _ = std::fs::remove_dir(path);
    }
}
