// SPDX-License-Identifier: GPL-3.0-only
//! The head of a message, or its trailers: one buffer, and ranges into it in wire order.
//!
//! Every front and back makes and reads heads of this type, so that header rules are written once. It promises that
//! whatever it holds can be written in any HTTP version: names are lower-case tokens, values hold no CR, LF, NUL or other
//! control character, the method is a token, the path and authority hold no space or control character. It knows nothing
//! of which fields mean what; `exchange::hygiene` does.

use std::fmt;

/// A part of a head's buffer.
#[derive(Clone, Copy, Debug, Default)]
struct Span {
    start: u32,
    len: u32,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Request { method: Span, authority: Span, path: Span },
    Response { status: u16 },
    Trailers,
}

/// A message's head or trailers.
#[derive(Clone)]
pub struct Head {
    text: Vec<u8>,
    fields: Vec<(Span, Span)>,
    kind: Kind,
}

/// Why something cannot be part of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadError {
    /// The method is empty or not a token.
    Method,
    /// The authority is not `host[:port]`.
    Authority,
    /// The path is neither `*` nor begins with `/`, or holds a space, a control character or `#`.
    Path,
    /// The status is not within 100..=599.
    Status,
    /// A field's name is not a token.
    Name,
    /// A field's value holds a control character.
    Value,
    /// The head is larger than 4 GiB, or has more fields than allowed.
    Size,
}

impl fmt::Display for HeadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            HeadError::Method => "the method is not a token",
            HeadError::Authority => "the authority is not host[:port]",
            HeadError::Path => "the path is malformed",
            HeadError::Status => "the status is outside 100..=599",
            HeadError::Name => "a field name is not a token",
            HeadError::Value => "a field value holds a control character",
            HeadError::Size => "the head is too large",
        })
    }
}

impl std::error::Error for HeadError {}

impl Head {
    /// A request's head without fields. `authority` is empty when the client gave none (HTTP/1.0); `path` is the origin
    /// form or `*`.
    pub fn request(method: &[u8], authority: &[u8], path: &[u8]) -> Result<Head, HeadError> {
        let mut head = Head::with_capacity(Kind::Trailers, 512);
        if method.is_empty() || !method.iter().all(|&b| is_token(b)) {
            return Err(HeadError::Method);
        }
        let method = head.append(method)?;
        head.kind = Kind::Request { method, authority: Span::default(), path: Span::default() };
        head.set_authority(authority)?;
        head.set_path(path)?;
        Ok(head)
    }

    /// A response's head without fields.
    pub fn response(status: u16) -> Result<Head, HeadError> {
        if !(100..=599).contains(&status) {
            return Err(HeadError::Status);
        }
        Ok(Head::with_capacity(Kind::Response { status }, 512))
    }

    /// Trailers without fields.
    pub fn trailers() -> Head {
        Head::with_capacity(Kind::Trailers, 64)
    }

    fn with_capacity(kind: Kind, bytes: usize) -> Head {
        Head { text: Vec::with_capacity(bytes), fields: Vec::with_capacity(16), kind }
    }

    /// The method; empty for what is not a request.
    pub fn method(&self) -> &[u8] {
        match self.kind {
            Kind::Request { method, .. } => self.text(method),
            _ => &[],
        }
    }

    /// `host[:port]` as the client gave it; empty when it gave none, and for what is not a request.
    pub fn authority(&self) -> &[u8] {
        match self.kind {
            Kind::Request { authority, .. } => self.text(authority),
            _ => &[],
        }
    }

    /// Path and query; empty for what is not a request.
    pub fn path(&self) -> &[u8] {
        match self.kind {
            Kind::Request { path, .. } => self.text(path),
            _ => &[],
        }
    }

    /// The status; 0 for what is not a response.
    pub fn status(&self) -> u16 {
        match self.kind {
            Kind::Response { status } => status,
            _ => 0,
        }
    }

