// SPDX-License-Identifier: GPL-3.0-only
//! Slow and stalled peers: whoever does not read stops whoever sends, the gateway holds little in between, and neighbours
//! on the same connection do not notice.

#[path = "support/harness.rs"]
mod support;

use std::io::Read;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use serde_json::json;
use support::bytes::{self, MIB};
use support::front::{Front, Reply, Request, Upload};
use support::gateway::{Config, Gateway};
use support::origin::Origin;
use support::python::{self, Client, Session};
use support::raw::Raw;
use support::{SOON, curl, wait_for};

/// Everything between a stopped reader and the sender: the gateway's own share and the kernel's buffers of two loopback
/// connections, which grow to 4 MiB (sending) and 6 MiB (receiving) by default. The bodies are many times that.
const IN_BETWEEN: u64 = 24 * MIB;
const BODY: u64 = 256 * MIB;

/// What the gateway itself may hold for it.
const HELD: u64 = 12 * MIB;

/// Polls `value` until it has hardly grown for a second; fails the test if it never rests. "Hardly" is what the slow backend
/// takes in that time, with room.
#[track_caller]
fn at_rest(what: &str, value: impl Fn() -> u64) -> u64 {
    let mut last = (value(), Instant::now());
    wait_for(what, SOON, || {
        let now = value();
        if now > last.0 + 512 * 1024 {
            last = (now, Instant::now());
        }
        (now > 0 && last.1.elapsed() > Duration::from_secs(1)).then_some(now)
    })
}

#[test]
fn a_reader_that_stops_stops_the_backend_and_loses_nothing() {
    for front in [Front::H1, Front::H1Tls, Front::H2, Front::H2Tls] {
        let origin = Origin::standard();
        let gateway = Gateway::start(&Config::to(origin.address));
        Front::send(front, &gateway, &Request::get("/bytes/1000000")).expect(200);
        let sent_before = origin.sent();
        let before = gateway.memory().resident;
        let heads = tempfile::NamedTempFile::new_in(gateway.folder.path()).expect("make a file");
        let mut child = curl::spawn(front, &gateway, &Request::get(&format!("/bytes/{BODY}")), heads.path());
        // Nobody reads curl's output: its pipe fills, and curl stops reading its socket.
        let rest = at_rest("the backend is stopped", || origin.sent() - sent_before);
        let grown = gateway.memory().resident.saturating_sub(before);
        println!(
            "{front:?}: the backend was stopped after {} KiB, the gateway grew by {} KiB",
            rest / 1024,
            grown / 1024
        );
        assert!(rest < IN_BETWEEN, "{front:?}: {rest} bytes were taken for a reader that does not read");
        assert!(grown < HELD, "{front:?}: {grown} bytes held for a reader that does not read");

        let mut output = child.stdout.take().expect("piped");
        let mut piece = vec![0; 256 * 1024];
        let mut len = 0;
        while let Ok(count) = output.read(&mut piece)
            && count > 0
        {
            len += count as u64;
        }
        assert!(child.wait().expect("curl ends").success(), "{front:?}");
        assert_eq!(len, BODY, "{front:?}: it goes on where it stopped");
        gateway.stop();
    }
}

#[test]
fn an_h3_reader_that_stops_stops_the_backend() {
    if !python::available() {
        return;
    }
    let origin = Origin::standard();
    let gateway = Gateway::start(&Config::to(origin.address));
    Front::H3.send(&gateway, &Request::get("/bytes/1000000")).expect(200);
    let sent_before = origin.sent();
    let before = gateway.memory().resident;
    let mut session =
        Session::start(Client::H3, &gateway, json!({ "streams": [{ "path": format!("/bytes/{BODY}") }] }));
    session.wait("the answer begins", SOON, |line| line["event"] == "head");
    kill(session.pid(), Signal::SIGSTOP).expect("stop the client");
    let rest = at_rest("the backend is stopped", || origin.sent() - sent_before);
    let grown = gateway.memory().resident.saturating_sub(before);
    println!("H3: the backend was stopped after {} KiB, the gateway grew by {} KiB", rest / 1024, grown / 1024);
    assert!(rest < IN_BETWEEN, "{rest} bytes were taken for a reader that does not read");
    assert!(grown < HELD, "{grown} bytes held for a reader that does not read");
    kill(session.pid(), Signal::SIGCONT).expect("continue the client");
    // It goes on: more than before is taken from the backend.
    wait_for("the download goes on", SOON, || (origin.sent() - sent_before > rest + 8 * MIB).then_some(()));
}

#[test]
fn a_backend_that_reads_slowly_stops_the_uploader() {
    // 64 KiB a second: it reads almost nothing of 64 MiB while the test lasts.
    let path = format!("/drain/{}", 64 * 1024);
    for front in [Front::H1, Front::H1Tls, Front::H2, Front::H2Tls, Front::H3] {
        if front.python().is_some() && !python::available() {
            continue;
        }
        let origin = Origin::standard();
        let gateway = Gateway::start(&Config::to(origin.address));
        front.send(&gateway, &Request::post("/digest", Upload::Pattern(1_000_000))).expect(200);
        let before = gateway.memory().resident;
        let request = Request::post(&path, Upload::Pattern(64 * MIB));
        let taken = if front == Front::H3 {
            // aioquic's own count: bytes handed to its sender, which waits for credit.
            let mut order = request.order();
            order["hold_after"] = json!(64 * MIB);
            let mut session = Session::start(Client::H3, &gateway, json!({ "streams": [order], "limit_s": 6 }));
            session.report(SOON * 2)["streams"][0]["sent"].as_u64().expect("a number")
        } else {
            let heads = tempfile::NamedTempFile::new_in(gateway.folder.path()).expect("make a file");
            let mut child = curl::spawn(front, &gateway, &request, heads.path());
            let taken = at_rest("curl is stopped", || bytes_read(child.id()));
            child.kill().expect("kill curl");
            child.wait().expect("curl ends");
            taken
        };
        let grown = gateway.memory().resident.saturating_sub(before);
        println!(
            "{front:?}: the client was stopped after {} KiB, the gateway grew by {} KiB",
            taken / 1024,
            grown / 1024
        );
        assert!(taken < IN_BETWEEN, "{front:?}: {taken} bytes taken from an uploader for a backend that does not read");
        assert!(grown < HELD, "{front:?}: {grown} bytes held for a backend that does not read");
        // That an abandoned upload never looks whole is `l7_aborts`' question. Here the client's kernel may still hold
        // minutes' worth of data before its FIN, and nobody on the way can know.
        gateway.stop();
    }
}

