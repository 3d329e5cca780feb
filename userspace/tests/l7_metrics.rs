// SPDX-License-Identifier: GPL-3.0-only
//! Each counter of layer 7 that no other test reads from /metrics: the event is made to happen, and the scrape says so.
//!
//! `l7_observed` has requests, connections, reuse and panics, `l7_limits` the limits, `lifecycle` what a drain cut. Three
//! counters cannot be made to move from outside without privilege, and are left out here:
//! - `quic_send_waits`: loopback hands a datagram to its receiver within the system call, so the sender's buffer never
//!   fills; it takes a device with a slow queue.
//! - `quic_send_failures`: it takes a route or a firewall that changes under a connection.
//! - `quic_dropped_foreign_destination`: only a socket that the kernel datapath steers to hears what was sent to other
//!   addresses; `l7/tests/h3` makes one and sees it counted.

#[path = "support/harness.rs"]
mod support;

use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;
use support::front::{Front, Request, Upload};
use support::gateway::{Config, Gateway};
use support::origin::{Origin, Then};
use support::python::{self, Client, Session};
use support::raw::Raw;
use support::{SOON, wait_for};

const FAILURES: &str = "expressgateway_upstream_failures_total";

/// Waits until a counter is exactly that.
#[track_caller]
fn counted(gateway: &Gateway, name: &str, labels: &[(&str, &str)], expected: u64) {
    let mut last = 0;
    let end = std::time::Instant::now() + SOON;
    while std::time::Instant::now() < end {
        last = gateway.metrics().count(name, labels);
        if last == expected {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("{name}{labels:?} is {last}, not {expected}");
}

/// One request on a connection of its own; its status.
fn ask(gateway: &Gateway, path: &str) -> u16 {
    let mut raw = Raw::connect(gateway.plain());
    raw.socket.set_read_timeout(Some(Duration::from_secs(120))).expect("set a read timeout");
    raw.send(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")).answer(false).map_or(0, |answer| answer.status)
}

#[test]
fn failures_of_backends_are_counted_by_cause_and_logged_with_their_pool() {
    let origin = Origin::start(|call| {
        call.body();
        match call.seen.path() {
            "/closed" => Ok(Then::Close),
            "/reset" => Ok(Then::Reset),
            "/malformed" => {
                call.send("HTTP/1.1 two hundred\r\n\r\n")?;
                Ok(Then::Close)
            }
            "/malformed-body" => {
                call.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")?;
                Ok(Then::Close)
            }
            "/short" => {
                call.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort")?;
                Ok(Then::Close)
            }
            _ => call.reply("200 OK", "", "ok"),
        }
    });
    let gateway = Gateway::start(&Config { workers: 1, ..Config::to(origin.address) });
    for (path, status, cause, count) in [
        ("/closed", 502, "closed", 1),
        ("/reset", 502, "reset", 1),
        ("/malformed", 502, "malformed", 1),
        ("/malformed-body", 0, "malformed", 2),
        ("/short", 0, "closed", 2),
        ("/fine", 200, "closed", 2),
    ] {
        assert_eq!(ask(&gateway, path), status, "{path}");
        counted(&gateway, FAILURES, &[("cause", cause)], count);
    }
    for _ in 0..50 {
        assert_eq!(ask(&gateway, "/malformed"), 502);
    }
    counted(&gateway, FAILURES, &[("cause", "malformed")], 52);
    let log = gateway.log();
    let lines: Vec<&str> =
        log.lines().filter(|line| line.contains("a backend failed") && line.contains("malformed")).collect();
    assert!((1..=4).contains(&lines.len()), "one line in ten seconds, not one a request: {lines:#?}");
    for needed in ["pool=\"origin\"", &origin.address.to_string(), "cause=\"malformed\""] {
        assert!(lines[0].contains(needed), "{needed} is missing: {}", lines[0]);
    }
    counted(&gateway, FAILURES, &[("cause", "timeout")], 0);
    gateway.stop();
}

#[test]
fn a_backend_that_refuses_or_ignores_connections_is_counted() {
    // Nobody listens on a port that was just given back.
    let refused = TcpListener::bind("127.0.0.1:0").expect("bind").local_addr().expect("an address");
    let gateway = Gateway::start(&Config { workers: 1, ..Config::to(refused) });
    assert_eq!(ask(&gateway, "/"), 502);
    counted(&gateway, "expressgateway_upstream_connect_failures_total", &[], 1);
    counted(&gateway, FAILURES, &[("cause", "connect")], 1);
    gateway.stop();

    // A listener whose backlog is full drops SYNs.
    let deaf = TcpListener::bind("127.0.0.1:0").expect("bind");
    nix::sys::socket::listen(&deaf, nix::sys::socket::Backlog::new(0).expect("a backlog")).expect("shrink the backlog");
    let address = deaf.local_addr().expect("an address");
    let mut waiting = Vec::new();
    while let Ok(socket) = TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
        waiting.push(socket);
    }
    let gateway = Gateway::start(&Config { workers: 1, ..Config::to(address) });
    assert_eq!(ask(&gateway, "/"), 502);
    counted(&gateway, "expressgateway_upstream_connect_failures_total", &[], 1);
    counted(&gateway, FAILURES, &[("cause", "connect_timeout")], 1);
    gateway.stop();
    drop((deaf, waiting));
}

#[test]
fn a_backend_that_never_answers_is_counted_as_a_timeout() {
    let origin = Origin::standard();
    let gateway = Gateway::start(&Config { workers: 1, ..Config::to(origin.address) });
    std::thread::scope(|scope| {
        // Before the head, and in the middle of a body.
        let hang = scope.spawn(|| ask(&gateway, "/hang"));
        let stall = scope.spawn(|| ask(&gateway, "/stall/10"));
        assert_eq!((hang.join().expect("no panic"), stall.join().expect("no panic")), (504, 0));
    });
    counted(&gateway, FAILURES, &[("cause", "timeout")], 2);
    gateway.stop();
}

#[test]
fn a_request_that_is_sent_again_is_counted() {
    // A kept connection dies at its second request, after it had been taken for good.
    let origin = Origin::start(|call| match call.earlier {
        0 => call.reply("200 OK", "", "ok"),
        _ => Ok(Then::Close),
    });
    let gateway = Gateway::start(&Config { workers: 1, ..Config::to(origin.address) });
    assert_eq!(ask(&gateway, "/"), 200);
    counted(&gateway, "expressgateway_upstream_replays_total", &[], 0);
    assert_eq!(ask(&gateway, "/"), 200);
    counted(&gateway, "expressgateway_upstream_replays_total", &[], 1);
    assert_eq!(origin.seen().len(), 3, "the second request came twice");
    gateway.stop();
}

#[test]
fn bodies_and_what_was_cut_or_cancelled_are_counted() {
    let origin = Origin::standard();
    let gateway = Gateway::start(&Config::to(origin.address));
    let plain = [("listener", "plain")];
    Front::H1.send(&gateway, &Request::post("/digest", Upload::Pattern(100_000))).expect(200);
    Front::H1.send(&gateway, &Request::get("/bytes/200000")).expect(200);
    counted(&gateway, "expressgateway_received_body_bytes_total", &plain, 100_000);
    let sent = gateway.metrics().count("expressgateway_sent_body_bytes_total", &plain);
    assert!((200_000..200_200).contains(&sent), "{sent}");
    assert_eq!(ask(&gateway, "/short-length/10"), 0);
    counted(&gateway, "expressgateway_aborted_responses_total", &plain, 1);
    let mut raw = Raw::connect(gateway.plain());
    raw.send("GET /stall/10 HTTP/1.1\r\nHost: x\r\n\r\n").until(b"\r\n\r\n").expect("a head");
    drop(raw);
    counted(&gateway, "expressgateway_cancelled_requests_total", &plain, 1);
    gateway.stop();
}

#[test]
fn handshakes_that_fail_are_counted() {
    let origin = Origin::standard();
    let gateway = Gateway::start(&Config::to(origin.address));
    let secure = [("listener", "secure")];
    Raw::connect(gateway.secure()).send("this is no ClientHello\r\n\r\n");
    counted(&gateway, "expressgateway_handshake_failures_total", &secure, 1);
    if python::available() {
        let order = json!({ "streams": [{ "path": "/hello" }], "alpn": ["zebra"], "limit_s": 20 });
        let _session = Session::start(Client::H3, &gateway, order);
        counted(&gateway, "expressgateway_handshake_failures_total", &secure, 2);
        counted(&gateway, "expressgateway_quic_handshakes_total", &[], 0);
    }
    gateway.stop();
}

/// A QUIC long header (RFC 8999 section 5.1) with an 8-byte destination and no source, as long as an Initial must be.
fn long(first: u8, version: u32) -> Vec<u8> {
    let mut packet = vec![first];
    packet.extend_from_slice(&version.to_be_bytes());
    packet.extend_from_slice(&[8, 1, 2, 3, 4, 5, 6, 7, 8, 0]);
    packet.resize(1200, 0);
    packet
}

#[test]
fn datagrams_are_counted_and_those_for_nobody_by_reason() {
    let origin = Origin::standard();
    let gateway = Gateway::start(&Config::to(origin.address));
    let socket = UdpSocket::bind("127.0.0.1:0").expect("bind");
    socket.set_read_timeout(Some(SOON)).expect("set a read timeout");
    let address: SocketAddr = gateway.secure();
    let quic = |name: &str| format!("expressgateway_quic_{name}_total");

    socket.send_to(&long(0xc0, 0x0a1a_2a3a), address).expect("send");
    let mut answer = [0; 1500];
    let length = socket.recv(&mut answer).expect("a Version Negotiation packet");
    assert_eq!((&answer[1..5], &answer[length - 4..length]), (&[0; 4][..], &[0, 0, 0, 1][..]));
    counted(&gateway, &quic("version_negotiations"), &[], 1);
    socket.send_to(&[0xc0, 0, 0], address).expect("send");
    counted(&gateway, &quic("dropped_malformed"), &[], 1);
    // A short header with a connection ID that nobody gave out.
    socket.send_to(&[0x40; 60], address).expect("send");
    counted(&gateway, &quic("dropped_unknown_connection"), &[], 1);
    counted(&gateway, &quic("received_datagrams"), &[], 3);
    counted(&gateway, &quic("received_bytes"), &[], 1200 + 3 + 60);
    counted(&gateway, &quic("sent_datagrams"), &[], 1);
    counted(&gateway, &quic("sent_bytes"), &[], length as u64);
    counted(&gateway, &quic("send_calls"), &[], 1);
    let calls = gateway.metrics().count(&quic("receive_calls"), &[]);
    assert!((1..=3).contains(&calls), "{calls}");
    if python::available() {
        Front::H3.send(&gateway, &Request::get("/bytes/100000")).expect(200);
        counted(&gateway, &quic("handshakes"), &[], 1);
        let metrics = gateway.metrics();
        assert!(metrics.count(&quic("sent_bytes"), &[]) > 100_000);
        assert!(metrics.count(&quic("sent_datagrams"), &[]) > 50);
        assert!(metrics.count(&quic("received_datagrams"), &[]) > 5);
    }
    gateway.stop();
}

#[test]
fn quic_clients_that_come_during_a_drain_are_counted() {
    let origin = Origin::standard();
    let gateway = Gateway::start(&Config::to(origin.address));
    // Keeps the drain going.
    let mut busy = Raw::connect(gateway.plain());
    busy.send("GET /stall/10 HTTP/1.1\r\nHost: x\r\n\r\n").until(b"\r\n\r\n").expect("a head");
    gateway.signal(Signal::SIGTERM);
    wait_for("it drains", SOON, || gateway.admin("/readyz").filter(|(status, _)| *status == 503));
    let socket = UdpSocket::bind("127.0.0.1:0").expect("bind");
    socket.set_read_timeout(Some(Duration::from_millis(200))).expect("set a read timeout");
    let mut answer = [0; 1500];
    // Workers hear of the drain a moment after the admin server says so; before that the packet is merely not authentic.
    wait_for("a client is refused", SOON, || {
        socket.send_to(&long(0xc0, 1), gateway.secure()).expect("send");
        socket.recv(&mut answer).ok()
    });
    assert_eq!(answer[1..5], [0, 0, 0, 1], "an Initial of version 1");
    assert!(gateway.metrics().count("expressgateway_quic_refused_total", &[]) >= 1);
}
