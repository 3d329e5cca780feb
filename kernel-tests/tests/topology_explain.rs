// SPDX-License-Identifier: GPL-3.0-only
//! `egctl explain` beside real traffic: what it says becomes true, and it leaves no trace. Needs root, XDP and network
//! namespaces.

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

use eg_kernel_tests::require;
use eg_kernel_tests::topology::config::{SERVICE, Service};
use eg_kernel_tests::topology::echo::{Echo, Flow, PORT};
use eg_kernel_tests::topology::egctl;
use eg_kernel_tests::topology::gateway::Gateway;
use eg_kernel_tests::topology::{Arms, Topology};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, socket};
use serde_json::{Value, json};

fn can_run() -> bool {
    ["root", "netns", "bpffs", "xdp", "ethtool"].iter().all(|feature| require(feature))
}

fn explain(topology: &Topology, arguments: &str) -> Value {
    let text = egctl::text(topology, &format!("--json explain {arguments}"));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Connects from this port and waits for the backend's number.
fn connect_from(vip: SocketAddr, port: u16) -> (TcpStream, u8) {
    let (family, any): (_, IpAddr) = match vip {
        SocketAddr::V4(_) => (AddressFamily::Inet, Ipv4Addr::UNSPECIFIED.into()),
        SocketAddr::V6(_) => (AddressFamily::Inet6, Ipv6Addr::UNSPECIFIED.into()),
    };
    let client = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
    bind(client.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(any, port))).expect("bind");
    connect(client.as_raw_fd(), &SockaddrStorage::from(vip)).expect("connect");
    let mut stream = TcpStream::from(client);
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    let mut number = [0];
    stream.read_exact(&mut number).expect("the backend's number");
    (stream, number[0])
}

/// All that is counted and remembered of the service. What passes is the hosts' own: neighbours are asked for at any time.
fn traces(topology: &Topology) -> [Vec<Value>; 4] {
    ["flows --count", "drops", "vips", "pools"].map(|arguments| {
        let mut rows = egctl::rows(topology, arguments);
        rows.retain(|row| !matches!(row["what"].as_str(), Some("received" | "passed")));
        rows
    })
}

#[test]
fn an_explanation_names_the_backend_that_then_answers() {
    if !can_run() || !require("tc") {
        return;
    }
    for way in ["native", "tc"] {
        // XDP does not work between ends that leave checksums to others.
        let topology = if way == "tc" { Topology::with_offloads } else { Topology::new }(Arms::Two, 3);
        let _echoes: Vec<Echo> =
            topology.backends.iter().enumerate().map(|(number, space)| Echo::start(space, number as u8)).collect();
        let service = Service::of(&[0, 1, 2]).toml(&topology);
        let _gateway = Gateway::start(&topology, &service.replace("xdp = \"native\"", &format!("xdp = \"{way}\"")));
        let mut answered = std::collections::BTreeSet::new();
        for v6 in [false, true] {
            // No port twice: IPv6's sockets would want IPv4's as well.
            let port = if v6 { 41_011 } else { 41_001 };
            answered.insert(foretold(&topology, v6, "tcp", port, way));
            answered.insert(foretold(&topology, v6, "udp", port, way));
        }
        assert!(answered.len() > 1, "more than one backend was foretold: {answered:?}");
    }
}

