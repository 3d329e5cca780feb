// SPDX-License-Identifier: GPL-3.0-only
//! Malformed requests over HTTP/2 and HTTP/3: refused on their own stream, never turned into HTTP/1.1 for a backend.
//!
//! What is harmless in a binary protocol (a line break in a value, a length that lies) becomes a second request when it
//! is written down as HTTP/1.1: RFC 9113 section 8.2.1 and 8.1.1, RFC 9114 section 4.1.2 and 4.3.

#[path = "support/harness.rs"]
mod support;

use serde_json::{Value, json};
use support::gateway::{Config, Gateway};
use support::origin::Origin;
use support::python::{self, Client};

type Fields<'a> = &'a [(&'a str, &'a str)];

const GOOD: Fields<'_> = &[(":method", "GET"), (":scheme", "https"), (":authority", "localhost"), (":path", "/hello")];

/// Heads that are malformed, as fields in the order sent.
const MALFORMED: &[(&str, Fields<'_>)] = &[
    ("line break in a value", &[GOOD[0], GOOD[1], GOOD[2], GOOD[3], ("x", "a\r\nevil: 1")]),
    ("LF in a value", &[GOOD[0], GOOD[1], GOOD[2], GOOD[3], ("x", "a\nevil: 1")]),
    ("CR in a value", &[GOOD[0], GOOD[1], GOOD[2], GOOD[3], ("x", "a\rb")]),
    ("NUL in a value", &[GOOD[0], GOOD[1], GOOD[2], GOOD[3], ("x", "a\0b")]),
    ("line break in a name", &[GOOD[0], GOOD[1], GOOD[2], GOOD[3], ("x\r\nevil", "1")]),
    ("colon in a name", &[GOOD[0], GOOD[1], GOOD[2], GOOD[3], ("x:y", "1")]),
    ("blank in a name", &[GOOD[0], GOOD[1], GOOD[2], GOOD[3], ("x y", "1")]),
    ("upper case in a name", &[GOOD[0], GOOD[1], GOOD[2], GOOD[3], ("X-Upper", "1")]),
    ("empty name", &[GOOD[0], GOOD[1], GOOD[2], GOOD[3], ("", "1")]),
    ("connection", &[GOOD[0], GOOD[1], GOOD[2], GOOD[3], ("connection", "close")]),
    ("transfer-encoding", &[GOOD[0], GOOD[1], GOOD[2], GOOD[3], ("transfer-encoding", "chunked")]),
    ("keep-alive", &[GOOD[0], GOOD[1], GOOD[2], GOOD[3], ("keep-alive", "1")]),
    ("upgrade", &[GOOD[0], GOOD[1], GOOD[2], GOOD[3], ("upgrade", "x")]),
    ("te other than trailers", &[GOOD[0], GOOD[1], GOOD[2], GOOD[3], ("te", "chunked")]),
    ("no method", &[GOOD[1], GOOD[2], GOOD[3]]),
    ("no path", &[GOOD[0], GOOD[1], GOOD[2]]),
    ("no scheme", &[GOOD[0], GOOD[2], GOOD[3]]),
    ("empty path", &[GOOD[0], GOOD[1], GOOD[2], (":path", "")]),
    ("two paths", &[GOOD[0], GOOD[1], GOOD[2], GOOD[3], (":path", "/other")]),
    ("line break in the path", &[GOOD[0], GOOD[1], GOOD[2], (":path", "/hello HTTP/1.1\r\nevil: 1")]),
    ("blank in the path", &[GOOD[0], GOOD[1], GOOD[2], (":path", "/hello x")]),
    ("line break in the method", &[(":method", "GET /x HTTP/1.1\r\nx: "), GOOD[1], GOOD[2], GOOD[3]]),
    ("blank in the method", &[(":method", "GET /x"), GOOD[1], GOOD[2], GOOD[3]]),
    ("line break in the authority", &[GOOD[0], GOOD[1], (":authority", "a\r\nevil: 1"), GOOD[3]]),
    ("unknown pseudo field", &[GOOD[0], GOOD[1], GOOD[2], GOOD[3], (":evil", "1")]),
    ("a response's pseudo field", &[GOOD[0], GOOD[1], GOOD[2], GOOD[3], (":status", "200")]),
    ("pseudo field after a field", &[GOOD[0], GOOD[1], GOOD[2], ("x", "1"), GOOD[3]]),
    ("authority and host that differ", &[GOOD[0], GOOD[1], GOOD[2], GOOD[3], ("host", "evil")]),
    ("two lengths", &[GOOD[0], GOOD[1], GOOD[2], GOOD[3], ("content-length", "0"), ("content-length", "5")]),
    ("length that is no number", &[GOOD[0], GOOD[1], GOOD[2], GOOD[3], ("content-length", "+0")]),
];

fn refused(client: Client) {
    if !python::available() {
        return;
    }
    let origin = Origin::standard();
    let gateway = Gateway::start(&Config::to(origin.address));
    let mut wrong = Vec::new();
    // aioquic's encoder refuses to make an empty name.
    let cases: Vec<_> = MALFORMED.iter().filter(|(name, _)| client != Client::H3 || *name != "empty name").collect();
    // A connection each: the gateway may well end it, and the next case is not to suffer.
    let reports = each(client, &gateway, cases.iter().map(|(_, head)| json!({ "head": head })).collect());
    for ((name, _), report) in cases.iter().zip(reports) {
        let stream = &report["streams"][0];
        let status = stream["status"].as_u64().unwrap_or(0);
        let end = stream["end"].as_str().unwrap_or_default();
        let refused = (400..500).contains(&status) || end.starts_with("reset") || end.starts_with("connection");
        if !refused {
            wrong.push(format!("{name}: {status} {end}"));
        }
    }
    let seen: Vec<String> = origin.seen().iter().map(|seen| String::from_utf8_lossy(&seen.head).into_owned()).collect();
    assert!(wrong.is_empty() && seen.is_empty(), "{client:?}: not refused: {wrong:#?}\nthe backend saw {seen:#?}");
    assert_eq!(origin.oddities(), Vec::<String>::new());
    gateway.stop();
}

/// One connection for each stream, several at a time.
fn each(client: Client, gateway: &Gateway, streams: Vec<Value>) -> Vec<Value> {
    let mut reports = Vec::new();
    for some in streams.chunks(4) {
        let start = |stream: &Value| {
            let order = json!({ "streams": [stream], "validate": false, "limit_s": 20 });
            python::Session::start(client, gateway, order)
        };
        let mut sessions: Vec<_> = some.iter().map(start).collect();
        reports.extend(sessions.iter_mut().map(|session| session.report(support::SOON * 2)));
    }
    reports
}

#[test]
fn malformed_h2_requests_never_reach_a_backend() {
    refused(Client::H2);
}

#[test]
fn malformed_h3_requests_never_reach_a_backend() {
    refused(Client::H3);
}

#[test]
fn h3_streams_that_end_without_a_request_are_reset_and_give_their_credit_back() {
    if !python::available() {
        return;
    }
    let origin = Origin::standard();
    let gateway = Gateway::start(&Config::to(origin.address));
    // Nothing, a frame's type alone, and half a HEADERS frame: more of them than streams are allowed at once.
    let kinds = ["", "01", "0132000000"];
    let mut streams: Vec<Value> = (0..300).map(|index| json!({ "raw": kinds[index % 3] })).collect();
    streams.push(json!({ "path": "/hello" }));
    let report = python::run(Client::H3, &gateway, json!({ "streams": streams, "limit_s": 40 }));
    let streams = report["streams"].as_array().expect("a list");
    let (last, halves) = streams.split_last().expect("a last one");
    // H3_REQUEST_INCOMPLETE.
    let wrong: Vec<_> = halves.iter().map(|stream| &stream["end"]).filter(|end| **end != json!("reset 269")).collect();
    assert!(wrong.is_empty(), "{} of 300 ended otherwise, such as {:?}", wrong.len(), wrong.first());
    assert_eq!((&last["status"], &last["end"]), (&json!(200), &json!("clean")), "{last}");
    gateway.stop();
}

#[test]
fn a_request_without_authority_and_host_is_answered_400() {
    if !python::available() {
        return;
    }
    let origin = Origin::standard();
    let gateway = Gateway::start(&Config::to(origin.address));
    for client in [Client::H2Cleartext, Client::H2, Client::H3] {
        for report in each(client, &gateway, vec![json!({ "head": [GOOD[0], GOOD[1], GOOD[3]] })]) {
            assert_eq!(report["streams"][0]["status"], json!(400), "{client:?}: {report}");
        }
    }
    assert_eq!(origin.seen().len(), 0);
    gateway.stop();
}

#[test]
fn a_length_that_lies_never_makes_a_whole_request() {
    if !python::available() {
        return;
    }
    for client in [Client::H2Cleartext, Client::H2, Client::H3] {
        let origin = Origin::standard();
        let gateway = Gateway::start(&Config::to(origin.address));
        let head = |length: &str| {
            let method = (":method", "POST");
            json!([method, GOOD[1], GOOD[2], (":path", format!("/digest?{length}")), ("content-length", length)])
        };
        let streams =
            ["3", "10"].map(|length| json!({ "head": head(length), "body": "abcde" })).into_iter().collect::<Vec<_>>();
        for report in each(client, &gateway, streams) {
            let stream = &report["streams"][0];
            assert_ne!(stream["status"], json!(200), "{client:?}: {stream}");
        }
        for seen in origin.seen() {
            // What was sent on must be visibly broken: the shorter length is a complete message only by dropping bytes.
            let body = support::wait_for("the backend is told", support::SOON, || origin.last(seen.path()).body);
            assert!(!body.complete, "{client:?}: {} looked whole: {body:?}", seen.target);
        }
        assert_eq!(origin.oddities(), Vec::<String>::new());
        gateway.stop();
    }
}

#[test]
fn harmless_peculiarities_are_served() {
    if !python::available() {
        return;
    }
    let origin = Origin::standard();
    let gateway = Gateway::start(&Config::to(origin.address));
    for client in [Client::H2, Client::H3] {
        let with = |more: Fields<'_>| {
            let head = [GOOD, more].concat();
            json!({ "head": head })
        };
        let streams = vec![
            with(&[("te", "trailers")]),
            with(&[("cookie", "a=1"), ("cookie", "b=2")]),
            with(&[("host", "localhost")]),
            with(&[("x-latin", "\u{e9}")]),
        ];
        for report in each(client, &gateway, streams) {
            assert_eq!(
                (&report["streams"][0]["status"], &report["streams"][0]["end"]),
                (&json!(200), &json!("clean")),
                "{client:?}"
            );
        }
        // RFC 9113 section 8.2.3, RFC 9114 section 4.2.1: crumbs become one field for HTTP/1.1.
        let seen = origin.seen();
        let cookies: Vec<_> = seen.iter().map(|seen| seen.all("cookie")).filter(|all| !all.is_empty()).collect();
        assert!(cookies.iter().all(|all| *all == ["a=1; b=2"]), "{client:?}: {cookies:?}");
    }
    assert_eq!(origin.oddities(), Vec::<String>::new());
    gateway.stop();
}
