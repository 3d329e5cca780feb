// SPDX-License-Identifier: GPL-3.0-only
//! The TCP side of HTTP: accepts, finds out whether it is HTTP/1.1 or HTTP/2 (ALPN; the preface in cleartext), and serves
//! HTTP/1.1 by hyper. hyper sends no interim responses and no TCP resets, so [`Tap`] under it does both.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use hyper::body::Frame;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::ask::Cut;
use crate::exchange::{self, Fields, IN_FLIGHT, Incoming, Out, Reply, Request};
use crate::{h2s, plain};

/// RFC 9113 section 3.4: the first octets a client with prior knowledge sends.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(crate) async fn accept(name: Rc<str>, listener: TcpListener, tls: Option<TlsAcceptor>) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let (name, tls) = (Rc::clone(&name), tls.clone());
                // Errors of a connection are its client's business; the tests look at both ends.
                tokio::task::spawn_local(async move { drop(connection(name, stream, peer, tls).await) });
            }
            Err(error) => plain::pause_after(&error).await,
        }
    }
}

async fn connection(name: Rc<str>, stream: TcpStream, peer: SocketAddr, tls: Option<TlsAcceptor>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    match tls {
        Some(tls) => {
            let stream = tls.accept(stream).await?;
            if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                h2s::serve(name, stream, peer, "h2").await.map_err(io::Error::other)
            } else {
                serve(name, stream, peer, "https").await
            }
        }
        None if speaks_h2(&stream).await? => h2s::serve(name, stream, peer, "h2c").await.map_err(io::Error::other),
        None => serve(name, stream, peer, "http").await,
    }
}

/// Looks at the first octets without taking them.
async fn speaks_h2(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0; PREFACE.len()];
    loop {
        let seen = stream.peek(&mut first).await?;
        if first[..seen] != PREFACE[..seen] || seen == 0 {
            return Ok(false);
        }
        if seen == PREFACE.len() {
            return Ok(true);
        }
        // Part of the preface is here and peek stays ready: wait a moment for the rest.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn serve<S: Stream>(name: Rc<str>, stream: S, peer: SocketAddr, scheme: &'static str) -> io::Result<()> {
    let control = Rc::new(Control::default());
    let tap = Tap { stream, control: Rc::clone(&control) };
    let service = service_fn(|request| respond(Rc::clone(&name), Rc::clone(&control), peer, scheme, request));
    hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(tap), service)
        .await
        .map_err(io::Error::other)
}

async fn respond(
    name: Rc<str>,
    control: Rc<Control>,
    peer: SocketAddr,
    scheme: &'static str,
    request: hyper::Request<hyper::body::Incoming>,
) -> Result<hyper::Response<Body>, Infallible> {
    let (head, body) = request.into_parts();
    let host = head.headers.get(http::header::HOST).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let request = Request {
        backend: name,
        protocol: if head.version == http::Version::HTTP_10 { "http/1.0" } else { "http/1.1" },
        peer,
        method: head.method.to_string(),
        scheme: scheme.to_owned(),
        authority: host.unwrap_or_default(),
        path: head.uri.path_and_query().map_or("", |path| path.as_str()).to_owned(),
        fields: exchange::fields(&head.headers),
        body: Incoming::H1(body),
    };
    let (channel, mut outs) = mpsc::channel(IN_FLIGHT);
    tokio::task::spawn_local(exchange::answer(request, Reply { channel, wake: None }));
    loop {
        match outs.recv().await {
            Some(Out::Inform(status, fields)) => {
                control.inject(status, &fields);
                // hyper flushes when this future has been polled, so the interim response leaves now.
                tokio::task::yield_now().await;
            }
            Some(Out::Head { status, fields, end }) => {
                let mut response = hyper::Response::new(Body { outs: (!end).then_some(outs), control, cutting: None });
                *response.status_mut() = http::StatusCode::from_u16(status).unwrap_or_default();
                *response.headers_mut() = exchange::map(&fields);
                return Ok(response);
            }
            // The answer gave up before its head: the client has gone, and this future is about to be dropped.
            _ => std::future::pending().await,
        }
    }
}

/// What the exchange says to its connection's stream, past hyper.
#[derive(Default)]
struct Control {
    inject: RefCell<BytesMut>,
    reset: Cell<bool>,
}

impl Control {
    fn inject(&self, status: u16, fields: &Fields) {
        let mut text = format!("HTTP/1.1 {status} Interim\r\n");
        for (name, value) in fields {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("\r\n");
        self.inject.borrow_mut().extend_from_slice(text.as_bytes());
    }
}

/// A response's body: what the exchange sends, until it ends or is cut.
struct Body {
    outs: Option<mpsc::Receiver<Out>>,
    control: Rc<Control>,
    cutting: Option<Cut>,
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if let Some(how) = self.cutting {
            self.control.reset.set(how == Cut::Reset);
            return Poll::Ready(Some(Err(io::Error::other("cut, as the request asked"))));
        }
        let Some(outs) = &mut self.outs else { return Poll::Ready(None) };
        match ready!(outs.poll_recv(cx)) {
            Some(Out::Data(data)) => Poll::Ready(Some(Ok(Frame::data(data)))),
            Some(Out::End(trailers)) => {
                self.outs = None;
                Poll::Ready(trailers.map(|fields| Ok(Frame::trailers(exchange::map(&fields)))))
            }
            Some(Out::Cut(how)) => {
                // Pending once lets hyper flush what came before: the client is to see it, and then the cut.
                self.cutting = Some(how);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Some(Out::Inform(..) | Out::Head { .. }) | None => Poll::Ready(Some(Err(io::Error::other("no end")))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.outs.is_none()
    }
}

/// A stream that knows its TCP socket.
trait Stream: AsyncRead + AsyncWrite + Unpin {
    fn tcp(&self) -> &TcpStream;
}

impl Stream for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
}

impl Stream for TlsStream<TcpStream> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().0
    }
}

/// Between hyper and the stream: writes interim responses ahead of hyper's bytes, and closes with a reset when told to.
struct Tap<S: Stream> {
    stream: S,
    control: Rc<Control>,
}

impl<S: Stream> Tap<S> {
    fn poll_inject(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inject = self.control.inject.borrow_mut();
        while !inject.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &inject))?;
            inject.advance(written);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: Stream> Drop for Tap<S> {
    fn drop(&mut self) {
        if self.control.reset.get() {
            // A zero linger makes close() send RST. Failing means the socket is already dead.
            drop(socket2::SockRef::from(self.stream.tcp()).set_linger(Some(Duration::ZERO)));
        }
    }
}

impl<S: Stream> AsyncRead for Tap<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        pin!(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: Stream> AsyncWrite for Tap<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_inject(cx))?;
        pin!(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_inject(cx))?;
        pin!(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.control.reset.get() {
            return Poll::Ready(Ok(()));
        }
        pin!(&mut self.stream).poll_shutdown(cx)
    }
}
