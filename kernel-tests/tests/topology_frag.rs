// SPDX-License-Identifier: GPL-3.0-only
//! Datagrams of 8 KiB between hosts whose MTU is 1500, in both directions, their fragments in order and reversed on the
//! wire. Receivers are the kernel's own sockets, so a datagram arrives whole and with a fitting checksum or not at all.
//! Needs root, XDP and network namespaces.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use eg_abi::{Drop as Reason, PROTO_UDP};
use eg_kernel_tests::packet::fragments::split;
use eg_kernel_tests::packet::{Frame, L4};
use eg_kernel_tests::require;
use eg_kernel_tests::topology::config::{SERVICE, Service};
use eg_kernel_tests::topology::echo::{Echo, Flow, PORT};
use eg_kernel_tests::topology::gateway::{Gateway, maps};
use eg_kernel_tests::topology::wire::{Wire, mac};
use eg_kernel_tests::topology::{Arms, Topology};
use nix::sys::signal::Signal;
use pnet::util::MacAddr;

/// Bytes of a datagram; six fragments of either family.
const LENGTH: usize = 8192;
/// Where they are cut: multiples of eight that fit into 1500 with either family's headers.
const CUTS: [usize; 5] = [1440, 2880, 4320, 5760, 7200];
/// Flows, and datagrams of each: 200 in all.
const FLOWS: usize = 20;
const ROUNDS: usize = 10;

fn can_run() -> bool {
    ["root", "netns", "bpffs", "xdp", "ethtool"].iter().all(|feature| require(feature))
}

fn bytes(round: usize) -> Vec<u8> {
    (0..LENGTH).map(|byte| (byte * 3 + round) as u8).collect()
}

/// This datagram's fragments, last first.
fn reversed(wire: &mut Wire, to: MacAddr, source: SocketAddr, destination: SocketAddr, id: u32, bytes: &[u8]) {
    let frame = Frame::between(source, destination, L4::Udp).macs(wire.mac, to).payload(bytes);
    split(&frame.build(), id, &CUTS).iter().rev().for_each(|fragment| wire.send(fragment));
}

/// Every datagram that a backend gets goes back with its number before it, in reversed fragments.
struct Backwards {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Backwards {
    fn start(topology: &Topology) -> Backwards {
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for (number, space) in topology.backends.iter().enumerate() {
            let to = mac(&topology.gateway, &format!("b{number}"));
            for v6 in [false, true] {
                let at = topology.backend_address(number, v6, PORT);
                let (socket, mut wire) = space.enter(|| {
                    let socket = UdpSocket::bind(at).expect("bind");
                    socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout");
                    (socket, Wire::open("eth0"))
                });
                let end = Arc::clone(&stop);
                threads.push(std::thread::spawn(move || {
                    let (mut buffer, mut id) = (vec![0; 1 << 16], 0);
                    buffer[0] = number as u8;
                    while !end.load(Ordering::SeqCst) {
                        let Ok((length, from)) = socket.recv_from(&mut buffer[1..]) else { continue };
                        id += 1;
                        reversed(&mut wire, to, at, from, id, &buffer[..=length]);
                    }
                }));
            }
        }
        Backwards { stop, threads }
    }
}

impl Drop for Backwards {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

/// A client that sends its fragments last first.
struct Client {
    flow: Flow,
    here: SocketAddr,
}

impl Client {
    fn open(vip: SocketAddr) -> Client {
        let flow = Flow::open(vip).expect("a socket");
        let here = flow.socket.local_addr().expect("an address");
        Client { flow, here }
    }

