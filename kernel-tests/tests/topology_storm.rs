// SPDX-License-Identifier: GPL-3.0-only
//! Many changes under many flows. Needs root, XDP and network namespaces. `EG_FULL=1`: 5,000 connections and 100,000 flows,
//! and 1,000 pools.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use eg_abi::BackendState;
use eg_kernel_tests::packet::frame::SYN;
use eg_kernel_tests::packet::{Frame, L4, Outcome, Verdict, judge};
use eg_kernel_tests::topology::config::{SERVICE, Service};
use eg_kernel_tests::topology::echo::{Connection, Echo, PORT};
use eg_kernel_tests::topology::gateway::{Gateway, maps};
use eg_kernel_tests::topology::inject::{Injector, index};
use eg_kernel_tests::topology::{Arms, Topology};
use eg_kernel_tests::{full, require};

fn can_run() -> bool {
    ["root", "netns", "bpffs", "xdp", "ethtool"].iter().all(|feature| require(feature))
}

fn start_echoes(topology: &Topology) -> Vec<Echo> {
    topology.backends.iter().enumerate().map(|(number, space)| Echo::start(space, number as u8)).collect()
}

/// The n-th client of flows that no socket has.
fn client(number: usize) -> SocketAddr {
    let ip = Ipv4Addr::from(u32::from(Ipv4Addr::new(100, 64, 0, 1)) + number as u32 / 10_000);
    SocketAddr::new(ip.into(), 20_000 + (number % 10_000) as u16)
}

/// A UDP flow made of frames: what the client sends, and what comes out.
struct Made {
    frame: Vec<u8>,
    out: Outcome,
}

impl Made {
    /// Sends the first frame, and the backend's answer, which establishes the flow. Inside the gateway's namespace.
    fn open(injector: &Injector, number: usize, vip: SocketAddr) -> Made {
        let frame = Frame::between(client(number), vip, L4::Udp).build();
        let out = injector.receive(&frame, index("c0"));
        assert_eq!(out.verdict, Verdict::Redirect, "flow {number}");
        let there = judge::read(&out.bytes).expect("a UDP frame");
        let answer = Frame::between(there.destination, there.source, L4::Udp).build();
        let SocketAddr::V4(backend) = there.destination else { panic!("an IPv4 flow") };
        let back = injector.receive(&answer, index(&format!("b{}", backend.ip().octets()[2])));
        assert_eq!(back.verdict, Verdict::Redirect, "the answer of flow {number}");
        assert_eq!(judge::read(&back.bytes).expect("a UDP frame").destination, client(number));
        Made { frame, out }
    }
}

/// One configuration after another: backends leave and come back, weights, algorithms and addresses change.
fn change(topology: &Topology, round: usize) -> String {
    let backends: &[usize] = match round % 4 {
        0 => &[0, 1, 2, 3],
        1 => &[0, 2, 3],
        2 => &[0, 1, 3],
        _ => &[1, 2, 3],
    };
    let weight = |number: usize| (round + number) % 3 + 1;
    let mut toml = base(topology, backends);
    for number in 0..4 {
        let address = format!("address = \"{}\"\n", topology.backend_address(number, false, PORT));
        toml = toml.replace(&address, &format!("{address}weight = {}\n", weight(number)));
    }
    if round % 5 == 4 {
        // Another address under a name that stays: the old one leaves, its flows do not.
        let old = format!("\"{}\"", topology.backend_address(3, false, PORT));
        toml = toml.replace(&old, &format!("\"{}\"", topology.backend_address(1, false, PORT + 1)));
    }
    match round % 3 {
        0 => toml,
        1 => toml.replace("\"maglev\"", "\"ring-hash\""),
        _ => toml.replace("\"maglev\"", "\"least-connections\""),
    }
}

fn base(topology: &Topology, backends: &[usize]) -> String {
    let toml = Service { drain_timeout: "3600s", ..Service::of(backends) }.toml(topology);
    let keys = "flows = 262144\ntimeout_udp = \"3600s\"\nsnat_ports = \"2048-65535\"\n";
    toml.replace("flows = 65536\n", keys)
}

