// SPDX-License-Identifier: GPL-3.0-only
//! `egctl flows` and `egctl drops --samples` beside real traffic: what they show is what was sent, and nothing else. Needs
//! root, XDP and network namespaces.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, ErrorKind};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::Stdio;
use std::time::{Duration, Instant};

use eg_abi::{Flow, FlowDir, FlowKey, FlowState, PROTO_TCP, PROTO_UDP, VipKey};
use eg_kernel_tests::require;
use eg_kernel_tests::topology::config::{SERVICE, Service};
use eg_kernel_tests::topology::echo::{self, Connection, Echo, PORT};
use eg_kernel_tests::topology::egctl;
use eg_kernel_tests::topology::gateway::{Gateway, maps};
use eg_kernel_tests::topology::{Arms, Topology};
use serde_json::{Value, json};

fn can_run() -> bool {
    ["root", "netns", "bpffs", "xdp", "ethtool"].iter().all(|feature| require(feature))
}

fn start_echoes(topology: &Topology) -> Vec<Echo> {
    topology.backends.iter().enumerate().map(|(number, space)| Echo::start(space, number as u8)).collect()
}

/// Protocol, client, VIP, backend.
type Known = (String, SocketAddr, SocketAddr, String);

/// Open flows, as their clients know them.
#[derive(Default)]
struct Opened {
    tcp: Vec<Connection>,
    udp: Vec<echo::Flow>,
    known: BTreeSet<Known>,
}

/// `count` TCP and `count` UDP flows to each VIP.
fn open(topology: &Topology, count: usize) -> Opened {
    let mut opened = Opened::default();
    topology.client.enter(|| {
        for v6 in [false, true] {
            let vip = SocketAddr::new(topology.vip(v6), SERVICE);
            for _ in 0..count {
                let mut tcp = Connection::open(vip).expect("a connection");
                tcp.exchange(b"hello").expect("an echo");
                let client = tcp.stream.local_addr().expect("an address");
                opened.known.insert(("tcp".into(), client, vip, format!("b{}", tcp.backend)));
                opened.tcp.push(tcp);
                let udp = echo::Flow::open(vip).expect("a socket");
                let backend = udp.exchange(b"hello").expect("an echo");
                let client = udp.socket.local_addr().expect("an address");
                opened.known.insert(("udp".into(), client, vip, format!("b{backend}")));
                opened.udp.push(udp);
            }
        }
    });
    opened
}

fn word<'v>(row: &'v Value, column: &str) -> &'v str {
    row[column].as_str().unwrap_or_else(|| panic!("no {column} in {row}"))
}

fn known(row: &Value) -> Known {
    let address = |column| word(row, column).parse().expect(column);
    (word(row, "protocol").into(), address("client"), address("vip"), word(row, "backend").into())
}

#[test]
fn vips_shows_exactly_the_vips_of_the_configuration() {
    if !can_run() {
        return;
    }
    let topology = Topology::new(Arms::Two, 1);
    let toml = Service::of(&[0]).toml(&topology);
    // Its fragments have an entry of their own in the kernel.
    let stable = toml.replace("protocol = \"udp\"\n", "protocol = \"udp\"\nfragments = \"stable\"\n");
    let _gateway = Gateway::start(&topology, &stable);
    let shown: BTreeSet<(String, SocketAddr)> = egctl::rows(&topology, "vips")
        .iter()
        .map(|row| (word(row, "protocol").to_owned(), word(row, "address").parse().expect("an address")))
        .collect();
    let vips = [false, true].map(|v6| SocketAddr::new(topology.vip(v6), SERVICE));
    let expected = vips.iter().flat_map(|vip| [("tcp".to_owned(), *vip), ("udp".to_owned(), *vip)]).collect();
    assert_eq!(shown, expected);
}

