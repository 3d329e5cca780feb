// SPDX-License-Identifier: GPL-3.0-only
//! SYN cookies with real sockets: the stack accepts what the programs have answered, whichever worker the ACK reaches; a
//! flood does not keep honest clients out. Needs root, XDP, tc, sk_lookup and network namespaces.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use eg_abi::Cookie;
use eg_kernel_tests::packet::frame::{ACK, CLIENT_ISN, SYN};
use eg_kernel_tests::packet::{Frame, L4, judge};
use eg_kernel_tests::require;
use eg_kernel_tests::topology::egctl;
use eg_kernel_tests::topology::flood::Flood;
use eg_kernel_tests::topology::gateway::{Gateway, maps};
use eg_kernel_tests::topology::wire::{self, Wire};
use eg_kernel_tests::topology::{Arms, Topology};
use nix::sys::signal::Signal;
use pnet::datalink::{self, Channel, DataLinkReceiver};
use serde_json::Value;

const PORT: u16 = 8080;
/// On the client's link, and no host's: what is sent to it is heard, and nobody answers.
const NOBODY: &str = "10.10.0.77:5000";

fn can_run() -> bool {
    let needed = ["root", "netns", "bpffs", "xdp", "tc", "sk_lookup", "ethtool", "sysctl"];
    needed.iter().all(|feature| require(feature))
}

/// One listener on both VIPs.
fn configuration(topology: &Topology, xdp: &str, keys: &str) -> String {
    let at = |v6| SocketAddr::new(topology.vip(v6), PORT).to_string();
    format!(
        "[runtime]\nworkers = 2\n\n[datapath]\ninterfaces = {:?}\nxdp = \"{xdp}\"\npin_root = {:?}\nflows = 65536\n\n\
         [[listeners]]\nname = \"web\"\naddress = {:?}\nprotocol = \"http\"\n{keys}\n\n\
         [[routes]]\nlistener = \"web\"\npool = \"p\"\n\n[[pools.p.backends]]\naddress = \"10.20.0.2:8000\"\n",
        topology.interfaces,
        topology.pin_root,
        [at(false), at(true)],
    )
}

/// A client, a gateway whose stack knows a way back to everybody, and a backend that answers with its own stack: what the
/// gateway's counts is its clients' (and the admin server's, while a test asks it).
fn network(offloads: bool) -> Topology {
    let topology = if offloads { Topology::with_offloads } else { Topology::new }(Arms::Two, 1);
    topology.gateway.ip("route add default via 10.10.0.2");
    topology.gateway.ip("-6 route add default via fd10::2");
    let listener = topology.backends[0].enter(|| TcpListener::bind("0.0.0.0:8000").expect("bind"));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|read| read == 1) {
                head.push(byte[0]);
            }
            let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
        }
    });
    topology
}

fn set(topology: &Topology, setting: &str) {
    topology.gateway.run("sysctl", &["-qw", setting]);
}

/// The status line that the client gets on a connection of its own.
fn ask(topology: &Topology, at: SocketAddr) -> io::Result<String> {
    topology.client.enter(|| {
        let mut stream = TcpStream::connect_timeout(&at, Duration::from_secs(20))?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        write!(stream, "GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer.lines().next().unwrap_or_default().to_owned())
    })
}

fn served(topology: &Topology, at: SocketAddr) {
    let answer = ask(topology, at).unwrap_or_else(|error| panic!("{at}: {error}"));
    assert_eq!(answer, "HTTP/1.1 200 OK", "{at}");
}

/// A figure of the gateway's own stack, as `nstat` shows it.
fn stack(topology: &Topology, name: &str) -> u64 {
    let text = topology.gateway.enter(|| fs::read_to_string("/proc/thread-self/net/netstat")).expect("netstat");
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("TcpExt: "));
    let (names, values) = (lines.next().expect("names"), lines.next().expect("values"));
    let found = names.split(' ').zip(values.split(' ')).find(|(is, _)| *is == name).expect("a figure of TcpExt");
    found.1.parse().expect("a number")
}

fn became(topology: &Topology, cookie: Cookie) -> u64 {
    maps(topology).expect("pinned maps").cookie_stats.sum(cookie.code()).expect("figures")
}