/// Asks first, then connects; gives the backend.
fn foretold(topology: &Topology, v6: bool, proto: &str, port: u16, way: &str) -> u8 {
    let vip = SocketAddr::new(topology.vip(v6), SERVICE);
    let client: IpAddr = if v6 { "fd10::2" } else { "10.10.0.2" }.parse().expect("the client");
    let client = SocketAddr::new(client, port);
    let question = format!("--vip {vip} --src {client} --proto {proto} --iface c0");
    let before = traces(topology);
    let said = explain(topology, &question);
    assert_eq!(traces(topology), before, "an explanation leaves no trace");

    let (_tcp, _udp, backend) = topology.client.enter(|| {
        if proto == "tcp" {
            let (stream, backend) = connect_from(vip, port);
            return (Some(stream), None, backend);
        }
        let flow = Flow::open_from(vip, port).expect("a socket");
        let backend = flow.exchange(b"hello").expect("an echo");
        (None, Some(flow), backend)
    });
    let family = if v6 { 6 } else { 4 };
    assert_eq!(said["packet"]["interface"], json!("c0"), "{said}");
    assert_eq!(said["packet"]["family"], json!(family), "{said}");
    assert_eq!(said["packet"]["text"].as_str().is_some_and(|text| text.contains("by tc")), way == "tc", "{said}");
    assert_eq!(said["flow"]["found"], json!(false), "{said}");
    assert_eq!(said["vip"]["name"], json!(format!("{proto}{family}")), "{said}");
    assert_eq!(said["vip"]["address"], json!(vip.to_string()), "{said}");
    assert_eq!(said["pool"]["name"], json!(format!("echo{family}")), "{said}");
    assert_eq!(said["pool"]["algorithm"], json!("maglev"), "{said}");
    assert!(said["pool"]["slot"].is_u64(), "{said}");
    assert_eq!(said["backend"]["name"], json!(format!("b{backend}")), "{said}");
    let address = topology.backend_address(backend.into(), v6, PORT);
    assert_eq!(said["backend"]["address"], json!(address.to_string()), "{said}");
    assert_eq!(said["rewrite"]["mode"], json!("nat"), "{said}");
    let after = &said["rewrite"]["after"]["packets"][0];
    assert_eq!(after["destination"], json!(address.ip().to_string()), "{said}");
    assert_eq!(after["destination_port"], json!(PORT), "{said}");
    assert_eq!(
        (&said["verdict"]["is"], &said["verdict"]["interface"]),
        (&json!("forwarded"), &json!(format!("b{backend}")))
    );

    // The flow that was opened meanwhile is found, and leads to the same backend.
    let flags = if proto == "tcp" { " --flags ack" } else { "" };
    let said = explain(topology, &format!("{question}{flags}"));
    assert_eq!((&said["flow"]["found"], &said["flow"]["table"]), (&json!(true), &json!("established")), "{said}");
    assert_eq!(said["backend"]["name"], json!(format!("b{backend}")), "{said}");
    assert_eq!(said.get("pool"), None, "nobody is picked for a known flow: {said}");
    backend
}

#[test]
fn an_explanation_says_why_a_packet_goes_nowhere() {
    if !can_run() {
        return;
    }
    let topology = Topology::new(Arms::Two, 1);
    let _echo = Echo::start(&topology.backends[0], 0);
    let _gateway = Gateway::start(&topology, &Service::of(&[0]).toml(&topology));
    let verdict = |arguments: &str| {
        let said = explain(&topology, arguments);
        (said["verdict"]["is"].clone(), said["verdict"]["reason"].clone())
    };
    let dropped = |reason: &str| (json!("dropped"), json!(reason));
    assert_eq!(verdict("--vip 10.10.0.100:81"), dropped("unused_port"));
    assert_eq!(verdict("--vip 10.10.0.100:80 --flags ack"), dropped("no_flow"));
    assert_eq!(verdict("--vip 10.10.0.100:80 --flags syn,fin"), dropped("bad_flags"));
    assert_eq!(verdict("--vip 10.10.0.100:80 --ttl 1"), dropped("ttl"));
    assert_eq!(verdict("--vip 10.10.0.100:80 --src 127.0.0.1:5"), dropped("bad_source"));
    assert_eq!(verdict("--dst 10.10.0.2:80"), (json!("passed"), Value::Null));
    assert_eq!(verdict("--vip 10.10.0.100:80 --vlan 5"), (json!("forwarded"), Value::Null));
    // ARP, as it was captured.
    assert_eq!(verdict("--hex ffffffffffff0200000000010806"), (json!("passed"), Value::Null));

    let text = egctl::text(&topology, "explain --vip 10.10.0.100:80");
    let steps: Vec<&str> =
        text.lines().filter_map(|line| line.split(' ').next().filter(|word| !word.is_empty())).collect();
    assert_eq!(steps, ["packet", "flow", "vip", "guards", "pool", "backend", "rewrite", "verdict"], "{text}");
    assert!(text.contains("tcp4 10.10.0.100:80/tcp"), "{text}");

    let wrong = egctl::run(&topology, "explain");
    assert!(!wrong.status.success(), "a packet must be named");
    let wrong = egctl::run(&topology, "explain --vip 10.10.0.100:80 --src [fd10::2]:5");
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("different families"), "{wrong:?}");
}
