// SPDX-License-Identifier: GPL-3.0-only
//! What a connection keeps for each request that has an exchange: how much of its body came, how it ended, and who waits.
//!
//! It holds no body: what has arrived stays in quiche until the exchange takes it, which is what gives the client credit.

use super::connection::{Connection, Shared};
use super::held::{Ledger, Quic, WINDOW};
use crate::head::Head;
use crate::stream::{Abort, Frame};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use quiche::Error as QuicError;
use quiche::h3::{self, HeaderRef};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

/// The most that one frame of a body holds.
const FRAME: usize = 16 * 1024;

/// The largest header of a DATA frame: a byte for the type and a length (RFC 9114 section 7.1).
const DATA_HEADER: usize = 9;

/// One request's stream.
#[derive(Default)]
pub(super) struct Stream {
    content_length: Option<u64>,
    received: u64,
    trailers: Option<Head>,
    /// The request has ended, and everything of its body was taken.
    ended: bool,
    /// The exchange was told of the end.
    end_taken: bool,
    head_sent: bool,
    /// Our side has ended, properly or by a reset.
    sent: bool,
    /// What quiche holds of the response's body.
    held: Ledger,
    /// The writer waits for room in it.
    wants_room: bool,
    /// The client's side was stopped, or has ended.
    read: bool,
    failed: Option<Abort>,
    reset_by_us: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
    watcher: Option<Waker>,
}

fn wake(waker: &mut Option<Waker>) -> bool {
    waker.take().map(Waker::wake).is_some()
}

fn wait(waker: &mut Option<Waker>, cx: &mut Context<'_>) {
    match waker {
        Some(known) => known.clone_from(cx.waker()),
        None => *waker = Some(cx.waker().clone()),
    }
}

impl Stream {
    pub(super) fn new(content_length: Option<u64>, ended: bool) -> Stream {
        Stream { content_length, ended, read: ended, ..Stream::default() }
    }

    pub(super) fn wake_reader(&mut self) -> bool {
        wake(&mut self.reader)
    }

    /// Wakes a writer that waited for the client's acknowledgements, once half a window is free.
    pub(super) fn make_room(&mut self) -> bool {
        if !self.wants_room || self.held.room() < WINDOW / 2 {
            return false;
        }
        self.wants_room = false;
        self.wake_writer()
    }

    pub(super) fn wake_writer(&mut self) -> bool {
        wake(&mut self.writer)
    }

    /// Whether the client may still send on it, or reset it.
    pub(super) fn is_reading(&self) -> bool {
        !self.read && self.failed.is_none()
    }

    pub(super) fn request_ended(&mut self) {
        self.ended = true;
        self.read = true;
    }

    pub(super) fn trailers_arrived(&mut self, trailers: Head) {
        self.trailers = Some(trailers);
    }

    /// The stream has failed: the first reason stays.
    pub(super) fn fail(&mut self, why: Abort) -> bool {
        self.failed.get_or_insert(why);
        let (reader, writer, watcher) = (&mut self.reader, &mut self.writer, &mut self.watcher);
        wake(reader) | wake(writer) | wake(watcher)
    }

    /// RFC 9114 section 4.1.2: "A request or response that is defined as having content when it contains a Content-Length
    /// header field is malformed if the value of the Content-Length header field does not equal the sum of the DATA frame
    /// lengths received."
    fn length_is_wrong(&self, complete: bool) -> bool {
        self.content_length.is_some_and(|length| match complete {
            true => self.received != length,
            false => self.received > length,
        })
    }
}

/// An exchange's way to its stream. The stream is released when it is dropped; what it had not ended is reset.
pub(crate) struct Handle {
    shared: Rc<Shared>,
    id: u64,
}

impl Handle {
    pub(super) fn new(shared: Rc<Shared>, id: u64) -> Handle {
        Handle { shared, id }
    }

