// SPDX-License-Identifier: GPL-3.0-only
//! What changes under established flows: the pool, the process, a neighbour's MAC. Needs root, XDP and namespaces.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use eg_abi::{Backend, BackendState, PROTO_TCP, Pool, Vip};
use eg_kernel_tests::require;
use eg_kernel_tests::topology::config::{SERVICE, Service};
use eg_kernel_tests::topology::echo::{Connection, Echo, Flow};
use eg_kernel_tests::topology::gateway::{Gateway, generation, maps};
use eg_kernel_tests::topology::{Arms, Topology};
use nix::sys::signal::Signal;

fn can_run() -> bool {
    ["root", "netns", "bpffs", "xdp", "ethtool"].iter().all(|feature| require(feature))
}

fn start_echoes(topology: &Topology) -> Vec<Echo> {
    topology.backends.iter().enumerate().map(|(number, space)| Echo::start(space, number as u8)).collect()
}

/// Established flows of both transports and families.
struct Established {
    tcp: Vec<Connection>,
    udp: Vec<(Flow, u8)>,
}

impl Established {
    fn open(topology: &Topology, each: usize) -> Established {
        let vips = [false, true].map(|v6| SocketAddr::new(topology.vip(v6), SERVICE));
        topology.client.enter(|| {
            let each_vip = || vips.iter().flat_map(|vip| std::iter::repeat_n(*vip, each));
            let tcp = each_vip().map(|vip| Connection::open(vip).expect("a connection")).collect();
            let udp = each_vip().map(|vip| Flow::open(vip).expect("a socket"));
            let udp = udp.map(|flow| flow.exchange(b"first").map(|backend| (flow, backend)).expect("an answer"));
            Established { tcp, udp: udp.collect() }
        })
    }

    /// Data flows both ways on each, and each still has its backend.
    fn check(&mut self, when: &str) {
        for connection in &mut self.tcp {
            let client = connection.stream.local_addr().expect("a local address");
            connection.exchange(when.as_bytes()).unwrap_or_else(|error| panic!("{when}: tcp {client}: {error}"));
        }
        for (flow, backend) in &self.udp {
            let answer = flow.exchange(when.as_bytes()).unwrap_or_else(|error| panic!("{when}: udp: {error}"));
            assert_eq!(answer, *backend, "{when}: a udp flow moved");
        }
    }
}

/// Everything that flows refer to.
fn identities(topology: &Topology) -> (Vec<Vip>, Vec<Pool>, Vec<Backend>) {
    let maps = maps(topology).expect("pinned maps");
    (
        (0..16).map(|id| maps.vips.get(id).expect("eg_vips")).collect(),
        (0..16).map(|id| maps.pools.get(id).expect("eg_pools")).collect(),
        (0..16).map(|id| maps.backends.get(id).expect("eg_backends")).collect(),
    )
}

fn backends_in(topology: &Topology, state: BackendState) -> usize {
    let (_, _, backends) = identities(topology);
    backends.iter().filter(|backend| u32::from(backend.state) == state.code()).count()
}

#[test]
fn a_backend_removed_by_reload_keeps_its_flows_and_gets_no_new_ones() {
    if !can_run() {
        return;
    }
    let topology = Topology::new(Arms::Two, 3);
    let _echoes = start_echoes(&topology);
    let mut gateway = Gateway::start(&topology, &Service::of(&[0, 1, 2]).toml(&topology));
    let mut established = Established::open(&topology, 60);
    let with_the_removed = established.tcp.iter().filter(|connection| connection.backend == 1).count();
    assert!(with_the_removed > 0, "none of 120 connections went to b1");

    let fewer = Service::of(&[0, 2]);
    gateway.reload(&fewer.toml(&topology));
    assert_eq!(backends_in(&topology, BackendState::Draining), 2, "b1 in both pools");
    established.check("after the reload");

    let vip = SocketAddr::new(topology.vip(false), SERVICE);
    let pool = fewer.pool(false);
    topology.client.enter(|| {
        for _ in 0..100 {
            let connection = Connection::open(vip).expect("a connection");
            let client = connection.stream.local_addr().expect("a local address");
            assert_eq!(usize::from(connection.backend), fewer.backends[pool.pick(client, vip, PROTO_TCP)]);
        }
    });

    gateway.reload(&Service::of(&[0, 1, 2]).toml(&topology));
    assert_eq!(backends_in(&topology, BackendState::Draining), 0, "wanted again before it had left");
    established.check("after it came back");
}

