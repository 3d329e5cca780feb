// SPDX-License-Identifier: GPL-3.0-only
//! The configuration as the data plane sees it: immutable, plain, swapped whole.
//!
//! `userspace/config/resolve` builds a [`Snapshot`]; the workers read it. A request keeps the snapshot it began with.
//! Nothing here opens a socket or holds state that changes.

use crate::tls::ServerTls;
use eg_balance::{Ring, hash, maglev};
use std::net::{IpAddr, SocketAddr};
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

/// The routes of a listener, longest path prefix first.
#[derive(Clone, Debug, Default)]
pub struct Routes(Vec<Route>);

/// A path prefix and the pool that serves it.
#[derive(Clone, Debug)]
pub struct Route {
    /// The prefix, beginning with `/`. It matches whole segments: `/a` matches `/a`, `/a/b` and `/a?c`, not `/ab`.
    pub path: Arc<str>,
    /// Who serves it.
    pub pool: Arc<Pool>,
}

impl Routes {
    /// Orders the routes so that the longest prefix is found first.
    pub fn new(mut routes: Vec<Route>) -> Routes {
        routes.sort_by_key(|route| std::cmp::Reverse(route.path.len()));
        Routes(routes)
    }

    /// The route with the longest prefix of `path` (a request's path and query).
    pub fn find(&self, path: &[u8]) -> Option<&Route> {
        self.0.get(self.position(path)?)
    }

    /// Where in [`iter`](Self::iter)'s order that route is.
    pub(crate) fn position(&self, path: &[u8]) -> Option<usize> {
        self.0.iter().position(|route| covers(route.path.as_bytes(), path))
    }

    /// All routes, longest prefix first.
    pub fn iter(&self) -> impl Iterator<Item = &Route> {
        self.0.iter()
    }
}

fn covers(prefix: &[u8], path: &[u8]) -> bool {
    match path.strip_prefix(prefix) {
        Some([] | [b'/' | b'?', ..]) => true,
        Some(_) => prefix.ends_with(b"/"),
        // `OPTIONS *` concerns the server as a whole: the root route answers it.
        None => path == b"*" && prefix == b"/",
    }
}

/// Backends that serve the same thing.
#[derive(Debug)]
pub struct Pool {
    /// The operator's name for it.
    pub name: Arc<str>,
    /// How one is picked.
    pub algorithm: Algorithm,
    /// Who can be picked.
    pub backends: Vec<Arc<Backend>>,
    /// For Maglev: which backend owns which slot, and the key of the hash.
    ring: Option<(Ring, [u64; 2])>,
}

impl Pool {
    /// Builds what picking needs; a Maglev ring takes a few milliseconds.
    pub fn new(name: Arc<str>, algorithm: Algorithm, backends: Vec<Arc<Backend>>) -> Pool {
        let ring = match &algorithm {
            Algorithm::RoundRobin => None,
            Algorithm::Maglev { seed } => {
                let key = hash::pool_key(*seed, &name);
                let weights: Vec<(&str, u32)> = backends.iter().map(|b| (&*b.name, b.weight)).collect();
                Some((maglev::ring(key, &weights), key))
            }
        };
        Pool { name, algorithm, backends, ring }
    }

    /// The backend that serves a client's address, as long as it `takes` requests; the next one if not.
    pub(crate) fn maglev(&self, client: IpAddr, takes: impl Fn(usize) -> bool) -> Option<usize> {
        let (ring, key) = self.ring.as_ref()?;
        let address = match client {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        ring.pick_any(hash::bytes_of(*key, &address.octets()), takes)
    }
}

/// How a backend is picked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// One after the other, by weight.
    RoundRobin,
    /// By the hash of the client's address, with this seed.
    Maglev { seed: [u8; 16] },
}

/// One server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// The operator's name for it.
    pub name: Arc<str>,
    /// Where it listens.
    pub address: SocketAddr,
    /// Its share of the pool, in proportion to the others' weights.
    pub weight: u32,
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

#[cfg(test)]
mod tests {
    use super::*;

    fn routes(paths: &[&str]) -> Routes {
        let pool = |path: &str| Pool::new(path.into(), Algorithm::RoundRobin, Vec::new());
        Routes::new(paths.iter().map(|&p| Route { path: p.into(), pool: Arc::new(pool(p)) }).collect())
    }

    #[test]
    fn the_longest_prefix_of_whole_segments_wins() {
        let routes = routes(&["/", "/a", "/a/b", "/c/"]);
        for (path, expected) in [
            ("/", "/"),
            ("/ab", "/"),
            ("/a", "/a"),
            ("/a?q", "/a"),
            ("/a/x", "/a"),
            ("/a/b/c", "/a/b"),
            ("/a/bc", "/a"),
            ("/c", "/"),
            ("/c/d", "/c/"),
            ("*", "/"),
        ] {
            assert_eq!(&*routes.find(path.as_bytes()).unwrap().path, expected, "{path}");
        }
        assert!(super::tests::routes(&["/a"]).find(b"/").is_none());
    }
}
