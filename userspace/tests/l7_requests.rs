// SPDX-License-Identifier: GPL-3.0-only
//! Single requests through every front to an HTTP/1.1 backend, seen from both ends by programs that are not ours.
//!
//! Each case runs for HTTP/1.1 and HTTP/2, cleartext and TLS, and HTTP/3. What is asserted is what arrived: at the client
//! as curl or aioquic tell it, at the backend byte for byte.

#[path = "support/harness.rs"]
mod support;

use support::bytes;
use support::front::{Front, Reply, Request, Upload};
use support::gateway::{Config, Gateway};
use support::origin::{Origin, Then};
use support::raw::Raw;
use support::{SOON, wait_for};

/// Sends a request whose answer may come before its body was read. curl 7.88 forgets a whole HTTP/2 answer when RST_STREAM
/// (NO_ERROR, RFC 9113 section 8.1) follows it while curl is still sending, so HTTP/2 goes through the other client.
fn send_early(front: Front, gateway: &Gateway, request: &Request) -> Reply {
    match front.python() {
        Some(_) if support::python::available() => front.send_by_python(gateway, request),
        _ => front.send(gateway, request),
    }
}

fn start() -> (Origin, Gateway) {
    let origin = Origin::standard();
    let gateway = Gateway::start(&Config::to(origin.address));
    (origin, gateway)
}

#[test]
fn get_head_and_post_arrive_whole_on_every_front() {
    let (origin, gateway) = start();
    for front in Front::available() {
        let reply = front.send(&gateway, &Request::get("/hello?front=x&y=%20"));
        reply.expect(200);
        assert_eq!(reply.text(), "hello", "{front:?}");
        assert_eq!(reply.all("content-type"), ["text/plain"], "{front:?}");
        assert_eq!(
            origin.last("/hello").target,
            "/hello?front=x&y=%20",
            "{front:?}: the target reaches the backend unchanged"
        );

        let reply = front.send(&gateway, &Request::new("HEAD", "/bytes/1234"));
        reply.expect(200);
        assert_eq!(reply.all("content-length"), ["1234"], "{front:?}");
        assert_eq!(origin.last("/bytes/1234").method, "HEAD");

        for body in ["", "a small body"] {
            let reply = front.send(&gateway, &Request::post("/digest", Upload::Text(body.to_owned())));
            reply.expect(200);
            let want = format!("{} {}", body.len(), bytes::digest_of(body.as_bytes()));
            assert_eq!(reply.text(), want, "{front:?}");
        }
        for method in ["PUT", "DELETE", "OPTIONS", "PATCH", "PROPFIND"] {
            front.send(&gateway, &Request::new(method, "/hello")).expect(200);
            assert_eq!(origin.last("/hello").method, method, "{front:?}");
        }
    }
    assert_eq!(origin.oddities(), Vec::<String>::new());
    gateway.stop();
}

#[test]
fn fields_cross_both_ways_and_hop_by_hop_fields_do_not() {
    let (origin, gateway) = start();
    for front in Front::available() {
        let mut request = Request::get("/fields")
            .field("X-One", "1")
            .field("Cookie", "a=1; b=2")
            .field("Authorization", "Basic eDp5")
            .field("Accept-Language", "de, en;q=0.5")
            .field("X-Empty-Ish", "-");
        if matches!(front, Front::H1 | Front::H1Tls) {
            request = request
                .field("Connection", "x-private, keep-alive")
                .field("X-Private", "no")
                .field("Keep-Alive", "timeout=5")
                .field("Proxy-Connection", "keep-alive")
                .field("TE", "trailers");
        }
        let reply = front.send(&gateway, &request);
        reply.expect(200);

        let seen = origin.last("/fields");
        assert_eq!(seen.field("x-one"), Some("1"), "{front:?}");
        assert_eq!(seen.all("cookie"), ["a=1; b=2"], "{front:?}");
        assert_eq!(seen.field("authorization"), Some("Basic eDp5"), "{front:?}");
        assert_eq!(seen.field("accept-language"), Some("de, en;q=0.5"), "{front:?}");
        let port = if matches!(front, Front::H1 | Front::H2) { gateway.plain() } else { gateway.secure() }.port();
        assert_eq!(seen.all("host"), [format!("localhost:{port}")], "{front:?}: one Host, the client's");
        for gone in ["x-private", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"] {
            assert_eq!(seen.all(gone), Vec::<&str>::new(), "{front:?}: {gone} is the client's own business");
        }

        assert_eq!(reply.all("set-cookie"), ["a=1", "b=2"], "{front:?}");
        assert_eq!(reply.all("x-mixed"), ["Value"], "{front:?}");
        assert_eq!(reply.all("x-empty"), [""], "{front:?}");
        for gone in ["x-hop", "keep-alive"] {
            assert_eq!(reply.all(gone), Vec::<&str>::new(), "{front:?}: {gone} is the backend's own business");
        }
    }
    assert_eq!(origin.oddities(), Vec::<String>::new());
    gateway.stop();
}