#[test]
fn a_drained_backend_leaves_with_its_flows_when_its_time_is_over() {
    if !can_run() {
        return;
    }
    let topology = Topology::new(Arms::Two, 2);
    let _echoes = start_echoes(&topology);
    let short = |backends: &[usize]| Service { drain_timeout: "1s", ..Service::of(backends) };
    let mut gateway = Gateway::start(&topology, &short(&[0, 1]).toml(&topology));
    let mut established = Established::open(&topology, 20);
    let generations = identities(&topology).2;

    gateway.reload(&short(&[0]).toml(&topology));
    gateway.wait("the drained backends to leave", |_| backends_in(&topology, BackendState::Draining) == 0);
    let after = identities(&topology).2;
    let freed: Vec<_> = generations.iter().zip(&after).filter(|(old, new)| old != new).collect();
    assert_eq!(freed.len(), 2, "b1 in both pools");
    for (old, new) in freed {
        assert_eq!(new.generation, old.generation + 1);
        assert_eq!(u32::from(new.state), BackendState::None.code());
    }
    established.tcp.retain(|connection| connection.backend == 0);
    established.udp.retain(|(_, backend)| *backend == 0);
    established.check("the other backend's flows");
}

#[test]
fn a_removed_vip_is_gone_at_once_and_the_others_stay() {
    if !can_run() {
        return;
    }
    let topology = Topology::new(Arms::Two, 1);
    let _echoes = start_echoes(&topology);
    let service = Service::of(&[0]);
    let both = format!(
        "{}\n[[listeners]]\nname = \"second\"\naddress = \"203.0.113.9:81\"\nprotocol = \"tcp\"\npool = \"echo4\"\n",
        service.toml(&topology)
    );
    let mut gateway = Gateway::start(&topology, &both);
    let second: SocketAddr = "203.0.113.9:81".parse().unwrap();
    let open = || topology.client.enter(|| Connection::open(second));
    let mut doomed = open().expect("a vip that is on no link is reached by route");
    let mut established = Established::open(&topology, 5);
    assert!(topology.gateway.output("ip", &["route", "show", "table", "local"]).contains("203.0.113.9"));

    gateway.reload(&service.toml(&topology));
    established.check("after another vip was removed");
    assert!(open().is_err(), "the vip still takes connections");
    doomed.stream.set_read_timeout(Some(Duration::from_millis(500))).expect("timeout");
    assert!(doomed.exchange(b"still there?").is_err(), "the vip's flow outlived it");
    assert!(!topology.gateway.output("ip", &["route", "show", "table", "local"]).contains("203.0.113.9"));
}

#[test]
fn flows_outlive_a_restart_and_a_kill_and_data_passes_while_nobody_is_there() {
    if !can_run() {
        return;
    }
    let topology = Topology::new(Arms::Two, 3);
    let _echoes = start_echoes(&topology);
    let mut gateway = Gateway::start(&topology, &Service::of(&[0, 1, 2]).toml(&topology));
    let mut established = Established::open(&topology, 50);
    let before = identities(&topology);

    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        gateway.end(signal);
        established.check("while the gateway is dead");
        let more = Established::open(&topology, 5);
        gateway.launch();
        assert_eq!(identities(&topology), before, "the same configuration, the same numbers");
        established.check("after the gateway came back");
        drop(more);
    }
}

#[test]
fn a_neighbours_new_mac_is_followed() {
    if !can_run() {
        return;
    }
    let topology = Topology::new(Arms::Two, 1);
    let _echoes = start_echoes(&topology);
    // The kernel ignores a second address within a second of the first (arp(7), locktime).
    topology.gateway.run("sysctl", &["-qw", "net.ipv4.neigh.b0.locktime=0"]);
    topology.backends[0].run("sysctl", &["-qw", "net.ipv4.conf.all.arp_notify=1", "net.ipv6.conf.all.ndisc_notify=1"]);
    topology.backends[0]
        .run("sysctl", &["-qw", "net.ipv4.conf.eth0.arp_notify=1", "net.ipv6.conf.eth0.ndisc_notify=1"]);
    let mut gateway = Gateway::start(&topology, &Service::of(&[0]).toml(&topology));
    let mut established = Established::open(&topology, 10);

    topology.backends[0].ip("link set dev eth0 address 02:00:5e:10:00:01");
    let mac = [2, 0, 0x5e, 0x10, 0, 1];
    let began = Instant::now();
    gateway.wait("the new MAC", |_| {
        let up = identities(&topology).2.into_iter().filter(|backend| backend.ifindex != 0);
        up.filter(|backend| backend.dmac == mac).count() == 2
    });
    println!("followed within {:?}", began.elapsed());
    established.check("after the MAC changed");
}

