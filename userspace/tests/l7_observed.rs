// SPDX-License-Identifier: GPL-3.0-only
//! What the gateway says of itself: counters equal to what was sent, and a panic that is counted and costs one connection.

#[path = "support/harness.rs"]
mod support;

use std::collections::BTreeMap;

use serde_json::json;
use support::front::{Front, Request, Upload};
use support::gateway::{Config, Gateway};
use support::origin::Origin;
use support::python::{self, Client, Session};
use support::raw::Raw;
use support::{SOON, wait_for};

const REQUESTS: &str = "expressgateway_requests_total";

/// The labels that a front's requests are counted under.
fn labels(front: Front) -> (&'static str, &'static str) {
    match front {
        Front::H1 => ("plain", "h1"),
        Front::H1Tls => ("secure", "h1"),
        Front::H2 => ("plain", "h2"),
        Front::H2Tls => ("secure", "h2"),
        Front::H3 => ("secure", "h3"),
    }
}

#[test]
fn requests_are_counted_by_listener_protocol_and_status_exactly() {
    let origin = Origin::standard();
    let gateway = Gateway::start(&Config::to(origin.address));
    let mut sent: BTreeMap<(&str, &str, u16), u64> = BTreeMap::new();
    for (index, front) in Front::available().into_iter().enumerate() {
        let (listener, protocol) = labels(front);
        let mut count = |status: u16| *sent.entry((listener, protocol, status)).or_default() += 1;
        for _ in 0..=index {
            front.send(&gateway, &Request::get("/hello")).expect(200);
            count(200);
        }
        front.send(&gateway, &Request::new("HEAD", "/bytes/10")).expect(200);
        count(200);
        front.send(&gateway, &Request::post("/digest", Upload::Text("x".to_owned()))).expect(200);
        count(200);
        front.send(&gateway, &Request::get("/hints")).expect(200);
        count(200);
        for status in [204, 304, 404, 503] {
            front.send(&gateway, &Request::get(&format!("/status/{status}"))).expect(status);
            count(status);
        }
        front.send(&gateway, &Request::post("/no-answer", Upload::Text("x".to_owned()))).expect(502);
        count(502);
    }
    // Refused by the gateway itself: a request all the same.
    let mut raw = Raw::connect(gateway.plain());
    assert_eq!(raw.send("GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n").answer(false).expect("an answer").status, 400);
    *sent.entry(("plain", "h1", 400)).or_default() += 1;

    let all = wait_for("the counters agree with the sum of what was sent", SOON, || {
        let metrics = gateway.metrics();
        (metrics.count(REQUESTS, &[]) == sent.values().sum::<u64>()).then_some(metrics)
    });
    for ((listener, protocol, status), count) in &sent {
        let labels = [("listener", *listener), ("protocol", *protocol), ("status", &status.to_string())];
        assert_eq!(all.count(REQUESTS, &labels), *count, "{labels:?}:\n{}", all.text);
    }
    assert_eq!(all.count("panic_total", &[]), 0);
    assert_eq!(all.count("shutdown_aborted_connections_total", &[]), 0);
    gateway.stop();
}

#[test]
fn connections_are_counted_open_and_gone_again() {
    let origin = Origin::standard();
    let gateway = Gateway::start(&Config::to(origin.address));
    let mut raws: Vec<Raw> = (0..10).map(|_| Raw::connect(gateway.plain())).collect();
    for raw in &mut raws {
        assert_eq!(raw.send("GET /hello HTTP/1.1\r\nHost: x\r\n\r\n").answer(false).expect("an answer").status, 200);
    }
    let h1 = [("listener", "plain"), ("protocol", "h1")];
    let metrics = gateway.metrics();
    assert_eq!(metrics.count("expressgateway_connections_total", &h1), 10, "{}", metrics.text);
    assert_eq!(metrics.count("expressgateway_connections_active", &h1), 10, "{}", metrics.text);
    drop(raws);
    wait_for("closed connections are no longer active", SOON, || {
        (gateway.metrics().count("expressgateway_connections_active", &h1) == 0).then_some(())
    });
    // Connections to the backend: each of the ten requests was on a new one or a kept one.
    let metrics = gateway.metrics();
    let made = metrics.count("expressgateway_upstream_connects_total", &[]);
    assert_eq!(made, origin.accepted() as u64);
    assert_eq!(made + metrics.count("expressgateway_upstream_reuses_total", &[]), 10);
    gateway.stop();
}

#[test]
fn a_panic_ends_one_connection_and_is_counted() {
    let origin = Origin::standard();
    let mut config = Config { workers: 1, ..Config::to(origin.address) };
    config.environment.push(("EG_TEST_PANIC".to_owned(), "1".to_owned()));
    let gateway = Gateway::start(&config);
    // Somebody else, on the same worker, on a connection of their own.
    let mut other = Raw::connect(gateway.plain());
    let mut other_is_served = || {
        let answer = other.send("GET /hello HTTP/1.1\r\nHost: x\r\n\r\n").answer(false).expect("an answer");
        assert_eq!(answer.status, 200);
    };
    other_is_served();
    let mut session = python::available().then(|| {
        let order = json!({ "streams": [{ "path": "/drip/100/100" }] });
        let mut session = Session::start(Client::H3, &gateway, order);
        session.wait("the answer begins", SOON, |line| line["event"] == "head");
        session
    });
    let mut panics = 0;
    for front in Front::available() {
        let reply = front.send(&gateway, &Request::get("/hello").field("X-Eg-Test-Panic", "1"));
        assert_ne!(reply.end, "clean", "{front:?}: {reply:?}");
        panics += 1;
        let count = wait_for("the panic is counted", SOON, || {
            Some(gateway.metrics().count("panic_total", &[])).filter(|count| *count >= panics)
        });
        assert_eq!(count, panics, "{front:?}");
        other_is_served();
        front.send(&gateway, &Request::get("/hello")).expect(200);
    }
    if let Some(session) = &mut session {
        let report = session.report(SOON * 2);
        assert_eq!(
            report["streams"][0]["end"], "clean",
            "a neighbour's stream on another connection goes on: {report}"
        );
    }
    assert!(gateway.log().contains("a test asked for this panic"), "the panic is logged");
    gateway.stop();
}
