// SPDX-License-Identifier: GPL-3.0-only
//! A backend made of sockets and threads: it records each request byte for byte and answers as the test says.
//!
//! It reads requests strictly (a framing that a backend should never see from a gateway is recorded as an oddity), keeps
//! connections alive until the handler says otherwise, and counts connections, so that reuse can be told from luck.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};
use sha2::{Digest, Sha256};

use super::bytes;
use super::raw::{odd, parse_field};
use super::{SOON, wait_for};

/// One request as it arrived.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    /// Which accepted connection it came on, from 0.
    pub(crate) connection: usize,
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) fields: Vec<(String, String)>,
    /// The head's bytes.
    pub(crate) head: Vec<u8>,
    /// `None` until the handler asked for the body.
    pub(crate) body: Option<Body>,
}

/// A request body as it arrived.
#[derive(Debug, Clone, Default)]
pub(crate) struct Body {
    pub(crate) len: u64,
    pub(crate) sha256: String,
    pub(crate) trailers: Vec<(String, String)>,
    /// It ended where its framing said, and not because the connection did.
    pub(crate) complete: bool,
}

impl Seen {
    /// The values of `name`, in order.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        let own = self.fields.iter().filter(|(own, _)| own.eq_ignore_ascii_case(name));
        own.map(|(_, value)| value.as_str()).collect()
    }

    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.all(name).first().copied()
    }

    pub(crate) fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }
}

/// What becomes of the connection after a handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    Keep,
    Close,
    /// RST, not FIN.
    Reset,
}

type Handler = dyn Fn(&mut Call<'_>) -> io::Result<Then> + Send + Sync;

#[derive(Default)]
struct Shared {
    accepted: AtomicUsize,
    open: AtomicUsize,
    sent: AtomicU64,
    received: AtomicU64,
    stopping: AtomicBool,
    seen: Mutex<Vec<Seen>>,
    oddities: Mutex<Vec<String>>,
}

/// A listening backend. Dropping it stops accepting; connections end by themselves.
pub(crate) struct Origin {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

impl Origin {
    /// The backend that most tests use: see [`super::routes`].
    pub(crate) fn standard() -> Origin {
        Origin::start(super::routes::answer)
    }

    pub(crate) fn start(handler: impl Fn(&mut Call<'_>) -> io::Result<Then> + Send + Sync + 'static) -> Origin {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("bind a backend");
        let address = listener.local_addr().expect("ask a backend's address");
        // Small buffers, inherited by what it accepts: "the backend sent it" is then little more than "the gateway took it".
        setsockopt(&listener, sockopt::RcvBuf, &(128 * 1024)).expect("set a receive buffer");
        setsockopt(&listener, sockopt::SndBuf, &(128 * 1024)).expect("set a send buffer");
        let shared = Arc::new(Shared::default());
        let handler: Arc<Handler> = Arc::new(handler);
        let serving = shared.clone();
        std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                if serving.stopping.load(Ordering::SeqCst) {
                    return;
                }
                let connection = serving.accepted.fetch_add(1, Ordering::SeqCst);
                serving.open.fetch_add(1, Ordering::SeqCst);
                let (shared, handler) = (serving.clone(), handler.clone());
                std::thread::spawn(move || {
                    let _open = Open(shared.clone());
                    serve(connection, socket, &shared, &*handler);
                });
            }
        });
        Origin { address, shared }
    }

    /// Connections accepted so far.
    pub(crate) fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// Connections still open.
    pub(crate) fn open(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }

    /// Response body bytes that the kernel took from the handlers.
    pub(crate) fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::SeqCst)
    }

    /// Request body bytes read.
    pub(crate) fn received(&self) -> u64 {
        self.shared.received.load(Ordering::SeqCst)
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        lock(&self.shared.seen).clone()
    }

    /// The last request for `path`, without its query.
    #[track_caller]
    pub(crate) fn last(&self, path: &str) -> Seen {
        let seen = self.seen();
        let found = seen.iter().rev().find(|seen| seen.path() == path);
        found.unwrap_or_else(|| panic!("the backend saw no request for {path}; it saw {seen:?}")).clone()
    }

    /// What no gateway should ever have sent.
    pub(crate) fn oddities(&self) -> Vec<String> {
        lock(&self.shared.oddities).clone()
    }

    #[track_caller]
    pub(crate) fn wait_open(&self, count: usize, what: &str) {
        wait_for(what, SOON, || (self.open() == count).then_some(()));
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        // Wakes the accepting thread, which then returns and closes the listener.
        let _ = TcpStream::connect_timeout(&self.address, Duration::from_secs(1));
    }
}

