// SPDX-License-Identifier: GPL-3.0-only
//! HTTP/1 through an edge, byte by byte: what the backend gets, what the client gets, and what happens to both
//! connections.

#[path = "support/edge.rs"]
mod support;

use eg_l7::Limits;
use eg_l7::Scheme;
use eg_l7::observe::Protocol;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};
use support::*;

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

#[test]
fn a_request_crosses_with_its_fields_and_what_the_gateway_adds() {
    let (backend, heads) = canned(OK);
    let (_edge, address) = edge(Scheme::Http, &[backend], Limits::default());
    let answer = ask(
        address,
        b"GET /a?b HTTP/1.1\r\nHost: Example.org\r\nX-One: 1\r\nConnection: close, X-Two\r\nX-Two: 2\r\nTE: trailers\r\n\
          X-Forwarded-For: 6.6.6.6\r\nX-One: again\r\nCookie: a=1\r\nAuthorization: Basic eA==\r\n\r\n",
    );
    assert_eq!(
        heads.recv_timeout(PATIENCE).unwrap(),
        "GET /a?b HTTP/1.1\r\nhost: Example.org\r\nx-one: 1\r\nx-one: again\r\ncookie: a=1\r\n\
         authorization: Basic eA==\r\nx-forwarded-for: 127.0.0.1\r\nx-forwarded-proto: http\r\n\
         x-forwarded-host: Example.org\r\nvia: 1.1 expressgateway\r\n\r\n"
    );
    assert_eq!(
        answer,
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nvia: 1.1 expressgateway\r\nconnection: close\r\n\r\nok"
    );
}

#[test]
fn connections_are_kept_on_both_sides_and_pipelined_requests_answered_in_order() {
    let (backend, heads) = canned(OK);
    let (edge, address) = edge(Scheme::Http, &[backend], Limits::default());
    let mut client = connect(address);
    let mut requests = Vec::new();
    for i in 0..20 {
        requests.extend(format!("GET /{i} HTTP/1.1\r\nHost: a\r\n\r\n").bytes());
    }
    client.write_all(&requests).unwrap();
    for i in 0..20 {
        assert!(read_head(&mut client).unwrap().starts_with("HTTP/1.1 200 OK\r\n"));
        assert_eq!(read_exact(&mut client, 2), b"ok");
        assert!(heads.recv_timeout(PATIENCE).unwrap().starts_with(&format!("GET /{i} ")));
    }
    let counters = &edge.counters()[0];
    assert_eq!((counters.upstream_connects.get(), counters.upstream_reuses.get()), (1, 19));
    assert_eq!(counters.listeners()[0].requests().collect::<Vec<_>>(), [(Protocol::H1, 200, 20)]);
}

#[test]
fn a_body_of_any_framing_arrives_whole_with_its_trailers() {
    let backend = backend(|mut stream| {
        let head = read_head(&mut stream).unwrap();
        assert!(head.contains("transfer-encoding: chunked\r\n") && !head.contains("content-length"), "{head}");
        let mut seen = Vec::new();
        while !seen.ends_with(b"x-sum: 9\r\n\r\n") {
            let mut bytes = [0; 4096];
            let n = stream.read(&mut bytes).unwrap();
            assert!(n > 0, "{}", String::from_utf8_lossy(&seen));
            seen.extend_from_slice(&bytes[..n]);
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n").unwrap();
        stream.write_all(b"1\r\nd\r\n0\r\nX-Trailer: t\r\nContent-Length: 5\r\n\r\n").unwrap();
    });
    let (_edge, address) = edge(Scheme::Http, &[backend], Limits::default());
    let answer = ask(
        address,
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n\
          4\r\nabcd\r\n5;e=\"1\"\r\nefghi\r\n0\r\nX-Sum: 9\r\n\r\n",
    );
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("transfer-encoding: chunked"), "{head}");
    assert!(body.ends_with("0\r\nx-trailer: t\r\n\r\n"), "{body}");
    let chunks: String = body.split("\r\n").skip(1).step_by(2).take_while(|data| !data.contains(':')).collect();
    assert_eq!(chunks, "abcd", "{body}");
}