    /// Replaces a request's authority. Userinfo is refused: RFC 9110 section 4.2.4, "a recipient SHOULD parse for
    /// userinfo and treat its presence as an error".
    pub fn set_authority(&mut self, new: &[u8]) -> Result<(), HeadError> {
        if !new.is_empty() && !is_authority(new) {
            return Err(HeadError::Authority);
        }
        let span = self.append(new)?;
        if let Kind::Request { authority, .. } = &mut self.kind {
            *authority = span;
        }
        Ok(())
    }

    /// Replaces a request's path.
    pub fn set_path(&mut self, new: &[u8]) -> Result<(), HeadError> {
        let shape = new.first() == Some(&b'/') || new == b"*";
        if !shape || !new.iter().all(|&b| b > b' ' && b != 0x7f && b != b'#') {
            return Err(HeadError::Path);
        }
        let span = self.append(new)?;
        if let Kind::Request { path, .. } = &mut self.kind {
            *path = span;
        }
        Ok(())
    }

    /// Appends a field. The name is made lower-case; whitespace around the value is dropped.
    pub fn push(&mut self, name: &[u8], value: &[u8]) -> Result<(), HeadError> {
        if name.is_empty() || !name.iter().all(|&b| is_token(b)) {
            return Err(HeadError::Name);
        }
        let value = trim(value);
        if !value.iter().all(|&b| is_value(b)) {
            return Err(HeadError::Value);
        }
        let start = self.text.len();
        let name_span = self.append(name)?;
        if let Some(written) = self.text.get_mut(start..) {
            written.make_ascii_lowercase();
        }
        let value_span = self.append(value)?;
        self.fields.push((name_span, value_span));
        Ok(())
    }

    /// Every field in wire order, as (name, value).
    pub fn fields(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.fields.iter().map(|&(name, value)| (self.text(name), self.text(value)))
    }

    /// The first value of a field; `name` is lower-case.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.fields().find(|(n, _)| *n == name.as_bytes()).map(|(_, value)| value)
    }

    /// Every value of a field in wire order; `name` is lower-case.
    pub fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.fields().filter(move |(n, _)| *n == name.as_bytes()).map(|(_, value)| value)
    }

    /// Drops every field of that name; `name` is lower-case. Returns whether there was one.
    pub fn remove(&mut self, name: &str) -> bool {
        let before = self.fields.len();
        self.retain(|n, _| n != name.as_bytes());
        before != self.fields.len()
    }

    /// Replaces every field of that name by one at the end.
    pub fn set(&mut self, name: &str, value: &[u8]) -> Result<(), HeadError> {
        self.remove(name);
        self.push(name.as_bytes(), value)
    }

    /// Keeps the fields for which `keep(name, value)` holds.
    pub fn retain(&mut self, mut keep: impl FnMut(&[u8], &[u8]) -> bool) {
        let text = &self.text;
        self.fields.retain(|&(name, value)| keep(slice(text, name), slice(text, value)));
    }

    /// How many fields there are.
    pub fn len(&self) -> usize {
        self.fields.len()
    }

    /// Bytes of everything that was put in.
    pub fn size(&self) -> usize {
        self.text.len()
    }

    /// Whether there is no field.
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    fn append(&mut self, bytes: &[u8]) -> Result<Span, HeadError> {
        let start = u32::try_from(self.text.len()).map_err(|_| HeadError::Size)?;
        let len = u32::try_from(bytes.len()).map_err(|_| HeadError::Size)?;
        self.text.extend_from_slice(bytes);
        Ok(Span { start, len })
    }

    fn text(&self, span: Span) -> &[u8] {
        slice(&self.text, span)
    }
}

impl fmt::Debug for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        f.debug_struct("Head")
            .field("method", &lossy(self.method()))
            .field("authority", &lossy(self.authority()))
            .field("path", &lossy(self.path()))
            .field("status", &self.status())
            .field("fields", &self.fields().map(|(n, v)| (lossy(n), lossy(v))).collect::<Vec<_>>())
            .finish()
    }
}