#[test]
fn a_storm_of_changes_breaks_no_flow() {
    if !can_run() {
        return;
    }
    let (real, made, rounds) = if full() { (5_000, 95_000, 60) } else { (500, 20_000, 12) };
    let topology = Topology::new(Arms::Two, 4);
    let _echoes = start_echoes(&topology);
    // The gateway's own connections need few ports here.
    topology.gateway.run("sysctl", &["-qw", "net.ipv4.ip_local_port_range=1024 2047"]);
    let mut gateway = Gateway::start(&topology, &base(&topology, &[0, 1, 2, 3]));
    let vip = SocketAddr::new(topology.vip(false), SERVICE);
    let connections: Vec<Connection> =
        topology.client.enter(|| (0..real).map(|_| Connection::open(vip).expect("a connection")).collect());
    let injector = Injector::of(&topology.gateway, "c0");
    let flows: Vec<Made> =
        topology.gateway.enter(|| (0..made).map(|number| Made::open(&injector, number, vip)).collect());

    let (over, exchanges) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let over = Over(&over);
        let (topology, exchanges, stop) = (&topology, &exchanges, over.0);
        let mut connections = connections;
        let client = scope.spawn(move || {
            topology.client.enter(|| {
                while !stop.load(Ordering::SeqCst) {
                    for connection in &mut connections {
                        connection.exchange(b"in the storm").expect("a connection broke");
                        exchanges.fetch_add(1, Ordering::SeqCst);
                    }
                }
            });
        });
        for round in 1..=rounds {
            gateway.reload(&change(topology, round));
            // Each connection has carried bytes under each configuration.
            let before = exchanges.load(Ordering::SeqCst);
            gateway.wait("the connections' bytes", |_| {
                exchanges.load(Ordering::SeqCst) >= before + 2 * real as u64 || client.is_finished()
            });
        }
        drop(over);
    });
    topology.gateway.enter(|| {
        let injector = Injector::of(&topology.gateway, "c0");
        for (number, flow) in flows.iter().enumerate() {
            assert_eq!(injector.receive(&flow.frame, index("c0")), flow.out, "flow {number} moved");
        }
    });
    println!("{} exchanges on {real} connections, {made} flows, {rounds} changes", exchanges.load(Ordering::SeqCst));
}

/// Ends the client also when a change fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn pools_that_lose_the_same_backend_stop_using_it_before_the_first_ring_is_rebuilt() {
    if !can_run() {
        return;
    }
    // So many flows each that all of them leave most source ports towards the backend that stays free.
    let (pools, flows): (u16, u32) = if full() { (1_000, 4) } else { (40, 16) };
    let topology = Topology::new(Arms::Two, 2);
    let vip = |pool: u16| SocketAddr::new(topology.vip(false), 2_000 + pool);
    let configuration = |backends: &[usize]| {
        let mut toml = Service::of(&[0, 1]).toml(&topology);
        for pool in 0..pools {
            toml += &format!(
                "\n[[listeners]]\nname = \"l{pool}\"\naddress = \"{}\"\nprotocol = \"tcp\"\npool = \"p{pool}\"\n",
                vip(pool)
            );
            toml += &format!("\n[pools.p{pool}]\nalgorithm = \"maglev\"\n");
            for number in backends {
                let address = topology.backend_address(*number, false, PORT);
                toml += &format!("\n[[pools.p{pool}.backends]]\nname = \"b{number}\"\naddress = \"{address}\"\n");
            }
        }
        toml
    };
    let mut gateway = Gateway::start(&topology, &configuration(&[0, 1]));
    let injector = Injector::of(&topology.gateway, "c0");
    let pinned = maps(&topology).expect("pinned maps");
    let mut next = 0;
    let mut picks = |pool: u16| {
        topology.gateway.enter(|| {
            let picked = (0..flows).map(|_| {
                next += 1;
                let out = injector.receive(&Frame::between(client(next), vip(pool), L4::Tcp(SYN)).build(), index("c0"));
                assert_eq!(out.verdict, Verdict::Redirect);
                judge::read(&out.bytes).expect("a TCP frame").destination
            });
            picked.collect::<Vec<_>>()
        })
    };
    let leaves = topology.backend_address(1, false, PORT);
    assert!((0..pools).flat_map(&mut picks).any(|at| at == leaves), "it had its share");

    let said = gateway.said().len();
    gateway.configure(&configuration(&[0]));
    let began = Instant::now();
    gateway.signal(nix::sys::signal::Signal::SIGHUP);
    let draining = |_: &Gateway<'_>| {
        let ids = 1..=u32::from(pools) * 2 + 4;
        let states = ids.map(|id| pinned.backends.get(id).expect("eg_backends").state);
        states.filter(|state| u32::from(*state) == BackendState::Draining.code()).count() == usize::from(pools)
    };
    gateway.wait("the backend to drain in every pool", draining);
    println!("{pools} pools, {:?} after the signal", began.elapsed());
    assert!((0..pools).flat_map(&mut picks).all(|at| at != leaves), "a new flow went to a backend that drains");
    gateway.wait("the rings", |gateway| gateway.said()[said..].matches("ring built").count() == usize::from(pools));
    let log = gateway.said();
    let (last, first) = (log[said..].rfind("backend drains"), log[said..].find("ring built"));
    assert!(last < first, "a ring was rebuilt before every pool had stopped using the backend");
    assert!((0..pools).flat_map(&mut picks).all(|at| at != leaves));
}