#[test]
fn every_status_crosses_unchanged_and_bodiless_ones_stay_bodiless() {
    let (_origin, gateway) = start();
    for front in Front::available() {
        for status in [200, 201, 206, 301, 404, 418, 429, 500, 503, 599] {
            let reply = front.send(&gateway, &Request::get(&format!("/status/{status}")));
            reply.expect(status);
            assert_eq!(reply.text(), "status", "{front:?}");
        }
        for status in [204, 304] {
            let reply = front.send(&gateway, &Request::get(&format!("/status/{status}")));
            reply.expect(status);
            assert_eq!(reply.len, 0, "{front:?}");
            // RFC 9110 section 8.6: no Content-Length in a 204.
            assert!(status == 304 || reply.all("content-length").is_empty(), "{front:?}: {reply:?}");
        }
    }
    gateway.stop();
}

#[test]
fn bodies_of_every_framing_arrive_whole_both_ways() {
    let (origin, gateway) = start();
    for front in Front::available() {
        for len in [0, 1, 16_384, 65_535, 300_001] {
            for path in ["bytes", "chunked", "until-close"] {
                let reply = front.send(&gateway, &Request::get(&format!("/{path}/{len}")));
                reply.expect(200);
                assert_eq!((reply.len, &reply.sha256), (len, &bytes::digest(len)), "{front:?} {path}");
                if path == "bytes" {
                    assert_eq!(reply.all("content-length"), [len.to_string()], "{front:?}: a known length stays known");
                }
            }
            let known = Request::post("/digest", Upload::Pattern(len));
            for request in [known.clone(), known.unknown_length()] {
                let reply = front.send(&gateway, &request);
                reply.expect(200);
                assert_eq!(reply.text(), format!("{len} {}", bytes::digest(len)), "{front:?} {request:?}");
                let lengths = origin.last("/digest").all("content-length").len();
                assert!(lengths == 1 || !request.known_length, "{front:?}: a known length stays known");
            }
        }
    }
    assert_eq!(origin.oddities(), Vec::<String>::new());
    gateway.stop();
}

#[test]
fn trailers_cross_both_ways() {
    let (origin, gateway) = start();
    for front in Front::available() {
        let reply = front.send(&gateway, &Request::get("/trailers").field("TE", "trailers"));
        reply.expect(200);
        assert_eq!(reply.text(), "body", "{front:?}");
        assert_eq!(reply.trailer("x-sum"), Some("42"), "{front:?}: {reply:?}");
        assert_eq!(reply.trailer("x-second"), Some("two"), "{front:?}");

        if front.python().is_some() {
            if !support::python::available() {
                continue;
            }
            let request =
                Request::post("/digest", Upload::Text("abc".to_owned())).unknown_length().trailer("x-check", "7");
            let reply = front.send(&gateway, &request);
            reply.expect(200);
            assert!(reply.text().ends_with(" x-check=7"), "{front:?}: {}", reply.text());
        }
    }
    let mut raw = Raw::connect(gateway.plain());
    raw.send(
        "POST /digest HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Check: 7\r\n\r\n",
    );
    let answer = raw.answer(false).expect("an answer");
    assert!(answer.body.ends_with(b" x-check=7"), "{:?}", String::from_utf8_lossy(&answer.body));
    assert_eq!(origin.oddities(), Vec::<String>::new());
    gateway.stop();
}

