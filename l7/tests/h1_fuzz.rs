// SPDX-License-Identifier: GPL-3.0-only
//! The H1 codec under a seeded mutator: a corpus of requests and responses, cut, spliced and bent for a few seconds. The same
//! seed gives the same run; a failure prints the input.

use eg_l7::h1::First;
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;

const CORPUS: &[&[u8]] = &[
    b"GET / HTTP/1.1\r\nHost: a.example\r\nUser-Agent: x\r\nAccept: */*\r\n\r\nGET /2 HTTP/1.1\r\nHost: b\r\n\r\n",
    b"POST /p?q HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhelloPOST / HTTP/1.0\r\n\r\n",
    b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\na;x=y\r\n0123456789\r\n10\r\n0123456789abcdef\r\n0\r\nX-T: v\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: [::1]:80\r\nConnection: close, x\r\nExpect: 100-continue\r\n\r\n",
    b"GET http://a:1/x HTTP/1.1\r\nHost: a:1\r\nCookie: a=b; c=d\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nServer: x\r\n\r\nok",
    b"HTTP/1.1 404 \r\nTransfer-Encoding: chunked\r\nConnection: keep-alive\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
];

/// What smuggling is made of.
const TOKENS: &[&[u8]] = &[
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b"\t",
    b":",
    b";",
    b",",
    b"Content-Length: 3\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Host: z\r\n",
    b"chunked",
    b"0\r\n\r\n",
    b"ffffffffffffffff",
    b"\r\n\r\n",
    b"HTTP/1.1",
    b"\xff",
    b"%00",
    b"Connection: host\r\n",
];

/// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators").
struct Random(u64);

impl Random {
    fn next(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e3779b97f4a7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58476d1ce4e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d049bb133111eb);
        ((z ^ (z >> 31)) % below.max(1) as u64) as usize
    }

    fn pick<'a>(&mut self, from: &[&'a [u8]]) -> &'a [u8] {
        from[self.next(from.len())]
    }
}

fn mutate(random: &mut Random) -> Vec<u8> {
    let mut bytes = random.pick(CORPUS).to_vec();
    for _ in 0..random.next(6) {
        let at = random.next(bytes.len() + 1);
        match random.next(5) {
            0 if at < bytes.len() => bytes[at] = random.next(256) as u8,
            1 => bytes.truncate(at),
            2 => {
                let token = random.pick(TOKENS);
                bytes.splice(at..at, token.iter().copied());
            }
            3 => {
                let other = random.pick(CORPUS);
                bytes.truncate(at);
                bytes.extend_from_slice(&other[random.next(other.len())..]);
            }
            _ => {
                let end = (at + random.next(16)).min(bytes.len());
                bytes.drain(at..end);
            }
        }
    }
    bytes
}

#[test]
fn no_bytes_break_the_codec() {
    for bytes in CORPUS {
        eg_l7::h1::fuzz(bytes);
    }
    let mut random = Random(0x6567);
    let end = Instant::now() + Duration::from_secs(3);
    let mut runs = 0;
    while Instant::now() < end || runs < 1000 {
        let bytes = mutate(&mut random);
        let outcome = std::panic::catch_unwind(|| eg_l7::h1::fuzz(&bytes));
        assert!(outcome.is_ok(), "input: {}", bytes.escape_ascii());
        runs += 1;
    }
    println!("{runs} inputs");
}

/// What hyper's server makes of the first request: nothing if it refuses it.
async fn hyper_first(bytes: &[u8]) -> Option<First> {
    let (mut near, far) = tokio::io::duplex(bytes.len() + 1);
    near.write_all(bytes).await.unwrap();
    near.shutdown().await.unwrap();
    let seen = Rc::new(RefCell::new(None));
    let recording = Rc::clone(&seen);
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let recording = Rc::clone(&recording);
        async move {
            let method = request.method().as_str().as_bytes().to_vec();
            let path = request.uri().path_and_query().map_or("", |path| path.as_str()).as_bytes().to_vec();
            if let Ok(body) = request.into_body().collect().await {
                let body = body.to_bytes().to_vec();
                recording.borrow_mut().get_or_insert(First { method, path, body });
            }
            let mut response = Response::new(Empty::<Bytes>::new());
            response.headers_mut().insert("connection", "close".parse().unwrap());
            Ok::<_, Infallible>(response)
        }
    });
    let reading = tokio::spawn(async move { tokio::io::copy(&mut near, &mut tokio::io::sink()).await });
    // An error is how hyper refuses; what was recorded tells.
    let _ =
        hyper::server::conn::http1::Builder::new().half_close(true).serve_connection(TokioIo::new(far), service).await;
    reading.abort();
    seen.take()
}

#[test]
fn what_we_and_hyper_both_take_is_the_same_request() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut random = Random(0x6879);
    let (mut both, mut only_we, mut only_hyper) = (0, 0, 0);
    runtime.block_on(async {
        for bytes in CORPUS.iter().filter(|bytes| !bytes.starts_with(b"HTTP/")) {
            let ours = eg_l7::h1::first(bytes);
            assert!(ours.is_some(), "an honest request is taken: {}", bytes.escape_ascii());
            assert_eq!(ours, hyper_first(bytes).await);
        }
        for _ in 0..20_000 {
            let bytes = mutate(&mut random);
            match (eg_l7::h1::first(&bytes), hyper_first(&bytes).await) {
                (Some(ours), Some(theirs)) => {
                    assert_eq!(ours, theirs, "input: {}", bytes.escape_ascii());
                    both += 1;
                }
                (Some(_), None) => {
                    println!("only we: {}", bytes.escape_ascii());
                    only_we += 1;
                }
                (None, Some(_)) => only_hyper += 1,
                (None, None) => {}
            }
        }
    });
    println!("both {both}, only we {only_we}, only hyper {only_hyper}");
    assert!(both > 2_000, "the comparison compares too little: {both}");
    assert_eq!(only_we, 0, "we are the stricter one");
    assert!(only_hyper > 0, "smuggling attempts that hyper takes are in this corpus");
}
