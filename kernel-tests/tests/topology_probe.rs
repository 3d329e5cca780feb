// SPDX-License-Identifier: GPL-3.0-only
//! Health probes on the traffic's own way, with real sockets: a marked one of the gateway's reaches the backend that its
//! mark names, through every tunnel and by MAC address; what is not a probe stays at home; a backend without decapsulation
//! is found out, by `egctl doctor` too. Needs root, XDP and network namespaces.

use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd};
use std::time::{Duration, Instant};

use eg_abi::{PROBE_MARK, PROTO_TCP, PROTO_UDP, Probed};
use eg_kernel_tests::require;
use eg_kernel_tests::topology::direct::{BACKENDS, Direct, moves, start};
use eg_kernel_tests::topology::echo::{Connection, PATIENCE, PORT};
use eg_kernel_tests::topology::egctl;
use eg_kernel_tests::topology::gateway::{Gateway, binary, maps};
use eg_kernel_tests::topology::{Netns, Topology};
use eg_skel::ProbeMaps;
use eg_skel::share::pin_dir;
use nix::sys::signal::Signal;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;
use serde_json::Value;

fn can_run() -> bool {
    ["root", "netns", "bpffs", "xdp", "tc", "ethtool", "sysctl"].iter().all(|feature| require(feature))
}

fn probes(topology: &Topology) -> ProbeMaps {
    ProbeMaps::open(&pin_dir(&topology.pin_root)).expect("pins").expect("the gateway has maps for probes")
}

/// Every mark, with the protocol of its VIP and the number of its backend.
fn marks(topology: &Topology, direct: &Direct) -> Vec<(u32, u8, usize)> {
    let maps = maps(topology).expect("pinned maps");
    let number = |address: IpAddr| {
        let same = |number: &usize| topology.backend_address(*number, direct.backend6, PORT).ip() == address;
        (0..BACKENDS).find(same).expect("a backend of this case")
    };
    let entries = probes(topology).probes.entries().expect("eg_probes");
    entries
        .into_iter()
        .map(|(mark, probe)| {
            let (vip, backend) = (maps.vips.get(probe.vip).unwrap(), maps.backends.get(probe.backend).unwrap());
            assert_eq!((probe.epoch, probe.generation), (vip.epoch, backend.generation));
            (mark, vip.proto, number(backend.addr.into()))
        })
        .collect()
}

fn mark(topology: &Topology, direct: &Direct, proto: u8, number: usize) -> u32 {
    let marks = marks(topology, direct);
    marks.iter().find(|(_, at, to)| (*at, *to) == (proto, number)).expect("the pair has a mark").0
}

/// A socket of the gateway's own, by its address on the link, with this mark; 0 is none. It waits for `patience` at most.
fn marked(direct: &Direct, kind: SockType, mark: u32, to: SocketAddr, patience: Duration) -> io::Result<i32> {
    let family = if direct.vip6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
    let socket = socket(family, kind, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&socket, sockopt::Mark, &mark)?;
    // Also how long a connect may take.
    setsockopt(&socket, sockopt::SendTimeout, &TimeVal::new(patience.as_secs() as i64, 0))?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(patience.as_secs() as i64, 0))?;
    if kind == SockType::Stream {
        // The loopback device's MTU is not the way's.
        setsockopt(&socket, sockopt::TcpMaxSeg, &1400)?;
    }
    let from = if direct.vip6 { "[fd10::1]:0" } else { "10.10.0.1:0" };
    bind(socket.as_raw_fd(), &SockaddrStorage::from(from.parse::<SocketAddr>().unwrap()))?;
    connect(socket.as_raw_fd(), &SockaddrStorage::from(to))?;
    Ok(socket.into_raw_fd())
}

fn probe(topology: &Topology, direct: &Direct, mark: u32, patience: Duration) -> io::Result<Connection> {
    let vip = direct.vip(topology);
    topology.gateway.enter(|| {
        let socket = marked(direct, SockType::Stream, mark, vip, patience)?;
        // SAFETY: the descriptor is open, and nobody else has it.
        let mut stream = unsafe { TcpStream::from_raw_fd(socket) };
        let mut number = [0];
        stream.read_exact(&mut number)?;
        Ok(Connection { stream, backend: number[0] })
    })
}

