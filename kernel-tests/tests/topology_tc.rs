// SPDX-License-Identifier: GPL-3.0-only
//! The ladder: native XDP, generic XDP, tc. And the service by tc, between hosts that leave checksums and segmentation to
//! their devices, which XDP cannot serve on veth. Needs root, XDP, tcx and network namespaces.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::time::Duration;

use eg_abi::{PROTO_TCP, PROTO_UDP, Stats, VipKey};
use eg_kernel_tests::require;
use eg_kernel_tests::topology::config::{SERVICE, Service};
use eg_kernel_tests::topology::direct::{self, Direct};
use eg_kernel_tests::topology::echo::{Connection, Echo, Flow};
use eg_kernel_tests::topology::foreign::{self, Tcx};
use eg_kernel_tests::topology::gateway::{Gateway, binary, maps, refusal};
use eg_kernel_tests::topology::{Arms, Pass, Topology};
use nix::sys::signal::Signal;

fn can_run() -> bool {
    ["root", "netns", "bpffs", "xdp", "tcx", "ethtool"].iter().all(|feature| require(feature))
}

fn start_echoes(topology: &Topology) -> Vec<Echo> {
    topology.backends.iter().enumerate().map(|(number, space)| Echo::start(space, number as u8)).collect()
}

/// The service's configuration with another `datapath.xdp`.
fn by(service: &Service, topology: &Topology, way: &str) -> String {
    let native = service.toml(topology);
    assert!(native.contains("xdp = \"native\""));
    native.replace("xdp = \"native\"", &format!("xdp = \"{way}\""))
}

fn stats(topology: &Topology, v6: bool, proto: u8) -> Stats {
    let maps = maps(topology).expect("pinned maps");
    let vip = SocketAddr::new(topology.vip(v6), SERVICE);
    let id = maps.vip_ids.get(&VipKey::new(vip, proto)).expect("eg_vip_ids").expect("the vip has an id");
    maps.vip_stats.sum(id).expect("eg_vip_stats")
}

/// A byte of a stream in which no part resembles another at a distance of a power of two.
fn byte(at: usize) -> u8 {
    ((at * 31) ^ (at >> 8) ^ (at >> 16).wrapping_mul(7)) as u8
}

/// Sends that many bytes to an echo backend while reading them back.
fn echoed(vip: SocketAddr, bytes: usize) {
    const PIECE: usize = 64 << 10;
    let mut connection = Connection::open(vip).expect("a connection");
    connection.stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
    let mut writer = connection.stream.try_clone().expect("another descriptor");
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for start in (0..bytes).step_by(PIECE) {
                let piece: Vec<u8> = (start..(start + PIECE).min(bytes)).map(byte).collect();
                writer.write_all(&piece).expect("send");
            }
            writer.shutdown(Shutdown::Write).expect("shut down");
        });
        let (mut read, mut piece) = (0, vec![0; PIECE]);
        loop {
            let length = connection.stream.read(&mut piece).expect("receive");
            if length == 0 {
                break;
            }
            let wrong = piece[..length].iter().enumerate().find(|(at, there)| **there != byte(read + at));
            assert!(wrong.is_none(), "byte {} came back as another", read + wrong.map_or(0, |(at, _)| at));
            read += length;
        }
        assert_eq!(read, bytes, "the stream ended early");
    });
}

#[test]
fn streams_pass_by_tc_whole_and_are_counted_as_they_are_on_the_wire() {
    if !can_run() {
        return;
    }
    const BYTES: usize = 64 << 20;
    for snat in [true, false] {
        let topology = Topology::with_offloads(Arms::Two, 2);
        let _echoes = start_echoes(&topology);
        let service = Service { snat, ..Service::of(&[0, 1]) };
        let _gateway = Gateway::start(&topology, &by(&service, &topology, "tc"));
        for v6 in [false, true] {
            let vip = SocketAddr::new(topology.vip(v6), SERVICE);
            topology.client.enter(|| echoed(vip, BYTES));
            let stats = stats(&topology, v6, PROTO_TCP);
            // An Ethernet packet carries 1500 bytes less the IP header, TCP's, and its timestamps.
            let head = if v6 { 40 } else { 20 } + 32;
            let least = BYTES as u64 / (1500 - head);
            assert!(stats.packets >= least, "{} packets in trains, {least} on the wire", stats.packets);
            assert!(stats.reply_packets >= least, "{} replies in trains, {least} on the wire", stats.reply_packets);
            // Each packet has a header of its own; SYNs a longer one.
            assert!(stats.bytes >= BYTES as u64 + stats.packets * head, "{stats:?}");
            assert!(stats.reply_bytes >= BYTES as u64 + stats.reply_packets * head, "{stats:?}");
            assert!(stats.bytes <= stats.packets * 1500, "{stats:?}");
            assert_eq!((stats.flows, stats.drops), (1, 0));
        }
    }
}

