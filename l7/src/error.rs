// SPDX-License-Identifier: GPL-3.0-only
//! What can go wrong, by who is at fault: the operator ([`EdgeError`]), or one request's client or backend ([`Refusal`]).
//!
//! [`Refusal::status`] is the one table from a failed request to its HTTP status. Bodies say what the status says and
//! nothing of our insides: no addresses, no names of pools.

use crate::steering::Transport;
use std::fmt;
use std::io;
use std::net::SocketAddr;

/// Why the edge could not start or take a new snapshot.
#[derive(Debug)]
pub enum EdgeError {
    /// A socket could not be bound.
    Bind { listener: String, address: SocketAddr, transport: Transport, source: io::Error },
    /// The kernel would not steer a listener's addresses to our sockets.
    Steer { listener: String, transport: Transport, source: io::Error },
    /// A worker's thread or runtime could not be started.
    Worker { worker: usize, source: io::Error },
    /// A listener's certificate or key cannot be used.
    Tls { listener: String, source: Box<dyn std::error::Error + Send + Sync> },
}

impl fmt::Display for EdgeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EdgeError::Bind { listener, address, transport, .. } => {
                write!(f, "listener {listener:?}: cannot bind {address}/{transport}")
            }
            EdgeError::Steer { listener, transport, .. } => {
                write!(f, "listener {listener:?}: cannot steer its {transport} traffic to our sockets")
            }
            EdgeError::Worker { worker, .. } => write!(f, "worker {worker}: cannot start"),
            EdgeError::Tls { listener, .. } => write!(f, "listener {listener:?}: cannot use its certificate"),
        }
    }
}

impl std::error::Error for EdgeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            EdgeError::Bind { source, .. } | EdgeError::Steer { source, .. } | EdgeError::Worker { source, .. } => {
                Some(source)
            }
            EdgeError::Tls { source, .. } => Some(&**source),
        }
    }
}

/// How a backend failed; the metric's label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// It refused the connection, or cannot be reached.
    Connect,
    /// It did not take the connection in time.
    ConnectTimeout,
    /// It ended the connection before its answer was complete.
    Closed,
    /// It reset the connection before its answer was complete.
    Reset,
    /// Its answer is no HTTP/1.1, or larger than allowed.
    Malformed,
    /// Its answer, or the rest of it, did not come in time.
    Timeout,
    /// Not its fault: there was no place left for another connection to backends.
    Limit,
}

impl Cause {
    /// Every cause, in the order of their numbers.
    pub const ALL: [Cause; 7] = [
        Cause::Connect,
        Cause::ConnectTimeout,
        Cause::Closed,
        Cause::Reset,
        Cause::Malformed,
        Cause::Timeout,
        Cause::Limit,
    ];

    /// The metric label.
    pub fn label(self) -> &'static str {
        match self {
            Cause::Connect => "connect",
            Cause::ConnectTimeout => "connect_timeout",
            Cause::Closed => "closed",
            Cause::Reset => "reset",
            Cause::Malformed => "malformed",
            Cause::Timeout => "timeout",
            Cause::Limit => "limit",
        }
    }
}

/// Why a request is answered by us and not by a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The client's fault: malformed or ambiguous.
    BadRequest,
    /// No route for this path.
    NoRoute,
    /// CONNECT and TRACE are not offered.
    Method,
    /// The client was too slow to send its request.
    ClientTimeout,
    /// The client's head is larger than allowed, or has too many fields.
    HeadTooLarge,
    /// An expectation other than 100-continue.
    Expectation,
    /// The backend's fault: it cannot be connected, it closed, or its answer is malformed.
    BadGateway,
    /// The pool has no backend.
    NoBackend,
    /// The backend was too slow.
    BackendTimeout,
    /// We have as many connections to backends as we may.
    Overloaded,
}

impl Refusal {
    /// The status that the client gets (RFC 9110 section 15).
    pub fn status(self) -> u16 {
        match self {
            Refusal::BadRequest => 400,
            Refusal::NoRoute => 404,
            Refusal::Method => 405,
            Refusal::ClientTimeout => 408,
            Refusal::Expectation => 417,
            Refusal::HeadTooLarge => 431,
            Refusal::BadGateway => 502,
            Refusal::NoBackend | Refusal::Overloaded => 503,
            Refusal::BackendTimeout => 504,
        }
    }

    /// The body that goes with it.
    pub fn text(self) -> &'static str {
        match self {
            Refusal::BadRequest => "400 bad request\n",
            Refusal::NoRoute => "404 not found\n",
            Refusal::Method => "405 method not allowed\n",
            Refusal::ClientTimeout => "408 request timeout\n",
            Refusal::Expectation => "417 expectation failed\n",
            Refusal::HeadTooLarge => "431 request header fields too large\n",
            Refusal::BadGateway => "502 bad gateway\n",
            Refusal::NoBackend | Refusal::Overloaded => "503 service unavailable\n",
            Refusal::BackendTimeout => "504 gateway timeout\n",
        }
    }
}