#[test]
fn a_large_upload_and_download_arrive_whole() {
    const SIZE: usize = 8 << 20;
    let backend = backend(|mut stream| {
        read_head(&mut stream).unwrap();
        let body = read_exact(&mut stream, SIZE);
        stream.write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {SIZE}\r\n\r\n").as_bytes()).unwrap();
        stream.write_all(&body).unwrap();
    });
    let (_edge, address) = edge(Scheme::Http, &[backend], Limits::default());
    let body: Vec<u8> = (0..SIZE).map(|i| ((i * 7) >> 3) as u8).collect();
    let mut client = connect(address);
    let mut sending = client.try_clone().unwrap();
    let sent = body.clone();
    let sender = std::thread::spawn(move || {
        sending.write_all(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {SIZE}\r\n\r\n").as_bytes()).unwrap();
        sending.write_all(&sent).unwrap();
    });
    read_head(&mut client).unwrap();
    assert!(read_exact(&mut client, SIZE) == body);
    sender.join().unwrap();
}

#[test]
fn expect_100_continue_goes_end_to_end() {
    let backend = backend(|mut stream| {
        assert!(read_head(&mut stream).unwrap().contains("expect: 100-continue\r\n"));
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").unwrap();
        assert_eq!(read_exact(&mut stream, 4), b"body");
        stream.write_all(OK).unwrap();
    });
    let (_edge, address) = edge(Scheme::Http, &[backend], Limits::default());
    let mut client = connect(address);
    client.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n").unwrap();
    assert_eq!(read_head(&mut client).unwrap(), "HTTP/1.1 100 Continue\r\n\r\n");
    client.write_all(b"body").unwrap();
    assert!(read_head(&mut client).unwrap().starts_with("HTTP/1.1 200 OK\r\n"));
    assert_eq!(read_exact(&mut client, 2), b"ok");
}

#[test]
fn early_hints_reach_the_client_without_framing_of_their_own() {
    let (backend, _heads) = canned(
        b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\nContent-Length: 7\r\n\r\nHTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n",
    );
    let (_edge, address) = edge(Scheme::Http, &[backend], Limits::default());
    let answer = ask(address, b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert_eq!(
        answer,
        "HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\nHTTP/1.1 204 No Content\r\nvia: 1.1 expressgateway\r\n\
         connection: close\r\n\r\n"
    );
}

#[test]
fn a_head_request_gets_the_length_and_no_body() {
    let (backend, _heads) = canned(b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n");
    let (_edge, address) = edge(Scheme::Http, &[backend], Limits::default());
    let mut client = connect(address);
    for _ in 0..2 {
        client.write_all(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        assert!(read_head(&mut client).unwrap().contains("content-length: 999\r\n"));
    }
}

#[test]
fn an_http_10_client_gets_a_body_that_ends_with_the_connection() {
    let (backend, heads) = canned(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n");
    let (_edge, address) = edge(Scheme::Http, &[backend], Limits::default());
    let answer = ask(address, b"GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n");
    assert!(heads.recv_timeout(PATIENCE).unwrap().contains("via: 1.0 expressgateway\r\n"));
    assert_eq!(answer, "HTTP/1.1 200 OK\r\nvia: 1.1 expressgateway\r\nconnection: close\r\n\r\nok");
}

#[test]
fn a_truncated_response_is_never_passed_off_as_complete() {
    for (answer, begin) in [
        (&b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc"[..], "content-length: 10"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", "transfer-encoding: chunked"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nab", "transfer-encoding: chunked"),
    ] {
        let backend = backend(move |mut stream| {
            read_head(&mut stream).unwrap();
            stream.write_all(answer).unwrap();
            std::thread::sleep(Duration::from_millis(100));
        });
        let (edge, address) = edge(Scheme::Http, &[backend], Limits::default());
        let mut client = connect(address);
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        let (got, reset) = read_to_end(&mut client);
        assert!(reset, "{begin}: {}", String::from_utf8_lossy(&got));
        assert!(!got.ends_with(b"0\r\n\r\n"));
        eventually("the cut response is counted", || edge.counters()[0].listeners()[0].aborted_responses.get() == 1);
    }
}

#[test]
fn a_malformed_response_becomes_502() {
    for answer in [
        &b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx"[..],
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nx y: 1\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 1\r\n\r\nx",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
        b"SSH-2.0-OpenSSH\r\n\r\n",
    ] {
        let (backend, _heads) = canned(answer);
        let (_edge, address) = edge(Scheme::Http, &[backend], Limits::default());
        let got = ask(address, b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        assert!(got.starts_with("HTTP/1.1 502 "), "{}: {got}", String::from_utf8_lossy(answer));
    }
}

#[test]
fn a_client_that_leaves_cancels_the_backends_work() {
    let (told, events) = channel();
    let backend = backend(move |mut stream| {
        read_head(&mut stream).unwrap();
        told.send("asked").unwrap();
        assert!(!matches!(stream.read(&mut [0]), Ok(1..)), "nothing more may come");
        told.send("closed").unwrap();
    });
    let (edge, address) = edge(Scheme::Http, &[backend], Limits::default());
    let mut client = connect(address);
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    assert_eq!(events.recv_timeout(PATIENCE), Ok("asked"));
    drop(client);
    assert_eq!(events.recv_timeout(PATIENCE), Ok("closed"));
    eventually("the cancelled request is counted", || edge.counters()[0].listeners()[0].cancelled_requests.get() == 1);
}

#[test]
fn an_early_answer_reaches_a_client_that_is_still_sending() {
    let backend = backend(|mut stream| {
        read_head(&mut stream).unwrap();
        stream.write_all(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
    });
    let (_edge, address) = edge(Scheme::Http, &[backend], Limits::default());
    let mut client = connect(address);
    client.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nfirst").unwrap();
    assert!(read_head(&mut client).unwrap().starts_with("HTTP/1.1 413 "));
    assert_eq!(read_to_end(&mut client), (Vec::new(), false), "closed, not reset: the answer must survive");
}

#[test]
fn a_request_on_a_connection_that_just_died_is_sent_once_more() {
    let (told, events) = channel();
    // Answers one request per connection and closes without a word when the second one comes.
    let backend = backend(move |mut stream| {
        let first = read_head(&mut stream).unwrap();
        told.send(first.lines().next().unwrap().to_owned()).unwrap();
        stream.write_all(OK).unwrap();
        read_head(&mut stream);
    });
    let (edge, address) = edge(Scheme::Http, &[backend], Limits::default());
    let mut client = connect(address);
    for path in ["/1", "/2"] {
        client.write_all(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).unwrap();
        assert!(read_head(&mut client).unwrap().starts_with("HTTP/1.1 200 OK\r\n"), "{path}");
        assert_eq!(read_exact(&mut client, 2), b"ok");
        assert_eq!(events.recv_timeout(PATIENCE).unwrap(), format!("GET {path} HTTP/1.1"));
    }
    assert_eq!(edge.counters()[0].upstream_replays.get(), 1);
    client.write_all(b"POST /3 HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx").unwrap();
    assert!(read_head(&mut client).unwrap().starts_with("HTTP/1.1 502 "), "what is not idempotent is not repeated");
}

#[test]
fn a_dead_backend_is_passed_over_a_dead_pool_is_502_and_an_empty_one_503() {
    let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (alive, _heads) = canned(OK);
    let (_edge, address) = edge(Scheme::Http, &[dead, alive], Limits::default());
    for _ in 0..4 {
        let answer = ask(address, b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
    for (backends, status) in [(&[dead][..], "HTTP/1.1 502 "), (&[][..], "HTTP/1.1 503 ")] {
        let (_edge, address) = edge(Scheme::Http, backends, Limits::default());
        let answer = ask(address, b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        assert!(answer.starts_with(status), "{answer}");
        assert!(!answer.contains("127.0.0.1") && !answer.contains("pool"), "{answer}");
    }
}

#[test]
fn each_deadline_has_its_answer() {
    let short = Duration::from_millis(150);
    let silent = backend(|mut stream| while matches!(stream.read(&mut [0; 100]), Ok(1..)) {});
    let check = |limits: Limits, request: &[u8], expected: &str| {
        let (_edge, address) = edge(Scheme::Http, &[silent], limits);
        let answer = ask(address, request);
        assert!(answer.starts_with(expected), "{}: {answer}", String::from_utf8_lossy(request));
    };
    let limits = Limits::default;
    check(Limits { head: short, ..limits() }, b"GET / HT", "HTTP/1.1 408 ");
    check(Limits { keep_alive: short, ..limits() }, b"", "");
    check(
        Limits { upstream_head: short, ..limits() },
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        "HTTP/1.1 504 ",
    );
    check(
        Limits { idle_body: short, ..limits() },
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab",
        "HTTP/1.1 408 ",
    );
}

#[test]
fn draining_says_close_and_lets_work_finish() {
    let (told, asked) = channel();
    let backend = backend(move |mut stream| {
        read_head(&mut stream).unwrap();
        told.send(()).unwrap();
        std::thread::sleep(Duration::from_millis(300));
        stream.write_all(OK).unwrap();
    });
    let (edge, address) = edge(Scheme::Http, &[backend], Limits::default());
    let mut idle = connect(address);
    let mut busy = connect(address);
    busy.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    asked.recv_timeout(PATIENCE).unwrap();
    let draining = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(edge.drain(Instant::now() + PATIENCE))
    });
    assert_eq!(read_to_end(&mut idle), (Vec::new(), false));
    let answer = String::from_utf8(read_to_end(&mut busy).0).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("connection: close\r\n"), "{answer}");
    assert_eq!(draining.join().unwrap().aborted_connections, 0);
    assert!(std::net::TcpStream::connect(address).is_err());
}

#[test]
fn a_drain_whose_time_is_over_cuts_and_counts() {
    let silent = backend(|mut stream| while matches!(stream.read(&mut [0; 100]), Ok(1..)) {});
    let (edge, address) = edge(Scheme::Http, &[silent], Limits::default());
    let counters = edge.counters()[0].clone();
    let mut busy = connect(address);
    busy.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    eventually("the request is under way", || counters.upstream_connects.get() == 1);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let drained = runtime.block_on(edge.drain(Instant::now() + Duration::from_millis(200)));
    assert_eq!(drained.aborted_connections, 1);
    assert_eq!(counters.shutdown_aborted_connections.get(), 1);
    assert!(read_to_end(&mut busy).1, "a cut connection is reset");
}

#[test]
fn a_reload_moves_new_requests_and_leaves_connections_alone() {
    let (first, _) = canned(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n1");
    let (second, _) = canned(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n2");
    let (edge, address) = edge(Scheme::Http, &[first], Limits::default());
    let mut client = connect(address);
    let mut ask = || {
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        read_head(&mut client).unwrap();
        read_exact(&mut client, 1)[0]
    };
    assert_eq!(ask(), b'1');
    edge.apply(snapshot(Scheme::Http, &[second], Limits::default())).unwrap();
    eventually("the same connection reaches the new backend", || ask() == b'2');
    assert_eq!(edge.local_addresses()[0].1, address, "the socket was kept");
}

#[test]
fn a_start_that_fails_leaves_nothing_bound() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut wanted = std::sync::Arc::into_inner(snapshot(Scheme::Http, &[], Limits::default())).unwrap();
    let mut listener = std::sync::Arc::into_inner(wanted.listeners.remove(0)).unwrap();
    listener.addresses = vec![free, taken.local_addr().unwrap()];
    wanted.listeners = vec![std::sync::Arc::new(listener)];
    let options = eg_l7::Options { workers: 2, ..eg_l7::Options::default() };
    let error = eg_l7::Edge::start(std::sync::Arc::new(wanted), options, None).err().unwrap();
    let text = format!("listener \"web\": cannot bind {}/tcp", taken.local_addr().unwrap());
    assert_eq!(error.to_string(), text);
    std::net::TcpListener::bind(free).unwrap();
}
