// SPDX-License-Identifier: GPL-3.0-only
//! Raw bytes and what they must mean, or that they must mean nothing: the tricks of request smuggling, one a line.

use super::body::Decoder;
use super::{Bad, Bounds, Length, encode, parse};
use crate::stream::Frame;
use bytes::BytesMut;

const BOUNDS: Bounds = Bounds { bytes: 2048, fields: 16 };

fn request(text: &str) -> Result<parse::Request, Bad> {
    let mut scanned = 0;
    match parse::end(text.as_bytes(), &mut scanned, BOUNDS)? {
        Some(end) => parse::request(&text.as_bytes()[..end], BOUNDS),
        None => panic!("not a whole head: {text:?}"),
    }
}

fn response(text: &str, to_head: bool) -> Result<parse::Response, Bad> {
    parse::end(text.as_bytes(), &mut 0, BOUNDS)?.expect("a whole head");
    parse::response(text.as_bytes(), to_head, BOUNDS)
}

/// The body's data, and how it ended.
fn body(length: Length, text: &str) -> Result<(String, bool), Bad> {
    let mut decoder = Decoder::new(length, BOUNDS);
    let mut bytes = BytesMut::from(text);
    let mut data = Vec::new();
    while !decoder.done() {
        match decoder.decode(&mut bytes)? {
            Some(Frame::Data(more)) => data.extend_from_slice(&more),
            Some(_) => {}
            None => return Ok((String::from_utf8(data).unwrap(), false)),
        }
    }
    assert!(bytes.is_empty() || bytes.starts_with(b"GET"), "what follows the message is left alone: {bytes:?}");
    Ok((String::from_utf8(data).unwrap(), true))
}

#[test]
fn ambiguous_or_malformed_requests_are_refused() {
    for text in [
        // Two lengths, in every disguise.
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\ncontent-length: 5\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x5\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5 5\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551617\r\n\r\n",
        // Codings other than a final, single chunked.
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \"chunked\"\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked;q=1\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\x0bchunked\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n\r\n",
        "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        // Lines that other servers end or join elsewhere.
        "GET / HTTP/1.1\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\rX: y\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n z\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n\tz\r\n\r\n",
        "GET / HTTP/1.1\r\n Host: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost\t: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nContent-Length : 5\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX\0: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: \x7f\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: \x1b[2J\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX(): y\r\n\r\n",
        // Hosts.
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost:\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n",
        "GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a:80:81\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a:http\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: [::1\r\n\r\n",
        "GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
        // Request lines.
        "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /\tx HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / x HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /#x HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET x HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET * HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1 \r\nHost: a\r\n\r\n",
        "GET / HTTP/1.2\r\nHost: a\r\n\r\n",
        "GET / HTTP/2.0\r\nHost: a\r\n\r\n",
        "GET / http/1.1\r\nHost: a\r\n\r\n",
        "GET /\r\nHost: a\r\n\r\n",
        "G<T / HTTP/1.1\r\nHost: a\r\n\r\n",
        " GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        assert_eq!(request(text).map(|_| ()), Err(Bad::Malformed), "{text:?}");
    }
    assert_eq!(request("CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n").map(|_| ()), Err(Bad::Connect));
}

#[test]
fn honest_requests_mean_what_they_say() {
    for (text, length, keep_alive) in [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", Length::None, true),
        ("GET / HTTP/1.1\r\nhost:a:80\r\nconnection: Close\r\n\r\n", Length::None, false),
        ("GET / HTTP/1.1\r\nHost: [::1]:80\r\nConnection: x, close , y\r\n\r\n", Length::None, false),
        ("GET / HTTP/1.0\r\n\r\n", Length::None, false),
        ("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", Length::None, true),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", Length::None, true),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 012 \r\n\r\n", Length::Exact(12), true),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: CHUNKED\r\n\r\n", Length::Chunked, true),
        ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", Length::None, true),
        ("GET / HTTP/1.1\r\nHost: a\r\nX:\r\nY: \t \r\nZ: \u{e9}\r\n\r\n", Length::None, true),
    ] {
        let request = request(text).unwrap_or_else(|bad| panic!("{bad:?}: {text:?}"));
        assert_eq!((request.body, request.keep_alive), (length, keep_alive), "{text:?}");
    }
}

#[test]
fn an_absolute_target_gives_authority_and_path() {
    for (target, path) in [("http://A:1/x?y", "/x?y"), ("https://a:1", "/"), ("HTTP://a:1?q", "/?q")] {
        let parsed = request(&format!("GET {target} HTTP/1.1\r\nHost: a:1\r\n\r\n")).unwrap();
        assert_eq!(parsed.head.path(), path.as_bytes());
        assert!(parsed.head.authority().eq_ignore_ascii_case(b"a:1"));
        assert!(parsed.head.get("host").is_none());
    }
}