#[test]
fn a_trailer_cannot_smuggle_framing_or_routing() {
    let (origin, gateway) = start();
    let mut raw = Raw::connect(gateway.plain());
    raw.send("POST /digest HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n");
    raw.send("Content-Length: 50\r\nTransfer-Encoding: chunked\r\nHost: evil\r\nConnection: x\r\nX-Fine: 1\r\n\r\n");
    // Refusing the message and dropping the fields are both safe; passing them on is not (RFC 9110 section 6.5.1).
    if let Ok(answer) = raw.answer(false)
        && answer.status == 200
    {
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        assert_eq!(text.split(' ').skip(2).collect::<Vec<_>>(), ["x-fine=1"]);
    }
    for seen in origin.seen() {
        let trailers = seen.body.map(|body| body.trailers).unwrap_or_default();
        let bad = ["content-length", "transfer-encoding", "host", "connection"];
        assert!(!trailers.iter().any(|(name, _)| bad.contains(&name.to_ascii_lowercase().as_str())), "{trailers:?}");
    }
    gateway.stop();
}

#[test]
fn informational_answers_reach_the_client_before_the_final_one() {
    let (_origin, gateway) = start();
    for front in Front::available() {
        let reply = front.send(&gateway, &Request::get("/hints"));
        reply.expect(200);
        assert_eq!(reply.text(), "ok", "{front:?}");
        let hints = reply.informational.iter().find(|(status, _)| *status == 103);
        let (_, fields) = hints.unwrap_or_else(|| panic!("{front:?}: no 103 in {reply:?}"));
        assert!(
            fields
                .iter()
                .any(|(name, value)| name.eq_ignore_ascii_case("link") && value == "</style.css>; rel=preload"),
            "{front:?}: {fields:?}"
        );
    }
    // RFC 9110 section 15.2: a 1xx is never sent to an HTTP/1.0 client.
    let mut raw = Raw::connect(gateway.plain());
    raw.send("GET /hints HTTP/1.0\r\nHost: x\r\n\r\n");
    if let Ok(answer) = raw.answer(false) {
        assert_eq!(answer.informational, Vec::<u16>::new());
    }
    gateway.stop();
}

#[test]
fn expect_100_continue_is_answered_before_the_body_is_sent() {
    let (origin, gateway) = start();
    let mut raw = Raw::connect(gateway.plain());
    raw.send("POST /digest HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n");
    let go_on = raw.until(b"\r\n\r\n").expect("100 Continue");
    assert!(go_on.starts_with(b"HTTP/1.1 100 "), "{:?}", String::from_utf8_lossy(&go_on));
    let answer = raw.send("abc").answer(false).expect("the final answer");
    assert_eq!(answer.body, format!("3 {}", bytes::digest_of(b"abc")).into_bytes());

    for front in Front::available() {
        let request = Request::post("/digest", Upload::Pattern(100_000)).field("Expect", "100-continue");
        let reply = front.send(&gateway, &request);
        reply.expect(200);
        assert_eq!(reply.text(), format!("100000 {}", bytes::digest(100_000)), "{front:?}");
    }
    assert_eq!(origin.oddities(), Vec::<String>::new());
    gateway.stop();
}

#[test]
fn an_early_answer_reaches_a_client_that_is_still_uploading() {
    let (_origin, gateway) = start();
    for front in Front::available() {
        let request = Request::post("/early", Upload::Pattern(8 * bytes::MIB)).unknown_length();
        let reply = send_early(front, &gateway, &request);
        assert_eq!(reply.status, 413, "{front:?}: {reply:?}");
        assert_eq!(reply.text(), "enoug", "{front:?}");
    }
    // The gateway must have survived in good order.
    Front::H1.send(&gateway, &Request::get("/hello")).expect(200);
    gateway.stop();
}

#[test]
fn an_early_answer_waits_for_a_client_that_reads_only_when_all_is_sent() {
    let (_origin, gateway) = start();
    let mut raw = Raw::connect(gateway.plain());
    // More than both sockets' buffers hold, so that the gateway must have read it for the client to get to the answer.
    raw.send(format!("POST /early HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", 64 * bytes::MIB));
    for _ in 0..64 {
        raw.send_whole("x".repeat(bytes::MIB as usize)).expect("the gateway goes on reading");
    }
    assert_eq!(raw.answer(false).expect("the early answer").status, 413);
    gateway.stop();
}