/// Who answers a datagram.
fn datagram(topology: &Topology, direct: &Direct, mark: u32) -> io::Result<u8> {
    let vip = direct.vip(topology);
    topology.gateway.enter(|| {
        let socket = marked(direct, SockType::Datagram, mark, vip, PATIENCE)?;
        // SAFETY: the descriptor is open, and nobody else has it.
        let socket = unsafe { UdpSocket::from_raw_fd(socket) };
        socket.send(b"are you well?")?;
        let mut back = [0; 64];
        socket.recv(&mut back)?;
        Ok(back[0])
    })
}

fn counted(topology: &Topology, result: Probed) -> u64 {
    probes(topology).probed.sum(result.code()).expect("eg_probed").packets
}

/// The kernel makes an IPv6 address local some time after it was added.
fn wait_until_local(topology: &Topology, direct: &Direct) {
    let vip = direct.vip(topology).ip().to_string();
    let deadline = Instant::now() + PATIENCE;
    while !topology.gateway.output("ip", &["route", "get", &vip]).starts_with("local ") {
        assert!(Instant::now() < deadline, "{vip} is not local");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn every_backend_answers_its_own_mark(topology: &Topology, direct: &Direct) {
    wait_until_local(topology, direct);
    let marks = marks(topology, direct);
    assert_eq!(marks.len(), 2 * BACKENDS, "{direct:?}: both VIPs, each with both backends");
    let before = (counted(topology, Probed::Sent), counted(topology, Probed::Answered));
    for (mark, proto, number) in marks {
        for turn in 0..6 {
            let who = format!("{direct:?}: proto {proto}, backend {number}, turn {turn}");
            if proto == PROTO_UDP {
                let backend = datagram(topology, direct, mark).unwrap_or_else(|error| panic!("{who}: {error}"));
                assert_eq!(usize::from(backend), number, "{who}");
                continue;
            }
            let mut connection =
                probe(topology, direct, mark, PATIENCE).unwrap_or_else(|error| panic!("{who}: {error}"));
            assert_eq!(usize::from(connection.backend), number, "{who}");
            // More than a segment, each way: trains of them leave here.
            if turn == 0 {
                moves(&mut connection, 100_000);
            }
        }
    }
    assert!(counted(topology, Probed::Sent) > before.0, "{direct:?}");
    // IPv6's stack takes answers as they come.
    assert_eq!(counted(topology, Probed::Answered) > before.1, !direct.vip6, "{direct:?}");
}

/// Of whoever connects to the VIP from the gateway itself without being a probe.
fn others_stay_at_home(topology: &Topology, direct: &Direct) {
    for mark in [0, 1, 0x00ff_ffff] {
        let error = probe(topology, direct, mark, PATIENCE).err().expect("nobody listens on this host");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "{direct:?}, mark {mark:#x}");
    }
}

#[test]
fn each_backend_is_reached_by_its_own_mark_in_every_mode_and_family() {
    if !can_run() {
        return;
    }
    let (topology, _echoes) = start(false);
    topology.widen(1600);
    let mut gateway: Option<Gateway<'_>> = None;
    for direct in Direct::all() {
        println!("{direct:?}");
        match &mut gateway {
            None => gateway = Some(Gateway::start(&topology, &direct.toml(&topology, "native"))),
            Some(gateway) => gateway.reload(&direct.toml(&topology, "native")),
        }
        every_backend_answers_its_own_mark(&topology, &direct);
        others_stay_at_home(&topology, &direct);
        // A mark of nobody's is not answered by this host in the backend's place.
        let nobody = probe(&topology, &direct, PROBE_MARK + 0xff_fff0, Duration::from_secs(1));
        assert!(nobody.is_err_and(|error| error.kind() != io::ErrorKind::ConnectionRefused), "{direct:?}");
    }
}

#[test]
fn probes_go_beside_tc_as_well_as_beside_xdp() {
    if !can_run() {
        return;
    }
    let (topology, _echoes) = start(true);
    topology.widen(1600);
    for (forward, vip6, backend6) in [("ipip", false, false), ("gue", false, true), ("l2", false, false)] {
        let direct = Direct { forward, vip6, backend6 };
        let mut gateway = Gateway::start(&topology, &direct.toml(&topology, "tc"));
        every_backend_answers_its_own_mark(&topology, &direct);
        // Its successor finds the program of probes beside its own, and takes it for no stranger's.
        gateway.end(Signal::SIGKILL);
        gateway.launch();
        every_backend_answers_its_own_mark(&topology, &direct);
        gateway.end(Signal::SIGTERM);
    }
}

/// What there is for probes on the host.
fn traces(topology: &Topology) -> Vec<String> {
    let pins =
        std::fs::read_dir(pin_dir(&topology.pin_root).join("links")).map_or_else(|_| Vec::new(), Iterator::collect);
    let names = pins.into_iter().map(|pin: io::Result<std::fs::DirEntry>| pin.expect("a pin").file_name());
    let mut traces: Vec<String> = names.map(|name| name.to_string_lossy().into_owned()).collect();
    traces.retain(|name| ["out_", "in_", "accepts_"].iter().any(|prefix| name.starts_with(prefix)));
    let accepts = topology.gateway.output("sysctl", &["-n", "net.ipv4.conf.lo.accept_local"]);
    traces.extend((accepts.trim() != "0").then(|| "accept_local".to_owned()));
    traces
}

#[test]
fn the_path_outlives_the_process_and_goes_with_the_last_direct_vip() {
    if !can_run() {
        return;
    }
    let (topology, _echoes) = start(false);
    topology.widen(1600);
    let direct = Direct { forward: "ipip", vip6: false, backend6: false };
    let toml = direct.toml(&topology, "native");
    let nat = toml.replace("forward = \"ipip\"", "forward = \"nat\"");
    assert_eq!(traces(&topology), [""; 0]);
    let mut gateway = Gateway::start(&topology, &nat);
    assert_eq!(traces(&topology), [""; 0], "under nat nothing is attached for probes");

    gateway.reload(&toml);
    every_backend_answers_its_own_mark(&topology, &direct);
    assert_eq!(traces(&topology).len(), 4, "out, in, and the setting twice: {:?}", traces(&topology));
    let before = marks(&topology, &direct);
    gateway.end(Signal::SIGKILL);
    every_backend_answers_its_own_mark(&topology, &direct);
    gateway.launch();
    let sorted = |mut marks: Vec<(u32, u8, usize)>| {
        marks.sort_unstable();
        marks
    };
    assert_eq!(sorted(marks(&topology, &direct)), sorted(before), "marks outlive a restart");
    every_backend_answers_its_own_mark(&topology, &direct);

    // One backend leaves: its mark means nobody, and the other's still the other.
    let (gone, stays) = (mark(&topology, &direct, PROTO_TCP, 1), mark(&topology, &direct, PROTO_TCP, 0));
    let one = toml.find("\n[[pools.echo.backends]]\nname = \"b1\"").expect("the second backend");
    gateway.reload(&toml[..one]);
    assert_eq!(marks(&topology, &direct).len(), 2);
    assert_eq!(probe(&topology, &direct, stays, PATIENCE).expect("backend 0").backend, 0);
    assert!(probe(&topology, &direct, gone, Duration::from_secs(1)).is_err());

    gateway.reload(&nat);
    assert_eq!(traces(&topology), [""; 0]);
    // The host's own stack meets the packet, and nobody listens there.
    let home = probe(&topology, &direct, stays, PATIENCE).err().map(|error| error.kind());
    assert_eq!(home, Some(io::ErrorKind::ConnectionRefused), "the program is gone");
    assert_eq!(probes(&topology).probes.entries().expect("eg_probes"), []);
    gateway.reload(&toml);
    every_backend_answers_its_own_mark(&topology, &direct);
    gateway.end(Signal::SIGKILL);
    egctl::text(&topology, "detach");
    assert_eq!(traces(&topology), [""; 0]);
}

/// In a backend's namespace, for the program that `serve_directly` attached.
fn decapsulation(topology: &Topology, number: usize, how: &[&str]) {
    let root = topology.pin_root.join(format!("on-b{number}"));
    let egctl = binary("egctl");
    let mut arguments = vec!["--pin-root", root.to_str().expect("a plain path"), "backend"];
    arguments.extend(how);
    topology.backends[number].run(egctl.to_str().expect("a plain path"), &arguments);
}

/// What `egctl doctor` says about decapsulation: (what, fix).
fn found(topology: &Topology) -> Vec<(String, String)> {
    let output = egctl::command(topology).args(["--json", "doctor"]).output().expect("run egctl");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    assert_eq!(report["cannot_tell"], serde_json::json!([]));
    let findings = report["findings"].as_array().expect("a list").iter();
    let word = |finding: &Value, part: &str| finding[part].as_str().expect(part).to_owned();
    let figures: Vec<_> = Probed::ALL.iter().map(|result| (result.label(), counted(topology, *result))).collect();
    findings
        .filter(|finding| finding["check"] == "decapsulation")
        .inspect(|finding| println!("{finding}\n{figures:?}"))
        .map(|finding| (word(finding, "what"), word(finding, "fix")))
        .collect()
}

fn run_fix(space: &Netns, topology: &Topology, number: usize, fix: &str) {
    let root = topology.pin_root.join(format!("on-b{number}"));
    let egctl = format!("{} --pin-root {}", binary("egctl").display(), root.display());
    space.run(
        "sh",
        &["-c", &fix.replace("egctl", &egctl).replace("INTERFACE", "eth0").replace("ip addr add", "ip addr replace")],
    );
}

#[test]
fn a_backend_without_decapsulation_is_found_out_and_the_doctors_fix_helps() {
    if !can_run() {
        return;
    }
    let (topology, _echoes) = start(false);
    topology.widen(1600);
    let mut gateway: Option<Gateway<'_>> = None;
    for (forward, vip6, backend6) in [("ipip", false, false), ("ipip", true, false), ("gue", false, true)] {
        let direct = Direct { forward, vip6, backend6 };
        match &mut gateway {
            None => gateway = Some(Gateway::start(&topology, &direct.toml(&topology, "native"))),
            Some(gateway) => gateway.reload(&direct.toml(&topology, "native")),
        }
        wait_until_local(&topology, &direct);
        assert_eq!(found(&topology), [], "{direct:?}");

        decapsulation(&topology, 1, &["detach", "eth0"]);
        let lost = probe(&topology, &direct, mark(&topology, &direct, PROTO_TCP, 1), Duration::from_secs(1));
        assert!(lost.is_err(), "{direct:?}: nobody takes the tunnel apart");
        let well = probe(&topology, &direct, mark(&topology, &direct, PROTO_TCP, 0), PATIENCE).expect("backend 0");
        assert_eq!(well.backend, 0);
        // The echo servers have the VIPs alone, so the host says at once that nobody is there.
        let own = topology.backend_address(1, backend6, PORT);
        let refused = topology.gateway.enter(|| TcpStream::connect_timeout(&own, PATIENCE));
        assert_eq!(refused.err().map(|error| error.kind()), Some(io::ErrorKind::ConnectionRefused), "{direct:?}");

        let said = found(&topology);
        assert_eq!(said.len(), 1, "{direct:?}: {said:?}");
        let (what, fix) = &said[0];
        assert_eq!(what, "no decapsulation at echo/b1");
        assert!(fix.contains("egctl backend attach INTERFACE  # on ") && fix.starts_with("ip addr add "), "{fix}");
        run_fix(&topology.backends[1], &topology, 1, fix);
        assert_eq!(found(&topology), [], "{direct:?}: the fix helps");
    }

    // By MAC address there is nothing to take apart: the VIP is not the host's own.
    let direct = Direct { forward: "l2", vip6: false, backend6: false };
    let gateway = gateway.as_mut().expect("a gateway");
    gateway.reload(&direct.toml(&topology, "native"));
    wait_until_local(&topology, &direct);
    assert_eq!(found(&topology), []);
    topology.backends[1].ip(&format!("addr del {}/32 dev lo", topology.vip(false)));
    let said = found(&topology);
    assert_eq!(said.len(), 1, "{said:?}");
    assert_eq!(said[0].0, "echo/b1 does not take 10.10.0.100:7000 for its own");
    run_fix(&topology.backends[1], &topology, 1, &said[0].1);
    assert_eq!(found(&topology), []);
}

#[test]
fn a_host_that_is_silent_and_one_without_a_server_are_told_from_one_without_decapsulation() {
    if !can_run() {
        return;
    }
    let (topology, mut echoes) = start(false);
    topology.widen(1600);
    let direct = Direct { forward: "ipip", vip6: false, backend6: false };
    let _gateway = Gateway::start(&topology, &direct.toml(&topology, "native"));
    assert_eq!(found(&topology), []);

    // It answers ARP, and nothing else.
    topology.backends[1].ip("route add blackhole 10.10.0.1/32");
    let what = |said: Vec<(String, String)>| said.into_iter().map(|(what, _)| what).collect::<Vec<_>>();
    assert_eq!(what(found(&topology)), ["echo/b1 does not answer"]);
    topology.backends[1].ip("route del blackhole 10.10.0.1/32");
    assert_eq!(found(&topology), []);

    drop(echoes.remove(0));
    assert_eq!(what(found(&topology)), ["echo/b0 has no server at 10.10.0.100:7000"]);

    // What the host itself stands in the way of.
    topology.gateway.run("sysctl", &["-qw", "net.ipv4.conf.lo.accept_local=0"]);
    let said = found(&topology);
    assert_eq!(said[0].1, "sysctl -w net.ipv4.conf.lo.accept_local=1");
}