    /// Runs `act` on the connection and the stream, and tells the driver if something changed.
    fn with<T>(&self, act: impl FnOnce(&mut Quic, &mut h3::Connection, &mut Stream, u64) -> (T, bool)) -> Option<T> {
        let mut guard = self.shared.inner.borrow_mut();
        let Connection { quic, h3, streams, .. } = &mut *guard;
        let (h3, stream) = h3.as_mut().zip(streams.get_mut(&self.id))?;
        let (result, changed) = act(quic, h3, stream, self.id);
        drop(guard);
        if changed {
            self.shared.touch();
        }
        Some(result)
    }

    /// The next frame of the request's body.
    pub(crate) fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Frame, Abort>> {
        let read = self.with(|quic, h3, stream, id| {
            if let Some(why) = stream.failed {
                return (Poll::Ready(Err(why)), false);
            }
            if stream.end_taken {
                return (Poll::Ready(Ok(Frame::End)), false);
            }
            let size = quic.stream_readable_len(id, FRAME);
            // Asked even when nothing is there: only a read that finds nothing makes quiche report the next data.
            let mut buffer = BytesMut::with_capacity(size).limit(size.max(1));
            match h3.recv_body_buf(quic, id, &mut buffer) {
                Ok(_) => {
                    let data = buffer.into_inner().freeze();
                    stream.received += data.len() as u64;
                    return match stream.length_is_wrong(false) {
                        true => (Poll::Ready(Err(Abort::Malformed)), true),
                        false => (Poll::Ready(Ok(Frame::Data(data))), true),
                    };
                }
                Err(h3::Error::Done) => {}
                Err(_) => {
                    stream.fail(Abort::Cancelled);
                    return (Poll::Ready(Err(Abort::Cancelled)), true);
                }
            }
            // quiche calls a stream finished when it was reset, too.
            if matches!(quic.stream_recv(id, &mut []), Err(QuicError::StreamReset(_))) {
                stream.fail(Abort::Cancelled);
                return (Poll::Ready(Err(Abort::Cancelled)), true);
            }
            let trailers = stream.trailers.take();
            if trailers.is_none() && !stream.ended && !quic.stream_finished(id) {
                wait(&mut stream.reader, cx);
                // Frames that are not data, such as trailers, may have come to the front: HTTP/3 must look at them.
                return (Poll::Pending, size > 0);
            }
            stream.end_taken = true;
            stream.read = true;
            if stream.length_is_wrong(true) {
                return (Poll::Ready(Err(Abort::Malformed)), true);
            }
            (Poll::Ready(Ok(trailers.map_or(Frame::End, Frame::Trailers))), false)
        });
        let read = read.unwrap_or(Poll::Ready(Err(Abort::Cancelled)));
        if matches!(read, Poll::Ready(Err(Abort::Malformed))) {
            self.reset(Abort::Malformed);
        }
        read
    }

    /// Sends a head; `last` says that it is the final one, `end` that nothing follows.
    pub(crate) fn poll_head(&mut self, cx: &mut Context<'_>, head: &Head, end: bool) -> Poll<Result<(), Abort>> {
        let status = head.status().to_string();
        let status = HeaderRef::new(b":status", status.as_bytes());
        let list: Vec<_> = std::iter::once(status).chain(head.fields().map(|(n, v)| HeaderRef::new(n, v))).collect();
        self.send(cx, |quic, h3, stream, id| {
            let sent = match stream.head_sent {
                false => h3.send_response(quic, id, &list, end),
                true => h3.send_additional_headers(quic, id, &list, false, end),
            };
            if sent.is_ok() {
                stream.head_sent = true;
                stream.sent |= end;
            }
            sent.map(|()| true)
        })
    }

