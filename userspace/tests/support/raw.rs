// SPDX-License-Identifier: GPL-3.0-only
//! An HTTP/1.1 client made of bytes: what no well-behaved client would send, and exactly what came back.
//!
//! The reader is lenient on purpose where leniency cannot hide a defect; it reports how the connection ended, because
//! for half of these tests that is the answer.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::SOON;

/// One response as read from a socket.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<(String, String)>,
    pub(crate) informational: Vec<u16>,
}

impl Answer {
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// A cleartext connection with what was read and not yet used.
pub(crate) struct Raw {
    pub(crate) socket: TcpStream,
    buffer: Vec<u8>,
}

impl Raw {
    pub(crate) fn connect(address: SocketAddr) -> Raw {
        Raw::try_connect(address).expect("connect to the gateway")
    }

    pub(crate) fn try_connect(address: SocketAddr) -> io::Result<Raw> {
        let socket = TcpStream::connect(address)?;
        socket.set_read_timeout(Some(SOON)).expect("set a read timeout");
        socket.set_write_timeout(Some(SOON)).expect("set a write timeout");
        socket.set_nodelay(true).expect("set nodelay");
        Ok(Raw { socket, buffer: Vec::new() })
    }

    /// Sends all of it; a peer that already closed is not an error here: the answer will tell.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Raw {
        let _ = self.socket.write_all(bytes.as_ref());
        self
    }

    /// The same where being refused is a failure.
    pub(crate) fn send_whole(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.socket.write_all(bytes.as_ref())
    }

    /// The next response, its body read by its own framing (`head_only` for the answer to HEAD). An error is how the
    /// connection ended before the response did.
    pub(crate) fn answer(&mut self, head_only: bool) -> io::Result<Answer> {
        let mut informational = Vec::new();
        loop {
            let head = self.until(b"\r\n\r\n")?;
            let (status, fields) = parse_head(&head)?;
            if (100..200).contains(&status) && status != 101 {
                informational.push(status);
                continue;
            }
            let mut answer = Answer { status, fields, body: Vec::new(), trailers: Vec::new(), informational };
            if head_only || status == 204 || status == 304 || status == 101 {
                return Ok(answer);
            }
            if answer.field("transfer-encoding").is_some() {
                (answer.body, answer.trailers) = self.chunked()?;
            } else if let Some(length) = answer.field("content-length").map(str::to_owned) {
                let length = length.parse().map_err(|_| odd("content-length is not a number"))?;
                answer.body = self.exactly(length)?;
            } else {
                answer.body = self.rest()?;
            }
            return Ok(answer);
        }
    }

    /// Everything until the peer ends the connection properly.
    pub(crate) fn rest(&mut self) -> io::Result<Vec<u8>> {
        while self.fill()? > 0 {}
        Ok(std::mem::take(&mut self.buffer))
    }

    /// True when the peer closes within `limit` and sends nothing before it does. A reset counts: after an error answer
    /// the kernel sends one if bytes of ours were still unread.
    pub(crate) fn closes_within(&mut self, limit: Duration) -> bool {
        self.socket.set_read_timeout(Some(limit)).expect("set a read timeout");
        let result = self.fill();
        self.socket.set_read_timeout(Some(SOON)).expect("set a read timeout");
        match result {
            Ok(0) => self.buffer.is_empty(),
            Ok(_) => false,
            Err(error) => matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe),
        }
    }

    fn chunked(&mut self) -> io::Result<(Vec<u8>, Vec<(String, String)>)> {
        let mut body = Vec::new();
        loop {
            let line = self.until(b"\r\n")?;
            let size = std::str::from_utf8(&line).ok().and_then(|line| line.trim_end().split(';').next());
            let size =
                size.and_then(|size| usize::from_str_radix(size, 16).ok()).ok_or_else(|| odd("bad chunk size"))?;
            if size == 0 {
                break;
            }
            body.extend(self.exactly(size)?);
            if self.exactly(2)? != b"\r\n" {
                return Err(odd("a chunk does not end where it says"));
            }
        }
        let mut trailers = Vec::new();
        loop {
            let line = self.until(b"\r\n")?;
            if line == b"\r\n" {
                return Ok((body, trailers));
            }
            trailers.push(parse_field(&line)?);
        }
    }

    /// Bytes up to and with `end`.
    pub(crate) fn until(&mut self, end: &[u8]) -> io::Result<Vec<u8>> {
        loop {
            if let Some(at) = self.buffer.windows(end.len()).position(|window| window == end) {
                return Ok(self.buffer.drain(..at + end.len()).collect());
            }
            if self.fill()? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    pub(crate) fn exactly(&mut self, count: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < count {
            if self.fill()? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(self.buffer.drain(..count).collect())
    }

    /// Puts back what `exactly` took.
    pub(crate) fn unread(&mut self, bytes: &[u8]) {
        self.buffer.splice(..0, bytes.iter().copied());
    }

    fn fill(&mut self) -> io::Result<usize> {
        let mut piece = [0; 16 * 1024];
        let count = self.socket.read(&mut piece)?;
        self.buffer.extend_from_slice(&piece[..count]);
        Ok(count)
    }
}

pub(crate) fn odd(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn parse_head(head: &[u8]) -> io::Result<(u16, Vec<(String, String)>)> {
    let mut lines = head.split(|byte| *byte == b'\n').filter(|line| *line != b"\r" && !line.is_empty());
    let first = String::from_utf8_lossy(lines.next().unwrap_or_default()).into_owned();
    let status = first.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)).and_then(|code| code.parse().ok());
    let status = status.ok_or_else(|| odd(&format!("not a status line: {first:?}")))?;
    Ok((status, lines.map(parse_field).collect::<io::Result<_>>()?))
}

pub(crate) fn parse_field(line: &[u8]) -> io::Result<(String, String)> {
    let line = String::from_utf8_lossy(line);
    let (name, value) =
        line.trim_end_matches(['\r', '\n']).split_once(':').ok_or_else(|| odd("a field without a colon"))?;
    Ok((name.to_owned(), value.trim().to_owned()))
}
