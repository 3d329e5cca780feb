// SPDX-License-Identifier: GPL-3.0-only
//! HTTP/2 with a client, on the `h2` crate: one task for the connection, one for each stream.
//!
//! The connection's task accepts streams, says goodbye and keeps the deadlines of the connection; what happens on a stream
//! is the exchange's business. Credit for the request's body is given back only when the exchange is done with a frame.

mod stream;
mod tap;

use super::Client;
use crate::exchange;
use crate::snapshot::Limits;
use crate::stream::{Abort, Sink};
use crate::worker::{Phase, Watch};
use ::h2::server::{Builder, Connection};
use bytes::Bytes;
use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;
use stream::Stream;
use tap::{Seen, Tap};
use tokio::io::{AsyncRead, AsyncWrite};

/// How long a connection that was told to go may stay without a stream: the time for GOAWAY's second step, whose PING a
/// client answers within a round trip.
const GOODBYE: Duration = Duration::from_secs(2);

/// Resets by the client of streams that we have not begun to serve (the core of Rapid Reset): what an impatient browser
/// leaves behind in one round trip is far below. Beyond it the connection is closed with ENHANCE_YOUR_CALM.
const PENDING_RESETS: usize = 32;

/// Resets that a client provokes from us by breaking the rules, before its connection is closed. An honest one provokes
/// none; each costs us a frame.
const LOCAL_RESETS: usize = 64;

/// Streams that remember for a while that they were reset, so that late frames are ignored and not treated as errors.
const RESET_MEMORY: usize = 32;

/// Serves the connection to its end.
pub(super) async fn serve(client: Client, io: impl AsyncRead + AsyncWrite + Unpin) {
    let watch = Watch::new(&client.worker);
    let limits = client.binding.view().snapshot.limits.clone();
    watch.arm(limits.handshake);
    let (io, seen) = Tap::new(io);
    let Some(mut connection) = handshake(&client, io, &limits, &watch).await else { return };
    let client = Rc::new(client);
    let streams = Rc::new(Cell::new(0));
    let mut state = State::default();
    let mut head = Head { seen, watch: Watch::new(&client.worker), number: None, cut: false };
    watch.arm(limits.keep_alive);
    poll_fn(|cx| {
        loop {
            match connection.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => spawn(&client, &streams, request, respond),
                Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(()),
                Poll::Pending if head.too_slow(cx, streams.get(), &limits) => {
                    // What it may not do, and nothing of it can be answered on a stream that is not there yet. Nobody else on
                    // the connection can go on either: RFC 9113 section 4.3 lets no other frame into a header block.
                    connection.abrupt_shutdown(h2::Reason::ENHANCE_YOUR_CALM);
                    watch.arm(GOODBYE);
                }
                Poll::Pending if head.cut => match watch.expired(cx) {
                    true => return Poll::Ready(()),
                    false => return Poll::Pending,
                },
                Poll::Pending => match state.step(cx, &watch, &mut connection, streams.get(), &limits) {
                    Step::Wait => return Poll::Pending,
                    Step::Again => {}
                    Step::Drop => return Poll::Ready(()),
                },
            }
        }
    })
    .await;
}

async fn handshake<T: AsyncRead + AsyncWrite + Unpin>(
    client: &Client,
    io: T,
    limits: &Limits,
    watch: &Watch,
) -> Option<Connection<T, Bytes>> {
    let window = limits.stream_window;
    let list = u32::try_from(limits.head_bytes).unwrap_or(u32::MAX);
    let mut handshake = pin!(
        Builder::new()
            .initial_window_size(window)
            // All streams stalled at once must not starve one that is read: RFC 9113 section 5.2.1 leaves the sum to us.
            .initial_connection_window_size(window.saturating_mul(limits.streams).min((1 << 31) - 1))
            .max_concurrent_streams(limits.streams)
            .max_header_list_size(list)
            .max_send_buffer_size(window as usize)
            .max_pending_accept_reset_streams(PENDING_RESETS)
            .max_local_error_reset_streams(Some(LOCAL_RESETS))
            .max_concurrent_reset_streams(RESET_MEMORY)
            .handshake(io)
    );
    poll_fn(|cx| match handshake.as_mut().poll(cx) {
        Poll::Ready(connection) => Poll::Ready(connection.ok()),
        Poll::Pending if watch.expired(cx) || client.worker.phase() == Phase::Aborting => Poll::Ready(None),
        Poll::Pending => Poll::Pending,
    })
    .await
}

/// The deadline for a request's head, which HTTP/2 may spread over frames.
struct Head {
    seen: Rc<Seen>,
    watch: Watch,
    /// The head that the deadline is for.
    number: Option<u64>,
    cut: bool,
}

impl Head {
    /// Whether a head has been coming for too long; true once.
    fn too_slow(&mut self, cx: &Context<'_>, streams: usize, limits: &Limits) -> bool {
        let open = self.seen.open(streams == 0);
        if open != self.number {
            self.number = open;
            match open {
                Some(_) => self.watch.arm(limits.head),
                None => self.watch.disarm(),
            }
        }
        let late = self.watch.expired(cx) && self.seen.starved();
        late && !std::mem::replace(&mut self.cut, true)
    }
}

/// The connection's own deadlines and goodbye.
#[derive(Default)]
struct State {
    /// There was no stream when the deadline was last set.
    idle: bool,
    /// GOAWAY was said.
    said: bool,
}

enum Step {
    Wait,
    /// A frame was queued: poll the connection once more.
    Again,
    Drop,
}

impl State {
    fn step<T: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        cx: &Context<'_>,
        watch: &Watch,
        connection: &mut Connection<T, Bytes>,
        streams: usize,
        limits: &Limits,
    ) -> Step {
        let phase = watch.worker().phase();
        let expired = watch.expired(cx);
        if phase == Phase::Aborting || (self.said && self.idle && expired && streams == 0) {
            return Step::Drop;
        }
        if !self.said && (phase == Phase::Draining || (self.idle && expired && streams == 0)) {
            // RFC 9113 section 6.8: first a GOAWAY that refuses nothing, then, a PING later, the exact one.
            connection.graceful_shutdown();
            self.said = true;
            self.idle = streams == 0;
            watch.arm(GOODBYE);
            return Step::Again;
        }
        let idle = streams == 0;
        if expired || idle != self.idle {
            watch.arm(if self.said { GOODBYE } else { limits.keep_alive });
            self.idle = idle;
        }
        Step::Wait
    }
}

fn spawn(
    client: &Rc<Client>,
    streams: &Rc<Cell<usize>>,
    request: http::Request<h2::RecvStream>,
    respond: h2::server::SendResponse<Bytes>,
) {
    let client = Rc::clone(client);
    let counted = Counted::new(streams);
    let worker = Rc::clone(&client.worker);
    worker.spawn("h2 stream", async move {
        let _counted = counted;
        let (request, mut stream) = Stream::new(&client, request, respond);
        match request {
            Ok(request) => {
                // Dropping the stream resets what is left of the request with NO_ERROR, as an early answer must.
                exchange::serve(&client.worker, request, &mut stream).await;
            }
            Err(_) => stream.abort(Abort::Malformed),
        }
    });
}

/// Counts a stream for as long as it lives.
struct Counted(Rc<Cell<usize>>);

impl Counted {
    fn new(streams: &Rc<Cell<usize>>) -> Counted {
        streams.set(streams.get() + 1);
        Counted(Rc::clone(streams))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}