    /// Takes from the front of `data` what there is credit for.
    pub(crate) fn poll_data(&mut self, cx: &mut Context<'_>, data: &mut Bytes) -> Poll<Result<(), Abort>> {
        if data.is_empty() {
            return Poll::Ready(Ok(()));
        }
        self.send(cx, |quic, h3, stream, id| {
            while !data.is_empty() {
                let room = stream.held.room();
                if room == 0 {
                    stream.wants_room = true;
                    return Ok(false);
                }
                // No more than fits, so that nothing is charged that is not held. Where nothing fits, quiche is asked all
                // the same: that makes it tell when something does.
                let fits = quic.stream_capacity(id)?.saturating_sub(DATA_HEADER).max(1);
                let mut part = stream.held.charge(data.slice(..data.len().min(room).min(fits)));
                data.advance(h3.send_body_zc(quic, id, &mut part, false)?);
            }
            Ok(true)
        })
    }

    /// Ends the response.
    pub(crate) fn poll_end(&mut self, cx: &mut Context<'_>, trailers: Option<&Head>) -> Poll<Result<(), Abort>> {
        self.send(cx, |quic, h3, stream, id| {
            if stream.sent {
                return Ok(true);
            }
            match trailers {
                None => {
                    h3.send_body(quic, id, &[], true)?;
                }
                Some(trailers) => {
                    let list: Vec<_> = trailers.fields().map(|(name, value)| HeaderRef::new(name, value)).collect();
                    h3.send_additional_headers(quic, id, &list, true, true)?;
                }
            }
            stream.sent = true;
            Ok(true)
        })
    }

    /// `act` says whether all is sent; while it is not, or there is no credit, the task waits for the stream to become
    /// writable.
    fn send(
        &self,
        cx: &mut Context<'_>,
        act: impl FnOnce(&mut Quic, &mut h3::Connection, &mut Stream, u64) -> Result<bool, h3::Error>,
    ) -> Poll<Result<(), Abort>> {
        let sent = self.with(|quic, h3, stream, id| {
            if let Some(why) = stream.failed {
                return (Poll::Ready(Err(why)), false);
            }
            match act(quic, h3, stream, id) {
                Ok(true) => (Poll::Ready(Ok(())), true),
                Ok(false) | Err(h3::Error::Done | h3::Error::StreamBlocked) => {
                    wait(&mut stream.writer, cx);
                    (Poll::Pending, true)
                }
                Err(h3::Error::TransportError(_)) => {
                    stream.fail(Abort::Cancelled);
                    (Poll::Ready(Err(Abort::Cancelled)), true)
                }
                Err(_) => (Poll::Ready(Err(Abort::Internal)), false),
            }
        });
        sent.unwrap_or(Poll::Ready(Err(Abort::Cancelled)))
    }

    /// Ready when the client has cancelled the stream or is gone.
    pub(crate) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<Abort> {
        let cancelled = self.with(|_, _, stream, _| match stream.failed {
            Some(why) => (Poll::Ready(why), false),
            None => {
                wait(&mut stream.watcher, cx);
                (Poll::Pending, false)
            }
        });
        cancelled.unwrap_or(Poll::Ready(Abort::Cancelled))
    }

    /// Ends the stream so that its message cannot be taken for complete; with [`Abort::Early`] only the request's direction.
    pub(crate) fn reset(&mut self, why: Abort) {
        let mut guard = self.shared.inner.borrow_mut();
        let Some(stream) = guard.streams.get_mut(&self.id) else { return };
        stream.read = true;
        if why != Abort::Early {
            stream.sent = true;
            stream.reset_by_us = true;
        }
        guard.shutdown(self.id, why);
        drop(guard);
        self.shared.touch();
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // A panic can drop a handle while the connection is borrowed further up the stack; then the connection is lost
        // anyway, and the driver buries it.
        let Ok(mut guard) = self.shared.inner.try_borrow_mut() else { return };
        if std::thread::panicking() {
            guard.fault();
        }
        let Some(stream) = guard.streams.remove(&self.id) else { return };
        if !stream.sent {
            guard.shutdown(self.id, Abort::Internal);
        } else if !stream.read {
            guard.shutdown(self.id, Abort::Early);
        }
        guard.finish_stream(self.id, stream.sent && !stream.reset_by_us, Instant::now());
        drop(guard);
        self.shared.touch();
    }
}
