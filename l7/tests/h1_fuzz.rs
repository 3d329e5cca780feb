// SPDX-License-Identifier: GPL-3.0-only
//! The H1 codec under a seeded mutator: a corpus of requests and responses, cut, spliced and bent for a few seconds. The same
//! seed gives the same run; a failure prints the input.

use std::time::{Duration, Instant};

const CORPUS: &[&[u8]] = &[
    b"GET / HTTP/1.1\r\nHost: a.example\r\nUser-Agent: x\r\nAccept: */*\r\n\r\nGET /2 HTTP/1.1\r\nHost: b\r\n\r\n",
    b"POST /p?q HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhelloPOST / HTTP/1.0\r\n\r\n",
    b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\na;x=y\r\n0123456789\r\n0\r\nX-T: v\r\n\r\n",
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
