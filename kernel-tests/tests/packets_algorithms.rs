// SPDX-License-Identifier: GPL-3.0-only
//! Each of the eleven algorithms as the kernel program makes its choice, against `eg_balance`'s for the same flow, loads
//! and random number (which is the flow's hash here).

use std::net::SocketAddr;
use std::time::Duration;

use eg_abi::{Algorithm as Kernel, BackendState, FlowKey, PROTO_TCP, Plain as _, Pool, Slot};
use eg_balance::load::Candidate;
use eg_balance::ring::SLOTS;
use eg_balance::{Algorithm, Ring, ewma, hash, least_connections, p2c};
use eg_kernel_tests::packet::frame::{ACK, BACKEND_ISN, CLIENT_ISN, GATEWAY_MAC, SYN};
use eg_kernel_tests::packet::gateway::backend_mac;
use eg_kernel_tests::packet::random::Random;
use eg_kernel_tests::packet::{Frame, Gateway, L4, Tunables, Verdict, judge};
use eg_kernel_tests::require;
use eg_skel::maps::NewRing;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

const KEY: [u64; 2] = [0x1122334455667788, 0x99aabbccddeeff00];
const VIP: &str = "203.0.113.7:443";

/// A pool of `weights.len()` backends, with ids from 1, behind one VIP.
struct World {
    gateway: Gateway,
    weights: Vec<u16>,
    ring: Ring,
}

impl World {
    fn new(algorithm: Algorithm, weights: &[u16], affinity: (u8, u32)) -> World {
        let gateway = Gateway::with(&Tunables { hash_chooses: true, ..Tunables::default() });
        let names: Vec<String> = (0..weights.len()).map(|index| format!("b{index}")).collect();
        let named: Vec<(&str, u32)> =
            names.iter().map(String::as_str).zip(weights.iter().map(|w| u32::from(*w))).collect();
        let plain: Vec<u32> = weights.iter().map(|weight| u32::from(*weight)).collect();
        for (index, weight) in weights.iter().enumerate() {
            let id = index as u32 + 1;
            let at = SocketAddr::from(([10, 0, (id >> 8) as u8, id as u8], 8443));
            gateway.backend(id, at, "10.9.9.9".parse().unwrap());
            gateway.change_backend(id, |backend| {
                backend.weight = *weight;
                backend.price = ewma::price(u32::from(*weight), &plain);
            });
        }
        let ring = algorithm.ring(KEY, &named);
        gateway.vip(1, VIP.parse().unwrap(), PROTO_TCP, 1, true);
        let world = World { gateway, weights: weights.to_vec(), ring };
        world.choose(algorithm, &world.ring, affinity);
        world
    }

    /// Has the pool choose by this ring.
    fn choose(&self, algorithm: Algorithm, ring: &Ring, (prefix4, affinity_s): (u8, u32)) {
        let id = |index: Option<usize>| index.map_or(0, |index| index as u32 + 1);
        let slots: Vec<Slot> = (0..SLOTS)
            .map(|slot| ring.at(slot))
            .map(|(primary, alternate)| Slot { primary: id(primary), alternate: id(alternate) })
            .collect();
        self.gateway.maps().rings.set(1, &NewRing::new(&slots).unwrap()).unwrap();
        let kernel = Kernel::ALL.iter().find(|kernel| kernel.label() == algorithm.name()).expect("the same names");
        let pool = Pool {
            hash_key: KEY,
            backends: self.weights.len() as u32,
            period: ring.period() as u32,
            algorithm: kernel.code() as u8,
            prefix4,
            prefix6: 64,
            pad: 0,
            affinity_s,
        };
        self.gateway.maps().pools.set(1, &pool).unwrap();
    }

    fn key(client: SocketAddr) -> u64 {
        hash::flow(KEY, &FlowKey::new(client, VIP.parse().unwrap(), PROTO_TCP).to_bytes())
    }

