// SPDX-License-Identifier: GPL-3.0-only
//! HTTP/3 through the edge, on loopback: real sockets, a client that is not ours (aioquic, in the project's .venv), a hyper
//! backend over HTTP/1.1.
//!
//! What is tested here is the transport and the front: bodies whole in both directions, streams that do not disturb each
//! other, what a cancelled stream gives back, the goodbye. Packets that belong to no connection are sent from plain sockets.

mod support;

use serde_json::{Value, json};
use std::net::UdpSocket;
use std::time::{Duration, Instant};
use support::{Gateway, client, client_is_missing, sha256, until};

const MIB: usize = 1024 * 1024;
const LARGE: usize = 16 * MIB;

#[test]
fn a_request_is_answered_by_the_backend() {
    if client_is_missing() {
        return;
    }
    let gateway = Gateway::start();
    let report =
        client(&gateway, json!({"streams": [{"path": "/size/10"}, {"path": "/size/0"}, {"path": "/nothing"}]}));
    let streams = report["streams"].as_array().unwrap();
    assert_eq!((&streams[0]["status"], &streams[0]["len"]), (&json!(200), &json!(10)), "{report}");
    assert_eq!((&streams[1]["status"], &streams[1]["len"]), (&json!(200), &json!(0)), "{report}");
    assert_eq!((&streams[2]["status"], &streams[2]["end"]), (&json!(404), &json!("clean")), "{report}");
    let quic = &gateway.counters().quic;
    assert_eq!(quic.handshakes.get(), 1);
    assert!(quic.received_datagrams.get() > 0 && quic.sent_datagrams.get() > 0);
    until("the closed connection is forgotten", || gateway.live() == 0);
}

#[test]
fn large_bodies_arrive_whole_in_both_directions() {
    if client_is_missing() {
        return;
    }
    let gateway = Gateway::start();
    // Hundreds of windows each; the client, in Python, is what takes the time.
    let file = gateway.file(LARGE);
    let order = json!({"limit_s": 120, "streams": [
        {"path": format!("/size/{LARGE}")},
        {"method": "POST", "path": "/echo", "file": file},
    ]});
    let report = client(&gateway, order);
    for stream in report["streams"].as_array().unwrap() {
        assert_eq!(stream["end"], "clean", "{report}");
        assert_eq!(stream["len"], json!(LARGE));
        assert_eq!(stream["sha256"], json!(sha256(LARGE)));
    }
    let quic = &gateway.counters().quic;
    let (datagrams, calls) = (quic.sent_datagrams.get(), quic.send_calls.get());
    assert!(datagrams > 2 * calls, "{datagrams} datagrams took {calls} system calls");
}

#[test]
fn a_stalled_stream_does_not_disturb_ninety_nine_others() {
    if client_is_missing() {
        return;
    }
    let gateway = Gateway::start();
    let mut streams = vec![json!({"path": format!("/size/{}", 64 * MIB), "read": false})];
    streams.extend((0..99).map(|_| json!({"path": "/size/20000"})));
    let report = client(&gateway, json!({"until": "read", "streams": streams, "window": 65536}));
    let streams = report["streams"].as_array().unwrap();
    assert!(streams[1..].iter().all(|s| s["end"] == "clean" && s["len"] == 20000), "{report}");
    assert_eq!(streams[0]["end"], "unfinished");
    assert!(streams[0]["len"].as_u64().unwrap() <= 65536);
    // The backend was not read beyond what the stalled client gives credit for, and what sockets hold on the way.
    assert!(gateway.backend_sent() < 16 * MIB as u64, "{}", gateway.backend_sent());
}

#[test]
fn a_backend_that_does_not_read_stops_the_upload() {
    if client_is_missing() {
        return;
    }
    let gateway = Gateway::start();
    let file = gateway.file(64 * MIB);
    let streams = [json!({"method": "POST", "path": "/deaf", "file": file})];
    let report = client(&gateway, json!({"limit_s": 3, "streams": streams}));
    assert_eq!(report["streams"][0]["end"], "unfinished", "{report}");
    let taken = gateway.listener().received_body_bytes.get();
    assert!(taken < 16 * MIB as u64, "{taken}");
}

