// SPDX-License-Identifier: GPL-3.0-only
//! Which fields cross the gateway, and what it adds. Written once for every pair of HTTP versions.

use super::Request;
use crate::date;
use crate::error::Refusal;
use crate::head::Head;
use crate::observe::Protocol;
use crate::route::path;
use std::borrow::Cow;

/// RFC 9110 section 7.6.1: fields of one connection, not of the message. Upgrade goes with them: what it asks for is not
/// offered.
const HOP_BY_HOP: [&[u8]; 7] =
    [b"connection", b"keep-alive", b"proxy-connection", b"te", b"transfer-encoding", b"upgrade", b"http2-settings"];

/// RFC 9110 section 6.5.1: a sender "MUST NOT generate a trailer field unless the sender knows the corresponding header
/// field name's definition permits sending it in a trailer section". What frames, routes, authenticates, controls or
/// describes the content is never permitted, and what says who the client is would be forged: a recipient that merges
/// trailers into the head would believe it. One list for both directions; [`in_trailers`] adds families of names.
const NOT_IN_TRAILERS: [&[u8]; 36] = [
    b"age",
    b"allow",
    b"alt-svc",
    b"authorization",
    b"cache-control",
    b"clear-site-data",
    b"cookie",
    b"date",
    b"early-data",
    b"etag",
    b"expect",
    b"expires",
    b"forwarded",
    b"from",
    b"host",
    b"last-modified",
    b"location",
    b"max-forwards",
    b"origin",
    b"pragma",
    b"range",
    b"referer",
    b"refresh",
    b"retry-after",
    b"server",
    b"set-cookie",
    b"strict-transport-security",
    b"trailer",
    b"true-client-ip",
    b"user-agent",
    b"vary",
    b"via",
    b"warning",
    b"www-authenticate",
    b"x-client-ip",
    b"x-real-ip",
];

/// Families of which none is for trailers: description of the content, conditions, negotiation, CORS, proxies.
const NOT_IN_TRAILERS_PREFIXES: [&[u8]; 7] =
    [b"accept", b"access-control-", b"content-", b"if-", b"proxy-", b"sec-", b"x-forwarded-"];

/// Brings a request into the form in which it is forwarded, or says what is wrong with it.
pub(crate) fn request(request: &mut Request) -> Result<(), Refusal> {
    let (fields, bytes) = (request.limits().head_fields, request.limits().head_bytes);
    let head = &mut request.head;
    if head.len() > fields || head.size() > bytes {
        return Err(Refusal::HeadTooLarge);
    }
    if matches!(head.method(), b"CONNECT" | b"TRACE") {
        return Err(Refusal::Method);
    }
    if head.values("expect").any(|value| !value.eq_ignore_ascii_case(b"100-continue")) {
        return Err(Refusal::Expectation);
    }
    one_authority(head, request.http10)?;
    one_path(head)?;
    content_length(head, request.end)?;
    let head = &mut request.head;
    if request.protocol != Protocol::H1 && head.fields().any(|(name, value)| belongs_to_h1(name, value)) {
        return Err(Refusal::BadRequest);
    }
    hop_by_hop(head);
    one_cookie(head)?;
    forwarded(request).map_err(|_| Refusal::BadRequest)?;
    let head = &mut request.head;
    if request.end && matches!(head.method(), b"POST" | b"PUT" | b"PATCH") && head.get("content-length").is_none() {
        // RFC 9110 section 8.6: "A user agent SHOULD send Content-Length in a request when the method defines a meaning
        // for enclosed content". Some servers wait for a body otherwise.
        head.push(b"content-length", b"0").map_err(|_| Refusal::BadRequest)?;
    }
    Ok(())
}

/// Brings a final response into the form in which it is forwarded.
pub(crate) fn response(head: &mut Head, request: &Request) -> Result<(), Refusal> {
    hop_by_hop(head);
    // RFC 9110 section 6.6.1: whoever receives a response without a Date "MUST record the time it was received and append a
    // corresponding Date header field [...] if it is cached or forwarded downstream".
    if head.get("date").is_none() {
        head.push(b"date", date::now().as_bytes()).map_err(|_| Refusal::BadGateway)?;
    }
    // What the backend spoke.
    head.push(b"via", via(false, Protocol::H1)).map_err(|_| Refusal::BadGateway)?;
    if let Some(alt_svc) = request.view.alt_svc.as_ref().filter(|_| request.protocol != Protocol::H3) {
        head.set("alt-svc", alt_svc.as_bytes()).map_err(|_| Refusal::BadGateway)?;
    }
    Ok(())
}

/// Brings a 1xx response into the form in which it is forwarded: it has no content, so nothing may say that it has.
pub(crate) fn informational(head: &mut Head) {
    hop_by_hop(head);
    head.remove("content-length");
}

/// Brings trailers into the form in which they are forwarded.
pub(crate) fn trailers(trailers: &mut Head) {
    hop_by_hop(trailers);
    trailers.retain(|name, _| in_trailers(name));
}

/// Whether a field may come in trailers. Digests are made for them (RFC 9530 section 2).
fn in_trailers(name: &[u8]) -> bool {
    let family = NOT_IN_TRAILERS_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
    name == b"content-digest" || !(family || NOT_IN_TRAILERS.contains(&name))
}

