// SPDX-License-Identifier: GPL-3.0-only
//! `egctl capture` beside real traffic: what the file says is what was sent, nothing is lost for it, and nothing stays
//! behind. The file is read by a library that is not ours. Needs root, XDP and network namespaces.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime};

use eg_kernel_tests::require;
use eg_kernel_tests::topology::config::{SERVICE, Service};
use eg_kernel_tests::topology::echo::{Connection, Echo, Flow};
use eg_kernel_tests::topology::gateway::Gateway;
use eg_kernel_tests::topology::{Arms, Topology, egctl, tally};
use eg_skel::share::pin_dir;
use nix::sys::signal::Signal;
use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketOption;
use pcap_file::pcapng::{Block, PcapNgReader};
use tempfile::TempDir;

fn can_run() -> bool {
    ["root", "netns", "bpffs", "xdp", "ethtool"].iter().all(|feature| require(feature))
}

fn start_echoes(topology: &Topology) -> Vec<Echo> {
    topology.backends.iter().enumerate().map(|(number, space)| Echo::start(space, number as u8)).collect()
}

fn vip(topology: &Topology) -> SocketAddr {
    SocketAddr::new(topology.vip(false), SERVICE)
}

/// The program of every pinned link of an interface.
fn programs(topology: &Topology) -> BTreeMap<String, u32> {
    let links = fs::read_dir(pin_dir(&topology.pin_root).join("links")).expect("the links").flatten();
    let links = links.map(|entry| entry.path()).filter(|path| {
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        name.starts_with("xdp_") || name.starts_with("tcx_")
    });
    let id = |path: &PathBuf| libbpf_rs::Link::open(path).expect("a link").info().expect("its info").prog_id;
    links.map(|path| (path.to_string_lossy().into_owned(), id(&path))).collect()
}

/// Pinned tables of programs.
fn tables_of_programs(topology: &Topology) -> usize {
    let pins = fs::read_dir(pin_dir(&topology.pin_root)).expect("the pins").flatten();
    pins.filter(|entry| entry.file_name().to_string_lossy().starts_with("tails_")).count()
}

/// A running `egctl capture`.
struct Capture {
    child: Child,
    said: BufReader<std::process::ChildStderr>,
    folder: TempDir,
}

/// What it left.
struct Captured {
    status: ExitStatus,
    /// Its last words.
    end: String,
    packets: Vec<Packet>,
}

#[derive(Debug)]
struct Packet {
    interface: String,
    time: Duration,
    length: u32,
    bytes: Vec<u8>,
    comment: String,
}

impl Capture {
    /// Returns when it has begun.
    fn start(topology: &Topology, arguments: &str) -> Capture {
        let folder = TempDir::new().expect("a folder");
        let mut command = egctl::command(topology);
        command.arg("capture").args(arguments.split_whitespace()).arg("--write").arg(folder.path().join("file"));
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().expect("run egctl");
        let mut said = BufReader::new(child.stderr.take().expect("a pipe"));
        let mut line = String::new();
        said.read_line(&mut line).expect("a line");
        assert!(line.starts_with("egctl: capturing"), "{arguments}: {line}");
        Capture { child, said, folder }
    }

