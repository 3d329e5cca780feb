// SPDX-License-Identifier: GPL-3.0-only
//! HTTP/1 with a client: one request after another on one connection, pipelined ones in order.
//!
//! The connection's task serves each request itself. Between requests it owns no buffer. A client that closes its side
//! counts as gone: nearly always it is, and the backend should not work for nobody.

mod stream;

use super::Client;
use crate::error::Refusal;
use crate::exchange::{self, Request, refuse};
use crate::h1::encode::{self, Manner};
use crate::h1::wire::Wire;
use crate::h1::{Bad, Bounds, parse};
use crate::io::Io;
use crate::observe::Protocol;
use crate::stream::Abort;
use crate::worker::{Phase, Watch};
use bytes::{Buf, BytesMut};
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use stream::Stream;
use tokio::io::AsyncWrite;

/// How long we go on reading what a client sends after our last response: closing while it still sends would reset the
/// connection and might destroy that response (RFC 9112 section 9.6). A client that sends nothing for the pause has read
/// it or is gone; one that sends for longer than the whole is not listening. Bytes are no bound: discarding them costs
/// less than taking them as a body would, and many clients look for a response only when all is sent.
const LINGER_PAUSE: Duration = Duration::from_secs(2);
const LINGER: Duration = Duration::from_secs(30);

/// Empty lines before a request that are forgiven (RFC 9112 section 2.2: "at least one").
const EMPTY_LINES: usize = 2;

/// Serves the connection to its end. `read` holds what was read of it already; if that is something, `watch` keeps the
/// deadline of the head that it begins.
pub(super) async fn serve(client: Client, io: Io, read: BytesMut, watch: Watch) {
    let mut begun = !read.is_empty();
    let mut wire = Wire::new(&client.worker, io, read);
    loop {
        match next(&client, &mut wire, &watch, std::mem::take(&mut begun)).await {
            Next::Closed => return close(wire, &watch, false).await,
            Next::Gone => return,
            Next::Refused(refusal) => {
                let view = client.binding.view();
                view.counters.request(Protocol::H1, refusal.status());
                answer(&mut wire, refusal);
                return close(wire, &watch, true).await;
            }
            Next::Request(parsed) => {
                watch.disarm();
                let view = client.binding.view();
                let limits = &view.snapshot.limits;
                let bounds = Bounds { bytes: limits.head_bytes, fields: limits.head_fields };
                let mut stream = Stream::new(&client.worker, wire, &parsed, bounds);
                let end = stream.request_done();
                let request = Request {
                    head: parsed.head,
                    end,
                    protocol: Protocol::H1,
                    http10: parsed.http10,
                    peer: client.peer,
                    local: client.local,
                    secure: client.secure,
                    view,
                };
                let outcome = exchange::serve(&client.worker, request, &mut stream).await;
                if outcome.response.is_err() {
                    return;
                }
                let (done, keep);
                (wire, done, keep) = stream.into_wire();
                if !done || !keep {
                    return close(wire, &watch, !done).await;
                }
            }
        }
    }
}

enum Next {
    Request(parse::Request),
    Refused(Refusal),
    /// Say goodbye.
    Closed,
    /// There is nobody to say it to.
    Gone,
}

/// Waits for a request's head; `begun` says that its deadline is set.
async fn next(client: &Client, wire: &mut Wire, watch: &Watch, mut begun: bool) -> Next {
    let view = client.binding.view();
    let limits = &view.snapshot.limits;
    let bounds = Bounds { bytes: limits.head_bytes, fields: limits.head_fields };
    let mut scanned = 0;
    let mut empty_lines = 0;
    if !begun {
        watch.arm(limits.keep_alive);
    }
    poll_fn(|cx| {
        loop {
            while empty_lines < EMPTY_LINES && wire.read.starts_with(b"\r\n") {
                wire.read.advance(2);
                empty_lines += 1;
                scanned = 0;
            }
            match head(wire, &mut scanned, bounds) {
                Ok(Some(request)) => return Poll::Ready(Next::Request(request)),
                Ok(None) => {}
                Err(bad) => return Poll::Ready(Next::Refused(bad.into())),
            }
            if !begun && !wire.read.is_empty() {
                begun = true;
                watch.arm(limits.head);
            }
            match wire.poll_fill(cx) {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Next::Gone),
                Poll::Ready(Ok(_)) => {}
                Poll::Pending => return idle(client, watch, begun, cx),
            }
        }
    })
    .await
}

/// What to do while nothing comes.
fn idle(client: &Client, watch: &Watch, begun: bool, cx: &Context<'_>) -> Poll<Next> {
    let expired = watch.expired(cx);
    match (client.worker.phase(), begun) {
        (Phase::Aborting, true) => Poll::Ready(Next::Gone),
        (Phase::Draining | Phase::Aborting, false) => Poll::Ready(Next::Closed),
        (_, false) if expired => Poll::Ready(Next::Closed),
        (_, true) if expired => Poll::Ready(Next::Refused(Refusal::ClientTimeout)),
        _ => Poll::Pending,
    }
}

fn head(wire: &mut Wire, scanned: &mut usize, bounds: Bounds) -> Result<Option<parse::Request>, Bad> {
    if wire.read.is_empty() {
        return Ok(None);
    }
    let Some(end) = parse::end(&wire.read, scanned, bounds)? else { return Ok(None) };
    let request = parse::request(wire.read.get(..end).unwrap_or_default(), bounds)?;
    wire.read.advance(end);
    Ok(Some(request))
}

/// Answers what never became a request.
fn answer(wire: &mut Wire, refusal: Refusal) {
    if let Ok(head) = refuse::head(refusal) {
        let manner = Manner { chunked: false, close: true, keep_alive: false, empty: false };
        encode::response(wire.out.text(), &head, manner);
        wire.out.text().extend_from_slice(refusal.text().as_bytes());
    }
}

/// Sends what is left, says that no more comes, and with `linger` reads what the client still sends.
async fn close(mut wire: Wire, watch: &Watch, linger: bool) {
    let ends = watch.worker().now() + LINGER;
    let mut shut = false;
    watch.arm(LINGER_PAUSE);
    poll_fn(|cx| {
        if watch.expired(cx) || watch.worker().phase() == Phase::Aborting {
            return Poll::Ready(());
        }
        if !shut {
            match shut_down(&mut wire, cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Ready(Ok(())) => shut = true,
            }
        }
        if !linger {
            return Poll::Ready(());
        }
        loop {
            wire.read.clear();
            match wire.poll_fill(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(()),
                Poll::Ready(Ok(_)) => watch.arm(LINGER_PAUSE.min(ends.saturating_duration_since(watch.worker().now()))),
            }
        }
    })
    .await;
    wire.read.clear();
    wire.rest();
}

fn shut_down(wire: &mut Wire, cx: &mut Context<'_>) -> Poll<Result<(), Abort>> {
    std::task::ready!(wire.poll_flush(cx))?;
    Pin::new(&mut wire.io).poll_shutdown(cx).map_err(|_| Abort::Cancelled)
}
