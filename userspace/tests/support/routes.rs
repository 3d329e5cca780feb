// SPDX-License-Identifier: GPL-3.0-only
//! What the standard backend answers, by path. Numbers in a path are bytes unless said otherwise.
//!
//! | path | answer |
//! |---|---|
//! | `/hello` | 200, "hello" |
//! | `/status/N` | status N, no body where the status allows none, else "status" |
//! | `/fields` | 200, the request head as the body; two `Set-Cookie`, a mixed-case field, hop-by-hop fields |
//! | `/bytes/N` `/chunked/N` `/until-close/N` | N bytes of the pattern with a length, in chunks, until the end of the connection |
//! | `/digest` | reads the body, answers `LEN SHA256 TRAILER=VALUE…` |
//! | `/trailers` | chunked "body" with two trailers |
//! | `/hints` | 103 with a link, then 200 |
//! | `/early` | 413 without reading the body, then closes |
//! | `/short-length/N` `/short-chunks/N` | N bytes of a body twice as long, or without its last chunk, then closes |
//! | `/reset/N` | as `/short-length`, then RST |
//! | `/no-answer` | reads the body, closes |
//! | `/hang` | reads the body, never answers |
//! | `/stall/N` | N bytes of an endless body, then nothing |
//! | `/drip/N/MS` | N chunks of 10 bytes, one every MS milliseconds |
//! | `/drain/RATE` | reads the body at RATE bytes a second, then answers as `/digest` |

use std::io;
use std::time::{Duration, Instant};

use super::bytes;
use super::origin::{Body, Call, Then};

/// Longer than any test: what hangs is ended by the gateway or by the test.
const FOREVER: Duration = Duration::from_secs(300);

pub(crate) fn answer(call: &mut Call<'_>) -> io::Result<Then> {
    let path = call.seen.path().to_owned();
    let mut parts = path.trim_start_matches('/').split('/');
    let name = parts.next().unwrap_or_default();
    let numbers: Vec<u64> = parts.filter_map(|part| part.parse().ok()).collect();
    let number = numbers.first().copied().unwrap_or(0);
    match name {
        "early" => {
            call.send("HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 5\r\n\r\nenoug")?;
            // Lets the answer arrive: closing over unread bytes would reset it away.
            call.wait_closed(Duration::from_secs(5));
            return Ok(Then::Close);
        }
        "drain" => {
            let begun = Instant::now();
            let body = call.body_paced(|len| {
                let due = Duration::from_secs_f64(len as f64 / number.max(1) as f64);
                std::thread::sleep(due.saturating_sub(begun.elapsed()));
            });
            return digest(call, &body);
        }
        _ => {}
    }
    if call.seen.field("expect").is_some() {
        call.send("HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    let body = call.body();
    if !body.complete {
        return Ok(Then::Close);
    }
    match name {
        "hello" => call.reply("200 OK", "Content-Type: text/plain\r\n", "hello"),
        "status" => match number {
            204 => plain(call, "HTTP/1.1 204 No Content\r\n\r\n"),
            304 => plain(call, "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\nContent-Length: 6\r\n\r\n"),
            status => call.reply(&format!("{status} Told So"), "", "status"),
        },
        "fields" => {
            let head = call.seen.head.clone();
            let fields = "X-MiXeD: Value\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nX-Hop: secret\r\nConnection: x-hop\r\n\
                          Keep-Alive: timeout=9\r\nX-Empty:\r\n";
            call.reply("200 OK", fields, head)
        }
        "bytes" => {
            call.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {number}\r\n\r\n"))?;
            if call.seen.method != "HEAD" {
                call.send_pattern(number)?;
            }
            Ok(Then::Keep)
        }
        "chunked" => {
            call.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
            if call.seen.method != "HEAD" {
                bytes::pieces(number).try_for_each(|piece| call.send_chunk(piece))?;
                call.send("0\r\n\r\n")?;
            }
            Ok(Then::Keep)
        }
        "until-close" => {
            call.send("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")?;
            call.send_pattern(number)?;
            Ok(Then::Close)
        }
        "digest" => digest(call, &body),
        "trailers" => plain(
            call,
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum, x-second\r\n\r\n4\r\nbody\r\n0\r\nX-Sum: 42\r\nX-Second: two\r\n\r\n",
        ),
        "hints" => plain(
            call,
            "HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        ),
        "short-length" | "reset" => {
            call.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", number * 2))?;
            call.send_pattern(number)?;
            // A reset discards what the gateway has not read yet: let it read.
            std::thread::sleep(Duration::from_millis(200));
            Ok(if name == "reset" { Then::Reset } else { Then::Close })
        }
        "short-chunks" => {
            call.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
            bytes::pieces(number).try_for_each(|piece| call.send_chunk(piece))?;
            Ok(Then::Close)
        }
        "no-answer" => Ok(Then::Close),
        "hang" => {
            call.wait_closed(FOREVER);
            Ok(Then::Close)
        }
        "stall" => {
            call.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
            bytes::pieces(number).try_for_each(|piece| call.send_chunk(piece))?;
            call.wait_closed(FOREVER);
            Ok(Then::Close)
        }
        "drip" => {
            call.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
            for _ in 0..number {
                call.send_chunk(b"0123456789")?;
                std::thread::sleep(Duration::from_millis(numbers.get(1).copied().unwrap_or(0)));
            }
            call.send("0\r\n\r\n")?;
            Ok(Then::Keep)
        }
        _ => call.reply("404 Not Found", "", "no such path"),
    }
}

fn plain(call: &mut Call<'_>, all: &str) -> io::Result<Then> {
    call.send(all)?;
    Ok(Then::Keep)
}

fn digest(call: &mut Call<'_>, body: &Body) -> io::Result<Then> {
    if !body.complete {
        return Ok(Then::Close);
    }
    let mut text = format!("{} {}", body.len, body.sha256);
    for (name, value) in &body.trailers {
        text.push_str(&format!(" {}={value}", name.to_ascii_lowercase()));
    }
    call.reply("200 OK", "", text)
}
