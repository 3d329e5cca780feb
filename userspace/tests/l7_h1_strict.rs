// SPDX-License-Identifier: GPL-3.0-only
//! HTTP/1.1 as bytes: what is refused, that a refusal ends the connection, and that the backend never sees a second
//! request hidden in the first. Then keep-alive: reused where it is safe, never after an oddity.

#[path = "support/harness.rs"]
mod support;

use std::time::Duration;

use support::gateway::{Config, Gateway};
use support::origin::{Origin, Then};
use support::raw::{Answer, Raw};
use support::{SOON, wait_for};

fn start() -> (Origin, Gateway) {
    let origin = Origin::standard();
    let gateway = Gateway::start(&Config::to(origin.address));
    (origin, gateway)
}

/// Heads that must not be forwarded. Each is followed by a whole second request, which must not be seen either.
const REFUSED: &[(&str, &str)] = &[
    // Framing: RFC 9112 sections 6.1 to 6.3.
    (
        "length and chunked",
        "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "chunked and length",
        "POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    ),
    ("two lengths that differ", "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nContent-Length: 5\r\n\r\n"),
    ("a list of lengths that differ", "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 0, 5\r\n\r\n"),
    ("length with a plus", "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: +5\r\n\r\nabcde"),
    ("length with a minus", "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n"),
    ("hexadecimal length", "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 0x5\r\n\r\n"),
    ("empty length", "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length:\r\n\r\n"),
    ("length beyond 64 bits", "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 18446744073709551621\r\n\r\nabcde"),
    ("length in words", "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 5 5\r\n\r\nabcde"),
    ("unknown coding", "POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
    ("chunked not last", "POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n"),
    ("identity then chunked", "POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n"),
    ("gzip then chunked", "POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    ("chunked twice", "POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n"),
    (
        "two codings fields",
        "POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    ),
    ("empty coding", "POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding:\r\n\r\n"),
    ("quoted coding", "POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n"),
    ("vertical tab before chunked", "POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n"),
    ("blank before the colon", "POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n"),
    ("chunked in HTTP/1.0", "POST /a HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    // Field lines: RFC 9112 section 5.
    ("folded field", "GET /a HTTP/1.1\r\nHost: x\r\nX: a\r\n b\r\n\r\n"),
    ("folded coding", "POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n"),
    ("first field line begins with a blank", "GET /a HTTP/1.1\r\n X: a\r\nHost: x\r\n\r\n"),
    ("field without colon", "GET /a HTTP/1.1\r\nHost: x\r\nnonsense\r\n\r\n"),
    ("field without name", "GET /a HTTP/1.1\r\nHost: x\r\n: a\r\n\r\n"),
    ("field name with a blank", "GET /a HTTP/1.1\r\nHost: x\r\nX Y: a\r\n\r\n"),
    ("NUL in a value", "GET /a HTTP/1.1\r\nHost: x\r\nX: a\0b\r\n\r\n"),
    ("bare CR in a value", "GET /a HTTP/1.1\r\nHost: x\r\nX: a\rContent-Length: 5\r\n\r\n"),
    ("bare LF after a field", "GET /a HTTP/1.1\r\nHost: x\nX: a\r\n\r\n"),
    ("bare LF after the request line", "GET /a HTTP/1.1\nHost: x\r\n\r\n"),
    ("bare LF ends the head", "GET /a HTTP/1.1\r\nHost: x\r\n\n"),
    ("only bare LF", "GET /a HTTP/1.1\nHost: x\n\n"),
    // Host: RFC 9112 section 3.2.
    ("no Host", "GET /a HTTP/1.1\r\nX: a\r\n\r\n"),
    ("two Hosts", "GET /a HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n"),
    ("two Hosts that differ", "GET /a HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n"),
    ("user information in Host", "GET /a HTTP/1.1\r\nHost: x@y\r\n\r\n"),
    ("a list in Host", "GET /a HTTP/1.1\r\nHost: x, y\r\n\r\n"),
    ("a path in Host", "GET /a HTTP/1.1\r\nHost: x/y\r\n\r\n"),
    ("a blank in Host", "GET /a HTTP/1.1\r\nHost: x y\r\n\r\n"),
    ("absolute form that differs from Host", "GET http://y/a HTTP/1.1\r\nHost: x\r\n\r\n"),
    ("user information in absolute form", "GET http://u@x/a HTTP/1.1\r\nHost: x\r\n\r\n"),
    // Request line: RFC 9112 section 3.
    ("two blanks", "GET  /a HTTP/1.1\r\nHost: x\r\n\r\n"),
    ("tab for a blank", "GET\t/a\tHTTP/1.1\r\nHost: x\r\n\r\n"),
    ("blank at the end", "GET /a HTTP/1.1 \r\nHost: x\r\n\r\n"),
    ("no version", "GET /a\r\nHost: x\r\n\r\n"),
    ("lower-case version", "GET /a http/1.1\r\nHost: x\r\n\r\n"),
    ("two digits", "GET /a HTTP/1.10\r\nHost: x\r\n\r\n"),
    ("a blank in the target", "GET /a b HTTP/1.1\r\nHost: x\r\n\r\n"),
    ("a target that is no path", "GET a HTTP/1.1\r\nHost: x\r\n\r\n"),
    ("asterisk for GET", "GET * HTTP/1.1\r\nHost: x\r\n\r\n"),
    ("a fragment in the target", "GET /a#b HTTP/1.1\r\nHost: x\r\n\r\n"),
    ("a control character in the target", "GET /a\x01 HTTP/1.1\r\nHost: x\r\n\r\n"),
    ("no method", " /a HTTP/1.1\r\nHost: x\r\n\r\n"),
    ("a method that is no token", "G(T /a HTTP/1.1\r\nHost: x\r\n\r\n"),
];

#[test]
fn malformed_heads_are_refused_closed_and_never_forwarded() {
    let (origin, gateway) = start();
    let mut wrong = Vec::new();
    for (name, bytes) in REFUSED {
        let mut raw = Raw::connect(gateway.plain());
        raw.send(bytes).send("GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n");
        match raw.answer(false) {
            Ok(Answer { status: 400..=499 | 501 | 505, fields, .. }) => {
                let close =
                    fields.iter().any(|(name, value)| name.eq_ignore_ascii_case("connection") && value == "close");
                if !raw.closes_within(SOON) {
                    wrong.push(format!("{name}: not closed after the refusal"));
                } else if !close {
                    wrong.push(format!("{name}: closed without saying so"));
                }
            }
            other => wrong.push(format!("{name}: {other:?}")),
        }
    }
    let seen: Vec<String> = origin.seen().iter().map(|seen| format!("{} {}", seen.method, seen.target)).collect();
    assert!(wrong.is_empty() && seen.is_empty(), "{}\nthe backend saw {seen:?}", wrong.join("\n"));
    assert_eq!(origin.oddities(), Vec::<String>::new());
    gateway.stop();
}

/// Chunked bodies that go wrong after the head, when the request may be under way already.
const BAD_CHUNKS: &[(&str, &str)] = &[
    ("blank after the size", "3 \r\nabc\r\n0\r\n\r\n"),
    ("blank before the size", " 3\r\nabc\r\n0\r\n\r\n"),
    ("0x before the size", "0x3\r\nabc\r\n0\r\n\r\n"),
    ("plus before the size", "+3\r\nabc\r\n0\r\n\r\n"),
    ("minus before the size", "-3\r\nabc\r\n0\r\n\r\n"),
    ("no size", "\r\nabc\r\n0\r\n\r\n"),
    ("size beyond 64 bits", "10000000000000003\r\nabc\r\n0\r\n\r\n"),
    ("size in words", "3 3\r\nabc\r\n0\r\n\r\n"),
    ("bare LF after the size", "3\nabc\r\n0\r\n\r\n"),
    ("bare LF after an extension", "3;a\nabc\r\n0\r\n\r\n"),
    ("bare CR in an extension", "3;a\rb\r\nabc\r\n0\r\n\r\n"),
    ("NUL in an extension", "3;a\0b\r\nabc\r\n0\r\n\r\n"),
    ("chunk longer than it says", "3\r\nabcd\r\n0\r\n\r\n"),
    ("bare LF after the data", "3\r\nabc\n0\r\n\r\n"),
    ("bare LF after the last chunk", "3\r\nabc\r\n0\n\r\n"),
    ("bare LF in the trailers", "3\r\nabc\r\n0\r\nX: a\n\r\n"),
    ("folded trailer", "3\r\nabc\r\n0\r\nX: a\r\n b\r\n\r\n"),
    ("trailer without colon", "3\r\nabc\r\n0\r\nnonsense\r\n\r\n"),
];

#[test]
fn malformed_chunks_end_the_connection_and_the_upload_looks_broken() {
    let mut wrong = Vec::new();
    let (origin, gateway) = start();
    for (name, bytes) in BAD_CHUNKS {
        let mut raw = Raw::connect(gateway.plain());
        let target = format!("/digest?{}", name.replace(' ', "-"));
        raw.send(format!("POST {target} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{bytes}"));
        raw.send("GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n");
        match raw.answer(false) {
            Ok(answer) if !(400..500).contains(&answer.status) => {
                wrong.push(format!("{name}: answered {}", answer.status))
            }
            Ok(_) if !raw.closes_within(SOON) => wrong.push(format!("{name}: not closed after the refusal")),
            // A close without an answer is allowed once the backend has the head.
            Ok(_) | Err(_) => {}
        }
    }
    origin.wait_open(0, "no connection of a broken upload is kept");
    for seen in origin.seen() {
        if seen.target == "/smuggled" || seen.body.as_ref().is_none_or(|body| body.complete) {
            wrong.push(format!("the backend took {} {} for whole: {:?}", seen.method, seen.target, seen.body));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(origin.oddities(), Vec::<String>::new());
    gateway.stop();
}

#[test]
fn harmless_peculiarities_are_served() {
    let (origin, gateway) = start();
    let served: &[(&str, &str)] = &[
        ("an empty line first", "\r\nGET /hello HTTP/1.1\r\nHost: x\r\n\r\n"),
        ("absolute form", "GET http://x/hello HTTP/1.1\r\nHost: x\r\n\r\n"),
        ("HTTP/1.0", "GET /hello HTTP/1.0\r\nHost: x\r\n\r\n"),
        ("empty value", "GET /hello HTTP/1.1\r\nHost: x\r\nX-Empty:\r\n\r\n"),
        ("blanks around a value", "GET /hello HTTP/1.1\r\nHost: \t x \t\r\n\r\n"),
        ("bytes beyond ASCII in a value", "GET /hello HTTP/1.1\r\nHost: x\r\nX: \u{e9}\r\n\r\n"),
        ("GET with a body", "GET /hello HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"),
        (
            "chunk extension",
            "POST /hello HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n0\r\n\r\n",
        ),
        (
            "leading zeros",
            "POST /hello HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0003\r\nabc\r\n000\r\n\r\n",
        ),
        (
            "upper-case coding",
            "POST /hello HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: Chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        ),
        (
            "Connection naming framing fields",
            "POST /hello HTTP/1.1\r\nHost: x\r\nConnection: content-length, host\r\nContent-Length: 3\r\n\r\nabc",
        ),
        ("an unknown upgrade", "GET /hello HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: zebra\r\n\r\n"),
    ];
    for (name, bytes) in served {
        let mut raw = Raw::connect(gateway.plain());
        let answer = raw.send(bytes).answer(false).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!((answer.status, answer.body.as_slice()), (200, &b"hello"[..]), "{name}: {answer:?}");
    }
    assert_eq!(origin.seen().len(), served.len(), "one request each");
    assert_eq!(origin.oddities(), Vec::<String>::new());
    gateway.stop();
}

#[test]
fn connect_is_refused_and_heads_have_a_limit() {
    let (origin, gateway) = start();
    let mut raw = Raw::connect(gateway.plain());
    let answer = raw.send("CONNECT x:443 HTTP/1.1\r\nHost: x:443\r\n\r\n").answer(false).expect("an answer");
    assert!((400..=501).contains(&answer.status), "{answer:?}");

    let long = format!("GET /a HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "v".repeat(1 << 20));
    let many = format!("GET /a HTTP/1.1\r\nHost: x\r\n{}\r\n", "X: v\r\n".repeat(2000));
    let target = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "p".repeat(1 << 20));
    for (name, bytes) in [("a long field", long), ("many fields", many), ("a long target", target)] {
        let mut raw = Raw::connect(gateway.plain());
        // A reset may overtake the answer when bytes of ours were unread: then there is none to look at.
        match raw.send(bytes).answer(false) {
            Ok(answer) => assert!([400, 414, 431].contains(&answer.status), "{name}: {answer:?}"),
            Err(error) => {
                assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "{name}: neither answered nor closed")
            }
        }
    }
    assert_eq!(origin.seen().len(), 0);
    gateway.stop();
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let (origin, gateway) = start();
    let mut raw = Raw::connect(gateway.plain());
    raw.send(
        "GET /status/201 HTTP/1.1\r\nHost: x\r\n\r\nPOST /digest HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc\
         GET /drip/3/10 HTTP/1.1\r\nHost: x\r\n\r\nHEAD /bytes/7 HTTP/1.1\r\nHost: x\r\n\r\nGET /status/204 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    );
    let statuses: Vec<u16> =
        [false, false, false, true, false].map(|head| raw.answer(head).map_or(0, |answer| answer.status)).to_vec();
    assert_eq!(statuses, [201, 200, 200, 200, 204]);
    assert!(raw.closes_within(SOON), "Connection: close is honoured");
    assert_eq!(origin.seen().len(), 5);
    gateway.stop();
}

fn ask(raw: &mut Raw, path: &str) -> Answer {
    raw.send(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")).answer(false).expect("an answer")
}

#[test]
fn upstream_connections_are_reused() {
    let (origin, gateway) = {
        let origin = Origin::standard();
        let config = Config { workers: 1, ..Config::to(origin.address) };
        let gateway = Gateway::start(&config);
        (origin, gateway)
    };
    let mut raw = Raw::connect(gateway.plain());
    for _ in 0..50 {
        assert_eq!(ask(&mut raw, "/hello").status, 200);
        assert_eq!(ask(&mut raw, "/chunked/1000").status, 200);
        assert_eq!(ask(&mut raw, "/status/304").status, 304);
    }
    assert_eq!(origin.accepted(), 1, "150 requests in a row need one connection");
    // Another client of the same worker uses it too.
    let mut raw = Raw::connect(gateway.plain());
    assert_eq!(ask(&mut raw, "/hello").status, 200);
    assert_eq!(origin.accepted(), 1);
    gateway.stop();
}

/// Answers after which the connection must not carry another request.
const ODD_ANSWERS: &[(&str, &str)] = &[
    ("Connection: close", "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"),
    ("HTTP/1.0", "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok"),
    (
        "bytes after the answer",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
    ),
    ("bytes after the last chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\nevil"),
    ("a body after 304", "HTTP/1.1 304 Not Modified\r\n\r\nevil"),
    ("a body after 204", "HTTP/1.1 204 No Content\r\n\r\nevil"),
];

#[test]
fn a_connection_is_not_reused_after_an_odd_answer() {
    for (name, bytes) in ODD_ANSWERS {
        let origin = Origin::start(move |call| {
            if call.earlier > 0 {
                return call.reply("500 Reused", "", "reused");
            }
            call.send(bytes)?;
            Ok(Then::Keep)
        });
        let gateway = Gateway::start(&Config { workers: 1, ..Config::to(origin.address) });
        let mut raw = Raw::connect(gateway.plain());
        for turn in 1..=3 {
            let answer = raw.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n").answer(false);
            let answer = answer.unwrap_or_else(|error| panic!("{name}, request {turn}: {error}"));
            assert!([200, 204, 304].contains(&answer.status), "{name}, request {turn}: {answer:?}");
            assert_ne!(answer.body, b"evil", "{name}, request {turn}");
            assert_eq!(origin.accepted(), turn, "{name}: a fresh connection for each request");
        }
        gateway.stop();
    }
}

#[test]
fn a_backend_that_speaks_out_of_turn_is_not_believed() {
    // An answer sent before any request must never be taken for the answer to one.
    let origin = Origin::start(|call| {
        call.reply("200 OK", "", "first")?;
        std::thread::sleep(Duration::from_millis(100));
        call.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")?;
        Ok(Then::Keep)
    });
    let gateway = Gateway::start(&Config { workers: 1, ..Config::to(origin.address) });
    let mut raw = Raw::connect(gateway.plain());
    assert_eq!(ask(&mut raw, "/").body, b"first");
    std::thread::sleep(Duration::from_millis(500));
    let answer = ask(&mut raw, "/");
    assert_eq!(answer.body, b"first", "{answer:?}");
    assert_eq!(origin.accepted(), 2);
    gateway.stop();
}

#[test]
fn an_idle_connection_that_the_backend_closed_is_not_a_failed_request() {
    let origin = Origin::start(|call| {
        call.reply("200 OK", "", "ok")?;
        std::thread::sleep(Duration::from_millis(50));
        Ok(Then::Close)
    });
    let gateway = Gateway::start(&Config { workers: 1, ..Config::to(origin.address) });
    let mut raw = Raw::connect(gateway.plain());
    for turn in 1..=5 {
        assert_eq!(ask(&mut raw, "/").status, 200, "request {turn}");
        // The gateway learns of the close before the next request, so this is not the race that HTTP permits.
        wait_for("the backend closes", SOON, || (origin.open() == 0).then_some(()));
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(origin.seen().len(), 5);
    gateway.stop();
}