#[test]
fn many_small_flows_of_both_transports_pass_by_tc() {
    if !can_run() {
        return;
    }
    let topology = Topology::with_offloads(Arms::Two, 2);
    let _echoes = start_echoes(&topology);
    let service = Service::of(&[0, 1]);
    let _gateway = Gateway::start(&topology, &by(&service, &topology, "tc"));
    for v6 in [false, true] {
        let (vip, pool) = (SocketAddr::new(topology.vip(v6), SERVICE), service.pool(v6));
        topology.client.enter(|| {
            for number in 0..50_usize {
                let mut connection = Connection::open(vip).expect("a connection");
                let client = connection.stream.local_addr().expect("a local address");
                assert_eq!(usize::from(connection.backend), service.backends[pool.pick(client, vip, PROTO_TCP)]);
                connection.exchange(&vec![number as u8; 1 + 31 * number]).expect("an echo");
                let flow = Flow::open(vip).expect("a socket");
                let client = flow.socket.local_addr().expect("a local address");
                let backend = flow.exchange(&vec![number as u8; 13 * number]).expect("an echo");
                assert_eq!(usize::from(backend), service.backends[pool.pick(client, vip, PROTO_UDP)]);
            }
        });
        assert_eq!(stats(&topology, v6, PROTO_UDP).packets, 50);
    }
}

/// The client sends trains of packets with checksums only begun, the gateway's interface takes neither: so what goes out
/// is cut up and summed behind our rewriting, and the backends judge the pieces. Full segments do not fit a tunnel; the
/// errors that say so are made of such trains as well, and the client judges them.
#[test]
fn every_direct_mode_wraps_trains_of_packets_and_complains_of_those_too_long() {
    if !can_run() || !["tc", "sysctl"].iter().all(|feature| require(feature)) {
        return;
    }
    let (topology, _echoes) = direct::start(true);
    topology.gateway.run("ethtool", &["-K", "eth0", "tx", "off"]);
    let mut gateway: Option<Gateway<'_>> = None;
    for wide in [false, true] {
        if wide {
            topology.widen(1600);
        }
        for direct in Direct::all() {
            println!("{direct:?}, wide: {wide}");
            match &mut gateway {
                None => gateway = Some(Gateway::start(&topology, &direct.toml(&topology, "tc"))),
                Some(gateway) => gateway.reload(&direct.toml(&topology, "tc")),
            }
            // What the client has learned from the case before.
            topology.client.ip("route flush cache");
            topology.client.ip("-6 route flush cache");
            let maps = maps(&topology).expect("pinned maps");
            let told = || maps.drops.sum(eg_abi::Drop::TooBig.code()).expect("eg_drops").packets;
            let before = told();
            topology.client.enter(|| {
                let mut connection = Connection::open(direct.vip(&topology)).expect("a connection");
                direct::moves(&mut connection, 4 << 20);
                let flow = Flow::open(direct.vip(&topology)).expect("a socket");
                flow.exchange(&[7; 1200]).expect("an echo");
            });
            assert_eq!(told() > before, !wide && direct.forward != "l2", "{direct:?}, wide: {wide}");
        }
    }
}

/// Established flows of both transports and families, by which a change must not be noticed.
struct Established {
    tcp: Vec<Connection>,
    udp: Vec<(Flow, u8)>,
}

impl Established {
    fn open(topology: &Topology) -> Established {
        let vips = [false, true].map(|v6| SocketAddr::new(topology.vip(v6), SERVICE));
        topology.client.enter(|| {
            let each = || vips.iter().flat_map(|vip| std::iter::repeat_n(*vip, 10));
            let tcp = each().map(|vip| Connection::open(vip).expect("a connection")).collect();
            let udp = each().map(|vip| Flow::open(vip).expect("a socket"));
            let udp = udp.map(|flow| flow.exchange(b"first").map(|backend| (flow, backend)).expect("an answer"));
            Established { tcp, udp: udp.collect() }
        })
    }

    fn check(&mut self, when: &str) {
        for connection in &mut self.tcp {
            connection.exchange(when.as_bytes()).unwrap_or_else(|error| panic!("{when}: tcp: {error}"));
        }
        for (flow, backend) in &self.udp {
            let answer = flow.exchange(when.as_bytes()).unwrap_or_else(|error| panic!("{when}: udp: {error}"));
            assert_eq!(answer, *backend, "{when}: a udp flow moved");
        }
    }
}

/// What of ours is at the client's interface: `xdp`, `xdpgeneric`, and how many tcx programs.
fn attached(topology: &Topology) -> (bool, bool, u32) {
    let link = topology.gateway.output("ip", &["link", "show", "c0"]);
    let generic = link.contains("xdpgeneric");
    (link.contains("xdp") && !generic, generic, foreign::tcx_programs(&topology.gateway, "c0"))
}

fn rx_vlan(topology: &Topology) -> bool {
    topology.gateway.output("ethtool", &["-k", "c0"]).contains("rx-vlan-offload: on")
}

