// SPDX-License-Identifier: GPL-3.0-only
//! Draining and reloading while clients are at work, and whether anyone noticed.
//!
//! Loads are paced, so that a busy machine slows them without failing them. The one loss that HTTP permits, a keep-alive
//! connection closed while the next request is on its way (RFC 9112 section 9.6), is told apart by asking the backend: such
//! a request never got there.

#[path = "support/harness.rs"]
mod support;

use std::collections::HashSet;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::json;
use support::gateway::{Config, Gateway};
use support::origin::Origin;
use support::python::{self, Client, Session};
use support::raw::Raw;
use support::{SOON, wait_for};

/// What a paced HTTP/1.1 keep-alive client lived through.
#[derive(Debug, Default)]
struct Told {
    answered: usize,
    /// Connections that the gateway closed after saying `Connection: close`.
    announced: usize,
    /// Requests that got not one byte of an answer, by their query.
    unanswered: Vec<String>,
    /// Anything else: an answer cut short, or a status that is not 200.
    failed: Vec<String>,
}

/// One request every 5 ms on one connection until `stop`, or until nobody accepts any more.
fn paced(gateway: &Gateway, name: usize, stop: &Arc<AtomicBool>) -> JoinHandle<Told> {
    let (address, stop) = (gateway.plain(), stop.clone());
    std::thread::spawn(move || {
        let mut told = Told::default();
        let mut connection: Option<Raw> = None;
        for turn in 0.. {
            if stop.load(Ordering::SeqCst) {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
            let mut raw = match connection.take() {
                Some(raw) => raw,
                // Nobody accepts any more.
                None => match Raw::try_connect(address) {
                    Ok(raw) => raw,
                    Err(_) => break,
                },
            };
            let query = format!("{name}-{turn}");
            raw.send(format!("GET /hello?{query} HTTP/1.1\r\nHost: x\r\n\r\n"));
            let first = raw.exactly(1);
            let Ok(first) = first else {
                told.unanswered.push(query);
                continue;
            };
            raw.unread(&first);
            match raw.answer(false) {
                Ok(answer) if answer.status == 200 && answer.body == b"hello" => {
                    told.answered += 1;
                    match answer.field("connection") {
                        Some(value) if value.eq_ignore_ascii_case("close") => told.announced += 1,
                        _ => connection = Some(raw),
                    }
                }
                other => told.failed.push(format!("{query}: {other:?}")),
            }
        }
        told
    })
}

/// No request failed but those the gateway never took up.
#[track_caller]
fn judge(told: &Told, origin: &Origin) {
    assert_eq!(told.failed, Vec::<String>::new());
    let reached: HashSet<String> = origin
        .seen()
        .iter()
        .filter_map(|seen| seen.target.split_once('?').map(|(_, query)| query.to_owned()))
        .collect();
    let lost: Vec<&String> = told.unanswered.iter().filter(|query| reached.contains(*query)).collect();
    assert!(lost.is_empty(), "taken up and never answered: {lost:?}");
}

#[test]
fn draining_under_load_finishes_what_was_accepted_on_every_protocol() {
    if !python::available() {
        return;
    }
    let origin = Origin::standard();
    let gateway = Gateway::start(&Config { drain_settle_ms: 500, ..Config::to(origin.address) });
    let mut gateway = gateway;
    let stop = Arc::new(AtomicBool::new(false));
    let h1: Vec<_> = (0..4).map(|name| paced(&gateway, name, &stop)).collect();
    // A request that is in flight all along: 1.5 s of it.
    let mut slow = Raw::connect(gateway.plain());
    let load = json!({ "load": { "path": "/drip/3/20", "every_ms": 10, "limit_s": 20 }, "linger_s": 5 });
    let mut sessions: Vec<_> = [Client::H2Cleartext, Client::H2, Client::H3]
        .map(|client| (client, Session::start(client, &gateway, load.clone())))
        .into_iter()
        .collect();
    for (client, session) in &mut sessions {
        wait_for(&format!("{client:?} is under way"), SOON, || {
            (session.count(|line| line["event"] == "end" && line["how"] == "clean") >= 20).then_some(())
        });
    }
    slow.send("GET /drip/15/100 HTTP/1.1\r\nHost: x\r\n\r\n").until(b"\r\n\r\n").expect("the slow answer begins");

    let begun = Instant::now();
    gateway.signal(Signal::SIGTERM);
    wait_for("/readyz turns 503", SOON, || {
        gateway.admin("/readyz").is_some_and(|(status, _)| status == 503).then_some(())
    });
    assert_eq!(gateway.admin("/livez").map(|(status, _)| status), Some(200), "alive while draining");

    for (client, session) in &mut sessions {
        let report = session.report(SOON);
        let goaway = report["goaway"].as_array().expect("a list");
        assert!(!goaway.is_empty(), "{client:?}: no GOAWAY: {report}");
        assert!(goaway.iter().all(|one| one[1] == 0), "{client:?}: a goodbye is no error: {goaway:?}");
        assert_eq!(report["load"]["failed"], json!([]), "{client:?}: {report}");
        assert!(report["load"]["clean"].as_u64() >= Some(20), "{client:?}: {report}");
        println!("{client:?}: {} {}", report["load"], report["goaway"]);
    }
    let rest = slow.rest().expect("the slow answer ends properly");
    assert!(rest.ends_with(b"0\r\n\r\n"), "the slow answer is whole");
    let status = gateway.wait_exit(SOON);
    println!("drained in {:?}", begun.elapsed());
    assert!(status.success(), "{status}");
    assert!(begun.elapsed() < Duration::from_secs(10), "within the drain's time: {:?}", begun.elapsed());
    stop.store(true, Ordering::SeqCst);
    for client in h1 {
        let told = client.join().expect("a client's thread");
        println!(
            "H1: {} answered, {} closes announced, {} unanswered",
            told.answered,
            told.announced,
            told.unanswered.len()
        );
        assert!(told.answered > 20);
        judge(&told, &origin);
    }
    assert_eq!(origin.oddities(), Vec::<String>::new());
}

#[test]
fn what_outlasts_the_drain_is_aborted_and_the_process_still_exits() {
    if !python::available() {
        return;
    }
    let origin = Origin::standard();
    let mut gateway = Gateway::start(&Config { drain_timeout_ms: 1_500, ..Config::to(origin.address) });
    let mut raw = Raw::connect(gateway.plain());
    raw.send("GET /stall/10 HTTP/1.1\r\nHost: x\r\n\r\n").until(b"\r\n\r\n").expect("a head");
    let mut sessions: Vec<_> = [Client::H2, Client::H3]
        .map(|client| Session::start(client, &gateway, json!({ "streams": [{ "path": "/stall/10" }] })))
        .into_iter()
        .collect();
    for session in &mut sessions {
        session.wait("the answer begins", SOON, |line| line["event"] == "head");
    }
    let begun = Instant::now();
    gateway.signal(Signal::SIGTERM);
    for session in &mut sessions {
        let report = session.report(SOON);
        assert!(!report["goaway"].as_array().expect("a list").is_empty(), "{report}");
        assert_ne!(report["streams"][0]["end"], "clean", "{report}");
    }
    assert!(
        raw.rest().map(|rest| !rest.ends_with(b"0\r\n\r\n")).unwrap_or(true),
        "an aborted answer must not look whole"
    );
    gateway.wait_exit(SOON);
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(1_500), "not before the drain's time is over: {took:?}");
    assert!(took < Duration::from_secs(15), "soon after it: {took:?}");
    let log = gateway.log();
    assert!(log.lines().any(|line| line.contains("abort") && line.contains('3')), "the log counts the three:\n{log}");
}