/// Counts a connection as open until its thread ends, however it ends.
struct Open(Arc<Shared>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One request being answered.
pub(crate) struct Call<'a> {
    pub(crate) seen: Seen,
    pub(crate) socket: &'a mut TcpStream,
    /// How many requests this connection carried before.
    pub(crate) earlier: usize,
    buffer: &'a mut Vec<u8>,
    shared: &'a Shared,
    index: usize,
}

fn serve(connection: usize, mut socket: TcpStream, shared: &Shared, handler: &Handler) {
    let _ = socket.set_nodelay(true);
    let mut buffer = Vec::new();
    for earlier in 0.. {
        let head = match head(&mut socket, &mut buffer) {
            Ok(Some(head)) => head,
            Ok(None) | Err(_) => return,
        };
        let mut seen = match parse(&head) {
            Ok(seen) => seen,
            Err(error) => {
                lock(&shared.oddities).push(format!("{error}: {:?}", String::from_utf8_lossy(&head)));
                return;
            }
        };
        seen.connection = connection;
        let index = {
            let mut all = lock(&shared.seen);
            all.push(seen.clone());
            all.len() - 1
        };
        let mut call = Call { seen, socket: &mut socket, earlier, buffer: &mut buffer, shared, index };
        match handler(&mut call) {
            Ok(Then::Keep) => {}
            Ok(Then::Close) | Err(_) => {
                let _ = socket.shutdown(Shutdown::Both);
                return;
            }
            Ok(Then::Reset) => {
                let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
                let _ = setsockopt(&socket, sockopt::Linger, &linger);
                return;
            }
        }
    }
}

impl Call<'_> {
    /// Reads the whole request body, or what there is of it, and records it.
    pub(crate) fn body(&mut self) -> Body {
        self.body_paced(|_| {})
    }

    /// As `body`, telling `pace` the bytes read so far after every read.
    pub(crate) fn body_paced(&mut self, mut pace: impl FnMut(u64)) -> Body {
        let mut hash = Sha256::new();
        let mut body = Body::default();
        let chunked = self.seen.field("transfer-encoding").is_some();
        let length = self.seen.field("content-length").and_then(|value| value.parse().ok()).unwrap_or(0);
        let result = if chunked {
            self.chunks(&mut hash, &mut body, &mut pace)
        } else {
            self.take(length, &mut hash, &mut body, &mut pace)
        };
        if let Err(error) = &result
            && error.kind() == io::ErrorKind::InvalidData
        {
            lock(&self.shared.oddities).push(error.to_string());
        }
        body.complete = result.is_ok();
        body.sha256 = bytes::hex(hash);
        if let Some(seen) = lock(&self.shared.seen).get_mut(self.index) {
            seen.body = Some(body.clone());
        }
        self.seen.body = Some(body.clone());
        body
    }

    fn chunks(&mut self, hash: &mut Sha256, body: &mut Body, pace: &mut dyn FnMut(u64)) -> io::Result<()> {
        loop {
            let line = line(self.socket, self.buffer)?;
            let text = std::str::from_utf8(&line).map_err(|_| odd("a chunk size that is not text"))?;
            let size = text.strip_suffix("\r\n").ok_or_else(|| odd("a chunk size that ends in a bare LF"))?;
            if size.is_empty() || !size.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return Err(odd(&format!("chunk size {size:?}")));
            }
            let size = u64::from_str_radix(size, 16).map_err(|_| odd("a chunk size beyond 64 bits"))?;
            if size == 0 {
                break;
            }
            self.take(size, hash, body, pace)?;
            if line_end(self.socket, self.buffer)? != *b"\r\n" {
                return Err(odd("a chunk that does not end where it says"));
            }
        }
        loop {
            let line = line(self.socket, self.buffer)?;
            if line == b"\r\n" {
                return Ok(());
            }
            body.trailers.push(parse_field(&line)?);
        }
    }

    fn take(&mut self, mut left: u64, hash: &mut Sha256, body: &mut Body, pace: &mut dyn FnMut(u64)) -> io::Result<()> {
        while left > 0 {
            if self.buffer.is_empty() {
                fill(self.socket, self.buffer)?;
            }
            let count = left.min(self.buffer.len() as u64) as usize;
            hash.update(&self.buffer[..count]);
            self.buffer.drain(..count);
            left -= count as u64;
            body.len += count as u64;
            self.shared.received.fetch_add(count as u64, Ordering::SeqCst);
            pace(body.len);
        }
        Ok(())
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.socket.write_all(bytes.as_ref())
    }

    /// A whole response with a length.
    pub(crate) fn reply(&mut self, status: &str, fields: &str, body: impl AsRef<[u8]>) -> io::Result<Then> {
        let body = body.as_ref();
        let mut all = format!("HTTP/1.1 {status}\r\n{fields}Content-Length: {}\r\n\r\n", body.len()).into_bytes();
        if self.seen.method != "HEAD" {
            all.extend_from_slice(body);
        }
        self.send(all)?;
        Ok(Then::Keep)
    }

    /// The first `len` bytes of the pattern, counted as the kernel takes them.
    pub(crate) fn send_pattern(&mut self, len: u64) -> io::Result<()> {
        for piece in bytes::pieces(len) {
            self.counted(piece)?;
        }
        Ok(())
    }

    pub(crate) fn send_chunk(&mut self, piece: &[u8]) -> io::Result<()> {
        self.send(format!("{:x}\r\n", piece.len()))?;
        self.counted(piece)?;
        self.send("\r\n")
    }

    fn counted(&mut self, mut piece: &[u8]) -> io::Result<()> {
        while !piece.is_empty() {
            let count = self.socket.write(piece)?;
            if count == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.shared.sent.fetch_add(count as u64, Ordering::SeqCst);
            piece = &piece[count..];
        }
        Ok(())
    }

    /// Answers nothing until the gateway closes (true), or `limit` has passed (false).
    pub(crate) fn wait_closed(&mut self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        let _ = self.socket.set_read_timeout(Some(Duration::from_millis(100)));
        let closed = loop {
            let mut piece = [0; 4096];
            match self.socket.read(&mut piece) {
                Ok(0) => break true,
                Ok(_) => {}
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
                Err(_) => break true,
            }
            if Instant::now() >= end {
                break false;
            }
        };
        let _ = self.socket.set_read_timeout(None);
        closed
    }
}