/// Waits until `reached`, for longer than any busy machine takes.
fn wait(what: &str, mut reached: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !reached() {
        assert!(Instant::now() < deadline, "waited for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A client made of frames, at an address that its own host does not have.
struct Hand {
    wire: Wire,
    heard: Box<dyn DataLinkReceiver>,
    frame: Frame,
}

impl Hand {
    fn new(topology: &Topology, at: SocketAddr) -> Hand {
        let gateway = wire::mac(&topology.gateway, "c0");
        let client = wire::mac(&topology.client, "eth0");
        let from: SocketAddr = NOBODY.parse().expect("an address");
        topology.gateway.ip(&format!("neigh replace {} lladdr {client} dev c0", from.ip()));
        let (wire, heard) = topology.client.enter(|| {
            let interface = datalink::interfaces().into_iter().find(|it| it.name == "eth0").expect("eth0");
            let config = datalink::Config { read_timeout: Some(Duration::from_millis(100)), ..Default::default() };
            let Ok(Channel::Ethernet(_, heard)) = datalink::channel(&interface, config) else { panic!("eth0") };
            (Wire::open("eth0"), heard)
        });
        let frame = Frame::between(from, at, L4::Tcp(SYN)).payload(b"").macs(client, gateway);
        Hand { wire, heard, frame: Frame { tcp_options: vec![2, 4, 5, 180], ..frame } }
    }

    /// Sends the SYN and gives the sequence number of its answer.
    fn syn(&mut self) -> u32 {
        self.wire.send(&self.frame.build());
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            assert!(Instant::now() < deadline, "no answer to a SYN");
            let Ok(bytes) = self.heard.next() else { continue };
            let Some(seen) = judge::read(bytes).filter(|seen| seen.tcp && seen.destination == self.frame.source) else {
                continue;
            };
            let tcp = &bytes[seen.l4_offset..];
            if tcp[13] == SYN | ACK {
                return u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]);
            }
        }
    }

    /// Acknowledges that number.
    fn ack(&mut self, cookie: u32) {
        let ack = Frame { l4: L4::Tcp(ACK), tcp_options: vec![], ..self.frame.clone() };
        self.wire.send(&ack.seq(CLIENT_ISN.wrapping_add(1)).ack(cookie.wrapping_add(1)).build());
    }
}

#[test]
fn a_client_connects_through_a_cookie_and_is_answered_over_a_kill_and_a_restart() {
    if !can_run() {
        return;
    }
    for xdp in ["native", "tc"] {
        // XDP does not work between ends that leave checksums to others.
        let topology = network(xdp == "tc");
        set(&topology, "net.ipv4.tcp_syncookies=2");
        let always = configuration(&topology, xdp, "syn_cookies = \"always\"");
        let mut gateway = Gateway::start(&topology, &always);
        let both = [false, true].map(|v6| SocketAddr::new(topology.vip(v6), PORT));
        let through_cookies = || {
            let own = stack(&topology, "SyncookiesSent");
            for at in both {
                for _ in 0..5 {
                    let (sent, believed) = (became(&topology, Cookie::Sent), stack(&topology, "SyncookiesRecv"));
                    served(&topology, at);
                    assert!(became(&topology, Cookie::Sent) > sent, "{xdp} {at}: a program answered");
                    assert!(stack(&topology, "SyncookiesRecv") > believed, "{xdp} {at}: and the stack believed it");
                }
            }
            assert_eq!(stack(&topology, "SyncookiesSent"), own, "{xdp}: the stack itself has made no cookie");
        };
        through_cookies();

        let (sent, said) = (became(&topology, Cookie::Sent), stack(&topology, "TCPReqQFullDoCookies"));
        let told = egctl::text(&topology, &format!("--json explain --dst {}", both[0]));
        let told: Value = serde_json::from_str(&told).expect("JSON");
        assert_eq!(told["verdict"]["is"], "answered", "{told}");
        assert!(told["verdict"]["text"].as_str().is_some_and(|text| text.contains("SYN cookie")), "{told}");
        assert_eq!(became(&topology, Cookie::Sent), sent, "an explanation sends nothing");
        assert_eq!(stack(&topology, "TCPReqQFullDoCookies"), said, "and tells the listener of no shortage");
        let metrics = gateway.get("/metrics").expect("metrics");
        let line = format!("expressgateway_l4_syn_cookies_total{{outcome=\"sent\"}} {sent}");
        assert!(metrics.contains(&line), "{line}\n{metrics}");

        gateway.end(Signal::SIGKILL);
        for at in both {
            let refused = ask(&topology, at).expect_err("nobody listens");
            assert_eq!(
                refused.kind(),
                io::ErrorKind::ConnectionRefused,
                "{xdp} {at}: by the stack, to which the SYN went"
            );
        }
        assert_eq!(became(&topology, Cookie::Sent), sent, "{xdp}: no cookie for who cannot accept it");
        // The programs go on, and their tail calls: for whoever listens there now.
        for at in both {
            let other = topology.gateway.enter(|| TcpListener::bind(at)).expect("bind");
            let believed = stack(&topology, "SyncookiesRecv");
            let client = topology.client.enter(|| TcpStream::connect_timeout(&at, Duration::from_secs(20)));
            assert!(client.is_ok() && other.accept().is_ok(), "{xdp} {at}: {client:?}");
            assert_eq!(stack(&topology, "SyncookiesRecv"), believed + 1, "{xdp} {at}");
        }
        assert!(became(&topology, Cookie::Sent) >= sent + 2, "{xdp}: by the programs that a dead process left");
        gateway.launch();
        through_cookies();

        gateway.reload(&configuration(&topology, xdp, "syn_cookies = \"off\""));
        let sent = became(&topology, Cookie::Sent);
        both.iter().for_each(|at| served(&topology, *at));
        assert_eq!(became(&topology, Cookie::Sent), sent, "{xdp}: turned off by a reload");
    }
}