#[test]
fn flows_shows_exactly_the_connections_that_are_open() {
    if !can_run() {
        return;
    }
    const COUNT: usize = 50;
    let topology = Topology::new(Arms::Two, 3);
    let _echoes = start_echoes(&topology);
    let _gateway = Gateway::start(&topology, &Service::of(&[0, 1, 2]).toml(&topology));
    assert_eq!(egctl::rows(&topology, "flows"), Vec::<Value>::new());
    let opened = open(&topology, COUNT);

    let rows = egctl::rows(&topology, "flows");
    let shown: BTreeSet<Known> = rows.iter().map(known).collect();
    assert_eq!(rows.len(), 4 * COUNT, "one line each");
    assert_eq!(shown, opened.known);
    for row in &rows {
        let source: SocketAddr = word(row, "source").parse().expect("a source");
        assert!((10_240..=32_767).contains(&source.port()), "{row}");
        let expected: std::net::IpAddr = {
            let number = word(row, "backend").trim_start_matches('b');
            let v6 = source.is_ipv6();
            if v6 { format!("fd20:{number}::1") } else { format!("10.20.{number}.1") }.parse().expect("an address")
        };
        assert_eq!(source.ip(), expected, "{row}");
        let family = if source.is_ipv6() { 6 } else { 4 };
        assert_eq!(row["pool"], json!(format!("echo{family}")), "{row}");
        assert_eq!(row["listener"], json!(format!("{}{family}", word(row, "protocol"))), "{row}");
        assert_eq!((&row["state"], &row["halves"]), (&json!("open"), &json!("both")), "{row}");
        assert_eq!(row["stale"], Value::Null, "{row}");
        assert!(row["idle"].as_u64().is_some_and(|idle| idle < 600), "{row}");
    }
    let text = egctl::text(&topology, "flows");
    assert_eq!(text.lines().count(), 4 * COUNT + 1);
    assert!(text.starts_with("PROTOCOL"), "{text}");
    filters(&topology, &opened);
    orders(&topology, &opened);
    closing(&topology, opened);
}

fn filters(topology: &Topology, opened: &Opened) {
    let same = |arguments: &str, wanted: &dyn Fn(&Known) -> bool| {
        let rows = egctl::rows(topology, &format!("flows {arguments}"));
        let expected: BTreeSet<Known> = opened.known.iter().filter(|known| wanted(known)).cloned().collect();
        assert_eq!(rows.iter().map(known).collect::<BTreeSet<_>>(), expected, "{arguments}");
        assert_eq!(rows.len(), expected.len(), "{arguments}");
        let count = egctl::rows(topology, &format!("flows --count {arguments}"));
        assert_eq!(count[0]["flows"], json!(expected.len()), "{arguments}: {count:?}");
        expected.len()
    };
    let some = |number: usize| assert!(number > 0, "the filter was not tried");
    some(same("--proto tcp", &|known| known.0 == "tcp"));
    some(same("--proto udp", &|known| known.0 == "udp"));
    some(same("--vip 10.10.0.100", &|known| known.2.is_ipv4()));
    some(same("--vip fd10::100", &|known| known.2.is_ipv6()));
    some(same("--vip [fd10::100]:80", &|known| known.2.is_ipv6()));
    same("--vip 10.10.0.100:81", &|_| false);
    some(same("--client 10.10.0.0/24", &|known| known.1.is_ipv4()));
    some(same("--client fd10::2", &|known| known.1.is_ipv6()));
    same("--client 10.10.1.0/24", &|_| false);
    some(same("--backend b1", &|known| known.3 == "b1"));
    some(same("--backend 10.20.2.2", &|known| known.3 == "b2" && known.2.is_ipv4()));
    some(same(&format!("--backend [fd20:0::2]:{PORT}"), &|known| known.3 == "b0" && known.2.is_ipv6()));
    same("--backend 10.20.2.2:1", &|_| false);
    some(same("--state open", &|_| true));
    same("--state closing", &|_| false);
    some(same("--proto tcp --vip 10.10.0.100 --backend b0 --client 10.10.0.2/32 --state open", &|known| {
        known.0 == "tcp" && known.2.is_ipv4() && known.3 == "b0"
    }));
    for wrong in ["--vip web", "--client 10.0.0.0/40", "--proto sctp", "--state gone", "--count --limit 3"] {
        let output = egctl::run(topology, &format!("flows {wrong}"));
        assert_eq!(output.status.code(), Some(2), "{wrong}");
    }
}