    /// Waits for its end.
    fn end(mut self) -> Captured {
        let mut end = String::new();
        self.said.read_line(&mut end).expect("its last words");
        let status = self.child.wait().expect("wait");
        Captured { status, end, packets: read(&self.folder.path().join("file")) }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Captured {
    /// It came to its end, for this reason, and nothing is missing.
    fn is_whole(&self, why: &str) {
        let expected = format!("egctl: {} packets captured, 0 lost; ended: {why}\n", self.packets.len());
        assert!(self.status.success(), "{}", self.end);
        assert_eq!(self.end, expected);
    }
}

fn read(path: &std::path::Path) -> Vec<Packet> {
    let mut reader = PcapNgReader::new(File::open(path).expect("the file")).expect("a pcapng file");
    let (mut interfaces, mut packets) = (Vec::new(), Vec::new());
    while let Some(block) = reader.next_block() {
        match block.expect("a block") {
            Block::InterfaceDescription(interface) => {
                let name = interface.options.iter().find_map(|option| match option {
                    pcap_file::pcapng::blocks::interface_description::InterfaceDescriptionOption::IfName(name) => {
                        Some(name.to_string())
                    }
                    _ => None,
                });
                interfaces.push(name.expect("an interface has a name"));
            }
            Block::EnhancedPacket(packet) => packets.push(Packet {
                interface: interfaces[packet.interface_id as usize].clone(),
                time: packet.timestamp,
                length: packet.original_len,
                bytes: packet.data.to_vec(),
                comment: packet.options.iter().find_map(comment).expect("a packet has a comment"),
            }),
            _ => {}
        }
    }
    packets
}

fn comment(option: &EnhancedPacketOption<'_>) -> Option<String> {
    match option {
        EnhancedPacketOption::Comment(text) => Some(text.to_string()),
        _ => None,
    }
}

impl Packet {
    /// Source, destination and payload of UDP over IPv4 without options.
    fn udp(&self) -> (SocketAddr, SocketAddr, &[u8]) {
        let at = |from: usize, port: usize| {
            let ip: [u8; 4] = self.bytes[from..from + 4].try_into().expect("four bytes");
            SocketAddr::new(ip.into(), u16::from_be_bytes(self.bytes[port..port + 2].try_into().expect("two bytes")))
        };
        assert_eq!((&self.bytes[12..15], self.bytes[23]), (&[8, 0, 0x45][..], 17), "UDP over IPv4");
        let length = usize::from(u16::from_be_bytes([self.bytes[38], self.bytes[39]]));
        (at(26, 34), at(30, 36), &self.bytes[42..34 + length])
    }
}

/// Beyond the padding of a short frame, and each another.
fn payload(number: usize) -> Vec<u8> {
    format!("datagram {number} {}", "x".repeat(number * 20)).into_bytes()
}

#[test]
fn a_capture_holds_exactly_the_datagrams_that_were_sent_and_their_answers_as_they_came_in() {
    const SENT: usize = 50;
    if !can_run() || !require("tc") {
        return;
    }
    for way in ["native", "tc"] {
        // XDP does not work between ends that leave checksums to others.
        let topology = if way == "tc" { Topology::with_offloads } else { Topology::new }(Arms::Two, 2);
        let _echoes = start_echoes(&topology);
        let toml = Service::of(&[0, 1]).toml(&topology).replace("\"native\"", &format!("{way:?}"));
        let _gateway = Gateway::start(&topology, &toml);
        let (vip, before) = (vip(&topology), programs(&topology));
        assert!(way != "tc" || !before.is_empty() || !require("tcx"), "tc by links");

        let capture = Capture::start(&topology, &format!("--seconds 30 --count {} --vip {vip}", 2 * SENT));
        let during = programs(&topology);
        assert!(before.iter().all(|(link, program)| during[link] != *program), "{way}: twins run");
        let (client, backend) = topology.client.enter(|| {
            let flow = Flow::open(vip).expect("a socket");
            let backends = (0..SENT).map(|number| flow.exchange(&payload(number)).expect("an answer"));
            let backends: Vec<u8> = backends.collect();
            (flow.socket.local_addr().expect("an address"), backends[0])
        });
        // Another protocol of the same address and port is the same VIP's, another VIP's is not.
        let captured = capture.end();
        captured.is_whole("as many as were asked for");
        assert_eq!(programs(&topology), before, "{way}: the programs themselves are back");

        let backend_at = topology.backend_address(backend.into(), false, 7000);
        let (to, from): (Vec<&Packet>, Vec<&Packet>) =
            captured.packets.iter().partition(|packet| packet.udp().0 == client);
        assert_eq!((to.len(), from.len()), (SENT, SENT), "{way}");
        for (number, packet) in to.iter().enumerate() {
            assert_eq!(packet.udp(), (client, vip, &payload(number)[..]), "{way}: before it was rewritten");
            assert_eq!(packet.comment, format!("forwarded vip {vip}/udp backend {backend_at}"));
            assert_eq!((&*packet.interface, packet.length as usize), ("c0", packet.bytes.len()));
        }
        for (number, packet) in from.iter().enumerate() {
            let (source, _, bytes) = packet.udp();
            let expected = [&[backend][..], &payload(number)].concat();
            assert_eq!((source, bytes), (backend_at, &expected[..]), "{way}: before it was undone");
            assert_eq!(packet.comment, format!("forwarded reply vip {vip}/udp backend {backend_at}"));
            assert_eq!(packet.interface, format!("b{backend}"));
        }
        assert!(captured.packets.is_sorted_by_key(|packet| packet.time));
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
        let age = now.saturating_sub(captured.packets[0].time);
        assert!(age < Duration::from_secs(600) && captured.packets[0].time < now, "{age:?}");
    }
}

#[test]
fn filters_leave_the_rest_out_and_what_is_dropped_says_why() {
    if !can_run() {
        return;
    }
    let topology = Topology::new(Arms::Two, 2);
    let _echoes = start_echoes(&topology);
    let _gateway = Gateway::start(&topology, &Service::of(&[0, 1]).toml(&topology));
    let vip = vip(&topology);
    let unused = SocketAddr::new(vip.ip(), 81);
    // What each filter must find and leave out, sent in turns.
    let both = |rounds: usize| {
        topology.client.enter(move || {
            let (flow, lost) = (Flow::open(vip).expect("a socket"), Flow::open(unused).expect("a socket"));
            for number in 0..rounds {
                flow.exchange(&payload(number)).expect("an answer");
                lost.socket.send(&payload(number)).expect("send");
            }
            let mut tcp = Connection::open(vip).expect("a connection");
            tcp.exchange(b"data").expect("data comes back");
        });
    };
    for (filter, comment) in
        [("dropped", "dropped unused_port"), ("unused_port --client 10.10.0.0/24", "dropped unused_port")]
    {
        let capture = Capture::start(&topology, &format!("--seconds 30 --count 20 --snap 60 --verdict {filter}"));
        both(20);
        let captured = capture.end();
        captured.is_whole("as many as were asked for");
        for (number, packet) in captured.packets.iter().enumerate() {
            assert_eq!(packet.comment, comment);
            let whole = 42 + payload(number).len();
            assert_eq!((packet.length as usize, packet.bytes.len()), (whole, whole.min(60)), "the beginning is kept");
            assert_eq!(packet.bytes[30..34], [10, 10, 0, 100]);
        }
    }
    // All of a TCP connection, and nothing of UDP, whose VIP has the same address and port: by protocol in the comment.
    let capture = Capture::start(&topology, &format!("--seconds 3 --verdict forwarded --vip {vip} --client 10.10.0.2"));
    both(5);
    let captured = capture.end();
    captured.is_whole("its time is over");
    let with = |words: &str| captured.packets.iter().filter(|packet| packet.comment.starts_with(words)).count();
    assert_eq!(with(&format!("forwarded vip {vip}/udp backend ")), 5);
    assert_eq!(with(&format!("forwarded reply vip {vip}/udp backend ")), 5, "the client of an answer is its flow's");
    assert!(with(&format!("forwarded vip {vip}/tcp backend ")) >= 3 && with("forwarded reply") >= 8);
    assert_eq!(with("forwarded"), captured.packets.len());
    for nobody in ["--client 198.51.100.0/24", "--verdict no_backend", "--verdict held"] {
        let capture = Capture::start(&topology, &format!("--seconds 2 {nobody}"));
        both(5);
        let captured = capture.end();
        captured.is_whole("its time is over");
        assert!(captured.packets.is_empty(), "{nobody}: {:?}", captured.packets[0]);
    }
    for (wrong, why) in [
        ("--vip 10.10.0.100:82", "no tcp or udp listener has the address 10.10.0.100:82"),
        ("--seconds 301", "--seconds=301: expected a number, 1 to 300"),
    ] {
        let output = egctl::run(&topology, &format!("capture {wrong} --write /dev/null"));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(why), "{wrong}: {said}");
    }
}

#[test]
fn captures_that_come_and_go_lose_no_datagram_and_miss_none_in_between() {
    const CAPTURES: usize = 3;
    if !can_run() || !require("tc") {
        return;
    }
    let mut topology = Topology::new(Arms::Two, 2);
    let arriving = topology.count_arrivals();
    let leaving = tally::Tally::leaving(&topology.client, "eth0");
    let _gateway = Gateway::start(&topology, &Service::of(&[0, 1]).toml(&topology));
    let (vip, before) = (vip(&topology), programs(&topology));
    let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let sender = topology.client.spawn({
        let (stop, sent) = (Arc::clone(&stop), Arc::clone(&sent));
        move || {
            let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
            socket.connect(vip).expect("connect");
            while !stop.load(Ordering::SeqCst) {
                let number = sent.fetch_add(1, Ordering::SeqCst);
                // A queue of the host's own that is full: not sent, not counted where it leaves.
                let _ = tally::send(&socket, number);
                std::thread::sleep(Duration::from_micros(300));
            }
        }
    });
    for _ in 0..CAPTURES {
        let capture = Capture::start(&topology, &format!("--seconds 30 --count 2000 --vip {vip}"));
        let captured = capture.end();
        captured.is_whole("as many as were asked for");
        let numbers = captured.packets.iter().map(|packet| {
            let (_, _, bytes) = packet.udp();
            u32::from_le_bytes(bytes[4..8].try_into().expect("a number"))
        });
        let numbers: Vec<u32> = numbers.collect();
        assert!(numbers.windows(2).all(|two| two[1] == two[0] + 1), "a gap in what was captured");
        assert_eq!(programs(&topology), before);
    }
    stop.store(true, Ordering::SeqCst);
    sender.join().expect("the sender");
    let gone = leaving.count();
    assert!(gone.packets > 2000 * CAPTURES as u64, "{gone:?}");
    let deadline = Instant::now() + Duration::from_secs(20);
    while arriving.iter().map(tally::Tally::count).sum::<tally::Count>() != gone {
        assert!(
            Instant::now() < deadline,
            "left: {gone:?}, arrived: {:?}",
            arriving.iter().map(tally::Tally::count).sum::<tally::Count>()
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn there_is_one_capture_at_a_time_and_it_ends_with_its_client_or_a_reload() {
    if !can_run() {
        return;
    }
    let topology = Topology::new(Arms::Two, 1);
    let service = Service::of(&[0]);
    let mut gateway = Gateway::start(&topology, &service.toml(&topology));
    let (before, tables) = (programs(&topology), tables_of_programs(&topology));
    let back = |gateway: &mut Gateway<'_>| {
        gateway.wait("the programs themselves", |_| programs(&topology) == before);
        gateway.wait("the twins' tables to go", |_| tables_of_programs(&topology) == tables);
    };

    let mut capture = Capture::start(&topology, "--seconds 300");
    assert_eq!(tables_of_programs(&topology), tables + 1);
    let second = egctl::run(&topology, "capture --write /dev/null");
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(!second.status.success() && said.contains("another capture is under way; it ends within"), "{said}");
    capture.child.kill().expect("kill egctl");
    back(&mut gateway);
    drop(capture);

    let capture = Capture::start(&topology, "--seconds 1");
    capture.end().is_whole("its time is over");
    back(&mut gateway);

    let capture = Capture::start(&topology, "--seconds 300");
    gateway.reload(&Service { drain_timeout: "59s", ..service }.toml(&topology));
    capture.end().is_whole("the configuration is reloaded");
    back(&mut gateway);

    let capture = Capture::start(&topology, "--seconds 300");
    gateway.end(Signal::SIGTERM);
    assert_eq!(programs(&topology), before, "what stops puts them back");
    drop(capture);
}

#[test]
fn a_gateway_that_is_killed_in_a_capture_leaves_twins_that_forward_and_the_next_start_replaces_them() {
    if !can_run() {
        return;
    }
    let topology = Topology::new(Arms::Two, 1);
    let _echoes = start_echoes(&topology);
    let toml = Service::of(&[0]).toml(&topology);
    let mut gateway = Gateway::start(&topology, &toml);
    let (vip, before, tables) = (vip(&topology), programs(&topology), tables_of_programs(&topology));
    let capture = Capture::start(&topology, "--seconds 300");
    let twins = programs(&topology);
    gateway.end(Signal::SIGKILL);
    let captured = capture.end();
    assert!(!captured.status.success() && captured.end.contains("cut short"), "{}", captured.end);

    assert_eq!(programs(&topology), twins, "they stay");
    topology.client.enter(|| {
        let mut tcp = Connection::open(vip).expect("a new flow, which is opened behind a tail call");
        tcp.exchange(b"by the twin").expect("data comes back");
        Flow::open(vip).expect("a socket").exchange(b"by the twin").expect("an answer");
    });
    gateway.launch();
    let after = programs(&topology);
    assert!(after.iter().all(|(link, program)| twins[link] != *program && before[link] != *program));
    assert_eq!(tables_of_programs(&topology), tables, "what the twins left is swept");
    topology.client.enter(|| Flow::open(vip).expect("a socket").exchange(b"after").expect("an answer"));
}

#[test]
fn the_programs_have_nothing_of_what_their_twins_have() {
    use libbpf_rs::skel::{OpenSkel, SkelBuilder};
    let (mut one, mut other) = (std::mem::MaybeUninit::uninit(), std::mem::MaybeUninit::uninit());
    let plain = eg_skel::xdp_ingress::IngressSkelBuilder::default().open(&mut one).expect("the object");
    let twin = eg_skel::xdp_capture::CaptureSkelBuilder::default().open(&mut other).expect("the twin");
    let maps = |object: &libbpf_rs::OpenObject| {
        let names = object.maps().map(|map| map.name().to_string_lossy().into_owned());
        names.filter(|name| !name.contains('.')).collect::<Vec<String>>()
    };
    let sizes = |object: &libbpf_rs::OpenObject| {
        let programs =
            object.progs().map(|program| (program.name().to_string_lossy().into_owned(), program.insn_cnt()));
        programs.collect::<BTreeMap<String, usize>>()
    };
    let mut expected = maps(plain.open_object());
    expected.extend(["capture_lost".to_owned(), "captured".to_owned()]);
    expected.sort();
    let mut found = maps(twin.open_object());
    found.sort();
    assert_eq!(found, expected);
    let (plain, twin) = (sizes(plain.open_object()), sizes(twin.open_object()));
    assert!(plain.keys().eq(twin.keys()), "{plain:?} {twin:?}");
    assert!(plain["eg_xdp_ingress"] < twin["eg_xdp_ingress"], "{plain:?} {twin:?}");
}
