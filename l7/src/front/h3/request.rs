// SPDX-License-Identifier: GPL-3.0-only
//! What a well-formed HTTP/3 request is: quiche hands over whatever a client encoded, so all of RFC 9114 sections 4.1.2,
//! 4.2 and 4.3 that concerns servers is checked here.
//!
//! RFC 9114 section 4.1.2: "Malformed requests or responses that are detected MUST be treated as a stream error of type
//! H3_MESSAGE_ERROR." Pure functions; `quic::connection` resets the stream.

use crate::head::Head;
use crate::snapshot::Limits;
use quiche::h3::{Header, NameValue};

/// The message breaks a rule of its version.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

/// A request that may be served.
#[derive(Debug)]
pub(crate) struct Parsed {
    pub(crate) head: Head,
    pub(crate) content_length: Option<u64>,
}

#[derive(Default)]
struct Pseudo<'a> {
    method: Option<&'a [u8]>,
    scheme: Option<&'a [u8]>,
    authority: Option<&'a [u8]>,
    path: Option<&'a [u8]>,
}

impl<'a> Pseudo<'a> {
    /// RFC 9114 section 4.3: pseudo-header fields are those of 4.3.1 alone, each at most once.
    fn take(&mut self, name: &[u8], value: &'a [u8]) -> Result<(), Malformed> {
        let slot = match name {
            b":method" => &mut self.method,
            b":scheme" => &mut self.scheme,
            b":authority" => &mut self.authority,
            b":path" => &mut self.path,
            // Extended CONNECT (RFC 9220) was not offered.
            _ => return Err(Malformed),
        };
        match slot.replace(value) {
            None => Ok(()),
            Some(_) => Err(Malformed),
        }
    }
}

/// Checks and converts a request's header section. How large it may be is the exchange's business, which can answer.
pub(crate) fn parse(list: &[Header]) -> Result<Parsed, Malformed> {
    let mut pseudo = Pseudo::default();
    let mut fields = list.iter();
    // RFC 9114 section 4.3: "All pseudo-header fields MUST appear in the header section before regular header fields."
    let fields = loop {
        let rest = fields.as_slice();
        match fields.next() {
            Some(field) if field.name().starts_with(b":") => pseudo.take(field.name(), field.value())?,
            _ => break rest,
        }
    };
    let mut head = start(&pseudo, fields)?;
    let mut content_length = None;
    for field in fields {
        let (name, value) = (field.name(), field.value());
        check(name, value)?;
        if name == b"content-length" {
            let length = length(value)?;
            // The same length twice is still one length; it is forwarded once.
            if content_length.replace(length).is_some_and(|known| known != length) {
                return Err(Malformed);
            }
        }
        // The authority says it, as `start` has made sure.
        if name != b"host" {
            head.push(name, value).map_err(|_| Malformed)?;
        }
    }
    if let Some(length) = content_length {
        head.set("content-length", length.to_string().as_bytes()).map_err(|_| Malformed)?;
    }
    Ok(Parsed { head, content_length })
}

/// The head with what the pseudo-header fields say.
fn start(pseudo: &Pseudo<'_>, fields: &[Header]) -> Result<Head, Malformed> {
    let method = pseudo.method.ok_or(Malformed)?;
    let mut hosts = fields.iter().filter(|field| field.name() == b"host").map(Header::value);
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(Malformed);
    }
    if method == b"CONNECT" {
        // RFC 9114 section 4.4: "The :scheme and :path pseudo-header fields are omitted."
        let authority = pseudo.authority.filter(|authority| !authority.is_empty()).ok_or(Malformed)?;
        if pseudo.scheme.is_some() || pseudo.path.is_some() {
            return Err(Malformed);
        }
        return Head::request(method, authority, b"/").map_err(|_| Malformed);
    }
    // RFC 9114 section 4.3.1: "All HTTP/3 requests MUST include exactly one value for the :method, :scheme, and :path
    // pseudo-header fields, unless the request is a CONNECT request".
    let scheme = pseudo.scheme.ok_or(Malformed)?;
    if !scheme.eq_ignore_ascii_case(b"https") && !scheme.eq_ignore_ascii_case(b"http") {
        return Err(Malformed);
    }
    // "If the :scheme pseudo-header field identifies a scheme that has a mandatory authority component (including "http"
    // and "https"), the request MUST contain either an :authority pseudo-header field or a Host header field. If these
    // fields are present, they MUST NOT be empty. If both fields are present, they MUST contain the same value." That one
    // is there is the exchange's rule, for every version.
    let authority = pseudo.authority.or(host);
    if authority.is_some_and(<[u8]>::is_empty) || host.is_some_and(|host| authority != Some(host)) {
        return Err(Malformed);
    }
    let authority = authority.unwrap_or_default();
    Head::request(method, authority, pseudo.path.ok_or(Malformed)?).map_err(|_| Malformed)
}

/// Checks and converts a trailer section.
pub(crate) fn trailers(list: &[Header], limits: &Limits) -> Result<Head, Malformed> {
    let size: usize = list.iter().map(|field| field.name().len() + field.value().len()).sum();
    if size > limits.head_bytes || list.len() > limits.head_fields {
        return Err(Malformed);
    }
    let mut head = Head::trailers();
    for field in list {
        // Pseudo-header fields "MUST NOT appear in trailer sections": the colon is no part of a token.
        check(field.name(), field.value())?;
        head.push(field.name(), field.value()).map_err(|_| Malformed)?;
    }
    Ok(head)
}