fn orders(topology: &Topology, opened: &Opened) {
    assert_eq!(egctl::rows(topology, "flows --limit 7").len(), 7);
    assert_eq!(egctl::rows(topology, "flows --limit 0").len(), 0);
    let clients = |arguments: &str| -> Vec<SocketAddr> {
        egctl::rows(topology, arguments).iter().map(|row| known(row).1).collect()
    };
    let mut sorted: Vec<SocketAddr> = opened.known.iter().map(|known| known.1).collect();
    sorted.sort();
    assert_eq!(clients("flows --sort client"), sorted);
    assert_eq!(clients("flows --sort client --limit 5"), sorted[..5]);
}

/// FIN and RST turn the state, and change nothing else.
fn closing(topology: &Topology, opened: Opened) {
    let Opened { tcp, udp, known: all } = opened;
    let number = tcp.len();
    drop(tcp);
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let rows = egctl::rows(topology, "flows --state closing");
        if rows.len() == number {
            let closed: BTreeSet<Known> = rows.iter().map(known).collect();
            assert_eq!(closed, all.into_iter().filter(|known| known.0 == "tcp").collect());
            break;
        }
        assert!(Instant::now() < deadline, "{} of {number} are closing", rows.len());
        std::thread::sleep(Duration::from_millis(50));
    }
    let count = egctl::rows(topology, "flows --count");
    assert_eq!(
        count[0],
        json!({ "flows": 2 * number, "opening": 0, "open": number, "closing": number, "one_half": 0, "stale": 0 })
    );
    drop(udp);
}

/// A flow written by hand, so that no packet of anybody's changes it meanwhile.
struct Made {
    known: Known,
    ahead: (FlowKey, Flow),
    back: (FlowKey, Flow),
}

impl Made {
    /// Client `10.10.0.77:number` of the IPv4 VIP, by source port `number`.
    fn write(topology: &Topology, maps: &eg_skel::Maps, proto: u8, number: u16) -> Made {
        let vip = SocketAddr::new(topology.vip(false), SERVICE);
        let client: SocketAddr = format!("10.10.0.77:{number}").parse().expect("an address");
        let source: SocketAddr = format!("10.20.0.1:{number}").parse().expect("an address");
        let backend = topology.backend_address(0, false, PORT);
        let number_of = |number: &u32| maps.backends.get(*number).is_ok_and(|at| at.addr == backend.ip().into());
        let number = (1..16).find(number_of).expect("the backend has a number");
        let id = maps.vip_ids.get(&VipKey::new(vip, proto)).expect("eg_vip_ids").expect("the vip has an id");
        let flow = |dir: FlowDir, other: SocketAddr| Flow {
            addr: other.ip().into(),
            port: other.port().into(),
            dir: dir.code() as u8,
            state: FlowState::Open.code() as u8,
            vip: id,
            epoch: maps.vips.get(id).expect("eg_vips").epoch,
            backend: number,
            generation: maps.backends.get(number).expect("eg_backends").generation,
            seen: eg_skel::features::jiffies().expect("jiffies"),
            ..Flow::default()
        };
        let made = Made {
            known: (if proto == PROTO_TCP { "tcp" } else { "udp" }.into(), client, vip, "b0".into()),
            ahead: (FlowKey::new(client, vip, proto), flow(FlowDir::Forward, source)),
            back: (FlowKey::new(backend, source, proto), flow(FlowDir::Reverse, client)),
        };
        for (key, flow) in [&made.ahead, &made.back] {
            maps.flows.set(key, flow).expect("eg_flows");
        }
        made
    }
}

