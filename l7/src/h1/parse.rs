// SPDX-License-Identifier: GPL-3.0-only
//! Heads and trailers from bytes. `httparse` reads the syntax; the rest of this file is what it leaves to its caller:
//! exact line ends, one Host, one length, and a target that agrees with it.

use super::{Bad, Bounds, Length};
use crate::head::{Head, HeadError};
use std::mem::MaybeUninit;

/// A request's head, and how the connection goes on.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) head: Head,
    pub(crate) body: Length,
    pub(crate) http10: bool,
    /// The client wants to keep the connection.
    pub(crate) keep_alive: bool,
}

/// A response's head, and how the connection goes on.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) head: Head,
    pub(crate) body: Length,
    /// The backend keeps the connection.
    pub(crate) keep_alive: bool,
}

/// More fields than any configuration allows.
const MAX_FIELDS: usize = 256;

type Fields<'a> = [MaybeUninit<httparse::Header<'a>>; MAX_FIELDS];

/// Finds the end of a head (the length up to and with its empty line). `*scanned` remembers how far earlier calls came.
///
/// RFC 9112 section 2.2 lets a recipient accept a bare LF as a line end; another server in the chain may not, and then the
/// two disagree about where a field ends. So a LF without CR, or a CR without LF, is malformed here.
pub(crate) fn end(bytes: &[u8], scanned: &mut usize, bounds: Bounds) -> Result<Option<usize>, Bad> {
    let mut from = *scanned;
    loop {
        let rest = bytes.get(from..).unwrap_or_default();
        let Some(at) = rest.iter().position(|&b| b == b'\n' || b == 0) else {
            // What waits for its LF can still be a bare CR; the next call looks at that byte again.
            *scanned = bytes.len();
            let limit = if bytes.len() > bounds.bytes { Err(Bad::TooLarge) } else { Ok(None) };
            return limit;
        };
        let line_end = from + at;
        if line_end + 1 > bounds.bytes {
            return Err(Bad::TooLarge);
        }
        let before = line_end.checked_sub(1).and_then(|at| bytes.get(at));
        if bytes.get(line_end) == Some(&0) || before != Some(&b'\r') {
            return Err(Bad::Malformed);
        }
        from = line_end + 1;
        if bytes.get(line_end.saturating_sub(3)..from) == Some(b"\r\n\r\n") || line_end == 1 {
            *scanned = from;
            return Ok(Some(from));
        }
    }
}

/// Parses a whole head as found by [`end`].
pub(crate) fn request(bytes: &[u8], bounds: Bounds) -> Result<Request, Bad> {
    let mut storage: Fields<'_> = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Request::new(&mut []);
    let space = storage.get_mut(..bounds.fields.min(MAX_FIELDS)).ok_or(Bad::Malformed)?;
    let complete = parsed.parse_with_uninit_headers(bytes, space).map_err(bad)?;
    let (Some(method), Some(target), Some(minor)) = (parsed.method, parsed.path, parsed.version) else {
        return Err(Bad::Malformed);
    };
    if complete != httparse::Status::Complete(bytes.len()) {
        return Err(Bad::Malformed);
    }
    if method == "CONNECT" {
        return Err(Bad::Connect);
    }
    let fields = &*parsed.headers;
    let host = host(fields, minor)?;
    let (authority, path) = split_target(method, target.as_bytes(), host)?;
    let mut head = match path {
        Path::Origin(path) => Head::request(method.as_bytes(), authority, path)?,
        // RFC 9112 section 3.2.2 with RFC 9110 section 4.2.3: an empty path is the same as "/".
        Path::Query(query) => Head::request(method.as_bytes(), authority, &[b"/", query].concat())?,
    };
    let framing = push_fields(&mut head, fields)?;
    head.remove("host");
    // RFC 9112 section 6.1: a coding other than a final chunked leaves no length; and "a server that receives an HTTP/1.1
    // message containing both SHOULD" be wary: nobody honest sends either.
    let body = match (framing.chunked, framing.length) {
        (Coding::Absent, None | Some(0)) => Length::None,
        (Coding::Absent, Some(length)) => Length::Exact(length),
        (Coding::Chunked, None) if minor == 1 => Length::Chunked,
        _ => return Err(Bad::Malformed),
    };
    let keep_alive = !framing.close && (minor == 1 || framing.keep_alive);
    Ok(Request { head, body, http10: minor == 0, keep_alive })
}

/// Parses a whole response head as found by [`end`]. `to_head` says that it answers a HEAD request.
pub(crate) fn response(bytes: &[u8], to_head: bool, bounds: Bounds) -> Result<Response, Bad> {
    let mut storage: Fields<'_> = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Response::new(&mut []);
    let space = storage.get_mut(..bounds.fields.min(MAX_FIELDS)).ok_or(Bad::Malformed)?;
    let mut config = httparse::ParserConfig::default();
    config.allow_spaces_after_header_name_in_responses(false).allow_obsolete_multiline_headers_in_responses(false);
    let complete = config.parse_response_with_uninit_headers(&mut parsed, bytes, space).map_err(bad)?;
    let (Some(status), Some(minor)) = (parsed.code, parsed.version) else { return Err(Bad::Malformed) };
    if complete != httparse::Status::Complete(bytes.len()) {
        return Err(Bad::Malformed);
    }
    let mut head = Head::response(status)?;
    let framing = push_fields(&mut head, parsed.headers)?;
    // RFC 9112 section 6.3, in its order.
    let bodiless = to_head || status < 200 || status == 204 || status == 304;
    let body = match (framing.chunked, framing.length) {
        _ if bodiless => Length::None,
        (Coding::Chunked, None) if minor == 1 => Length::Chunked,
        (Coding::Absent, Some(0)) => Length::None,
        (Coding::Absent, Some(length)) => Length::Exact(length),
        (Coding::Absent, None) => Length::Close,
        _ => return Err(Bad::Malformed),
    };
    if status < 200 || status == 204 {
        // RFC 9110 section 8.6: "A server MUST NOT send a Content-Length header field in any response with a status code
        // of 1xx or 204". Some believe it nonetheless: it goes no further.
        head.remove("content-length");
    }
    let keep_alive = !framing.close && (minor == 1 || framing.keep_alive) && body != Length::Close;
    Ok(Response { head, body, keep_alive })
}