#[test]
fn a_restart_changes_rungs_and_keeps_flows_and_detach_leaves_the_interface_as_it_was() {
    if !can_run() {
        return;
    }
    let topology = Topology::new(Arms::Two, 2);
    let _echoes = start_echoes(&topology);
    let service = Service::of(&[0, 1]);
    assert!(rx_vlan(&topology), "veth has rx-vlan offload, on");
    let mut gateway = Gateway::start(&topology, &by(&service, &topology, "tc"));
    assert_eq!(attached(&topology), (false, false, 1));
    assert!(rx_vlan(&topology), "tc needs it not off");
    let mut established = Established::open(&topology);
    established.check("by tc");
    for (way, expected) in [
        ("native", (true, false, 0)),
        ("tc", (false, false, 1)),
        ("generic", (false, true, 0)),
        ("native", (true, false, 0)),
        ("auto", (true, false, 0)),
        ("generic", (false, true, 0)),
    ] {
        gateway.end(Signal::SIGTERM);
        gateway.configure(&by(&service, &topology, way));
        gateway.launch();
        assert_eq!(attached(&topology), expected, "{way}");
        established.check(way);
        assert!(way == "tc" || !rx_vlan(&topology), "{way}: XDP would not see VLAN tags");
    }
    assert!(gateway.said().contains("turned off"), "{}", gateway.said());
    gateway.end(Signal::SIGTERM);
    gateway.configure(&by(&service, &topology, "tc"));
    gateway.launch();
    gateway.end(Signal::SIGTERM);

    let root = topology.pin_root.to_str().expect("a plain path");
    topology.gateway.run(binary("egctl").to_str().expect("a plain path"), &["--pin-root", root, "detach"]);
    assert_eq!(attached(&topology), (false, false, 0));
    assert!(rx_vlan(&topology), "it was on before");
    assert!(!topology.pin_root.exists(), "pins are left");
}

#[test]
fn auto_takes_the_first_rung_that_works_and_says_why() {
    if !can_run() {
        return;
    }
    let mut topology = Topology::new(Arms::Two, 1);
    let _echoes = start_echoes(&topology);
    // A bridge has no native mode. Below an interface with an XDP program, the kernel allows none at all.
    topology.gateway.ip("link add br9 type bridge");
    topology.gateway.ip("link set br9 up");
    topology.gateway.ip("link add mv9 link b0 type macvlan mode bridge");
    let above = Pass::attach(&topology.gateway, "mv9");
    topology.interfaces.push("br9".into());
    let service = Service::of(&[0]);
    let gateway = Gateway::start(&topology, &by(&service, &topology, "auto"));
    let said = gateway.said();
    let line = |interface: &str| {
        let quoted = [format!("interface=\"{interface}\""), format!("interface={interface}")];
        let found =
            said.lines().find(|line| line.contains("attached") && quoted.iter().any(|name| line.contains(name)));
        found.unwrap_or_else(|| panic!("nothing about {interface} in:\n{said}")).to_owned()
    };
    assert!(line("c0").contains("native xdp"), "{said}");
    let br9 = line("br9");
    assert!(br9.contains("generic xdp") && br9.contains("native xdp: the driver has no native mode"), "{said}");
    let b0 = line("b0");
    assert!(b0.contains("tcx") && b0.contains("an interface above it carries an XDP program"), "{said}");

    let vip = SocketAddr::new(topology.vip(false), SERVICE);
    topology.client.enter(|| Flow::open(vip).expect("a socket").exchange(b"by two rungs").expect("an echo"));
    drop(gateway);
    drop(above);
}

#[test]
fn what_others_have_attached_is_named_and_left_alone() {
    if !can_run() {
        return;
    }
    let topology = Topology::with_offloads(Arms::Two, 1);
    let service = Service::of(&[0]);
    let refused = |way: &str, words: &str| {
        let said = refusal(&topology, &by(&service, &topology, way), &[]);
        assert!(said.contains(words), "expected {words:?} in:\n{said}");
    };
    let tcx = Tcx::attach(&topology.gateway, "c0");
    refused("tc", "attach tc to c0: its ingress carries tcx program ");
    assert_eq!(foreign::tcx_programs(&topology.gateway, "c0"), 1);
    drop(tcx);

    foreign::clsact(&topology.gateway, "c0");
    refused("tc", "attach tc to c0: its ingress carries tc filter 0x7 of priority 5");
    let filters = topology.gateway.output("tc", &["filter", "show", "dev", "c0", "ingress"]);
    assert!(filters.contains("pref 5"), "it is still there:\n{filters}");
    topology.gateway.run("tc", &["qdisc", "del", "dev", "c0", "clsact"]);

    let xdp = Pass::attach(&topology.gateway, "c0");
    refused("auto", "attach xdp to c0: it carries XDP program");
    drop(xdp);

    // br9 has no native mode, and nothing else was allowed.
    topology.gateway.ip("link add br9 type bridge");
    let native = by(&service, &topology, "native").replace("interfaces = [\"c0\"", "interfaces = [\"br9\"");
    let said = refusal(&topology, &native, &[]);
    assert!(
        said.contains("attach xdp to br9: refused (native mode, native xdp: the driver has no native mode)"),
        "{said}"
    );
}