    /// The answering backend, if a whole answer came.
    fn exchange(&self, wire: &mut Wire, to: MacAddr, vip: SocketAddr, id: u32, round: usize) -> Option<u8> {
        let sent = bytes(round);
        reversed(wire, to, self.here, vip, id, &sent);
        let mut back = vec![0; 1 << 16];
        let length = self.flow.socket.recv(&mut back).ok()?;
        assert_eq!(&back[1..length], &sent, "the datagram's own bytes");
        Some(back[0])
    }
}

/// Nothing was refused, and all that came in is accounted for.
fn no_drops(topology: &Topology) {
    let maps = maps(topology).expect("pinned maps");
    for reason in Reason::ALL {
        assert_eq!(maps.drops.sum(reason.code()).expect("eg_drops").packets, 0, "{reason:?}");
    }
}

/// The number behind a metric.
fn metric(gateway: &Gateway<'_>, name: &str) -> u64 {
    let page = gateway.get("/metrics").expect("metrics");
    let line = page.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name} in {page}"));
    line.rsplit(' ').next().and_then(|value| value.parse().ok()).expect("a number")
}

const RESUMED: &str = "expressgateway_l4_fragments_held_total{outcome=\"resumed\"}";
const EXPIRED: &str = "expressgateway_l4_fragments_held_total{outcome=\"expired\"}";

#[test]
fn fragmented_datagrams_and_their_answers_arrive_whole() {
    if !can_run() {
        return;
    }
    let topology = Topology::new(Arms::Two, 3);
    let _echoes: Vec<Echo> =
        topology.backends.iter().enumerate().map(|(number, space)| Echo::start(space, number as u8)).collect();
    for snat in [true, false] {
        let service = Service { snat, ..Service::of(&[0, 1, 2]) };
        let mut gateway = Gateway::start(&topology, &service.toml(&topology));
        for v6 in [false, true] {
            let (vip, pool) = (SocketAddr::new(topology.vip(v6), SERVICE), service.pool(v6));
            topology.client.enter(|| {
                let flows: Vec<Flow> = (0..FLOWS).map(|_| Flow::open(vip).expect("a socket")).collect();
                for round in 0..ROUNDS {
                    for (number, flow) in flows.iter().enumerate() {
                        let backend = flow.exchange(&bytes(round)).unwrap_or_else(|error| panic!("{number}: {error}"));
                        let client = flow.socket.local_addr().expect("an address");
                        assert_eq!(usize::from(backend), pool.pick(client, vip, PROTO_UDP), "{client}");
                    }
                }
            });
        }
        no_drops(&topology);
        gateway.end(Signal::SIGTERM);
    }
}

#[test]
fn tc_carries_fragments_between_hosts_with_offloads() {
    if !can_run() {
        return;
    }
    let topology = Topology::with_offloads(Arms::Two, 2);
    let _echoes: Vec<Echo> =
        topology.backends.iter().enumerate().map(|(number, space)| Echo::start(space, number as u8)).collect();
    let service = Service::of(&[0, 1]);
    let toml = service.toml(&topology).replace("xdp = \"native\"", "xdp = \"tc\"");
    let _gateway = Gateway::start(&topology, &toml);
    for v6 in [false, true] {
        let (vip, pool) = (SocketAddr::new(topology.vip(v6), SERVICE), service.pool(v6));
        topology.client.enter(|| {
            for number in 0..FLOWS {
                let flow = Flow::open(vip).expect("a socket");
                let backend = flow.exchange(&bytes(number)).unwrap_or_else(|error| panic!("{number}: {error}"));
                let client = flow.socket.local_addr().expect("an address");
                assert_eq!(usize::from(backend), pool.pick(client, vip, PROTO_UDP), "{client}");
            }
        });
    }
    no_drops(&topology);
}

#[test]
fn reversed_fragments_arrive_whole_in_both_directions() {
    if !can_run() {
        return;
    }
    let topology = Topology::new(Arms::Two, 3);
    let _backwards = Backwards::start(&topology);
    let service = Service::of(&[0, 1, 2]);
    let mut gateway = Gateway::start(&topology, &service.toml(&topology));
    let to = mac(&topology.gateway, "c0");
    for v6 in [false, true] {
        let (vip, pool) = (SocketAddr::new(topology.vip(v6), SERVICE), service.pool(v6));
        topology.client.enter(|| {
            let mut wire = Wire::open("eth0");
            let clients: Vec<Client> = (0..FLOWS).map(|_| Client::open(vip)).collect();
            for round in 0..ROUNDS {
                for (number, client) in clients.iter().enumerate() {
                    let id = (round * FLOWS + number) as u32;
                    let backend = client.exchange(&mut wire, to, vip, id, round);
                    let backend = backend.unwrap_or_else(|| panic!("no answer to {number} in round {round}"));
                    assert_eq!(usize::from(backend), pool.pick(client.here, vip, PROTO_UDP), "{}", client.here);
                }
            }
        });
    }
    no_drops(&topology);
    // All but the first of each, both ways, in both families.
    let held = (2 * 2 * FLOWS * ROUNDS * CUTS.len()) as u64;
    gateway.wait("the last held fragments", |gateway| metric(gateway, RESUMED) == held);
    assert_eq!(metric(&gateway, EXPIRED), 0);
    assert_eq!(metric(&gateway, "expressgateway_l4_fragments_waiting"), 0);
}

#[test]
fn a_fragment_whose_first_never_comes_is_dropped_and_counted_after_a_second() {
    if !can_run() {
        return;
    }
    let topology = Topology::new(Arms::Two, 1);
    let service = Service::of(&[0]);
    let mut gateway = Gateway::start(&topology, &service.toml(&topology));
    let maps = maps(&topology).expect("pinned maps");
    let to = mac(&topology.gateway, "c0");
    let before = maps.totals().expect("totals").dropped;
    for v6 in [false, true] {
        let vip = SocketAddr::new(topology.vip(v6), SERVICE);
        topology.client.enter(|| {
            let mut wire = Wire::open("eth0");
            let here = Client::open(vip).here;
            let frame = Frame::between(here, vip, L4::Udp).macs(wire.mac, to).payload(&bytes(0)).build();
            split(&frame, 1, &CUTS)[1..].iter().for_each(|fragment| wire.send(fragment));
        });
    }
    let lost = 2 * CUTS.len() as u64;
    gateway.wait("the end of patience", |gateway| metric(gateway, EXPIRED) == lost);
    assert_eq!(maps.drops.sum(Reason::FragmentEarly.code()).expect("eg_drops").packets, lost);
    let dropped = maps.totals().expect("totals").dropped;
    assert_eq!(dropped.packets - before.packets, lost, "each counts once");
}

#[test]
fn without_the_process_fragments_in_order_still_arrive_and_early_ones_are_dropped() {
    if !can_run() {
        return;
    }
    let topology = Topology::new(Arms::Two, 2);
    let _echoes: Vec<Echo> =
        topology.backends.iter().enumerate().map(|(number, space)| Echo::start(space, number as u8)).collect();
    let service = Service::of(&[0, 1]);
    let mut gateway = Gateway::start(&topology, &service.toml(&topology));
    let maps = maps(&topology).expect("pinned maps");
    let vip = SocketAddr::new(topology.vip(false), SERVICE);
    let to = mac(&topology.gateway, "c0");
    gateway.end(Signal::SIGKILL);
    topology.client.enter(|| {
        let client = Client::open(vip);
        client.flow.exchange(&bytes(0)).expect("in order");
        let mut wire = Wire::open("eth0");
        assert_eq!(client.exchange(&mut wire, to, vip, 77, 1), None, "reversed, with nobody to hold");
        client.flow.exchange(&bytes(2)).expect("in order again");
    });
    let early = maps.drops.sum(Reason::FragmentEarly.code()).expect("eg_drops").packets;
    assert_eq!(early, CUTS.len() as u64);
}

#[test]
fn stable_fragments_need_no_holding_and_no_process() {
    if !can_run() {
        return;
    }
    let topology = Topology::new(Arms::Two, 3);
    let _echoes: Vec<Echo> =
        topology.backends.iter().enumerate().map(|(number, space)| Echo::start(space, number as u8)).collect();
    let service = Service::of(&[0, 1, 2]);
    let toml = service.toml(&topology).replace("protocol = \"udp\"\n", "protocol = \"udp\"\nfragments = \"stable\"\n");
    let mut gateway = Gateway::start(&topology, &toml);
    let to = mac(&topology.gateway, "c0");
    for dead in [false, true] {
        if dead {
            gateway.end(Signal::SIGKILL);
        }
        for v6 in [false, true] {
            let (vip, pool) = (SocketAddr::new(topology.vip(v6), SERVICE), service.pool(v6));
            topology.client.enter(|| {
                let mut wire = Wire::open("eth0");
                for number in 0..FLOWS {
                    let client = Client::open(vip);
                    let without = |at: SocketAddr| SocketAddr::new(at.ip(), 0);
                    let expected = pool.pick(without(client.here), without(vip), PROTO_UDP);
                    let id = (number + 1000 * usize::from(dead)) as u32;
                    let backend = client.exchange(&mut wire, to, vip, id, number);
                    assert_eq!(backend.map(usize::from), Some(expected), "{number}: {}", client.here);
                }
            });
        }
        if !dead {
            assert_eq!(metric(&gateway, RESUMED), 0, "none was held");
        }
    }
    no_drops(&topology);
}
