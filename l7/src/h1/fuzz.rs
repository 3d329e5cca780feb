// SPDX-License-Identifier: GPL-3.0-only
//! The body of a fuzz test for the codec: any bytes, read as requests and as responses, whole and in pieces.
//!
//! What must hold: nothing panics; how the bytes arrive changes nothing; what was parsed, written anew and parsed again is
//! the same. A seeded mutator calls it in `l7/tests/h1_fuzz.rs`; a libFuzzer front could call it as well.

use super::body::Decoder;
use super::encode::{self, Manner};
use super::{Bounds, Length, parse};
use crate::head::Head;
use crate::stream::Frame;
use bytes::BytesMut;

const BOUNDS: Bounds = Bounds { bytes: 4096, fields: 32 };

/// Feeds `data` to the codec. Panics when an invariant is broken, as an assertion does.
pub fn fuzz(data: &[u8]) {
    let whole = requests(data, data.len().max(1));
    for piece in [1, 7] {
        assert_eq!(whole, requests(data, piece), "the way bytes arrive changed what they mean");
    }
    for to_head in [false, true] {
        let mut scanned = 0;
        if let Ok(Some(end)) = parse::end(data, &mut scanned, BOUNDS)
            && let Ok(response) = parse::response(data.get(..end).unwrap_or_default(), to_head, BOUNDS)
        {
            assert!((100..=599).contains(&response.head.status()));
            again(&response.head, true);
        }
    }
}

/// The requests in a byte stream, as text, until its end or the first error.
fn requests(data: &[u8], piece: usize) -> Vec<String> {
    let mut seen = Vec::new();
    let mut pieces = data.chunks(piece);
    let mut buffer = BytesMut::new();
    'requests: loop {
        let mut scanned = 0;
        let request = loop {
            match parse::end(&buffer, &mut scanned, BOUNDS) {
                Ok(Some(end)) => break parse::request(&buffer.split_to(end), BOUNDS),
                Ok(None) => match pieces.next() {
                    Some(piece) => buffer.extend_from_slice(piece),
                    None => return seen,
                },
                Err(bad) => break Err(bad),
            }
        };
        let request = match request {
            Ok(request) => request,
            Err(bad) => {
                seen.push(format!("{bad:?}"));
                return seen;
            }
        };
        again(&request.head, false);
        seen.push(format!("{:?} {:?} {}", request.head, request.body, request.keep_alive));
        let mut decoder = Decoder::new(request.body, BOUNDS);
        let mut body = Vec::new();
        while !decoder.done() {
            match decoder.decode(&mut buffer) {
                Ok(Some(Frame::Data(data))) => body.extend_from_slice(&data),
                Ok(Some(Frame::Trailers(trailers))) => seen.push(format!("{trailers:?}")),
                Ok(Some(Frame::End)) => {}
                Ok(None) => match pieces.next() {
                    Some(piece) => buffer.extend_from_slice(piece),
                    None => return seen,
                },
                Err(bad) => {
                    // How much of a broken body came before the error depends on the pieces; that it is broken does not.
                    seen.push(format!("{bad:?}"));
                    return seen;
                }
            }
        }
        if let Length::Exact(length) = request.body {
            assert_eq!(length, body.len() as u64);
        }
        seen.push(format!("{body:?}"));
        if seen.len() > 64 {
            break 'requests;
        }
    }
    seen
}

/// What we write of a head must be a head again, the same one.
fn again(head: &Head, response: bool) {
    let mut text = Vec::new();
    let manner = Manner { chunked: false, close: false, keep_alive: false, empty: false };
    let fields = |head: &Head| head.fields().map(|(n, v)| (n.to_vec(), v.to_vec())).collect::<Vec<_>>();
    let bounds = Bounds { bytes: usize::MAX, fields: 64 };
    let mut scanned = 0;
    if response {
        encode::response(&mut text, head, manner);
        let parsed = parse::response(&text, true, bounds).map(|parsed| (parsed.head.status(), fields(&parsed.head)));
        assert_eq!(parsed, Ok((head.status(), fields(head))));
    } else if !head.authority().is_empty() {
        encode::request(&mut text, head, manner);
        let parsed = parse::request(&text, bounds).map(|parsed| {
            let head = &parsed.head;
            (head.method().to_vec(), head.authority().to_vec(), head.path().to_vec(), fields(head))
        });
        let expected = (head.method().to_vec(), head.authority().to_vec(), head.path().to_vec(), fields(head));
        assert_eq!(parsed, Ok(expected));
    }
    assert!(text.is_empty() || parse::end(&text, &mut scanned, bounds) == Ok(Some(text.len())));
}

/// What the first request of a byte stream is.
#[derive(Debug, PartialEq, Eq)]
pub struct First {
    /// Its method.
    pub method: Vec<u8>,
    /// Its path and query.
    pub path: Vec<u8>,
    /// Its body.
    pub body: Vec<u8>,
}

/// The first request, if the codec takes it and it is whole: to be compared with what another parser makes of it.
pub fn first(data: &[u8]) -> Option<First> {
    let end = parse::end(data, &mut 0, BOUNDS).ok()??;
    let (head, rest) = data.split_at_checked(end)?;
    let request = parse::request(head, BOUNDS).ok()?;
    let mut decoder = Decoder::new(request.body, BOUNDS);
    let mut bytes = BytesMut::from(rest);
    let mut body = Vec::new();
    while !decoder.done() {
        if let Frame::Data(data) = decoder.decode(&mut bytes).ok()?? {
            body.extend_from_slice(&data);
        }
    }
    let (method, path) = (request.head.method().to_vec(), request.head.path().to_vec());
    Some(First { method, path, body })
}
