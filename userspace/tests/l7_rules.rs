// SPDX-License-Identifier: GPL-3.0-only
//! What crosses the gateway and what does not, the same for every protocol: trailers, paths, dates, and how a connection
//! that ends says so.

#[path = "support/harness.rs"]
mod support;

use std::time::Duration;

use support::SOON;
use support::front::{Front, Request, Upload};
use support::gateway::{Config, Gateway};
use support::origin::Origin;
use support::raw::{Answer, Raw};

/// What a recipient that merges trailers into the head would believe.
const FORGED: &[&str] = &[
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-real-ip",
    "x-client-ip",
    "true-client-ip",
    "forwarded",
    "via",
    "proxy-authorization",
    "authorization",
    "cookie",
    "set-cookie",
    "host",
    "content-length",
    "content-type",
    "content-encoding",
    "if-match",
    "if-none-match",
    "range",
    "cache-control",
    "expect",
    "max-forwards",
    "te",
    "transfer-encoding",
    "connection",
    "sec-fetch-site",
];

const KEPT: &[&str] = &["x-sum", "grpc-status", "content-digest", "server-timing"];

#[test]
fn trailers_carry_nothing_that_a_recipient_would_trust_as_a_header() {
    let fields = || FORGED.iter().chain(KEPT).map(|name| (*name, "1"));
    let section: String = fields().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let answer = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n{section}\r\n");
    let origin = Origin::start(move |call| {
        call.body();
        call.send(&answer)?;
        Ok(support::origin::Then::Keep)
    });
    let gateway = Gateway::start(&Config::to(origin.address));
    let mut raw = Raw::connect(gateway.plain());
    raw.send("POST /up HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n");
    let down = raw.send(format!("{section}\r\n")).answer(false).expect("an answer").trailers;
    let up = origin.last("/up").body.expect("a body").trailers;
    for (way, trailers) in [("up", up), ("down", down)] {
        let names: Vec<String> = trailers.into_iter().map(|(name, _)| name.to_ascii_lowercase()).collect();
        assert_eq!(names, KEPT, "{way}");
    }
    for front in Front::available().into_iter().filter(|front| front.python().is_some()) {
        let mut request = Request::post("/streams", Upload::Text("a".to_owned())).unknown_length();
        // What HTTP/2 and HTTP/3 refuse by themselves is not sent.
        for (name, value) in fields().filter(|(name, _)| !["connection", "te", "transfer-encoding"].contains(name)) {
            request = request.trailer(name, value);
        }
        let reply = front.send_by_python(&gateway, &request);
        let names: Vec<&str> = reply.trailers.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, KEPT, "{front:?}, down");
        let up = origin.last("/streams").body.expect("a body").trailers;
        let names: Vec<String> = up.into_iter().map(|(name, _)| name.to_ascii_lowercase()).collect();
        assert_eq!(names, KEPT, "{front:?}, up");
    }
    gateway.stop();
}

/// A gateway with a route for `/public` alone, and its backend.
fn public() -> (Origin, Gateway) {
    let origin = Origin::start(|call| {
        call.body();
        let target = call.seen.target.clone();
        call.reply("200 OK", "", target)
    });
    let mut config = Config::to(origin.address);
    config.more = "\n[[listeners]]\nname = \"third\"\naddress = \"127.0.0.1:0\"\nprotocol = \"http\"\n\
         [[routes]]\nlistener = \"third\"\npath = \"/public\"\npool = \"origin\"\n"
        .to_owned();
    let gateway = Gateway::start(&config);
    (origin, gateway)
}

fn third(gateway: &Gateway) -> std::net::SocketAddr {
    let (_, text) = gateway.admin("/status").expect("an answer");
    let status: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let listeners = status["listeners"].as_array().expect("a list");
    let third = listeners.iter().find(|listener| listener["name"] == "third").expect("the listener");
    third["addresses"][0]["address"].as_str().expect("an address").parse().expect("an address")
}