/// Removes what is the connection's: the known fields, and those that Connection names, but not what frames or routes the
/// message, whose removal only an attacker asks for.
fn hop_by_hop(head: &mut Head) {
    let named: Vec<Vec<u8>> = head
        .values("connection")
        .flat_map(|value| value.split(|&b| b == b','))
        .map(|option| option.trim_ascii().to_ascii_lowercase())
        .filter(|option| !matches!(&option[..], b"" | b"close" | b"keep-alive" | b"content-length" | b"host"))
        .collect();
    head.retain(|name, _| !HOP_BY_HOP.contains(&name) && !named.iter().any(|option| option == name));
}

/// RFC 9113 section 8.2.2, RFC 9114 section 4.2: connection-specific fields make an HTTP/2 or HTTP/3 message malformed.
fn belongs_to_h1(name: &[u8], value: &[u8]) -> bool {
    if name == b"te" { value != b"trailers" } else { HOP_BY_HOP.contains(&name) && name != b"http2-settings" }
}

/// RFC 9113 section 8.3.1: Host must not differ from the authority. Afterwards the authority is the only place for it.
/// RFC 9112 section 3.2, RFC 9114 section 4.3.1: one of both there must be; only HTTP/1.0 knows none.
fn one_authority(head: &mut Head, http10: bool) -> Result<(), Refusal> {
    let mut hosts = head.values("host");
    let (first, second) = (hosts.next().map(<[u8]>::to_vec), hosts.next());
    if second.is_some() {
        return Err(Refusal::BadRequest);
    }
    drop(hosts);
    if let Some(host) = first {
        if head.authority().is_empty() {
            head.set_authority(&host).map_err(|_| Refusal::BadRequest)?;
        } else if !head.authority().eq_ignore_ascii_case(&host) {
            return Err(Refusal::BadRequest);
        }
        head.remove("host");
    }
    if head.authority().is_empty() && !http10 { Err(Refusal::BadRequest) } else { Ok(()) }
}

/// What is matched against routes is what is forwarded: a backend must not find another path in it than we did.
fn one_path(head: &mut Head) -> Result<(), Refusal> {
    if head.path() == b"*" {
        return Ok(());
    }
    let changed = match path::normal(head.path()).map_err(|_| Refusal::BadRequest)? {
        Cow::Borrowed(_) => return Ok(()),
        Cow::Owned(changed) => changed,
    };
    head.set_path(&changed).map_err(|_| Refusal::BadRequest)
}

fn content_length(head: &Head, end: bool) -> Result<(), Refusal> {
    let mut lengths = head.values("content-length");
    match (lengths.next(), lengths.next()) {
        (None, _) => Ok(()),
        (Some(value), None) => match crate::h1::parse::length(value) {
            Some(length) if end == (length == 0) => Ok(()),
            // A length of 0 with an open stream: the end comes as an empty frame.
            Some(0) => Ok(()),
            _ => Err(Refusal::BadRequest),
        },
        _ => Err(Refusal::BadRequest),
    }
}

/// RFC 9113 section 8.2.3: cookie crumbs "MUST be concatenated into a single octet string using the two-octet delimiter
/// of 0x3b, 0x20" before they leave HTTP/2.
fn one_cookie(head: &mut Head) -> Result<(), Refusal> {
    if head.values("cookie").nth(1).is_none() {
        return Ok(());
    }
    let joined = head.values("cookie").collect::<Vec<_>>().join(&b"; "[..]);
    head.set("cookie", &joined).map_err(|_| Refusal::BadRequest)
}

/// Tells the backend who asked and how. No proxy in front of us is trusted yet, so what the client says of it is replaced.
fn forwarded(request: &mut Request) -> Result<(), crate::head::HeadError> {
    let Request { head, peer, secure, protocol, http10, .. } = request;
    head.retain(|name, _| {
        !matches!(name, b"forwarded" | b"x-forwarded-for" | b"x-forwarded-proto" | b"x-forwarded-host" | b"x-real-ip")
    });
    let mut text = [0; 64];
    let address = write_to(&mut text, format_args!("{}", peer.ip().to_canonical()));
    head.push(b"x-forwarded-for", address)?;
    head.push(b"x-forwarded-proto", if *secure { b"https" } else { b"http" })?;
    if !head.authority().is_empty() {
        let authority = head.authority().to_vec();
        head.push(b"x-forwarded-host", &authority)?;
    }
    head.push(b"via", via(*http10, *protocol))
}

/// RFC 9110 section 7.6.3, under a pseudonym: our host's name is nobody's business.
fn via(http10: bool, protocol: Protocol) -> &'static [u8] {
    match protocol {
        Protocol::H1 if http10 => b"1.0 expressgateway",
        Protocol::H1 => b"1.1 expressgateway",
        Protocol::H2 => b"2 expressgateway",
        Protocol::H3 => b"3 expressgateway",
    }
}

/// Formats into a buffer on the stack.
fn write_to<'a>(buffer: &'a mut [u8], what: std::fmt::Arguments<'_>) -> &'a [u8] {
    use std::io::Write;
    let mut cursor = std::io::Cursor::new(buffer);
    // An address always fits; if it did not, it would be cut.
    let _ = cursor.write_fmt(what);
    let len = usize::try_from(cursor.position()).unwrap_or(0);
    cursor.into_inner().get(..len).unwrap_or_default()
}