/// Bytes that process `pid` has read, pipes and files and sockets alike.
fn bytes_read(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("rchar: "));
    line.and_then(|count| count.parse().ok()).unwrap_or(0)
}

#[test]
fn a_slow_writer_and_a_slow_reader_are_served_to_the_end() {
    let (origin, gateway) = {
        let origin = Origin::standard();
        let gateway = Gateway::start(&Config::to(origin.address));
        (origin, gateway)
    };
    // Slow writer: a head and a body in single bytes and small pieces.
    let mut raw = Raw::connect(gateway.plain());
    for byte in b"POST /digest HTTP/1.1\r\nHost: x\r\nContent-Length: 40\r\n\r\n" {
        raw.send([*byte]);
        std::thread::sleep(Duration::from_millis(5));
    }
    for _ in 0..40 {
        raw.send("z");
        std::thread::sleep(Duration::from_millis(20));
    }
    let answer = raw.answer(false).expect("an answer");
    assert_eq!(answer.body, format!("40 {}", bytes::digest_of(&[b'z'; 40])).into_bytes());
    // Slow sender upstream: small chunks at a pace, passed on as they come and not at the end.
    for front in Front::available() {
        let begun = Instant::now();
        let reply = front.send(&gateway, &Request::get("/drip/20/20"));
        reply.expect(200);
        assert_eq!(reply.len, 200, "{front:?}");
        assert!(begun.elapsed() >= Duration::from_millis(380), "{front:?}: faster than the backend sent it");
    }
    let mut raw = Raw::connect(gateway.plain());
    raw.send("GET /stall/10 HTTP/1.1\r\nHost: x\r\n\r\n");
    raw.until(b"\r\n\r\n").expect("the head comes before the body's end");
    raw.until(&bytes::block()[..10]).expect("the first chunk comes before the second");
    assert_eq!(origin.oddities(), Vec::<String>::new());
    drop(raw);
    gateway.stop();
}

/// One stream whose client never gives credit, and 99 that want a megabyte each, on one connection.
fn neighbours(client: Client) {
    if !python::available() {
        return;
    }
    let origin = Origin::standard();
    let gateway = Gateway::start(&Config::to(origin.address));
    let mut streams = vec![json!({ "path": format!("/bytes/{}", 64 * MIB), "read": false })];
    let each = 300_000;
    streams.extend((0..99).map(|_| json!({ "path": format!("/bytes/{each}") })));
    let order = json!({ "streams": streams, "until": "read", "window": 65_536, "limit_s": 100 });
    let report = Session::start(client, &gateway, order).report(SOON * 4);
    let streams = report["streams"].as_array().expect("a list");
    assert_eq!(streams.len(), 100);
    for stream in &streams[1..] {
        let reply = Reply::of_stream(stream);
        reply.expect(200);
        assert_eq!((reply.len, reply.sha256), (each, bytes::digest(each)), "{client:?}");
    }
    let stalled = Reply::of_stream(&streams[0]);
    assert_eq!((stalled.status, stalled.end.as_str()), (200, "unfinished"), "{client:?}");
    assert!(stalled.len <= 65_536, "{client:?}: more than the window was sent: {}", stalled.len);
    let taken = origin.sent() - 99 * each;
    assert!(taken < IN_BETWEEN, "{client:?}: {taken} bytes taken from the backend for a stalled stream");
    gateway.stop();
}

#[test]
fn a_stalled_stream_does_not_hold_up_ninety_nine_others_on_h2() {
    neighbours(Client::H2Cleartext);
}

#[test]
fn a_stalled_stream_does_not_hold_up_ninety_nine_others_on_h2_tls() {
    neighbours(Client::H2);
}

#[test]
fn a_stalled_stream_does_not_hold_up_ninety_nine_others_on_h3() {
    neighbours(Client::H3);
}

/// A stalled upload: the backend reads the one stream's body not at all, 20 others' at once.
#[test]
fn a_stalled_upload_does_not_hold_up_other_uploads_on_the_same_connection() {
    if !python::available() {
        return;
    }
    for client in [Client::H2, Client::H3] {
        let origin = Origin::standard();
        let gateway = Gateway::start(&Config::to(origin.address));
        let stalled = Request::post("/drain/1024", Upload::Pattern(64 * MIB)).order();
        let mut streams = vec![stalled];
        streams[0]["read"] = json!(false);
        let healthy = Request::post("/digest", Upload::Pattern(300_000)).order();
        streams.extend(std::iter::repeat_n(healthy, 20));
        let order = json!({ "streams": streams, "until": "read", "limit_s": 60 });
        let report = Session::start(client, &gateway, order).report(SOON * 3);
        for stream in &report["streams"].as_array().expect("a list")[1..] {
            let reply = Reply::of_stream(stream);
            reply.expect(200);
            assert_eq!(reply.text(), format!("300000 {}", bytes::digest(300_000)), "{client:?}");
        }
        drop(origin);
    }
}