#[test]
fn flows_says_what_is_wrong_with_a_flow() {
    if !can_run() {
        return;
    }
    let topology = Topology::new(Arms::Two, 1);
    let service = Service::of(&[0]);
    let mut gateway = Gateway::start(&topology, &service.toml(&topology));
    let maps = maps(&topology).expect("pinned maps");
    let set = |(key, flow): &(FlowKey, Flow)| maps.flows.set(key, flow).expect("eg_flows");
    let delete = |key: &FlowKey| assert!(maps.flows.delete(key).expect("eg_flows"), "it was there");
    let row = |made: &Made| {
        let rows = egctl::rows(&topology, "flows");
        let same = |row: &&Value| word(row, "client") == made.known.1.to_string();
        assert_eq!(rows.iter().filter(same).count(), 1, "one line each: {rows:?}");
        rows.iter().find(same).expect("a line").clone()
    };
    let [halves, taken, opening] = [1, 2, 3].map(|number| Made::write(&topology, &maps, PROTO_TCP, number));
    let [expired, gone] = [4, 5].map(|number| Made::write(&topology, &maps, PROTO_UDP, number));
    for made in [&halves, &taken, &opening, &expired, &gone] {
        let row = row(made);
        assert_eq!(known(&row), made.known);
        assert_eq!((&row["halves"], &row["stale"], &row["state"]), (&json!("both"), &Value::Null, &json!("open")));
    }

    delete(&halves.back.0);
    assert_eq!(row(&halves)["halves"], json!("forward"));
    set(&halves.back);
    delete(&halves.ahead.0);
    let seen = row(&halves);
    assert_eq!((&seen["halves"], &seen["stale"]), (&json!("reverse"), &Value::Null));
    assert_eq!(known(&seen), halves.known);

    set(&(taken.back.0, Flow { port: 999u16.into(), ..taken.back.1 }));
    assert_eq!((&row(&taken)["halves"], &row(&taken)["stale"]), (&json!("forward"), &json!("taken")));

    let half_open = FlowState::Opening.code() as u8;
    set(&(opening.ahead.0, Flow { state: half_open, ..opening.ahead.1 }));
    set(&(opening.back.0, Flow { state: half_open, ..opening.back.1 }));
    assert_eq!(row(&opening)["state"], json!("opening"));
    assert_eq!(egctl::rows(&topology, "flows --state opening").iter().map(known).collect::<Vec<_>>(), [opening.known]);

    // One half within its time keeps the flow.
    let ticks = 1000 * eg_skel::features::jiffies_hz().expect("the tick");
    let older = |(key, flow): &(FlowKey, Flow)| set(&(*key, Flow { seen: flow.seen.wrapping_sub(ticks), ..*flow }));
    older(&expired.ahead);
    assert_eq!(row(&expired)["stale"], Value::Null);
    older(&expired.back);
    let seen = row(&expired);
    assert_eq!(seen["stale"], json!("expired"));
    assert!(seen["idle"].as_u64().is_some_and(|idle| (1000..1600).contains(&idle)), "{seen}");
    assert_eq!(known(&egctl::rows(&topology, "flows --sort idle --limit 1")[0]), expired.known);
    assert_ne!(known(&egctl::rows(&topology, "flows --sort recent --limit 1")[0]), expired.known);
    assert_eq!(egctl::rows(&topology, "flows --count")[0]["stale"], json!(2));

    // The backend's number has a new owner; then the VIP goes.
    let slot = maps.backends.get(gone.ahead.1.backend).expect("eg_backends");
    let next = eg_abi::Backend { generation: slot.generation + 1, ..slot };
    maps.backends.set(gone.ahead.1.backend, &next).expect("eg_backends");
    let seen = row(&gone);
    assert_eq!((&seen["stale"], &seen["backend"], &seen["halves"]), (&json!("generation"), &Value::Null, &Value::Null));
    maps.backends.set(gone.ahead.1.backend, &slot).expect("eg_backends");
    assert_eq!(row(&gone)["stale"], Value::Null);
    let toml = service.toml(&topology);
    let listener = toml.split("\n[[listeners]]").find(|part| part.contains("\"udp4\"")).expect("the listener");
    let end = listener.find("\n[pools").unwrap_or(listener.len());
    gateway.reload(&toml.replace(&format!("\n[[listeners]]{}", &listener[..end]), ""));
    assert_eq!((&row(&gone)["stale"], &row(&gone)["listener"]), (&json!("epoch"), &Value::Null));
}

