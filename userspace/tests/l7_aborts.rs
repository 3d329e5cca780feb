// SPDX-License-Identifier: GPL-3.0-only
//! Peers that go away: whoever is left is told at once, nothing stays open for nobody, and the next request is served.

#[path = "support/harness.rs"]
mod support;

use serde_json::json;
use support::bytes::MIB;
use support::front::{Front, Request, Upload};
use support::gateway::{Config, Gateway};
use support::origin::Origin;
use support::python::{self, Session};
use support::raw::Raw;
use support::{SOON, curl, wait_for};

fn start() -> (Origin, Gateway) {
    let origin = Origin::standard();
    let gateway = Gateway::start(&Config::to(origin.address));
    (origin, gateway)
}

#[test]
fn a_client_that_leaves_mid_download_closes_the_backends_connection() {
    for front in [Front::H1, Front::H1Tls, Front::H2, Front::H2Tls] {
        let (origin, gateway) = start();
        let heads = tempfile::NamedTempFile::new_in(gateway.folder.path()).expect("make a file");
        let mut child = curl::spawn(front, &gateway, &Request::get("/stall/100000"), heads.path());
        wait_for("the answer is under way", SOON, || (origin.sent() >= 100_000).then_some(()));
        child.kill().expect("kill curl");
        child.wait().expect("curl ends");
        origin.wait_open(0, &format!("{front:?}: the backend's connection is closed"));
        front.send(&gateway, &Request::get("/hello")).expect(200);
        gateway.stop();
    }
}

#[test]
fn a_client_that_leaves_before_the_answer_closes_the_backends_connection() {
    for front in [Front::H1, Front::H1Tls, Front::H2, Front::H2Tls] {
        let (origin, gateway) = start();
        let heads = tempfile::NamedTempFile::new_in(gateway.folder.path()).expect("make a file");
        let mut child = curl::spawn(front, &gateway, &Request::get("/hang"), heads.path());
        wait_for("the backend has the request", SOON, || (!origin.seen().is_empty()).then_some(()));
        child.kill().expect("kill curl");
        child.wait().expect("curl ends");
        origin.wait_open(0, &format!("{front:?}: the backend's connection is closed"));
        front.send(&gateway, &Request::get("/hello")).expect(200);
        gateway.stop();
    }
}

#[test]
fn a_client_that_leaves_mid_upload_closes_the_backends_connection() {
    for front in [Front::H1, Front::H1Tls, Front::H2, Front::H2Tls] {
        let (origin, gateway) = start();
        let heads = tempfile::NamedTempFile::new_in(gateway.folder.path()).expect("make a file");
        let request = Request::post("/drain/200000", Upload::Pattern(64 * MIB));
        let mut child = curl::spawn(front, &gateway, &request, heads.path());
        wait_for("the upload is under way", SOON, || (origin.received() >= 50_000).then_some(()));
        child.kill().expect("kill curl");
        child.wait().expect("curl ends");
        wait_for("the backend is told", SOON, || {
            let body = origin.last("/drain/200000").body;
            body.map(|body| assert!(!body.complete, "{front:?}: an abandoned upload looked whole"))
        });
        origin.wait_open(0, &format!("{front:?}: the backend's connection is closed"));
        front.send(&gateway, &Request::get("/hello")).expect(200);
        gateway.stop();
    }
}