fn slice(text: &[u8], span: Span) -> &[u8] {
    let start = span.start as usize;
    text.get(start..start + span.len as usize).unwrap_or_default()
}

/// RFC 9110 section 5.5: "field values containing CR, LF, or NUL characters are invalid and dangerous"; leading and
/// trailing whitespace is no part of the value.
fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = value {
        value = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// RFC 9110 section 5.6.2, tchar.
pub(crate) fn is_token(byte: u8) -> bool {
    matches!(byte, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^'..=b'z' | b'|' | b'~' | b'0'..=b'9' | b'A'..=b'Z')
}

fn is_value(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

/// `host[:port]` (RFC 3986 section 3.2): a bracketed address or a name, and a port of digits.
fn is_authority(authority: &[u8]) -> bool {
    let (host, port) = match authority {
        [b'[', rest @ ..] => match rest.iter().position(|&b| b == b']') {
            Some(end) => rest.split_at(end),
            None => return false,
        },
        _ => authority.split_at(authority.iter().position(|&b| b == b':').unwrap_or(authority.len())),
    };
    let bracketed = authority.first() == Some(&b'[');
    let port = if bracketed { port.get(1..).unwrap_or_default() } else { port };
    let host_ok = |&b: &u8| if bracketed { b.is_ascii_hexdigit() || b == b':' || b == b'.' } else { is_host(b) };
    let port_ok = port.is_empty() || (port.first() == Some(&b':') && port.iter().skip(1).all(u8::is_ascii_digit));
    !host.is_empty() && host.iter().all(host_ok) && port_ok
}

/// What may stand in a registered name (RFC 3986 section 3.2.2), but no comma: it separates what two Host fields merged
/// into one would name.
fn is_host(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'%' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+')
        || matches!(byte, b';' | b'=')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_lower_cased_and_order_is_kept() {
        let mut head = Head::request(b"GET", b"a.example", b"/x?y").unwrap();
        head.push(b"X-B", b" 1 ").unwrap();
        head.push(b"x-a", b"2").unwrap();
        head.push(b"X-b", b"3").unwrap();
        let fields: Vec<_> = head.fields().collect();
        assert_eq!(fields, [(&b"x-b"[..], &b"1"[..]), (b"x-a", b"2"), (b"x-b", b"3")]);
        assert_eq!(head.values("x-b").collect::<Vec<_>>(), [b"1", b"3"]);
        assert!(head.remove("x-b"));
        assert_eq!(head.len(), 1);
        assert_eq!((head.method(), head.authority(), head.path()), (&b"GET"[..], &b"a.example"[..], &b"/x?y"[..]));
    }

    #[test]
    fn nothing_that_could_split_a_message_enters_a_head() {
        let mut head = Head::response(200).unwrap();
        assert_eq!(head.push(b"a\r\nb", b"1"), Err(HeadError::Name));
        assert_eq!(head.push(b"a b", b"1"), Err(HeadError::Name));
        assert_eq!(head.push(b"", b"1"), Err(HeadError::Name));
        for value in [&b"1\r\nx: y"[..], b"1\n2", b"1\r2", b"1\0", b"\x7f"] {
            assert_eq!(head.push(b"a", value), Err(HeadError::Value), "{value:?}");
        }
        assert!(head.is_empty());
        assert_eq!(Head::request(b"GE T", b"a", b"/").err(), Some(HeadError::Method));
        assert_eq!(Head::request(b"GET", b"u@a", b"/").err(), Some(HeadError::Authority));
        assert_eq!(Head::request(b"GET", b"a", b"x").err(), Some(HeadError::Path));
        assert_eq!(Head::request(b"GET", b"a", b"/ x").err(), Some(HeadError::Path));
        assert_eq!(Head::response(99).err(), Some(HeadError::Status));
    }
}