fn check(name: &[u8], value: &[u8]) -> Result<(), Malformed> {
    // RFC 9114 section 4.2: "A request or response containing uppercase characters in field names MUST be treated as
    // malformed."
    if name.starts_with(b":") || name.iter().any(u8::is_ascii_uppercase) {
        return Err(Malformed);
    }
    match name {
        // "any message containing connection-specific fields MUST be treated as malformed. The only exception to this is
        // the TE header field, [which] MUST NOT contain any value other than "trailers"."
        b"connection" | b"keep-alive" | b"proxy-connection" | b"transfer-encoding" | b"upgrade" => Err(Malformed),
        b"te" if !value.eq_ignore_ascii_case(b"trailers") => Err(Malformed),
        _ => Ok(()),
    }
}

fn length(value: &[u8]) -> Result<u64, Malformed> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(Malformed);
    }
    std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()).ok_or(Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(fields: &[(&str, &str)]) -> Vec<Header> {
        fields.iter().map(|(name, value)| Header::new(name.as_bytes(), value.as_bytes())).collect()
    }

    const GOOD: [(&str, &str); 4] =
        [(":method", "GET"), (":scheme", "https"), (":authority", "a.example"), (":path", "/x?y")];

    fn with(extra: &[(&str, &str)]) -> Result<Parsed, Malformed> {
        parse(&list(&[&GOOD[..], extra].concat()))
    }

    #[test]
    fn a_good_request_becomes_a_head_in_wire_order() {
        let extra =
            [("cookie", "a=1"), ("te", "trailers"), ("cookie", "b=2"), ("content-length", "12"), ("host", "a.example")];
        let parsed = with(&extra).unwrap();
        let head = &parsed.head;
        assert_eq!((head.method(), head.authority(), head.path()), (&b"GET"[..], &b"a.example"[..], &b"/x?y"[..]));
        let names: Vec<_> = head.fields().map(|(name, _)| name.to_vec()).collect();
        assert_eq!(names, [&b"cookie"[..], b"te", b"cookie", b"content-length"]);
        assert_eq!(parsed.content_length, Some(12));
    }

    #[test]
    fn each_missing_or_doubled_pseudo_header_is_malformed() {
        for skipped in 0..GOOD.len() {
            let mut fields = GOOD.to_vec();
            let removed = fields.remove(skipped);
            // Without an authority it is well-formed here; the exchange refuses it.
            let without = if removed.0 == ":authority" { None } else { Some(Malformed) };
            assert_eq!(parse(&list(&fields)).err(), without, "without {removed:?}");
            assert_eq!(with(&[removed]).err(), Some(Malformed), "twice {removed:?}");
        }
    }

    #[test]
    fn whatever_breaks_a_rule_for_fields_is_malformed() {
        for field in [
            ("Accept", "x"),
            ("connection", "close"),
            ("keep-alive", "1"),
            ("proxy-connection", "x"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "x"),
            ("te", "gzip"),
            ("", "x"),
            ("a b", "x"),
            ("x", "a\r\nb: c"),
            ("x", "a\0"),
            (":protocol", "websocket"),
            (":status", "200"),
            ("content-length", "1, 1"),
            ("content-length", "+1"),
            ("content-length", ""),
            ("content-length", "99999999999999999999"),
            ("host", "b.example"),
        ] {
            assert_eq!(with(&[field]).err(), Some(Malformed), "{field:?}");
        }
        assert_eq!(with(&[("content-length", "1"), ("content-length", "2")]).err(), Some(Malformed));
        assert_eq!(with(&[("content-length", "1"), ("content-length", "1")]).unwrap().head.len(), 1);
        let late = [(":method", "GET"), (":scheme", "https"), ("x", "y"), (":authority", "a"), (":path", "/")];
        assert_eq!(parse(&list(&late)).err(), Some(Malformed), "a pseudo-header after a field");
    }

    #[test]
    fn the_authority_may_be_a_host_field_and_paths_must_be_paths() {
        let host = [(":method", "GET"), (":scheme", "https"), (":path", "/"), ("host", "h.example")];
        assert_eq!(parse(&list(&host)).unwrap().head.authority(), b"h.example");
        for path in ["", "x", "/a b", "/a#b"] {
            let fields = [(":method", "GET"), (":scheme", "https"), (":authority", "a"), (":path", path)];
            assert_eq!(parse(&list(&fields)).err(), Some(Malformed), "{path:?}");
        }
        let connect = [(":method", "CONNECT"), (":authority", "a.example:443")];
        assert_eq!(parse(&list(&connect)).unwrap().head.method(), b"CONNECT");
        let connect = [(":method", "CONNECT"), (":authority", "a:1"), (":path", "/")];
        assert_eq!(parse(&list(&connect)).err(), Some(Malformed));
    }

    #[test]
    fn trailers_hold_no_pseudo_header() {
        let limits = Limits::default();
        assert_eq!(trailers(&list(&[("grpc-status", "0")]), &limits).unwrap().get("grpc-status"), Some(&b"0"[..]));
        for field in [(":path", "/"), ("Upper", "x"), ("connection", "close")] {
            assert_eq!(trailers(&list(&[field]), &limits).err(), Some(Malformed), "{field:?}");
        }
    }
}