#[test]
fn whichever_worker_the_ack_reaches_believes_the_cookie_and_none_believes_a_forged_one() {
    if !can_run() {
        return;
    }
    let topology = network(false);
    set(&topology, "net.ipv4.tcp_syncookies=2");
    let gateway = Gateway::start(&topology, &configuration(&topology, "native", "syn_cookies = \"always\""));
    let workers = maps(&topology).expect("pinned maps").workers;
    let busy = |worker: usize| workers.gauge(worker).expect("a gauge");
    let mut hand = Hand::new(&topology, SocketAddr::new(topology.vip(false), PORT));

    let (believed, refused) = (stack(&topology, "SyncookiesRecv"), stack(&topology, "SyncookiesFailed"));
    // The SYN goes to worker 1, as the less busy one, and what brings the cookie back to worker 0, which has seen none.
    busy(0).add();
    let cookie = hand.syn();
    busy(1).add();
    busy(0).sub();
    hand.ack(cookie ^ 0x0001_0000);
    wait("the forged cookie to be refused", || stack(&topology, "SyncookiesFailed") == refused + 1);
    assert_eq!(stack(&topology, "SyncookiesRecv"), believed);
    hand.ack(cookie);
    wait("the cookie to be believed", || stack(&topology, "SyncookiesRecv") == believed + 1);
    let established = || topology.gateway.output("ss", &["-Htn", "state", "established"]);
    wait("the connection", || established().contains("10.10.0.77"));
    busy(1).sub();
    drop(gateway);
}

/// Half-open connections that the gateway's stack remembers.
fn half_open(topology: &Topology) -> usize {
    topology.gateway.output("ss", &["-Htn", "state", "syn-recv"]).lines().count()
}

#[test]
fn beside_a_flood_every_honest_client_connects_and_the_stack_sees_no_more_than_the_rate() {
    if !can_run() {
        return;
    }
    const RATE: u64 = 50;
    let topology = network(false);
    set(&topology, "net.ipv4.tcp_syncookies=2");
    let keys = format!("syn_cookies = \"flood\"\nsyn_cookie_rate = {RATE}");
    let _gateway = Gateway::start(&topology, &configuration(&topology, "native", &keys));
    for v6 in [false, true] {
        let at = SocketAddr::new(topology.vip(v6), PORT);
        let calm = became(&topology, Cookie::Sent);
        (0..10).for_each(|_| served(&topology, at));
        assert_eq!(became(&topology, Cookie::Sent), calm, "within the rate the stack answers");

        let began = Instant::now();
        let flood = Flood::start(&topology, "c0", at);
        wait("the flood", || flood.sent() > 1000);
        for _ in 0..40 {
            served(&topology, at);
        }
        let all = flood.sent();
        drop(flood);
        let seconds = began.elapsed().as_secs_f64();
        let passed = RATE + (RATE as f64 * seconds).ceil() as u64 + 2;
        wait("the answers", || became(&topology, Cookie::Sent) - calm + passed >= all);
        assert_eq!(half_open(&topology), 0);
    }
}

#[test]
fn with_the_kernels_default_cookies_begin_when_a_listeners_queue_is_full() {
    if !can_run() {
        return;
    }
    const QUEUE: usize = 16;
    let topology = network(false);
    set(&topology, "net.ipv4.tcp_syncookies=1");
    set(&topology, &format!("net.core.somaxconn={QUEUE}"));
    let keys = "syn_cookies = \"flood\"\nsyn_cookie_rate = 1";
    let mut gateway = Gateway::start(&topology, &configuration(&topology, "native", keys));
    let hint = "sysctl -w net.ipv4.tcp_syncookies=2";
    gateway.wait("the hint", |gateway| gateway.said().contains(hint));
    let at = SocketAddr::new(topology.vip(false), PORT);
    (0..5).for_each(|_| served(&topology, at));
    assert_eq!(became(&topology, Cookie::Sent), 0, "no shortage, no cookie");
    assert!(became(&topology, Cookie::Declined) > 0, "though the program has asked for one");

    let flood = Flood::start(&topology, "c0", at);
    wait("cookies", || became(&topology, Cookie::Sent) > 1000);
    for _ in 0..40 {
        served(&topology, at);
    }
    // Each of two workers' queues, one over the limit.
    assert!(half_open(&topology) <= 2 * (QUEUE + 1), "{} half-open", half_open(&topology));
    drop(flood);
}
