// SPDX-License-Identifier: GPL-3.0-only
//! HTTP/3 towards clients: a stream of `quic` as the exchange wants it.
//!
//! `quic::driver` calls [`spawn`] for each request; [`request`] decides what a well-formed one is. All state is in the
//! connection, reached by handle; the task ends when the exchange does, and what it left open is then reset.

pub(crate) mod request;

use crate::exchange::{self, Request};
use crate::head::Head;
use crate::observe::Protocol;
use crate::quic::stream::Handle;
use crate::stream::{Abort, Frame, Front, Sink, Source};
use crate::worker::{View, Worker};
use bytes::Bytes;
use request::Parsed;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Poll};

/// Runs the exchange of one request in a task of its own. A panic in it ends the connection.
pub(crate) fn spawn(
    worker: &Rc<Worker>,
    view: Rc<View>,
    parsed: Parsed,
    end: bool,
    (peer, local): (SocketAddr, SocketAddr),
    mut stream: Handle,
) {
    let owner = Rc::clone(worker);
    worker.spawn("HTTP/3 request", async move {
        let head = parsed.head;
        let request = Request { head, end, protocol: Protocol::H3, http10: false, peer, local, secure: true, view };
        exchange::serve(&owner, request, &mut stream).await;
    });
}

impl Source for Handle {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Frame, Abort>> {
        self.poll_body(cx)
    }
}

impl Sink for Handle {
    fn poll_send(&mut self, cx: &mut Context<'_>, data: &mut Bytes) -> Poll<Result<(), Abort>> {
        self.poll_data(cx, data)
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>, trailers: Option<&Head>) -> Poll<Result<(), Abort>> {
        self.poll_end(cx, trailers)
    }

    fn abort(&mut self, why: Abort) {
        self.reset(why);
    }
}

impl Front for Handle {
    fn poll_inform(&mut self, cx: &mut Context<'_>, head: &Head) -> Poll<Result<(), Abort>> {
        self.poll_head(cx, head, false)
    }

    fn poll_respond(&mut self, cx: &mut Context<'_>, head: &Head, end: bool) -> Poll<Result<(), Abort>> {
        self.poll_head(cx, head, end)
    }

    fn poll_cancelled(&mut self, cx: &mut Context<'_>) -> Poll<Abort> {
        self.poll_gone(cx)
    }
}