#[test]
fn nghttp_sees_a_goaway_and_its_answer_whole() {
    let origin = Origin::standard();
    let mut gateway = Gateway::start(&Config::to(origin.address));
    let url = format!("http://{}/drip/20/50", gateway.plain());
    let Ok(nghttp) = Command::new("nghttp").args(["-v", &url]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()
    else {
        return support::skip("nghttp", "nghttp is not installed (nghttp2-client)");
    };
    wait_for("the answer is under way", SOON, || (origin.sent() >= 30).then_some(()));
    gateway.signal(Signal::SIGTERM);
    let output = nghttp.wait_with_output().expect("nghttp ends");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}");
    assert!(said.contains("recv GOAWAY frame"), "{said}");
    assert_eq!(said.matches("0123456789").count(), 20, "{said}");
    assert!(gateway.wait_exit(SOON).success());
}

#[test]
fn h2load_meets_no_failure_on_either_protocol_over_tls_and_cleartext() {
    let origin = Origin::standard();
    let gateway = Gateway::start(&Config::to(origin.address));
    let plain = format!("http://{}/hello", gateway.plain());
    let secure = format!("https://localhost:{}/hello", gateway.secure().port());
    for args in [vec!["--h1", &plain], vec![&plain], vec!["--h1", &secure], vec![&secure]] {
        let mut h2load = Command::new("h2load");
        h2load.args(["-n", "2000", "-c", "8", "-m", "16"]).args(&args);
        let Ok(output) = h2load.output() else {
            return support::skip("nghttp", "h2load is not installed (nghttp2-client)");
        };
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            said.contains("2000 total, 2000 started, 2000 done, 2000 succeeded, 0 failed, 0 errored"),
            "{args:?}: {said}"
        );
        assert!(said.contains("status codes: 2000 2xx"), "{args:?}: {said}");
    }
    assert_eq!(origin.seen().len(), 8000);
    assert!(origin.accepted() < 600, "8,000 requests made {} connections: no reuse", origin.accepted());
    gateway.stop();
}

