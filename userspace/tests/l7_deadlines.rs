// SPDX-License-Identifier: GPL-3.0-only
//! A head that never ends is cut after ten seconds, whatever the protocol and however it is spread over reads and frames;
//! a busy connection that lasts longer is not.

#[path = "support/harness.rs"]
mod support;

use std::io::Read;
use std::time::{Duration, Instant};

use serde_json::json;
use support::gateway::{Config, Gateway};
use support::origin::Origin;
use support::python::{self, Client, Session};
use support::raw::Raw;

/// The limit is 10 s; goodbyes and a busy machine take the rest.
const CUT: std::ops::Range<Duration> = Duration::from_secs(9)..Duration::from_secs(25);

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// An HTTP/2 frame on stream `id`.
fn frame(kind: u8, flags: u8, id: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, payload.len() as u8, kind, flags, 0, 0, 0, id];
    bytes.extend_from_slice(payload);
    bytes
}

/// Sends `first`, then a byte of `drip` a second, and returns when the connection ended and what came before.
fn dripped(gateway: &Gateway, first: &[u8], drip: &[u8]) -> (Duration, Vec<u8>) {
    let mut raw = Raw::connect(gateway.plain());
    let begun = Instant::now();
    raw.send(first);
    raw.socket.set_read_timeout(Some(Duration::from_secs(1))).expect("set a read timeout");
    let (mut got, mut piece, mut drip) = (Vec::new(), [0; 4096], drip.iter());
    while begun.elapsed() < CUT.end {
        match raw.socket.read(&mut piece) {
            Ok(0) => break,
            Ok(count) => got.extend_from_slice(&piece[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                if let Some(byte) = drip.next() {
                    raw.send([*byte]);
                }
            }
            Err(_) => break,
        }
    }
    (begun.elapsed(), got)
}

#[test]
fn a_head_that_never_ends_is_cut_in_the_clear() {
    let origin = Origin::standard();
    let gateway = Gateway::start(&Config::to(origin.address));
    let settings = [PREFACE, &frame(4, 0, 0, b"")].concat();
    // RFC 7541: indexed :method GET, :scheme http, :path /.
    let headers = frame(1, 0, 1, &[0x82, 0x86, 0x84]);
    let endless: Vec<u8> = frame(9, 0, 1, b"").repeat(5);
    let cases: Vec<(&str, Vec<u8>, Vec<u8>)> = vec![
        ("h1: a request line", b"GE".to_vec(), b"T /hello HTTP/1.1\r\nHost: x\r\n".to_vec()),
        ("a prefix of the preface", b"P".to_vec(), Vec::new()),
        ("most of the preface", b"PRI * HT".to_vec(), Vec::new()),
        ("the preface, slowly", b"P".to_vec(), PREFACE[1..20].to_vec()),
        ("h2: HEADERS without END_HEADERS", [&settings[..], &headers].concat(), Vec::new()),
        ("h2: CONTINUATION without end", [&settings[..], &headers].concat(), endless),
        ("h2: half of HEADERS", [&settings[..], &frame(1, 4, 1, &[0x82; 40])[..20]].concat(), Vec::new()),
        ("h2: half of a frame's header on an idle connection", [&settings[..], &[0, 0]].concat(), Vec::new()),
    ];
    std::thread::scope(|scope| {
        for (name, first, drip) in &cases {
            let gateway = &gateway;
            scope.spawn(move || {
                let (took, got) = dripped(gateway, first, drip);
                assert!(CUT.contains(&took), "{name}: ended after {took:?}");
                let text = String::from_utf8_lossy(&got);
                if name.starts_with("h2") {
                    // The last frame is GOAWAY with ENHANCE_YOUR_CALM.
                    assert!(got.ends_with(&[0, 0, 0, 11]), "{name}: {got:?}");
                } else {
                    assert!(text.starts_with("HTTP/1.1 408 "), "{name}: {text:?}");
                    assert!(text.to_ascii_lowercase().contains("connection: close"), "{name}: {text:?}");
                }
            });
        }
    });
    assert_eq!(origin.seen().len(), 0);
    gateway.stop();
}

#[test]
fn an_h2_connection_that_is_busy_for_longer_is_not_cut() {
    if !python::available() {
        return;
    }
    let origin = Origin::standard();
    let gateway = Gateway::start(&Config::to(origin.address));
    for client in [Client::H2Cleartext, Client::H3] {
        let order = json!({ "load": { "path": "/hello", "every_ms": 1, "limit_s": 13 }, "limit_s": 60 });
        let report = Session::start(client, &gateway, order).report(Duration::from_secs(90));
        assert_eq!((&report["load"]["failed"], &report["closed"]), (&json!([]), &json!(null)), "{client:?}: {report}");
        assert!(report["load"]["clean"].as_u64() > Some(100), "{client:?}: {report}");
    }
    gateway.stop();
}

#[test]
fn an_h3_head_that_never_ends_resets_its_stream_and_no_other() {
    if !python::available() {
        return;
    }
    let origin = Origin::standard();
    let gateway = Gateway::start(&Config::to(origin.address));
    // A HEADERS frame of 50 bytes of which 5 come; and a request beside it that takes longer than the limit.
    let streams = json!([{ "raw": "0132000000", "fin": false }, { "path": "/drip/15/1000" }]);
    let begun = Instant::now();
    let report = python::run(Client::H3, &gateway, json!({ "streams": streams, "limit_s": 60 }));
    assert!(begun.elapsed() > CUT.start, "{report}");
    // H3_REQUEST_CANCELLED.
    assert_eq!(report["streams"][0]["end"], json!("reset 268"), "{report}");
    assert_eq!(report["streams"][1]["end"], json!("clean"), "{report}");
    gateway.stop();
}