/// The bytes of a head, `None` at a proper end between requests.
fn head(socket: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<Option<Vec<u8>>> {
    loop {
        if let Some(at) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            return Ok(Some(buffer.drain(..at + 4).collect()));
        }
        match fill(socket, buffer) {
            Ok(()) => {}
            Err(_) if buffer.is_empty() => return Ok(None),
            Err(error) => return Err(error),
        }
    }
}

fn parse(head: &[u8]) -> io::Result<Seen> {
    let text = std::str::from_utf8(head).map_err(|_| odd("a head that is not text"))?;
    let mut lines = text.strip_suffix("\r\n\r\n").unwrap_or(text).split("\r\n");
    let mut words = lines.next().unwrap_or_default().split(' ');
    let (Some(method), Some(target), Some("HTTP/1.1"), None) = (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(odd("a request line that is not three words ending in HTTP/1.1"));
    };
    let mut seen =
        Seen { method: method.to_owned(), target: target.to_owned(), head: head.to_vec(), ..Seen::default() };
    for line in lines {
        if line.contains(['\n', '\r', '\0']) || line.starts_with([' ', '\t']) {
            return Err(odd("a field line with CR, LF, NUL or folding"));
        }
        let (name, value) = line.split_once(':').ok_or_else(|| odd("a field without a colon"))?;
        if name.is_empty() || name.contains([' ', '\t']) {
            return Err(odd("a field name with a blank"));
        }
        seen.fields.push((name.to_owned(), value.trim().to_owned()));
    }
    if seen.all("content-length").len() + seen.all("transfer-encoding").len() > 1 {
        return Err(odd("more than one framing"));
    }
    if seen.all("host").len() != 1 {
        return Err(odd("not exactly one Host"));
    }
    Ok(seen)
}

fn line(socket: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<Vec<u8>> {
    loop {
        if let Some(at) = buffer.iter().position(|byte| *byte == b'\n') {
            return Ok(buffer.drain(..=at).collect());
        }
        fill(socket, buffer)?;
    }
}

fn line_end(socket: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<[u8; 2]> {
    while buffer.len() < 2 {
        fill(socket, buffer)?;
    }
    let end = [buffer[0], buffer[1]];
    buffer.drain(..2);
    Ok(end)
}

fn fill(socket: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<()> {
    let mut piece = [0; 64 * 1024];
    let count = socket.read(&mut piece)?;
    if count == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    buffer.extend_from_slice(&piece[..count]);
    Ok(())
}