    /// The slot of a source's prefix.
    fn source_slot(client: SocketAddr, prefix: u32) -> usize {
        let SocketAddr::V4(client) = client else { panic!("IPv4") };
        let masked = u32::from(*client.ip()) & (u32::MAX << (32 - prefix));
        let nowhere = SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 0], 0));
        let key = FlowKey::new(SocketAddr::from((masked.to_be_bytes(), 0)), nowhere, 0);
        Ring::slot(hash::flow(KEY, &key.to_bytes()))
    }

    fn takes(&self, index: usize) -> bool {
        let backend = self.gateway.maps().backends.get(index as u32 + 1).unwrap();
        u32::from(backend.state) == BackendState::Up.code()
    }

    fn load(&self, index: usize, algorithm: Algorithm) -> u32 {
        let load = self.gateway.maps().loads.get(index as u32 + 1);
        let count = if algorithm == Algorithm::LeastConnections { load.flows } else { load.outstanding };
        u32::try_from(count.max(0)).unwrap()
    }

    fn candidate(&self, index: usize, algorithm: Algorithm) -> Candidate {
        let weight = if self.takes(index) { self.weights[index] } else { 0 };
        Candidate { load: self.load(index, algorithm), weight }
    }

    /// What `eg_balance` says about a new flow of this client's, which is the `turn`th of this CPU.
    fn expected(&self, algorithm: Algorithm, client: SocketAddr, turn: u32) -> Option<usize> {
        let random = World::key(client);
        let by_slot = |slot| self.ring.pick_at(slot, |index| self.takes(index));
        match algorithm {
            Algorithm::Maglev | Algorithm::RingHash => by_slot(Ring::slot(random)),
            Algorithm::SessionAffinity => by_slot(World::source_slot(client, 24)),
            Algorithm::RoundRobin | Algorithm::WeightedRoundRobin => by_slot(self.ring.turn(turn)),
            Algorithm::Random | Algorithm::WeightedRandom => by_slot(self.ring.draw((random >> 32) as u32)),
            Algorithm::P2c => p2c::pick(&self.ring, random, |index| self.candidate(index, algorithm)),
            Algorithm::LeastConnections | Algorithm::LeastRequests => {
                least_connections::pick(&self.ring, random, |index| self.candidate(index, algorithm))
            }
            Algorithm::Ewma => ewma::pick(&self.ring, random, |index| {
                // Nothing was measured yet: what is outstanding alone decides.
                let price = self.gateway.maps().backends.get(index as u32 + 1).unwrap().price;
                self.takes(index).then(|| ewma::cost(0, self.load(index, algorithm), price))
            }),
        }
    }

    /// Opens a flow; the index of the backend that it went to.
    fn open(&self, client: SocketAddr) -> Option<(usize, judge::Seen)> {
        let syn = Frame::between(client, VIP.parse().unwrap(), L4::Tcp(SYN)).payload(b"");
        let outcome = self.gateway.receive(&syn.build());
        (outcome.verdict == Verdict::Tx).then(|| {
            let seen = judge::read(&outcome.bytes).expect("a TCP frame");
            let SocketAddr::V4(backend) = seen.destination else { panic!("IPv4") };
            let [_, _, high, low] = backend.ip().octets();
            (usize::from(high) * 256 + usize::from(low) - 1, seen)
        })
    }

    /// The backend's SYN-ACK and the client's ACK.
    fn establish(&self, client: SocketAddr, index: usize, seen: &judge::Seen) {
        let mut reply = Frame::between(seen.destination, seen.source, L4::Tcp(SYN | ACK))
            .macs(backend_mac(index as u32 + 1), GATEWAY_MAC)
            .payload(b"");
        (reply.seq, reply.ack) = (BACKEND_ISN, CLIENT_ISN.wrapping_add(1));
        assert_eq!(self.gateway.receive(&reply.build()).verdict, Verdict::Tx);
        let ack = Frame::between(client, VIP.parse().unwrap(), L4::Tcp(ACK)).payload(b"");
        assert_eq!(self.gateway.receive(&ack.build()).verdict, Verdict::Tx);
    }
}

/// Turns are counted per CPU.
fn stay_on_one_cpu() {
    let mut cpus = CpuSet::new();
    cpus.set(0).expect("CPU 0");
    sched_setaffinity(Pid::from_raw(0), &cpus).expect("an affinity");
}

fn client(number: u32) -> SocketAddr {
    let [_, a, b, c] = (number / 7).to_be_bytes();
    SocketAddr::from(([60 + a, b, c, (number % 7) as u8 + 1], 1024 + (number % 50_000) as u16))
}

#[test]
fn every_algorithm_picks_as_eg_balance_does() {
    if !require("xdp") {
        return;
    }
    stay_on_one_cpu();
    for backends in [5usize, 100] {
        let weights: Vec<u16> = (0..backends).map(|index| [1, 2, 5][index % 3]).collect();
        for algorithm in Algorithm::ALL {
            let world = World::new(algorithm, &weights, (24, 0));
            let mut random = Random(7);
            for index in 0..backends {
                let (flows, outstanding) = (random.below(20) as i64, random.below(20) as i64);
                world.gateway.maps().loads.add(index as u32 + 1, flows, outstanding);
            }
            let mut hits = vec![0u32; backends];
            for turn in 0..600 {
                if turn == 400 {
                    // Somebody fails: who stands in is the same too.
                    world.gateway.change_backend(2, |backend| backend.state = BackendState::Down.code() as u8);
                }
                let client = client(turn);
                let expected = world.expected(algorithm, client, turn);
                let picked = world.open(client).map(|(index, _)| index);
                assert_eq!(picked, expected, "{algorithm:?} of {backends}: flow {turn}");
                if let Some(index) = picked {
                    hits[index] += 1;
                    // As if it were established at once.
                    world.gateway.maps().loads.add(index as u32 + 1, 1, 0);
                }
            }
            assert!(hits.iter().filter(|hits| **hits > 0).count() > backends / 2, "{algorithm:?}: {hits:?}");
        }
    }
}