fn get(address: std::net::SocketAddr, target: &str) -> Answer {
    let mut raw = Raw::connect(address);
    raw.send(format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n")).answer(false).expect("an answer")
}

#[test]
fn a_route_is_met_by_every_spelling_of_its_path_and_by_no_other_path() {
    let (origin, gateway) = public();
    let address = third(&gateway);
    for (target, forwarded) in [
        ("/public", "/public"),
        ("/public/a?b=/../%zz", "/public/a?b=/../%zz"),
        ("/%70ublic/%41", "/public/A"),
        ("//public", "/public"),
        ("/./public/.//x/", "/public/x/"),
        ("/private/../public/x", "/public/x"),
        ("/private/%2e%2E/public", "/public"),
        ("/public/a%2fb%c3%a9", "/public/a%2Fb%C3%A9"),
        ("http://x/a/../public", "/public"),
    ] {
        let answer = get(address, target);
        assert_eq!((answer.status, String::from_utf8_lossy(&answer.body).as_ref()), (200, forwarded), "{target}");
    }
    let before = origin.seen().len();
    for (target, status) in [
        ("/public/../x", 404),
        ("/public/%2e%2e/x", 404),
        ("/public/..", 404),
        ("/publicity", 404),
        ("/public%2Fx", 404),
        ("/..", 400),
        ("/public/../../x", 400),
        ("/%2e%2e/public", 400),
        ("/public/%00", 400),
        ("/public/%", 400),
        ("/public/%zz", 400),
        ("/public%4", 400),
    ] {
        assert_eq!(get(address, target).status, status, "{target}");
    }
    assert_eq!(origin.seen().len(), before, "none of these was forwarded");
    gateway.stop();
}

#[test]
fn every_protocol_forwards_the_path_that_was_matched() {
    let (_origin, gateway) = public();
    for front in Front::available() {
        // curl would tidy the path by itself.
        let reply = match front.python() {
            Some(_) if !support::python::available() => continue,
            Some(_) => front.send_by_python(&gateway, &Request::get("/a/..//%62/./c")),
            None => continue,
        };
        reply.expect(200);
        assert_eq!(reply.text(), "/b/c", "{front:?}");
        let reply = front.send_by_python(&gateway, &Request::get("/../a"));
        assert_eq!(reply.status, 400, "{front:?}: {reply:?}");
    }
    gateway.stop();
}

#[test]
fn every_answer_has_one_date() {
    let origin = Origin::start(|call| {
        call.body();
        let date = if call.seen.path() == "/dated" { "Date: Thu, 01 Jan 1970 00:00:00 GMT\r\n" } else { "" };
        call.reply("200 OK", date, "ok")
    });
    let gateway = Gateway::start(&Config::to(origin.address));
    let date = |front: Front, path: &str| {
        let reply = front.send(&gateway, &Request::get(path));
        let dates: Vec<String> = reply.all("date").iter().map(|&value| value.to_owned()).collect();
        assert_eq!(dates.len(), 1, "{front:?} {path}: {reply:?}");
        (reply.status, dates[0].clone())
    };
    for front in Front::available() {
        assert_eq!(date(front, "/dated"), (200, "Thu, 01 Jan 1970 00:00:00 GMT".to_owned()), "the backend's stays");
        for (path, status) in [("/undated", 200), ("/%00", 400)] {
            let (own, date) = date(front, path);
            assert_eq!(own, status);
            assert!(date.ends_with(" GMT") && date.len() == 29 && !date.contains("1970"), "{date}");
        }
    }
    // What never became a request.
    let answer = Raw::connect(gateway.plain()).send("nonsense\r\n\r\n").answer(false).expect("an answer");
    assert_eq!((answer.status, answer.field("date").map(str::len)), (400, Some(29)));
    gateway.stop();
}

#[test]
fn a_connection_that_is_closed_after_an_answer_says_so_in_it() {
    let origin = Origin::standard();
    let gateway = Gateway::start(&Config::to(origin.address));
    let partial = "HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nonly this";
    for (name, request, status) in [
        ("an early answer", format!("POST /early {partial}"), 413),
        ("a refusal", format!("TRACE / {partial}"), 405),
        ("a path that is refused", format!("POST /%00 {partial}"), 400),
        (
            "expectation",
            "POST /early HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n".into(),
            413,
        ),
    ] {
        let mut raw = Raw::connect(gateway.plain());
        let answer = raw.send(request).answer(false).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!((answer.status, answer.field("connection")), (status, Some("close")), "{name}: {answer:?}");
        assert!(raw.closes_within(SOON), "{name}");
    }
    // A request whose body was read keeps its connection.
    let mut raw = Raw::connect(gateway.plain());
    for _ in 0..3 {
        raw.send("POST /digest HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc");
        let answer = raw.answer(false).expect("an answer");
        assert_eq!((answer.status, answer.field("connection")), (200, None), "{answer:?}");
    }
    gateway.stop();
}

#[test]
fn the_408_for_a_body_that_never_comes_announces_the_close() {
    let origin = Origin::standard();
    let gateway = Gateway::start(&Config::to(origin.address));
    let mut raw = Raw::connect(gateway.plain());
    raw.socket.set_read_timeout(Some(Duration::from_secs(100))).expect("set a read timeout");
    raw.send("POST /digest HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nonly this");
    let answer = raw.answer(false).expect("an answer");
    assert_eq!((answer.status, answer.field("connection")), (408, Some("close")), "{answer:?}");
    assert!(raw.closes_within(SOON));
    gateway.stop();
}