/// Parses a whole trailer section as found by [`end`].
pub(crate) fn trailers(bytes: &[u8], bounds: Bounds) -> Result<Head, Bad> {
    let mut storage = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let space = storage.get_mut(..bounds.fields.min(MAX_FIELDS)).ok_or(Bad::Malformed)?;
    let httparse::Status::Complete((length, fields)) = httparse::parse_headers(bytes, space).map_err(bad)? else {
        return Err(Bad::Malformed);
    };
    if length != bytes.len() {
        return Err(Bad::Malformed);
    }
    let mut head = Head::trailers();
    for field in fields {
        head.push(field.name.as_bytes(), field.value)?;
    }
    Ok(head)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Coding {
    Absent,
    Chunked,
    Other,
}

struct Framing {
    chunked: Coding,
    length: Option<u64>,
    close: bool,
    keep_alive: bool,
}

/// Copies the fields into the head, all but Transfer-Encoding, and reads what they say of framing.
fn push_fields(head: &mut Head, fields: &[httparse::Header<'_>]) -> Result<Framing, Bad> {
    let mut framing = Framing { chunked: Coding::Absent, length: None, close: false, keep_alive: false };
    for field in fields {
        if field.name.eq_ignore_ascii_case("transfer-encoding") {
            // Exactly one field that says exactly "chunked": lists and repetitions are where parsers differ.
            let sole = framing.chunked == Coding::Absent && field.value.eq_ignore_ascii_case(b"chunked");
            framing.chunked = if sole { Coding::Chunked } else { Coding::Other };
            continue;
        }
        head.push(field.name.as_bytes(), field.value)?;
        if field.name.eq_ignore_ascii_case("content-length") {
            // RFC 9110 section 8.6 lets equal repetitions pass; we do not.
            let length = length(field.value).ok_or(Bad::Malformed)?;
            if framing.length.replace(length).is_some() {
                return Err(Bad::Malformed);
            }
        } else if field.name.eq_ignore_ascii_case("connection") {
            for option in field.value.split(|&b| b == b',').map(<[u8]>::trim_ascii) {
                framing.close |= option.eq_ignore_ascii_case(b"close");
                framing.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
            }
        }
    }
    Ok(framing)
}

/// 1*DIGIT, and small enough: RFC 9112 section 6.3 rule 5 makes anything else an unrecoverable error.
pub(crate) fn length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 18 || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(value.iter().fold(0, |sum, &digit| sum * 10 + u64::from(digit - b'0')))
}

/// RFC 9112 section 3.2: "A server MUST respond with a 400 (Bad Request) status code to any HTTP/1.1 request message that
/// lacks a Host header field and to any request message that contains more than one Host header field line".
fn host<'a>(fields: &[httparse::Header<'a>], minor: u8) -> Result<&'a [u8], Bad> {
    let mut hosts = fields.iter().filter(|field| field.name.eq_ignore_ascii_case("host"));
    match (hosts.next(), hosts.next()) {
        (Some(host), None) if !host.value.is_empty() => Ok(host.value),
        (None, None) if minor == 0 => Ok(&[]),
        _ => Err(Bad::Malformed),
    }
}

enum Path<'a> {
    Origin(&'a [u8]),
    Query(&'a [u8]),
}

/// RFC 9112 section 3.2: the four forms of a target. An absolute one that names another host than Host does is refused:
/// the rule is to ignore Host then, but whoever stands behind us may not.
fn split_target<'a>(method: &str, target: &'a [u8], host: &'a [u8]) -> Result<(&'a [u8], Path<'a>), Bad> {
    match target {
        [b'/', ..] => return Ok((host, Path::Origin(target))),
        b"*" if method == "OPTIONS" => return Ok((host, Path::Origin(target))),
        _ => {}
    }
    let scheme_end = target.windows(3).position(|at| at == b"://").ok_or(Bad::Malformed)?;
    let (scheme, rest) = target.split_at(scheme_end);
    if !scheme.eq_ignore_ascii_case(b"http") && !scheme.eq_ignore_ascii_case(b"https") {
        return Err(Bad::Malformed);
    }
    let rest = rest.get(3..).unwrap_or_default();
    let authority_end = rest.iter().position(|&b| b == b'/' || b == b'?').unwrap_or(rest.len());
    let (authority, path) = rest.split_at(authority_end);
    if authority.is_empty() || (!host.is_empty() && !authority.eq_ignore_ascii_case(host)) {
        return Err(Bad::Malformed);
    }
    match path {
        [b'/', ..] => Ok((authority, Path::Origin(path))),
        query => Ok((authority, Path::Query(query))),
    }
}

fn bad(error: httparse::Error) -> Bad {
    match error {
        httparse::Error::TooManyHeaders => Bad::TooLarge,
        _ => Bad::Malformed,
    }
}

impl From<HeadError> for Bad {
    fn from(error: HeadError) -> Bad {
        match error {
            HeadError::Size => Bad::TooLarge,
            _ => Bad::Malformed,
        }
    }
}