#[test]
fn flows_walks_a_large_table_to_its_end() {
    if !can_run() {
        return;
    }
    const COUNT: u32 = 20_000;
    let topology = Topology::new(Arms::Two, 1);
    let _gateway = Gateway::start(&topology, &Service::of(&[0]).toml(&topology));
    let maps = maps(&topology).expect("pinned maps");
    let vip = SocketAddr::new(topology.vip(false), SERVICE);
    let id = maps.vip_ids.get(&VipKey::new(vip, PROTO_UDP)).expect("eg_vip_ids").expect("the vip has an id");
    let flow = Flow {
        addr: "10.20.0.1".parse::<std::net::IpAddr>().expect("an address").into(),
        state: FlowState::Open.code() as u8,
        vip: id,
        epoch: maps.vips.get(id).expect("eg_vips").epoch,
        backend: 1,
        generation: maps.backends.get(1).expect("eg_backends").generation,
        seen: eg_skel::features::jiffies().expect("jiffies"),
        ..Flow::default()
    };
    for number in 0..COUNT {
        let client = SocketAddr::new(std::net::Ipv4Addr::from_bits(0x0b00_0000 + number).into(), 7);
        maps.flows.set(&FlowKey::new(client, vip, PROTO_UDP), &flow).expect("eg_flows");
    }
    let count = egctl::rows(&topology, "flows --count");
    assert_eq!((&count[0]["flows"], &count[0]["one_half"]), (&json!(COUNT), &json!(COUNT)));
    let clients: BTreeSet<String> =
        egctl::rows(&topology, "flows").iter().map(|row| word(row, "client").into()).collect();
    assert_eq!(clients.len(), COUNT as usize);
    let last = egctl::rows(&topology, "flows --sort client --limit 3 --client 11.0.78.0/24");
    assert_eq!(
        last.iter().map(|row| word(row, "client")).collect::<Vec<_>>(),
        ["11.0.78.0:7", "11.0.78.1:7", "11.0.78.2:7"]
    );
    // A reader that has seen enough is no failure.
    let mut child =
        egctl::command(&topology).arg("flows").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("egctl");
    let mut first = String::new();
    BufReader::new(child.stdout.take().expect("its output")).read_line(&mut first).expect("a line");
    let output = child.wait_with_output().expect("its end");
    assert!(first.starts_with("PROTOCOL") && output.status.success() && output.stderr.is_empty(), "{output:?}");
}

/// Sends a bare TCP ACK, of no connection of anybody's.
fn send_ack(source: u16, destination: SocketAddr) {
    use nix::sys::socket::{
        AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, sendto, socket,
    };
    let raw =
        socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Tcp).expect("a raw socket");
    let mut header = [0u8; 20];
    header[..2].copy_from_slice(&source.to_be_bytes());
    header[2..4].copy_from_slice(&destination.port().to_be_bytes());
    // Five words of header; ACK.
    (header[12], header[13]) = (5 << 4, 0x10);
    let to = SockaddrStorage::from(SocketAddr::new(destination.ip(), 0));
    sendto(raw.as_raw_fd(), &header, &to, MsgFlags::empty()).expect("send");
}