#[test]
fn a_cancelled_stream_closes_its_own_upstream_and_leaves_its_neighbours() {
    if !python::available() {
        return;
    }
    for front in [Front::H2, Front::H2Tls, Front::H3] {
        let (origin, gateway) = start();
        let client = front.python().expect("a Python client speaks it");
        let order = json!({ "cut_on_stdin": true, "linger_s": 1, "streams": [
            { "path": "/stall/100000", "cancel_after": 50_000 },
            { "path": "/drip/30/20" },
            { "method": "POST", "path": "/digest", "body": "y".repeat(100_000), "hold_after": 50_000 },
        ] });
        let mut session = Session::start(client, &gateway, order);
        session.wait("the neighbour ends cleanly", SOON, |line| {
            line["event"] == "end" && line["stream"] == 1 && line["how"] == "clean"
        });
        wait_for("half the upload arrives", SOON, || (origin.received() >= 50_000).then_some(()));
        drop(session.stdin());
        let upload = wait_for("the backend is told", SOON, || origin.last("/digest").body);
        assert!(!upload.complete, "{front:?}: a cancelled upload looked whole");
        // The neighbour's own connection may stay, idle and reusable; those of the cancelled streams may not.
        wait_for("the cancelled streams' connections are closed", SOON, || (origin.open() <= 1).then_some(()));
        let report = session.report(SOON);
        assert_eq!(report["closed"], json!(null), "{front:?}: one stream's end is not the connection's");
        gateway.stop();
    }
}

#[test]
fn an_h3_client_that_vanishes_without_a_word_is_noticed() {
    if !python::available() {
        return;
    }
    let (origin, gateway) = start();
    let order =
        json!({ "streams": [{ "path": "/stall/1000", "cancel_after": 1000 }, { "path": "/hello" }], "linger_s": 1 });
    python::run(python::Client::H3, &gateway, order);
    wait_for("the backend's connections are idle or closed", SOON, || (origin.open() <= 1).then_some(()));
    let mut session = Session::start(python::Client::H3, &gateway, json!({ "streams": [{ "path": "/hang" }] }));
    wait_for("the backend has the request", SOON, || (origin.seen().len() == 3).then_some(()));
    // SIGTERM ends Python without a CONNECTION_CLOSE.
    drop(session.stdin());
    drop(session);
    // Nothing says so on the wire: the idle timeout (30 s by default) does.
    wait_for("the idle timeout ends it", SOON * 3, || (origin.open() <= 1).then_some(()));
    Front::H3.send(&gateway, &Request::get("/hello")).expect(200);
}

#[test]
fn a_backend_that_resets_is_told_to_the_client_and_not_retried() {
    let (origin, gateway) = start();
    for front in Front::available() {
        let before = origin.seen().len();
        let reply = front.send(&gateway, &Request::get("/reset/100000"));
        assert_ne!(reply.end, "clean", "{front:?}");
        let reply = front.send(&gateway, &Request::post("/no-answer", Upload::Text("once".to_owned())));
        reply.expect(502);
        assert_eq!(origin.seen().len(), before + 2, "{front:?}: each request is sent once");
    }
    gateway.stop();
}

#[test]
fn a_half_closed_client_still_gets_its_answer_or_a_plain_close() {
    let (_origin, gateway) = start();
    let mut raw = Raw::connect(gateway.plain());
    raw.send("GET /drip/5/20 HTTP/1.1\r\nHost: x\r\n\r\n");
    raw.socket.shutdown(std::net::Shutdown::Write).expect("half-close");
    // Both are allowed (RFC 9112 section 9.6 warns of it); half an answer that looks whole is not.
    if let Ok(answer) = raw.answer(false) {
        assert_eq!((answer.status, answer.body.len()), (200, 50));
    }
    gateway.stop();
}

#[test]
fn connections_that_say_nothing_do_no_harm() {
    let (_origin, gateway) = start();
    let silent: Vec<Raw> =
        (0..50).flat_map(|_| [Raw::connect(gateway.plain()), Raw::connect(gateway.secure())]).collect();
    let mut noise = Raw::connect(gateway.secure());
    noise.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    // Cleartext to the TLS port: an alert or a close, never an answer.
    let said = noise.rest().unwrap_or_default();
    assert!(!said.starts_with(b"HTTP/1.1 200"), "{said:?}");
    for front in Front::available() {
        front.send(&gateway, &Request::get("/hello")).expect(200);
    }
    drop(silent);
    gateway.stop();
}