/// At how many interfaces programs run, as /metrics says.
fn interfaces_attached(gateway: &Gateway<'_>) -> Option<u64> {
    let metrics = gateway.get("/metrics")?;
    let line = metrics.lines().find_map(|line| line.strip_prefix("expressgateway_l4_interfaces_attached "))?;
    line.trim().parse().ok()
}

/// By each rung: an interface's program goes with it, and comes back with its name.
#[test]
fn an_interface_that_is_made_anew_under_its_name_is_attached_again_without_a_reload() {
    if !can_run() {
        return;
    }
    for way in ["native", "tc"] {
        let topology = Topology::new(Arms::Two, 1);
        let _echoes = start_echoes(&topology);
        let configuration = Service::of(&[0]).toml(&topology).replace("xdp = \"native\"", &format!("xdp = {way:?}"));
        let mut gateway = Gateway::start(&topology, &configuration);
        assert_eq!(interfaces_attached(&gateway), Some(2), "{way}");
        Established::open(&topology, 2).check("before");
        let applied = generation(&topology);

        let mut passes = Vec::new();
        for interface in ["c0", "b0"] {
            topology.gateway.ip(&format!("link del {interface}"));
            gateway.wait("its loss to be counted", |gateway| interfaces_attached(gateway) == Some(1));
            passes.extend(topology.connect(interface));
            gateway.wait("it to be attached again", |gateway| interfaces_attached(gateway) == Some(2));
            // The host needs a moment for the neighbours behind it and for the IPv6 VIP's address.
            let vips = [false, true].map(|v6| SocketAddr::new(topology.vip(v6), SERVICE));
            let open = |vip: &SocketAddr| topology.client.enter(|| Connection::open(*vip)).is_ok();
            gateway.wait("traffic to flow again", |_| vips.iter().all(open));
            Established::open(&topology, 5).check("after");
        }
        assert_eq!(generation(&topology), applied, "nothing was reloaded");
        let said = gateway.said();
        assert_eq!(said.matches("not attached interface=").count(), 2, "one line for each loss:\n{said}");
    }
}

#[test]
fn a_backend_without_a_next_hop_waits_outside_the_ring() {
    if !can_run() {
        return;
    }
    let topology = Topology::new(Arms::Two, 2);
    let _echoes = start_echoes(&topology);
    topology.backends[1].ip("addr del 10.20.1.2/24 dev eth0");
    let service = Service::of(&[0, 1]);
    let mut gateway = Gateway::start(&topology, &service.toml(&topology));
    let vip = SocketAddr::new(topology.vip(false), SERVICE);
    topology.client.enter(|| {
        for _ in 0..50 {
            assert_eq!(Connection::open(vip).expect("a connection").backend, 0);
        }
    });

    topology.backends[1].ip("addr add 10.20.1.2/24 dev eth0");
    topology.backends[1].ip("route replace default via 10.20.1.1");
    let in_ring = |gateway: &Gateway<'_>| {
        let _ = gateway;
        let (_, pools, _) = identities(&topology);
        pools.iter().filter(|pool| pool.backends == 2).count() == 2
    };
    gateway.wait("the backend to enter its ring", in_ring);
    let pool = service.pool(false);
    topology.client.enter(|| {
        for _ in 0..50 {
            let connection = Connection::open(vip).expect("a connection");
            let client = connection.stream.local_addr().expect("a local address");
            assert_eq!(usize::from(connection.backend), pool.pick(client, vip, PROTO_TCP));
        }
    });
}

#[test]
fn another_flow_capacity_keeps_every_flow() {
    if !can_run() {
        return;
    }
    let topology = Topology::new(Arms::Two, 2);
    let _echoes = start_echoes(&topology);
    let service = Service::of(&[0, 1]).toml(&topology);
    let mut gateway = Gateway::start(&topology, &service);
    let mut established = Established::open(&topology, 100);
    let capacity = || maps(&topology).expect("pinned maps").flows.capacity();
    assert_eq!(capacity(), 2 * 65536);

    gateway.reload(&service.replace("flows = 65536", "flows = 131072"));
    assert_eq!(capacity(), 2 * 131_072, "a reload makes it larger");
    established.check("after growing");

    gateway.end(Signal::SIGTERM);
    let _smaller = Gateway::start(&topology, &service.replace("flows = 65536", "flows = 32768"));
    assert_eq!(capacity(), 2 * 32768, "a restart makes it smaller");
    established.check("after shrinking");
    let drops = maps(&topology).expect("pinned maps").drops.sum(eg_abi::Drop::NoFlow.code()).expect("the drops");
    assert_eq!(drops.packets, 0, "no packet met a table without its flow");
}
