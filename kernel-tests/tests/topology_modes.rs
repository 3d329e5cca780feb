// SPDX-License-Identifier: GPL-3.0-only
//! Direct server return: every mode and family with real sockets, judged against `eg_balance`; replies bypass the gateway.
//! Needs root, XDP and network namespaces.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};

use eg_abi::{PROTO_TCP, PROTO_UDP, VipKey};
use eg_kernel_tests::require;
use eg_kernel_tests::topology::config::SEED;
use eg_kernel_tests::topology::echo::{Connection, Echo, Flow, PATIENCE, PORT};
use eg_kernel_tests::topology::expect::Pool;
use eg_kernel_tests::topology::gateway::{Gateway, maps};
use eg_kernel_tests::topology::{Arms, Topology};

fn can_run() -> bool {
    ["root", "netns", "bpffs", "xdp", "tc", "ethtool", "sysctl"].iter().all(|feature| require(feature))
}

const BACKENDS: usize = 2;

/// One service of both transports.
#[derive(Clone, Copy, Debug)]
struct Direct {
    forward: &'static str,
    vip6: bool,
    backend6: bool,
}

impl Direct {
    /// Every mode with every pair of families that it can join.
    fn all() -> Vec<Direct> {
        let mut all = Vec::new();
        for vip6 in [false, true] {
            for backend6 in [false, true] {
                all.extend(["ipip", "gue"].map(|forward| Direct { forward, vip6, backend6 }));
            }
            all.push(Direct { forward: "l2", vip6, backend6: vip6 });
        }
        all
    }

    fn vip(&self, topology: &Topology) -> SocketAddr {
        SocketAddr::new(topology.vip(self.vip6), PORT)
    }

    fn toml(&self, topology: &Topology) -> String {
        let seed: String = SEED.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut text = format!(
            "[datapath]\ninterfaces = {:?}\nxdp = \"native\"\npin_root = {:?}\nflows = 65536\nhash_seed = \"{seed}\"\n",
            topology.interfaces, topology.pin_root
        );
        for proto in ["tcp", "udp"] {
            text += &format!(
                "\n[[listeners]]\nname = \"{proto}\"\naddress = \"{}\"\nprotocol = \"{proto}\"\npool = \"echo\"\nforward = \"{}\"\n",
                self.vip(topology),
                self.forward
            );
        }
        text += "\n[pools.echo]\n";
        for number in 0..BACKENDS {
            let address = topology.backend_address(number, self.backend6, PORT);
            text += &format!("\n[[pools.echo.backends]]\nname = \"b{number}\"\naddress = \"{address}\"\n");
        }
        text
    }

    fn pool(&self) -> Pool {
        Pool::new(SEED, "echo", &[("b0", 1), ("b1", 1)])
    }
}

fn start() -> (Topology, Vec<Echo>) {
    let topology = Topology::new(Arms::One, BACKENDS);
    topology.serve_directly();
    let vips: [IpAddr; 2] = [topology.vip(false), topology.vip(true)];
    let echoes = (0..BACKENDS).map(|number| Echo::start_on(&topology.backends[number], number as u8, &vips)).collect();
    (topology, echoes)
}

/// Bytes to the backend and back; the write and the read at once, so that neither waits for the other's buffers.
fn moves(connection: &mut Connection, length: usize) {
    let bytes: Vec<u8> = (0..length).map(|at| (at * 31 + at / 251) as u8).collect();
    let mut writing = connection.stream.try_clone().expect("a descriptor");
    writing.set_write_timeout(Some(PATIENCE)).expect("a timeout");
    let sent = bytes.clone();
    let writer = std::thread::spawn(move || writing.write_all(&sent));
    let mut back = vec![0; length];
    connection.stream.read_exact(&mut back).expect("the bytes come back");
    writer.join().expect("the writer").expect("write");
    assert!(back == bytes, "other bytes came back");
}

#[test]
fn every_mode_reaches_the_backend_that_maglev_picks_and_is_answered_directly() {
    if !can_run() {
        return;
    }
    const COUNT: u64 = 20;
    let (topology, _echoes) = start();
    topology.widen(1600);
    let mut gateway: Option<Gateway<'_>> = None;
    for direct in Direct::all() {
        println!("{direct:?}");
        match &mut gateway {
            None => gateway = Some(Gateway::start(&topology, &direct.toml(&topology))),
            Some(gateway) => gateway.reload(&direct.toml(&topology)),
        }
        let (vip, pool) = (direct.vip(&topology), direct.pool());
        let maps = maps(&topology).expect("pinned maps");
        let stats = |proto| {
            let id = maps.vip_ids.get(&VipKey::new(vip, proto)).expect("eg_vip_ids").expect("the vip has an id");
            maps.vip_stats.sum(id).expect("eg_vip_stats")
        };
        let before = [PROTO_TCP, PROTO_UDP].map(stats);
        topology.client.enter(|| {
            for number in 0..COUNT {
                let mut connection =
                    Connection::open(vip).unwrap_or_else(|error| panic!("{direct:?}: connection {number}: {error}"));
                let client = connection.stream.local_addr().expect("a local address");
                assert_eq!(usize::from(connection.backend), pool.pick(client, vip, PROTO_TCP), "{direct:?} {client}");
                moves(&mut connection, if number == 0 { 1 << 20 } else { 3000 });

                let flow = Flow::open(vip).expect("a socket");
                let backend =
                    flow.exchange(&[7; 1400]).unwrap_or_else(|error| panic!("{direct:?}: flow {number}: {error}"));
                let client = flow.socket.local_addr().expect("a local address");
                assert_eq!(usize::from(backend), pool.pick(client, vip, PROTO_UDP), "{direct:?} {client}");
            }
        });
        for (proto, before) in [PROTO_TCP, PROTO_UDP].into_iter().zip(before) {
            let now = stats(proto);
            assert_eq!(now.flows - before.flows, COUNT, "{direct:?}: every flow passed here");
            assert_eq!(now.reply_packets, 0, "{direct:?}: no reply did");
            assert_eq!(now.drops, before.drops, "{direct:?}");
        }
    }
}

#[test]
fn packets_that_do_not_fit_a_tunnel_are_told_so_and_the_transfer_goes_on() {
    if !can_run() {
        return;
    }
    // All links have 1500: a full segment of the client's does not fit with an outer header in front.
    let (topology, _echoes) = start();
    let mut gateway: Option<Gateway<'_>> = None;
    for direct in Direct::all().into_iter().filter(|direct| direct.forward != "l2") {
        println!("{direct:?}");
        match &mut gateway {
            None => gateway = Some(Gateway::start(&topology, &direct.toml(&topology))),
            Some(gateway) => gateway.reload(&direct.toml(&topology)),
        }
        // What the client has learned from the case before.
        topology.client.ip("route flush cache");
        topology.client.ip("-6 route flush cache");
        let maps = maps(&topology).expect("pinned maps");
        let told = || maps.drops.sum(eg_abi::Drop::TooBig.code()).expect("eg_drops").packets;
        let before = told();
        topology.client.enter(|| {
            let mut connection = Connection::open(direct.vip(&topology)).expect("a connection");
            moves(&mut connection, 1 << 20);
        });
        assert!(told() > before, "{direct:?}: some segment was too big");
    }
}