#[test]
fn a_panic_ends_one_connection_alone() {
    if client_is_missing() {
        return;
    }
    // The hook is armed by the environment, which a test may not change for others: it runs itself as a child.
    if std::env::var_os("EG_TEST_PANIC").is_none() {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        let child = child.args(["--exact", "a_panic_ends_one_connection_alone"]).env("EG_TEST_PANIC", "1");
        assert!(child.status().unwrap().success());
        return;
    }
    let gateway = Gateway::start();
    let bystander = support::Running::start(&gateway, json!({"streams": [{"path": "/slow"}]}));
    bystander.wait_for("head");
    let panics = json!({"path": "/size/1", "fields": [["x-eg-test-panic", "1"]]});
    let report = client(&gateway, json!({"limit_s": 5, "streams": [panics, {"path": "/slow"}]}));
    // H3_INTERNAL_ERROR is 0x102.
    assert_eq!(report["closed"], "closed 258", "{report}");
    let report = bystander.report();
    assert_eq!((&report["streams"][0]["end"], &report["closed"]), (&json!("clean"), &Value::Null), "{report}");
    assert_eq!(gateway.counters().panics.get(), 1);
}

#[test]
fn a_steered_socket_answers_from_the_address_asked_and_ignores_foreign_ones() {
    if client_is_missing() {
        return;
    }
    let gateway = Gateway::steered(&["127.0.0.1", "127.0.0.2", "::1"]);
    for host in ["127.0.0.2", "127.0.0.1", "::1"] {
        let report = client(&gateway, json!({"host": host, "streams": [{"path": "/size/7"}]}));
        assert_eq!(report["streams"][0]["len"], 7, "{report}");
    }
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.send_to(&long(0xc0, 7, 1200), ("127.0.0.3", gateway.address.port())).unwrap();
    until("the foreign datagram is counted", || gateway.counters().quic.foreign_destination.get() == 1);
    assert_eq!(gateway.counters().quic.version_negotiations.get(), 0);
}

#[test]
fn cancelled_streams_are_given_back() {
    if client_is_missing() {
        return;
    }
    let gateway = Gateway::start();
    let file = gateway.file(4 * MIB);
    // More than a connection may have open at once, each cancelled midway: in the download, and in the upload.
    let mut streams: Vec<Value> =
        (0..150).map(|_| json!({"path": format!("/size/{}", 4 * MIB), "cancel_after": 1})).collect();
    streams.extend((0..150).map(|_| json!({"method": "POST", "path": "/echo", "file": file, "cut_after": 20000})));
    streams.push(json!({"path": "/size/5"}));
    let report = client(&gateway, json!({"limit_s": 60, "streams": streams}));
    let last = report["streams"].as_array().unwrap().last().unwrap();
    assert_eq!((&last["end"], &last["len"]), (&json!("clean"), &json!(5)), "{}", last);
    let cancelled = || gateway.listener().cancelled_requests.get();
    until("every cancelled request is counted", || cancelled() >= 290);
}

#[test]
fn malformed_requests_are_reset_and_the_connection_lives() {
    if client_is_missing() {
        return;
    }
    let gateway = Gateway::start();
    let good = json!([[":method", "GET"], [":scheme", "https"], [":authority", "localhost"], [":path", "/size/1"]]);
    let bad = |change: &dyn Fn(&mut Vec<Value>)| {
        let mut head = good.as_array().unwrap().clone();
        change(&mut head);
        json!({"head": head})
    };
    let streams = [
        bad(&|head| drop(head.remove(0))),
        bad(&|head| head.push(json!(["Upper", "x"]))),
        bad(&|head| head.push(json!(["connection", "close"]))),
        bad(&|head| head.push(json!([":path", "/"]))),
        bad(&|head| head.push(json!(["content-length", "5"]))),
        json!({"head": good}),
    ];
    let report = client(&gateway, json!({"streams": streams}));
    let ends: Vec<_> = report["streams"].as_array().unwrap().iter().map(|s| s["end"].as_str().unwrap()).collect();
    // H3_MESSAGE_ERROR is 0x10e.
    assert_eq!(ends, ["reset 270", "reset 270", "reset 270", "reset 270", "reset 270", "clean"], "{report}");
}

