// SPDX-License-Identifier: GPL-3.0-only
//! Bodies from bytes (RFC 9112 sections 6 and 7): a decoder that takes exactly its message's bytes out of a buffer.

use super::{Bad, Bounds, Length, parse};
use crate::head::Head;
use crate::stream::Frame;
use bytes::{Buf, BytesMut};

/// The longest chunk-size line, with its extensions and line end. The largest size takes 16 digits; extensions are never
/// used honestly. When it is longer the message is malformed.
const SIZE_LINE: usize = 256;

/// Bytes of chunk extensions in one body: they are paid for and carry nothing.
const EXTENSIONS: usize = 16 * 1024;

/// Decodes one message's body.
#[derive(Debug)]
pub(crate) struct Decoder {
    state: State,
    bounds: Bounds,
    extensions: usize,
    scanned: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Exact(u64),
    Close,
    Size,
    Data(u64),
    DataEnd,
    Trailers,
    Done,
}

impl Decoder {
    /// For a body of that length; `bounds` hold for trailers.
    pub(crate) fn new(length: Length, bounds: Bounds) -> Decoder {
        let state = match length {
            Length::None | Length::Exact(0) => State::Done,
            Length::Exact(length) => State::Exact(length),
            Length::Chunked => State::Size,
            Length::Close => State::Close,
        };
        Decoder { state, bounds, extensions: 0, scanned: 0 }
    }

    /// Whether the body's end was taken out of the buffer.
    pub(crate) fn done(&self) -> bool {
        self.state == State::Done
    }

    /// Whether the end of the connection is the end of the body.
    pub(crate) fn until_close(&self) -> bool {
        self.state == State::Close
    }

    /// The next frame; `None` when more bytes are needed. Not to be called once it is [`done`](Self::done).
    pub(crate) fn decode(&mut self, bytes: &mut BytesMut) -> Result<Option<Frame>, Bad> {
        loop {
            match self.state {
                State::Done => return Ok(Some(Frame::End)),
                State::Close | State::Exact(_) | State::Data(_) if bytes.is_empty() => return Ok(None),
                State::Close => return Ok(Some(Frame::Data(bytes.split().freeze()))),
                State::Exact(left) => {
                    let (taken, left) = take(bytes, left);
                    self.state = if left == 0 { State::Done } else { State::Exact(left) };
                    return Ok(Some(taken));
                }
                State::Data(left) => {
                    let (taken, left) = take(bytes, left);
                    self.state = if left == 0 { State::DataEnd } else { State::Data(left) };
                    return Ok(Some(taken));
                }
                State::DataEnd => match (bytes.first(), bytes.get(1)) {
                    (Some(b'\r'), Some(b'\n')) => {
                        bytes.advance(2);
                        self.state = State::Size;
                    }
                    (None, _) | (Some(b'\r'), None) => return Ok(None),
                    _ => return Err(Bad::Malformed),
                },
                State::Size => match self.size(bytes)? {
                    None => return Ok(None),
                    Some(0) => self.state = State::Trailers,
                    Some(size) => self.state = State::Data(size),
                },
                State::Trailers => return self.trailers(bytes),
            }
        }
    }

    /// RFC 9112 section 7.1: chunk-size [ chunk-ext ] CRLF. "A recipient MUST ignore unrecognized chunk extensions"; all
    /// are, but their total is bounded, and they hold no control character.
    fn size(&mut self, bytes: &mut BytesMut) -> Result<Option<u64>, Bad> {
        let window = bytes.get(..bytes.len().min(SIZE_LINE)).unwrap_or_default();
        let Some(line_end) = window.iter().position(|&b| b == b'\n') else {
            return if window.len() == SIZE_LINE { Err(Bad::Malformed) } else { Ok(None) };
        };
        let line = window.get(..line_end).and_then(|line| line.strip_suffix(b"\r")).ok_or(Bad::Malformed)?;
        let digits = line.iter().position(|b| !b.is_ascii_hexdigit()).unwrap_or(line.len());
        let (digits, extension) = line.split_at(digits);
        // 15 digits are beyond any body, and 16 could overflow what is computed from them.
        if digits.is_empty() || digits.len() > 15 || !matches!(extension, [] | [b';', ..]) {
            return Err(Bad::Malformed);
        }
        if extension.iter().any(|&b| (b < b' ' && b != b'\t') || b == 0x7f) {
            return Err(Bad::Malformed);
        }
        self.extensions += extension.len();
        if self.extensions > EXTENSIONS {
            return Err(Bad::TooLarge);
        }
        let hex = |digit: &u8| u64::from((*digit as char).to_digit(16).unwrap_or(0));
        let size = digits.iter().fold(0, |sum, digit| sum << 4 | hex(digit));
        bytes.advance(line_end + 1);
        Ok(Some(size))
    }

    fn trailers(&mut self, bytes: &mut BytesMut) -> Result<Option<Frame>, Bad> {
        if bytes.starts_with(b"\r\n") {
            bytes.advance(2);
            self.state = State::Done;
            return Ok(Some(Frame::End));
        }
        let Some(end) = parse::end(bytes, &mut self.scanned, self.bounds)? else { return Ok(None) };
        let section = bytes.split_to(end);
        let trailers: Head = parse::trailers(&section, self.bounds)?;
        self.state = State::Done;
        Ok(Some(if trailers.is_empty() { Frame::End } else { Frame::Trailers(trailers) }))
    }
}

fn take(bytes: &mut BytesMut, left: u64) -> (Frame, u64) {
    let len = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
    (Frame::Data(bytes.split_to(len).freeze()), left - len as u64)
}