#[test]
fn a_truncated_answer_never_looks_complete() {
    let (_origin, gateway) = start();
    for front in Front::available() {
        for path in ["/short-length/100000", "/short-chunks/100000", "/reset/100000", "/short-length/1"] {
            let reply = front.send(&gateway, &Request::get(path));
            // RFC 9000 section 3.2: a reset may discard what was sent before it, the head included.
            assert!(reply.status == 200 || (front == Front::H3 && reply.status == 0), "{front:?} {path}: {reply:?}");
            assert_ne!(reply.end, "clean", "{front:?} {path}: a truncated body was ended as if it were whole");
            if front == Front::H3 {
                // RFC 9114 section 8.1: H3_INTERNAL_ERROR.
                assert_eq!(reply.end, format!("reset {}", 0x102), "{path}");
            }
        }
        // No head at all is the gateway's own answer.
        front.send(&gateway, &Request::get("/no-answer")).expect(502);
    }
    if support::python::available() {
        for client in [support::python::Client::H2Cleartext, support::python::Client::H2] {
            let order = serde_json::json!({ "streams": [{ "path": "/short-chunks/100000" }, { "path": "/hello" }] });
            let report = support::python::run(client, &gateway, order);
            // RFC 9113 section 7: INTERNAL_ERROR, on that stream alone.
            assert_eq!(report["streams"][0]["end"], "reset 2", "{client:?}");
            assert_eq!(report["streams"][1]["end"], "clean", "{client:?}");
        }
    }
    gateway.stop();
}

#[test]
fn a_truncated_upload_never_looks_complete_to_the_backend() {
    let (origin, gateway) = start();
    let heads = [
        "POST /digest?h1-length HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nonly this",
        "POST /digest?h1-chunks HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nonly this\r\n",
    ];
    for (index, head) in heads.into_iter().enumerate() {
        let mut raw = Raw::connect(gateway.plain());
        raw.send(head);
        let part = 9 * (index as u64 + 1);
        wait_for("the backend gets the part", SOON, || (origin.received() >= part).then_some(()));
        drop(raw);
    }
    let mut expected = heads.len();
    if support::python::available() {
        for front in [Front::H2, Front::H2Tls, Front::H3] {
            for known in [true, false] {
                let client = front.python().expect("a Python client speaks it");
                let before = origin.received();
                let order = serde_json::json!({ "cut_on_stdin": true, "streams": [{
                    "method": "POST", "path": format!("/digest?{front:?}-{known}"), "body": "x".repeat(100_000), "length": known,
                    "hold_after": 50_000,
                }] });
                let mut session = support::python::Session::start(client, &gateway, order);
                wait_for("the backend gets the part", SOON, || (origin.received() >= before + 50_000).then_some(()));
                drop(session.stdin());
                session.report(SOON);
                expected += 1;
            }
        }
    }
    wait_for("the backend is told of every upload's end", SOON, || {
        (origin.seen().iter().filter(|seen| seen.body.is_some()).count() == expected).then_some(())
    });
    for seen in origin.seen() {
        let body = seen.body.expect("waited for");
        assert!(!body.complete, "{}: half an upload looked whole: {body:?}", seen.target);
    }
    assert_eq!(origin.oddities(), Vec::<String>::new());
    gateway.stop();
}

#[test]
fn an_unreachable_backend_is_502_on_every_front() {
    let gone = support::ports::Port::take();
    let gateway = Gateway::start(&Config::to(std::net::SocketAddr::from(([127, 0, 0, 1], gone.number))));
    for front in Front::available() {
        assert_eq!(front.send(&gateway, &Request::get("/hello")).expect(502).end, "clean");
        let request = Request::post("/digest", Upload::Text("abc".to_owned()));
        send_early(front, &gateway, &request).expect(502);
    }
    gateway.stop();
}

#[test]
fn a_backend_that_speaks_nonsense_is_502_and_its_connection_is_not_used_again() {
    let nonsense: &[&str] = &[
        "SSH-2.0-OpenSSH\r\n\r\n",
        "HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n",
        "HTTP/2 200\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, zebra\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nBad Name: x\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    ];
    for bytes in nonsense {
        let origin = Origin::start(move |call| {
            call.send(bytes)?;
            call.wait_closed(SOON);
            Ok(Then::Close)
        });
        let gateway = Gateway::start(&Config::to(origin.address));
        let mut raw = Raw::connect(gateway.plain());
        let answer = raw.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n").answer(false);
        let answer = answer.unwrap_or_else(|error| panic!("{bytes:?}: {error}"));
        assert_eq!(answer.status, 502, "{bytes:?}");
        origin.wait_open(0, "the gateway drops the connection");
        assert_eq!(origin.seen().len(), 1, "{bytes:?}: a request is not sent twice");
        gateway.stop();
    }
}