#[test]
fn drops_shows_the_refused_packets_themselves() {
    if !can_run() {
        return;
    }
    let topology = Topology::new(Arms::Two, 1);
    let mut gateway = Gateway::start(&topology, &Service::of(&[0]).toml(&topology));
    assert_eq!(egctl::rows(&topology, "drops --samples"), Vec::<Value>::new());
    let vip = SocketAddr::new(topology.vip(false), SERVICE);
    let unused = SocketAddr::new(topology.vip(true), 4242);
    let udp = topology.client.enter(|| {
        send_ack(4321, vip);
        let udp = UdpSocket::bind("[fd10::2]:0").expect("a socket");
        udp.send_to(b"anybody?", unused).expect("send");
        udp.local_addr().expect("an address")
    });
    gateway.wait("two samples", |_| egctl::rows(&topology, "drops --samples").len() == 2);
    let rows = egctl::rows(&topology, "drops --samples");
    let of = |reason: &str| rows.iter().find(|row| row["reason"] == json!(reason)).expect(reason).clone();
    let without = |mut row: Value| {
        let at = row["at"].take().as_f64().expect("a time");
        let now = std::time::UNIX_EPOCH.elapsed().expect("a time after 1970").as_secs_f64();
        assert!((now - 600.0..=now).contains(&at), "{at} is not just before {now}");
        row
    };
    assert_eq!(
        without(of("no_flow")),
        json!({
            "at": null, "reason": "no_flow", "interface": "c0", "protocol": "tcp", "source": "10.10.0.2:4321",
            "destination": "10.10.0.100:80", "vip": "tcp4", "pool": null, "backend": null, "length": 40,
        })
    );
    assert_eq!(
        without(of("unused_port")),
        json!({
            "at": null, "reason": "unused_port", "interface": "c0", "protocol": "udp", "source": udp.to_string(),
            "destination": "[fd10::100]:4242", "vip": null, "pool": null, "backend": null, "length": 40 + 8 + 8,
        })
    );
    assert_eq!(egctl::rows(&topology, "drops --samples 1"), [of("unused_port")], "the newest");
    assert!(egctl::text(&topology, "drops --samples").starts_with("AT "));
    let logged = [
        "reason=\"no_flow\" source=\"10.10.0.2:4321\" destination=\"10.10.0.100:80\" protocol=\"tcp\" bytes=40"
            .to_owned(),
        format!("reason=\"unused_port\" source=\"{udp}\" destination=\"[fd10::100]:4242\" protocol=\"udp\""),
    ];
    for line in logged {
        assert!(gateway.said().contains(&line), "no {line:?} in the log:\n{}", gateway.said());
    }
    follow(&topology, vip);

    gateway.end(nix::sys::signal::Signal::SIGTERM);
    let output = egctl::run(&topology, "drops --samples");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("is the gateway running"), "{output:?}");
    assert!(egctl::text(&topology, "drops").contains("no_flow"), "the counters outlive the process");
}

/// Packets are sent until one is shown: how long egctl takes to start is nobody's promise.
fn follow(topology: &Topology, vip: SocketAddr) {
    let mut command = egctl::command(topology);
    let mut child = command
        .args(["--json", "drops", "--samples", "0", "--follow", "600"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("egctl");
    let output = child.stdout.take().expect("its output");
    nix::fcntl::fcntl(&output, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK)).expect("nonblocking");
    let (mut output, mut line) = (BufReader::new(output), String::new());
    let deadline = Instant::now() + Duration::from_secs(20);
    while !line.contains('}') {
        assert!(Instant::now() < deadline, "nothing was shown");
        topology.client.enter(|| send_ack(4322, vip));
        std::thread::sleep(Duration::from_millis(50));
        match output.read_line(&mut line) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            other => assert!(other.expect("read") > 0, "it ended"),
        }
    }
    let shown: Value =
        serde_json::from_str(line.trim().trim_start_matches('[').trim_end_matches(',')).expect("an object");
    assert_eq!((&shown["source"], &shown["reason"]), (&json!("10.10.0.2:4322"), &json!("no_flow")));
    child.kill().expect("end it");
    child.wait().expect("its end");
}