#[test]
fn ten_reloads_under_load_fail_no_request_and_an_invalid_one_changes_nothing() {
    if !python::available() {
        return;
    }
    let (one, two) = (Origin::standard(), Origin::standard());
    let gateway = Gateway::start(&Config::to(one.address));
    let stop = Arc::new(AtomicBool::new(false));
    let h1: Vec<_> = (0..4).map(|name| paced(&gateway, name, &stop)).collect();
    let load = json!({ "load": { "path": "/drip/3/20", "every_ms": 10, "limit_s": 12 } });
    let mut sessions: Vec<_> = [Client::H2Cleartext, Client::H2, Client::H3]
        .map(|client| (client, Session::start(client, &gateway, load.clone())))
        .into_iter()
        .collect();
    for (client, session) in &mut sessions {
        wait_for(&format!("{client:?} is under way"), SOON, || {
            (session.count(|line| line["event"] == "end" && line["how"] == "clean") >= 20).then_some(())
        });
    }
    let original = std::fs::read_to_string(gateway.configuration()).expect("read the configuration");
    let other = original.replace(&one.address.to_string(), &two.address.to_string());
    // Asked on a fresh connection each time: which backend serves now?
    let serving = |origin: &Origin, mark: &str| {
        wait_for("the reload is in force", SOON, || {
            let mut raw = Raw::connect(gateway.plain());
            let answer =
                raw.send(format!("GET /hello?{mark} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")).answer(false);
            assert_eq!(answer.expect("an answer").status, 200);
            origin.seen().iter().any(|seen| seen.target.ends_with(mark)).then_some(())
        });
    };
    for turn in 0..10 {
        let (text, origin) = if turn % 2 == 0 { (&other, &two) } else { (&original, &one) };
        std::fs::write(gateway.configuration(), text).expect("write the configuration");
        gateway.signal(Signal::SIGHUP);
        serving(origin, &format!("turn-{turn}"));
    }
    std::fs::write(gateway.configuration(), "[runtime]\nworkerz = 1\n").expect("write the configuration");
    let lines = gateway.log().lines().count();
    gateway.signal(Signal::SIGHUP);
    wait_for("the refusal is logged", SOON, || {
        gateway.log().lines().skip(lines).any(|line| line.contains("workerz")).then_some(())
    });
    serving(&one, "after-the-invalid-one");
    std::fs::write(gateway.configuration(), &other).expect("write the configuration");
    gateway.signal(Signal::SIGHUP);
    serving(&two, "after-the-valid-one");

    for (client, session) in &mut sessions {
        let report = session.report(SOON);
        println!("{client:?}: {}", report["load"]);
        assert_eq!(report["load"]["failed"], json!([]), "{client:?}");
        assert_eq!(report["load"]["clean"], report["load"]["opened"], "{client:?}: every request is answered");
        assert_eq!((&report["goaway"], &report["closed"]), (&json!([]), &json!(null)), "{client:?}: connections stay");
    }
    stop.store(true, Ordering::SeqCst);
    for client in h1 {
        let told = client.join().expect("a client's thread");
        println!("H1: {} answered", told.answered);
        assert_eq!(
            (&told.failed, &told.unanswered, told.announced),
            (&Vec::new(), &Vec::new(), 0),
            "a reload touches no connection"
        );
    }
    assert!(one.oddities().is_empty() && two.oddities().is_empty());
    let metrics = gateway.metrics();
    let reloads = |result| metrics.count("expressgateway_config_reloads_total", &[("result", result)]);
    assert_eq!((reloads("applied"), reloads("failed")), (11, 1), "{}", metrics.text);
    gateway.stop();
}