#[test]
fn a_head_may_grow_to_its_bounds_and_no_further() {
    let fields = |n: usize| format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "x: y\r\n".repeat(n));
    assert!(request(&fields(BOUNDS.fields - 1)).is_ok());
    assert_eq!(request(&fields(BOUNDS.fields)).map(|_| ()), Err(Bad::TooLarge));
    let start = "GET / HTTP/1.1\r\nHost: a\r\nX: ";
    let long = |n: usize| format!("{start}{}\r\n\r\n", "y".repeat(n - start.len() - 4));
    assert!(request(&long(BOUNDS.bytes)).is_ok());
    assert_eq!(request(&long(BOUNDS.bytes + 1)).map(|_| ()), Err(Bad::TooLarge));
    let endless = "y".repeat(BOUNDS.bytes + 1);
    assert_eq!(parse::end(endless.as_bytes(), &mut 0, BOUNDS), Err(Bad::TooLarge));
}

#[test]
fn chunked_bodies_are_read_exactly() {
    assert_eq!(body(Length::Chunked, "0\r\n\r\nGET"), Ok((String::new(), true)));
    assert_eq!(body(Length::Chunked, "3\r\nabc\r\n00a;x=\"y\"\r\n0123456789\r\n0\r\n\r\n").unwrap().0, "abc0123456789");
    assert_eq!(
        body(Length::Chunked, "A\r\n0123456789\r\n000\r\nx: y\r\n\r\nGET").unwrap(),
        ("0123456789".into(), true)
    );
    for partial in
        ["", "3", "3\r", "3\r\n", "3\r\nab", "3\r\nabc", "3\r\nabc\r", "3\r\nabc\r\n0\r\n", "0\r\n\r", "0\r\nx: y\r\n"]
    {
        assert!(!body(Length::Chunked, partial).unwrap().1, "{partial:?}");
    }
    for text in [
        "\r\n",
        "x\r\n",
        "g\r\n",
        "-1\r\n",
        "+1\r\n",
        "0x1\r\n",
        " 1\r\n",
        "1 \r\n",
        "1 ;x\r\n",
        "1\n",
        "1\r\r\n",
        ";x\r\n",
        "1;\0\r\n",
        "1;a\rb\r\n",
        "ffffffffffffffff\r\n",
        "10000000000000000\r\n",
        "3\r\nabcd\r\n",
        "3\r\nabc\n",
        "3\r\nabcX\r\n",
        "0\r\nx y: z\r\n\r\n",
        "0\r\nx: y\n\r\n",
        "0\r\n x: y\r\n\r\n",
        "0\r\nx\r\n\r\n",
    ] {
        assert_eq!(body(Length::Chunked, text), Err(Bad::Malformed), "{text:?}");
    }
    let long_extension = format!("1;{}\r\n", "x".repeat(300));
    assert_eq!(body(Length::Chunked, &long_extension), Err(Bad::Malformed));
    let many_extensions = format!("1;{}\r\na\r\n", "x".repeat(200)).repeat(100);
    assert_eq!(body(Length::Chunked, &many_extensions), Err(Bad::TooLarge));
}

#[test]
fn responses_have_the_length_that_rfc_9112_gives_them() {
    for (text, to_head, length) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", false, Length::Exact(5)),
        ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", true, Length::None),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", false, Length::Chunked),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", true, Length::None),
        ("HTTP/1.1 200\r\n\r\n", false, Length::Close),
        ("HTTP/1.0 200 OK\r\n\r\n", false, Length::Close),
        ("HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\n", false, Length::None),
        ("HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n", false, Length::None),
        ("HTTP/1.1 103 Early Hints\r\n\r\n", false, Length::None),
    ] {
        assert_eq!(response(text, to_head).unwrap().body, length, "{text:?}");
    }
    for text in [
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 5\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n",
        "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nx : y\r\n\r\n",
        "HTTP/1.1 200 OK\r\nx: y\r\n z\r\n\r\n",
        "HTTP/1.1 99 x\r\n\r\n",
        "HTTP/1.1 600 x\r\n\r\n",
        "HTTP/2 200 OK\r\n\r\n",
    ] {
        assert_eq!(response(text, false).map(|_| ()), Err(Bad::Malformed), "{text:?}");
    }
}

#[test]
fn chunk_sizes_are_written_in_plain_hexadecimal() {
    for size in [0, 1, 9, 15, 16, 255, 256, 4095, 65536, usize::MAX] {
        let mut text = Vec::new();
        encode::chunk_size(&mut text, size);
        assert_eq!(String::from_utf8(text).unwrap(), format!("{size:x}\r\n"));
    }
}
