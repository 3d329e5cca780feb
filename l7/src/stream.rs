// SPDX-License-Identifier: GPL-3.0-only
//! What a front and a back have in common: one direction in, one direction out, and the ways a stream can end badly.
//!
//! Three fronts and their backs implement these traits; `exchange` drives them and knows nothing else of a protocol.
//! Bounded memory follows from two rules that every implementation keeps: a [`Source`] gives credit back to its peer only
//! for frames that the exchange has taken, and a [`Sink`] accepts no more than its peer's credit or socket has room for
//! (one frame may wait in it). Nothing here blocks, allocates a channel or spawns a task.

use crate::head::Head;
use bytes::Bytes;
use std::task::{Context, Poll};

/// What comes out of one direction of a message. After `Trailers` or `End` nothing comes.
#[derive(Debug)]
pub enum Frame {
    /// A part of the body, never empty.
    Data(Bytes),
    /// The end of the body, with trailers.
    Trailers(Head),
    /// The end of the body.
    End,
}

/// Why a stream ended without its proper end. [`Abort::h2_reason`], [`Abort::h3_code`] are the one table of codes;
/// HTTP/1 has one way to say all of them: the connection ends without completing the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abort {
    /// The peer went away or cancelled the stream.
    Cancelled,
    /// The other side's message ended early or was malformed, so this side's cannot be completed.
    Truncated,
    /// This side's own message is malformed.
    Malformed,
    /// A complete response was sent before the request had ended; the rest of it is not wanted.
    Early,
    /// The client ended its side before its request was complete.
    Incomplete,
    /// Not processed at all: safe to try again.
    Refused,
    /// A deadline passed.
    Timeout,
    /// Our own fault, or a shutdown whose time is over.
    Internal,
}

impl Abort {
    /// RFC 9113 section 7.
    pub fn h2_reason(self) -> h2::Reason {
        match self {
            Abort::Cancelled | Abort::Timeout => h2::Reason::CANCEL,
            Abort::Truncated | Abort::Internal => h2::Reason::INTERNAL_ERROR,
            Abort::Malformed | Abort::Incomplete => h2::Reason::PROTOCOL_ERROR,
            Abort::Early => h2::Reason::NO_ERROR,
            Abort::Refused => h2::Reason::REFUSED_STREAM,
        }
    }

    /// RFC 9114 section 8.1.
    pub fn h3_code(self) -> u64 {
        match self {
            Abort::Early => 0x100,                       // H3_NO_ERROR
            Abort::Truncated | Abort::Internal => 0x102, // H3_INTERNAL_ERROR
            Abort::Refused => 0x10b,                     // H3_REQUEST_REJECTED
            Abort::Cancelled | Abort::Timeout => 0x10c,  // H3_REQUEST_CANCELLED
            Abort::Incomplete => 0x10d,                  // H3_REQUEST_INCOMPLETE
            Abort::Malformed => 0x10e,                   // H3_MESSAGE_ERROR
        }
    }
}

/// One direction in: the request's body at a front, the response's body at a back.
pub trait Source {
    /// The next frame. Taking a frame gives its credit back.
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Frame, Abort>>;
}

/// One direction out: the response's body at a front, the request's body at a back.
pub trait Sink {
    /// Takes from the front of `data` what fits now; Ready only when `data` is empty.
    fn poll_send(&mut self, cx: &mut Context<'_>, data: &mut Bytes) -> Poll<Result<(), Abort>>;

    /// Ends the message; Ready when everything has left for the transport.
    fn poll_finish(&mut self, cx: &mut Context<'_>, trailers: Option<&Head>) -> Poll<Result<(), Abort>>;

    /// Pushes out what was accepted. The exchange calls it when it has nothing more to offer for now, so that a sink may
    /// gather a head and its first data into one write.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Abort>> {
        let _ = cx;
        Poll::Ready(Ok(()))
    }

    /// Bytes that have left so far, for a sink that takes a frame before it has left: only this shows that a slow reader
    /// still reads.
    fn written(&self) -> u64 {
        0
    }

    /// Ends the stream, both directions, so that its message cannot be taken for complete.
    fn abort(&mut self, why: Abort);
}

/// A front's stream: the request comes in, the response goes out.
pub trait Front: Source + Sink {
    /// Sends a 1xx head.
    fn poll_inform(&mut self, cx: &mut Context<'_>, head: &Head) -> Poll<Result<(), Abort>>;

    /// Sends the final head; `end` says that no body follows. The head holds no connection-specific field; the front adds
    /// its own framing.
    fn poll_respond(&mut self, cx: &mut Context<'_>, head: &Head, end: bool) -> Poll<Result<(), Abort>>;

    /// Ready when the client has cancelled or its connection is gone, even while nothing is being read or written.
    fn poll_cancelled(&mut self, cx: &mut Context<'_>) -> Poll<Abort>;
}

/// What a back answers with.
#[derive(Debug)]
pub enum Response {
    /// A 1xx head; more follows.
    Informational(Head),
    /// The final head; the flag says that no body follows.
    Final(Head, bool),
}

/// A back's stream: the request goes out, the response comes in. The request's head was given when it was opened.
pub trait Back: Source + Sink {
    /// The next head of the response.
    fn poll_response(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response, Abort>>;
}
