// SPDX-License-Identifier: GPL-3.0-only
//! One request with its response, streamed: the only place where fronts and backs meet.
//!
//! A front builds a [`Request`] and calls [`serve`] in a local task of its own. The exchange normalises the head, finds
//! the route, picks a backend, moves both bodies at once with at most one frame in hand per direction, keeps the
//! deadlines, and counts what happened.

mod dial;
pub(crate) mod hygiene;
mod pump;
pub(crate) mod refuse;

use crate::back::h1::H1;
use crate::back::pool::Server;
use crate::error::{Cause, Refusal};
use crate::h1::Bounds;
use crate::head::Head;
use crate::observe::Protocol;
use crate::snapshot::Limits;
use crate::stream::{Abort, Front, Sink};
use crate::worker::{View, Watch, Worker};
use pump::{Ended, Pump};
use std::future::poll_fn;
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

impl Request {
    pub(crate) fn limits(&self) -> &Limits {
        &self.view.snapshot.limits
    }
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

/// How one attempt to serve a request ended.
enum Attempt {
    /// The response was sent; the flag says whether the request had ended too.
    Served(bool),
    /// Nothing was sent to the client yet: it gets this.
    Refused(Refusal),
    /// The response cannot be completed, or nobody is there to take it.
    Broken(Abort),
}

/// Serves one request.
pub async fn serve(worker: &Rc<Worker>, mut request: Request, front: &mut impl Front) -> Outcome {
    hook::maybe_panic(&request.head);
    let watch = Watch::new(worker);
    let attempt = match hygiene::request(&mut request) {
        Ok(()) => attempt(worker, &request, front, &watch).await,
        Err(refusal) => Attempt::Refused(refusal),
    };
    match attempt {
        Attempt::Served(request_done) => Outcome { request_done, response: Ok(()) },
        Attempt::Refused(refusal) => {
            watch.arm(request.limits().idle_body);
            let response = refuse::refuse(&request, refusal, front, &watch).await;
            Outcome { request_done: request.end, response }
        }
        Attempt::Broken(why) => {
            let counters = &request.view.counters;
            if why == Abort::Cancelled { &counters.cancelled_requests } else { &counters.aborted_responses }.add(1);
            front.abort(why);
            Outcome { request_done: false, response: Err(why) }
        }
    }
}

async fn attempt(worker: &Rc<Worker>, request: &Request, front: &mut impl Front, watch: &Watch) -> Attempt {
    let Some(choice) = request.view.choice(request.head.path()) else { return Attempt::Refused(Refusal::NoRoute) };
    let Some(mut server) = choice.pick(request.peer.ip(), None) else { return Attempt::Refused(Refusal::NoBackend) };
    let limits = request.limits();
    let bounds = Bounds { bytes: limits.head_bytes, fields: limits.head_fields };
    let mut reused = server.reuse();
    let mut tried_another = false;
    loop {
        let again = reused.is_some();
        let connected = match reused.take() {
            Some(connected) => {
                worker.counters.upstream_reuses.add(1);
                connected
            }
            None => match dial::dial(worker, choice, server, limits, front, watch).await {
                Ok(connected) => connected,
                Err(dial::Failed::Limit) => return Attempt::Refused(Refusal::Overloaded),
                Err(dial::Failed::Cancelled(why)) => return Attempt::Broken(why),
                Err(dial::Failed::Connect) => {
                    // Nothing of the request has left: another backend may have it, but only one more, so that a dead pool
                    // answers within two deadlines.
                    match choice.pick(request.peer.ip(), Some(server)).filter(|_| !tried_another) {
                        Some(other) => server = other,
                        None => return Attempt::Refused(Refusal::BadGateway),
                    }
                    tried_another = true;
                    reused = server.reuse();
                    continue;
                }
            },
        };
        let mut back = H1::begin(worker, connected, &request.head, request.end, bounds);
        let mut pump = Pump::new(request, watch);
        let ended = poll_fn(|cx| pump.poll(cx, front, &mut back)).await;
        let replay = again && !back.answered() && replayable(request);
        match ended {
            Ended::Complete => {
                let done = pump.request_done();
                finish(worker, server, back, limits);
                return Attempt::Served(done);
            }
            // The backend closed a connection that had been idle, just as we wrote to it: RFC 9112 section 9.3.1 lets us
            // repeat a request that is idempotent and whose body we still have, which is to say that it has none.
            Ended::Refused(Refusal::BadGateway) if replay => {
                worker.counters.upstream_replays.add(1);
            }
            Ended::Refused(refusal) => {
                let late = (refusal == Refusal::BackendTimeout).then_some(Cause::Timeout);
                if let Some(cause) = back.fault().or(late) {
                    choice.failed(worker, server, cause, None);
                }
                back.abort(Abort::Cancelled);
                return Attempt::Refused(refusal);
            }
            Ended::Broken(why) => {
                let late = (why == Abort::Timeout && pump.waits_for_backend()).then_some(Cause::Timeout);
                if let Some(cause) = back.fault().or(late) {
                    choice.failed(worker, server, cause, None);
                }
                back.abort(why);
                return Attempt::Broken(why);
            }
        }
    }
}

/// Connections to backends are kept while at least one in this many places is free.
const KEEP: usize = 4;

fn finish(worker: &Worker, server: &Server, back: H1, limits: &Limits) {
    // A kept connection must not be what another request has no place for.
    if let Some(connected) = back.into_idle().filter(|_| !worker.upstream.is_scarce(KEEP)) {
        server.keep(connected, worker.now(), limits.upstream_idle);
    }
}

/// RFC 9110 section 9.2.2.
fn replayable(request: &Request) -> bool {
    request.end && matches!(request.head.method(), b"GET" | b"HEAD" | b"OPTIONS" | b"PUT" | b"DELETE")
}

/// The way for a test to see that a panic ends one connection alone: with debug assertions on and `EG_TEST_PANIC=1` in the
/// environment, a request with the field `x-eg-test-panic` panics. Release builds have no such code.
mod hook {
    use crate::head::Head;

    #[cfg(debug_assertions)]
    #[allow(clippy::panic, reason = "this is what the hook is for")]
    pub(super) fn maybe_panic(head: &Head) {
        use std::sync::LazyLock;
        static ARMED: LazyLock<bool> = LazyLock::new(|| std::env::var_os("EG_TEST_PANIC").is_some_and(|v| v == "1"));
        if *ARMED && head.get("x-eg-test-panic").is_some() {
            panic!("a test asked for this panic");
        }
    }

    #[cfg(not(debug_assertions))]
    pub(super) fn maybe_panic(_: &Head) {}
}