#[test]
fn a_drain_says_goodbye_and_finishes_what_is_in_flight() {
    if client_is_missing() {
        return;
    }
    let mut gateway = Gateway::start();
    // Half a MiB in pieces, about 2 s in all.
    let client = support::Running::start(&gateway, json!({"streams": [{"path": "/slow"}], "linger_s": 5}));
    client.wait_for("head");
    let began = Instant::now();
    let draining = gateway.drain(Duration::from_secs(8));
    let report = client.report();
    let stream = &report["streams"][0];
    assert_eq!((&stream["end"], &stream["len"]), (&json!("clean"), &json!(512 * 1024)), "{report}");
    let goaways: Vec<_> = report["goaway"].as_array().unwrap().iter().map(|g| g[0].as_u64().unwrap()).collect();
    assert_eq!(goaways, [(1 << 62) - 4, 4], "{report}");
    // H3_NO_ERROR is 0x100.
    assert_eq!(report["closed"], "closed 256", "{report}");
    assert_eq!(draining.join().unwrap(), 0);
    assert!(began.elapsed() < Duration::from_secs(7), "the drain waited for its deadline");
}

#[test]
fn a_drain_cuts_what_outlasts_its_deadline() {
    if client_is_missing() {
        return;
    }
    let mut gateway = Gateway::start();
    let client = support::Running::start(&gateway, json!({"streams": [{"path": "/slow"}], "linger_s": 5}));
    client.wait_for("head");
    let draining = gateway.drain(Duration::from_millis(700));
    let report = client.report();
    let end = report["streams"][0]["end"].as_str().unwrap();
    assert!(end.starts_with("reset 258") || end.starts_with("connection closed 258"), "{report}");
    assert_eq!(draining.join().unwrap(), 1);
}

fn long(first: u8, version: u32, len: usize) -> Vec<u8> {
    let mut packet = vec![first];
    packet.extend_from_slice(&version.to_be_bytes());
    packet.extend_from_slice(&[8, 1, 2, 3, 4, 5, 6, 7, 8, 4, 9, 9, 9, 9]);
    packet.resize(len, 0);
    packet
}

fn ask(gateway: &Gateway, packet: &[u8]) -> Option<Vec<u8>> {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    socket.send_to(packet, gateway.address).unwrap();
    let mut answer = vec![0; 2048];
    let (len, from) = socket.recv_from(&mut answer).ok()?;
    assert_eq!(from, gateway.address);
    answer.truncate(len);
    Some(answer)
}

#[test]
fn another_version_is_negotiated_whatever_its_packet_type() {
    let gateway = Gateway::start();
    for first in [0xc0, 0xd0, 0xe0, 0xf0] {
        let answer = ask(&gateway, &long(first, 0x6b33_43cf, 1200)).unwrap();
        assert_eq!(answer[1..], [0, 0, 0, 0, 4, 9, 9, 9, 9, 8, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 1]);
    }
    assert_eq!(ask(&gateway, &long(0xc0, 0x6b33_43cf, 1199)), None);
    assert_eq!(gateway.counters().quic.version_negotiations.get(), 4);
}

#[test]
fn what_belongs_to_nobody_is_dropped_and_counted() {
    let gateway = Gateway::start();
    let mut short = vec![0x40; 60];
    short[1] = 0x0f;
    assert_eq!(ask(&gateway, &short), None, "a short header");
    assert_eq!(ask(&gateway, &long(0xe0, 1, 1200)), None, "a handshake packet");
    assert_eq!(ask(&gateway, &long(0xc0, 1, 1100)), None, "an Initial that is too small");
    assert_eq!(ask(&gateway, &[0xc0, 0, 0]), None, "three octets");
    let quic = &gateway.counters().quic;
    assert_eq!((quic.unknown_connection.get(), quic.malformed.get()), (3, 1));
    assert_eq!(gateway.live(), 0);
}
