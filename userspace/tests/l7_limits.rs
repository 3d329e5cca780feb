// SPDX-License-Identifier: GPL-3.0-only
//! More connections than there are descriptors: whoever is accepted is served, the others wait, and the operator can ask,
//! reload and drain all the while.

#[path = "support/harness.rs"]
mod support;

use std::net::SocketAddr;
use std::time::Duration;

use nix::sys::signal::Signal;
use support::gateway::{Config, Gateway};
use support::origin::Origin;
use support::raw::Raw;
use support::{SOON, wait_for};

const ACTIVE: &str = "expressgateway_connections_active";
const HELLO: &str = "GET /hello HTTP/1.1\r\nHost: x\r\n\r\n";

/// Connections that say nothing; the kernel takes them whether the gateway does or not.
fn silent(address: SocketAddr, count: usize) -> Vec<Raw> {
    (0..count).map(|_| Raw::connect(address)).collect()
}

#[test]
fn idle_connections_take_no_descriptor_that_a_request_an_operator_or_a_reload_needs() {
    let origin = Origin::standard();
    let gateway = Gateway::start(&Config { descriptors: Some(80), ..Config::to(origin.address) });
    let most = gateway.metrics().count("expressgateway_max_connections", &[]);
    assert!((5..40).contains(&most), "80 descriptors are enough for {most} connections");
    assert!(gateway.log().contains(&format!("max_connections={most}")), "the limit is logged:\n{}", gateway.log());

    // Both workers are to hold some that were served before.
    let mut served: Vec<Raw> = silent(gateway.plain(), 4);
    for raw in &mut served {
        assert_eq!(raw.send(HELLO).answer(false).expect("an answer").status, 200);
    }
    let idle = silent(gateway.plain(), 200);
    let metrics = wait_for("accepting pauses", SOON, || {
        let metrics = gateway.metrics();
        (metrics.count("expressgateway_accept_pauses_total", &[]) > 0).then_some(metrics)
    });
    assert!(metrics.count(ACTIVE, &[]) <= most, "{}", metrics.text);
    for path in ["/livez", "/readyz", "/metrics", "/status"] {
        assert_eq!(gateway.admin(path).map(|(status, _)| status), Some(200), "{path}");
    }
    for _ in 0..3 {
        for raw in &mut served {
            assert_eq!(raw.send(HELLO).answer(false).expect("an answer").status, 200);
        }
    }
    let text = std::fs::read_to_string(gateway.configuration()).expect("read the configuration");
    std::fs::write(gateway.configuration(), text.replace("log = \"info\"", "log = \"debug\"")).expect("change it");
    gateway.signal(Signal::SIGHUP);
    wait_for("the reload is applied", SOON, || {
        let reloads = "expressgateway_config_reloads_total";
        assert_eq!(gateway.metrics().count(reloads, &[("result", "failed")]), 0, "{}", gateway.log());
        (gateway.metrics().count(reloads, &[("result", "applied")]) == 1).then_some(())
    });
    let lines = gateway.log().lines().filter(|line| line.contains("accepting pauses")).count();
    assert!((1..=4).contains(&lines), "said once a worker and ten seconds: {lines} lines\n{}", gateway.log());

    // A place that becomes free is taken by one that waited.
    drop(idle);
    wait_for("who waits is served", SOON, || {
        let mut raw = Raw::connect(gateway.plain());
        raw.socket.set_read_timeout(Some(Duration::from_secs(2))).expect("set a read timeout");
        raw.send(HELLO).answer(false).is_ok_and(|answer| answer.status == 200).then_some(())
    });
    drop(served);
    gateway.stop();
}

