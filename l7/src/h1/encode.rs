// SPDX-License-Identifier: GPL-3.0-only
//! Heads, chunk sizes and trailers to bytes. A [`Head`] holds nothing that could break out of its line, so writing is
//! copying.

use super::Length;
use crate::head::Head;

/// What a head says of its connection and framing beyond its fields.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manner {
    /// The body is sent in chunks.
    pub(crate) chunked: bool,
    /// This is the last message on the connection.
    pub(crate) close: bool,
    /// Say `keep-alive` (to HTTP/1.0 clients).
    pub(crate) keep_alive: bool,
    /// Say that the body is empty, where the fields do not.
    pub(crate) empty: bool,
}

/// Room for a common head and a small body behind it: grown from nothing, the buffer would be allocated four or five times
/// for each message.
const ROOM: usize = 2048;

/// A request in origin form. RFC 9112 section 3.2: Host comes first.
pub(crate) fn request(out: &mut Vec<u8>, head: &Head, manner: Manner) {
    out.reserve(ROOM);
    for part in [head.method(), b" ", head.path(), b" HTTP/1.1\r\nhost: ", head.authority(), b"\r\n"] {
        out.extend_from_slice(part);
    }
    fields(out, head);
    finish(out, manner);
}

/// A response.
pub(crate) fn response(out: &mut Vec<u8>, head: &Head, manner: Manner) {
    out.reserve(ROOM);
    out.extend_from_slice(b"HTTP/1.1 ");
    decimal(out, u64::from(head.status()));
    out.push(b' ');
    out.extend_from_slice(reason(head.status()).as_bytes());
    out.extend_from_slice(b"\r\n");
    fields(out, head);
    finish(out, manner);
}

/// The line before a chunk's data.
pub(crate) fn chunk_size(out: &mut Vec<u8>, size: usize) {
    let digits = 16 - (size as u64 | 1).leading_zeros() as usize / 4;
    for shift in (0..digits).rev() {
        let digit = (size >> (shift * 4)) as u32 & 15;
        out.push(char::from_digit(digit, 16).map_or(b'0', |c| c as u8));
    }
    out.extend_from_slice(b"\r\n");
}

/// The last chunk, with trailers if there are any.
pub(crate) fn last_chunk(out: &mut Vec<u8>, trailers: Option<&Head>) {
    out.extend_from_slice(b"0\r\n");
    if let Some(trailers) = trailers {
        fields(out, trailers);
    }
    out.extend_from_slice(b"\r\n");
}

/// How a body that comes in frames is to be framed: by the head's Content-Length if it has one.
pub(crate) fn length(head: &Head) -> Option<Length> {
    let length = super::parse::length(head.get("content-length")?)?;
    Some(if length == 0 { Length::None } else { Length::Exact(length) })
}

fn fields(out: &mut Vec<u8>, head: &Head) {
    for (name, value) in head.fields() {
        for part in [name, b": ", value, b"\r\n"] {
            out.extend_from_slice(part);
        }
    }
}

fn finish(out: &mut Vec<u8>, manner: Manner) {
    if manner.chunked {
        out.extend_from_slice(b"transfer-encoding: chunked\r\n");
    }
    if manner.empty {
        out.extend_from_slice(b"content-length: 0\r\n");
    }
    if manner.close {
        out.extend_from_slice(b"connection: close\r\n");
    } else if manner.keep_alive {
        out.extend_from_slice(b"connection: keep-alive\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

fn decimal(out: &mut Vec<u8>, number: u64) {
    if number >= 10 {
        decimal(out, number / 10);
    }
    out.push(b'0' + (number % 10) as u8);
}

fn reason(status: u16) -> &'static str {
    http::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or("")
}
