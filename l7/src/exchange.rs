// SPDX-License-Identifier: GPL-3.0-only
//! One request with its response, streamed: the only place where fronts and backs meet.
//!
//! A front builds a [`Request`] and calls [`serve`] in a local task of its own. The exchange normalises the head, finds
//! the route, picks a backend, moves both bodies at once with at most one frame in hand per direction, keeps the
//! deadlines, and counts what happened.

mod refuse;

use crate::error::Refusal;
use crate::head::Head;
use crate::observe::Protocol;
use crate::stream::{Abort, Front};
use crate::worker::{View, Worker};
use std::net::SocketAddr;
use std::rc::Rc;

/// A request as a front hands it over.
pub struct Request {
    /// Method, authority, path and fields, with the fields of the message's framing (Content-Length) but not those of the
    /// connection's (Transfer-Encoding is the front's own business and is not in here).
    pub head: Head,
    /// No body follows.
    pub end: bool,
    /// What the client speaks.
    pub protocol: Protocol,
    /// Whether it is HTTP/1.0.
    pub http10: bool,
    /// The client's address.
    pub peer: SocketAddr,
    /// The address that the client connected to.
    pub local: SocketAddr,
    /// Whether it came encrypted.
    pub secure: bool,
    /// The listener that it came in by, as it was when the request began.
    pub view: Rc<View>,
}

/// How an exchange ended, for the front.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The request was read to its end. If not, and the response was complete, the front must still get rid of the rest
    /// ([`Abort::Early`]).
    pub request_done: bool,
    /// Whether the response was sent to its end; otherwise `Sink::abort` has been called with this reason.
    pub response: Result<(), Abort>,
}

/// Serves one request.
pub async fn serve(worker: &Rc<Worker>, request: Request, front: &mut impl Front) -> Outcome {
    let _ = worker;
    let refusal = match request.view.listener.routes.find(request.head.path()) {
        Some(_) => Refusal::NoBackend,
        None => Refusal::NoRoute,
    };
    let response = refuse::refuse(&request, refusal, front).await;
    Outcome { request_done: request.end, response }
}