#[test]
fn connections_count_when_established_and_requests_from_the_first_packet() {
    if !require("xdp") {
        return;
    }
    let world = World::new(Algorithm::LeastConnections, &[1, 1], (32, 0));
    let loads = || [1, 2].map(|id| world.gateway.maps().loads.get(id)).map(|load| (load.flows, load.outstanding));
    let (first, seen) = world.open(client(1)).expect("a backend");
    let other = 1 - first;
    assert_eq!((loads()[first], loads()[other]), ((0, 1), (0, 0)));
    world.establish(client(1), first, &seen);
    assert_eq!((loads()[first], loads()[other]), ((1, 1), (0, 0)));
    // One connection is more than none, however many wait.
    for number in 2..6 {
        assert_eq!(world.open(client(number)).expect("a backend").0, other);
    }
    assert_eq!((loads()[first], loads()[other]), ((1, 1), (0, 4)));
}

#[test]
fn latency_is_measured_from_the_first_packet_to_the_first_reply_and_the_sooner_one_is_chosen() {
    if !require("xdp") {
        return;
    }
    let world = World::new(Algorithm::Ewma, &[1, 1], (32, 0));
    let slow = world.open(client(1)).expect("a backend");
    // The other one: two are drawn, and it has less outstanding.
    let quick = world.open(client(2)).expect("a backend");
    assert_ne!(slow.0, quick.0);
    world.establish(client(2), quick.0, &quick.1);
    std::thread::sleep(Duration::from_millis(50));
    world.establish(client(1), slow.0, &slow.1);
    let latency = |index: usize| world.gateway.maps().loads.get(index as u32 + 1).latency.value;
    assert!(latency(slow.0) >= 50_000_000, "{} ns", latency(slow.0));
    assert!(latency(quick.0) < latency(slow.0));
    let mean = world.gateway.maps().latencies.get(1).unwrap().value;
    assert!(mean > 0 && mean <= latency(slow.0), "{mean} ns");

    // The cost of waiting twice as long is that of one more outstanding flow: a far slower backend gets nothing yet.
    let chosen: Vec<usize> = (3..8).map(|number| world.open(client(number)).expect("a backend").0).collect();
    if latency(quick.0) * 10 < latency(slow.0) {
        assert!(chosen.iter().all(|index| *index == quick.0), "{chosen:?}");
    }
}

#[test]
fn a_source_stays_with_its_backend_while_it_is_remembered() {
    if !require("xdp") {
        return;
    }
    let world = World::new(Algorithm::SessionAffinity, &[1, 1, 1], (24, 600));
    let (first, _) = world.open(client(1)).expect("a backend");
    // The ring forgets the backend, which still takes flows: a source that had it keeps it, others do not get it.
    let names = ["b0", "b1", "b2"];
    let rest: Vec<(&str, u32)> =
        names.iter().enumerate().map(|(index, name)| (*name, u32::from(index != first))).collect();
    world.choose(Algorithm::SessionAffinity, &Algorithm::SessionAffinity.ring(KEY, &rest), (24, 600));
    let SocketAddr::V4(known) = client(1) else { panic!("IPv4") };
    let [a, b, c, _] = known.ip().octets();
    for last in 1..100 {
        let neighbour = SocketAddr::from(([a, b, c, last], 4000));
        assert_eq!(world.open(neighbour).expect("a backend").0, first, "of the same prefix");
        let stranger = SocketAddr::from(([a, b, c + 1 + last, 1], 4000));
        assert_ne!(world.open(stranger).expect("a backend").0, first, "of another");
    }
    // Nor does it go to a backend that takes none.
    world.gateway.change_backend(first as u32 + 1, |backend| backend.state = BackendState::Draining.code() as u8);
    let moved = world.open(SocketAddr::from(([a, b, c, 1], 5000))).expect("a backend").0;
    assert_ne!(moved, first);
    world.gateway.change_backend(first as u32 + 1, |backend| backend.state = BackendState::Up.code() as u8);
    assert_eq!(world.open(SocketAddr::from(([a, b, c, 2], 5001))).expect("a backend").0, moved, "its new one");
}

#[test]
fn every_algorithm_is_known_on_both_sides() {
    let names: Vec<&str> = Algorithm::ALL.iter().map(|algorithm| algorithm.name()).collect();
    assert_eq!(names.len(), Kernel::ALL.len());
    assert!(Kernel::ALL.iter().all(|kernel| names.contains(&kernel.label())));
}
