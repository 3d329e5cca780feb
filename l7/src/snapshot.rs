// SPDX-License-Identifier: GPL-3.0-only
//! The configuration as the data plane sees it: immutable, plain, swapped whole.
//!
//! `userspace/config/resolve` builds a [`Snapshot`]; the workers read it. A request keeps the snapshot it began with.
//! Nothing here opens a socket or holds state that changes.

use crate::route::Routes;
use crate::tls::ServerTls;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Everything that the layer 7 side needs to know.
#[derive(Debug)]
pub struct Snapshot {
    /// Grows by one with each applied change.
    pub generation: u64,
    /// The listeners that are terminated here. Names are unique.
    pub listeners: Vec<Arc<Listener>>,
    /// Deadlines and sizes.
    pub limits: Limits,
}

/// Where clients arrive.
#[derive(Debug)]
pub struct Listener {
    /// The operator's name for it; also the metric label.
    pub name: Arc<str>,
    /// The addresses that it answers on.
    pub addresses: Vec<SocketAddr>,
    /// What is spoken there.
    pub scheme: Scheme,
    /// Which pool serves which path.
    pub routes: Routes,
}

/// What a listener speaks.
#[derive(Clone, Debug)]
pub enum Scheme {
    /// HTTP/1 and HTTP/2 with prior knowledge, in the clear.
    Http,
    /// HTTP/1 and HTTP/2 over TLS, and HTTP/3 on the same port of UDP if wanted.
    Https { tls: Arc<ServerTls>, http3: bool },
}

impl Scheme {
    /// Whether HTTP/3 is spoken too.
    pub fn http3(&self) -> bool {
        matches!(self, Scheme::Https { http3: true, .. })
    }
}

/// Deadlines and sizes. Each holds for HTTP/1, HTTP/2 and HTTP/3 alike. None of the deadlines cuts a stream that moves.
#[derive(Clone, Debug)]
pub struct Limits {
    /// From accept to the end of the TLS or QUIC handshake.
    pub handshake: Duration,
    /// From the first byte of a request's head to its last.
    pub head: Duration,
    /// Without a byte of either body moving.
    pub idle_body: Duration,
    /// For one attempt to connect to a backend.
    pub connect: Duration,
    /// From the end of the request to the backend's final head.
    pub upstream_head: Duration,
    /// For a client's connection without a request.
    pub keep_alive: Duration,
    /// For a backend's connection without a request.
    pub upstream_keep_alive: Duration,
    /// Of a message's head, names and values and start line. When it is exceeded the request gets 431. The worst cost is
    /// this much memory for each connection that is in the middle of a head.
    pub head_bytes: usize,
    /// Of a message's head. Each field costs us 16 bytes beside its text, so a head of the shortest fields costs at most
    /// four times its size on the wire.
    pub head_fields: usize,
    /// Bytes that a client may send on a stream before we take them; what a stalled stream costs.
    pub stream_window: u32,
    /// Concurrent streams of a connection; a client that wants more waits.
    pub streams: u32,
    /// Idle connections kept per backend and worker.
    pub upstream_idle: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            handshake: Duration::from_secs(10),
            head: Duration::from_secs(10),
            idle_body: Duration::from_secs(60),
            connect: Duration::from_secs(5),
            upstream_head: Duration::from_secs(60),
            keep_alive: Duration::from_secs(75),
            upstream_keep_alive: Duration::from_secs(30),
            head_bytes: 32 * 1024,
            head_fields: 100,
            stream_window: 64 * 1024,
            streams: 128,
            upstream_idle: 256,
        }
    }
}
