// SPDX-License-Identifier: GPL-3.0-only
//! L7 VIPs by socket lookup: addresses that nobody binds, several on one port, on IPv4 and IPv6. Needs root, XDP,
//! sk_lookup and network namespaces.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use eg_kernel_tests::require;
use eg_kernel_tests::topology::gateway::{Gateway, refusal};
use eg_kernel_tests::topology::{Arms, Netns, Topology};
use nix::sys::signal::Signal;

fn can_run() -> bool {
    ["root", "netns", "bpffs", "xdp", "sk_lookup", "ethtool"].iter().all(|feature| require(feature))
}

/// Two listeners on one port, each with a backend of its own, beside two with TLS and HTTP/3.
const ONE: [&str; 3] = ["10.10.0.101", "[fd10::101]", "203.0.113.101"];
const TWO: [&str; 2] = ["10.10.0.102", "[fd10::102]"];

fn listener(name: &str, ips: &[&str], number: usize) -> String {
    let at = |port: u16| format!("{:?}", ips.iter().map(|ip| format!("{ip}:{port}")).collect::<Vec<_>>());
    format!(
        "[[listeners]]\nname = \"{name}\"\naddress = {}\nprotocol = \"http\"\n\n\
         [[listeners]]\nname = \"{name}-tls\"\naddress = {}\nprotocol = \"https\"\nhttp3 = true\n\n\
         [[routes]]\nlistener = \"{name}\"\npath = \"/\"\npool = \"{name}\"\n\n\
         [[routes]]\nlistener = \"{name}-tls\"\npath = \"/\"\npool = \"{name}\"\n\n\
         [[pools.{name}.backends]]\naddress = \"10.20.{number}.2:8000\"\n\n",
        at(8080),
        at(8443),
    )
}

fn configuration(topology: &Topology, listeners: &[String]) -> String {
    format!(
        "[runtime]\nworkers = 2\n\n[datapath]\ninterfaces = {:?}\npin_root = {:?}\nflows = 65536\n\n{}",
        topology.interfaces,
        topology.pin_root,
        listeners.concat()
    )
}

/// Answers every request with the backend's number, one request a connection. Ends with the test's process.
fn serve(space: &Netns, number: usize) {
    let listener = space.enter(|| TcpListener::bind("0.0.0.0:8000").expect("bind"));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|read| read == 1) {
                head.push(byte[0]);
            }
            let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nb{number}");
        }
    });
}

/// The answer's last line, from the client's namespace.
fn ask(topology: &Topology, at: SocketAddr) -> io::Result<String> {
    topology.client.enter(|| {
        let mut stream = TcpStream::connect_timeout(&at, Duration::from_secs(2))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        write!(stream, "GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer.lines().last().unwrap_or_default().to_string())
    })
}

/// Sends a QUIC packet of a version that nobody has, and expects Version Negotiation (RFC 9000 section 6.1). The socket
/// is connected, so an answer from any address but the VIP's is never seen.
fn negotiate(topology: &Topology, at: SocketAddr) {
    let answer = topology.client.enter(|| {
        let socket = UdpSocket::bind(if at.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" }).expect("a socket");
        socket.connect(at).expect("connect");
        socket.set_read_timeout(Some(Duration::from_secs(2))).expect("timeout");
        let mut packet = vec![0xc0, 0x1a, 0x2a, 0x3a, 0x4a, 8, 1, 2, 3, 4, 5, 6, 7, 8, 8, 9, 9, 9, 9, 9, 9, 9, 9];
        packet.resize(1200, 0);
        socket.send(&packet).expect("send");
        let mut answer = vec![0; 1500];
        let length = socket.recv(&mut answer).unwrap_or_else(|error| panic!("no answer from {at}: {error}"));
        answer.truncate(length);
        answer
    });
    assert_eq!(answer[0] & 0x80, 0x80, "a long header");
    assert_eq!(answer[1..5], [0, 0, 0, 0], "version 0 says Version Negotiation");
}

fn sockets(ips: &[&str], port: u16) -> Vec<SocketAddr> {
    ips.iter().map(|ip| format!("{ip}:{port}").parse().expect("an address")).collect()
}

#[test]
fn a_vips_port_where_somebody_else_listens_is_refused() {
    if !can_run() {
        return;
    }
    let topology = Topology::new(Arms::Two, 1);
    let configuration = configuration(&topology, &[listener("one", &ONE, 0)]);
    let tcp = topology.gateway.enter(|| TcpListener::bind("0.0.0.0:8080")).expect("bind");
    let said = refusal(&topology, &configuration, &[]);
    assert!(said.contains("listener \"one\": cannot bind 10.10.0.101:8080/tcp: Address already in use"), "{said}");
    drop(tcp);
    let udp = topology.gateway.enter(|| UdpSocket::bind("0.0.0.0:8443")).expect("bind");
    let said = refusal(&topology, &configuration, &[]);
    assert!(said.contains("listener \"one-tls\": cannot bind [::]:8443/udp: Address already in use"), "{said}");
    drop(udp);
    drop(Gateway::start(&topology, &configuration));
}

#[test]
fn two_vips_on_one_port_reach_their_listeners_and_nobody_binds_them() {
    if !can_run() {
        return;
    }
    let topology = Topology::new(Arms::Two, 2);
    (0..2).for_each(|number| serve(&topology.backends[number], number));
    let (one, two) = (listener("one", &ONE, 0), listener("two", &TWO, 1));
    let both = configuration(&topology, &[one.clone(), two.clone()]);
    let mut gateway = Gateway::start(&topology, &both);

    let check = |ips: &[&str], answer: &str| {
        for at in sockets(ips, 8080) {
            for _ in 0..10 {
                assert_eq!(ask(&topology, at).unwrap_or_else(|error| panic!("{at}: {error}")), answer, "{at}");
            }
        }
        sockets(ips, 8443).into_iter().for_each(|at| negotiate(&topology, at));
    };
    check(&ONE, "b0");
    check(&TWO, "b1");
    let bound = topology.gateway.output("ss", &["-Hltn"]);
    assert!(!bound.contains(":8080") && !bound.contains(".101:"), "a vip is bound:\n{bound}");

    gateway.end(Signal::SIGKILL);
    gateway.launch();
    check(&ONE, "b0");
    check(&TWO, "b1");

    gateway.reload(&configuration(&topology, &[one]));
    check(&ONE, "b0");
    for at in sockets(&TWO, 8080) {
        assert!(ask(&topology, at).is_err(), "{at} was withdrawn");
    }
    let local = topology.gateway.output("ip", &["route", "show", "table", "local"]);
    assert!(local.contains("10.10.0.101") && !local.contains("10.10.0.102"), "{local}");
    let addresses = topology.gateway.output("ip", &["-6", "addr", "show", "dev", "c0"]);
    assert!(addresses.contains("fd10::101/128") && !addresses.contains("fd10::102/128"), "{addresses}");
}