#[test]
fn connections_beyond_the_configured_limit_wait_and_are_counted() {
    let origin = Origin::standard();
    let gateway = Gateway::start(&Config { workers: 1, max_connections: 2, ..Config::to(origin.address) });
    assert_eq!(gateway.metrics().count("expressgateway_max_connections", &[]), 2);
    let mut served: Vec<Raw> = silent(gateway.plain(), 2);
    for raw in &mut served {
        assert_eq!(raw.send(HELLO).answer(false).expect("an answer").status, 200);
    }
    let mut third = Raw::connect(gateway.plain());
    third.send(HELLO);
    let metrics = wait_for("accepting pauses", SOON, || {
        let metrics = gateway.metrics();
        (metrics.count("expressgateway_accept_pauses_total", &[]) > 0).then_some(metrics)
    });
    assert_eq!(metrics.count(ACTIVE, &[]), 2, "{}", metrics.text);
    for raw in &mut served {
        assert_eq!(raw.send(HELLO).answer(false).expect("an answer").status, 200, "who is in is served");
    }
    third.socket.set_read_timeout(Some(Duration::from_millis(200))).expect("set a read timeout");
    assert!(third.socket.peek(&mut [0]).is_err(), "one more than configured was served");
    third.socket.set_read_timeout(Some(SOON)).expect("set a read timeout");
    served.pop();
    assert_eq!(third.answer(false).expect("an answer").status, 200, "who waited has the place that became free");
    gateway.stop();
}

#[test]
fn a_gateway_that_is_full_drains_like_any_other() {
    let origin = Origin::standard();
    let mut gateway =
        Gateway::start(&Config { descriptors: Some(80), drain_timeout_ms: 3000, ..Config::to(origin.address) });
    let _idle = silent(gateway.plain(), 200);
    wait_for("accepting pauses", SOON, || {
        (gateway.metrics().count("expressgateway_accept_pauses_total", &[]) > 0).then_some(())
    });
    gateway.signal(Signal::SIGTERM);
    assert!(gateway.wait_exit(SOON).success(), "{}", gateway.log());
}

#[test]
fn requests_of_one_connection_take_no_more_connections_to_backends_than_there_may_be() {
    if !support::python::available() {
        return;
    }
    let origin = Origin::standard();
    let gateway = Gateway::start(&Config { descriptors: Some(80), ..Config::to(origin.address) });
    let most = gateway.metrics().count("expressgateway_max_connections", &[]) as usize;
    let streams: Vec<_> = (0..100).map(|_| serde_json::json!({ "path": "/drip/5/100" })).collect();
    let order = serde_json::json!({ "streams": streams, "limit_s": 60 });
    let report = support::python::run(support::python::Client::H2Cleartext, &gateway, order);
    let statuses: Vec<u64> = report["streams"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|stream| stream["status"].as_u64().unwrap_or(0))
        .collect();
    let count = |status: u64| statuses.iter().filter(|&&own| own == status).count();
    assert_eq!(count(200) + count(503), 100, "{statuses:?}");
    assert!(count(200) >= most / 2 && count(503) > 0, "{statuses:?}");
    let failures = gateway.metrics().count("expressgateway_upstream_failures_total", &[("cause", "limit")]);
    assert_eq!(failures as usize, count(503));
    assert_eq!(gateway.admin("/readyz").map(|(status, _)| status), Some(200));
    // Idle ones make room: the next request is served.
    let mut raw = Raw::connect(gateway.plain());
    assert_eq!(raw.send(HELLO).answer(false).expect("an answer").status, 200);
    drop(raw);
    gateway.stop();
}

#[test]
fn silent_connections_are_counted_from_the_moment_they_are_accepted() {
    let origin = Origin::standard();
    let gateway = Gateway::start(&Config::to(origin.address));
    let silent = silent(gateway.plain(), 50);
    let none = [("listener", "plain"), ("protocol", "none")];
    wait_for("all are counted", SOON, || (gateway.metrics().count(ACTIVE, &none) == 50).then_some(()));
    let mut raw = Raw::connect(gateway.plain());
    assert_eq!(raw.send(HELLO).answer(false).expect("an answer").status, 200);
    let metrics = gateway.metrics();
    assert_eq!(metrics.count(ACTIVE, &none), 50, "one that speaks is counted as what it speaks");
    assert_eq!(metrics.count(ACTIVE, &[("listener", "plain"), ("protocol", "h1")]), 1);
    assert_eq!(metrics.count("expressgateway_connections_total", &none), 0);
    drop(silent);
    wait_for("none is left", SOON, || {
        let metrics = gateway.metrics();
        (metrics.count(ACTIVE, &none) == 0 && metrics.count("expressgateway_connections_total", &none) == 50)
            .then_some(())
    });
    drop(raw);
    gateway.stop();
}
