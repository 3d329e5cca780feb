// SPDX-License-Identifier: GPL-3.0-only
//! What a worker counts. Each number has one writer, the worker, and is read at scrape by `userspace/telemetry`, which
//! sums over workers: so every update is a plain relaxed load and store, and the request path takes no lock and looks up
//! no label.

use crate::error::Cause;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

/// The HTTP version that a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// HTTP/1.0 and HTTP/1.1.
    H1,
    /// HTTP/2.
    H2,
    /// HTTP/3.
    H3,
}

impl Protocol {
    /// Every protocol, in the order of their numbers.
    pub const ALL: [Protocol; 3] = [Protocol::H1, Protocol::H2, Protocol::H3];

    /// The metric label.
    pub fn label(self) -> &'static str {
        match self {
            Protocol::H1 => "h1",
            Protocol::H2 => "h2",
            Protocol::H3 => "h3",
        }
    }
}

/// A number that only one thread writes.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds `n`. Only the owning worker may call it.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Takes `n` away. Only the owning worker may call it.
    pub fn sub(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_sub(n), Relaxed);
    }

    /// The number now. Any thread may call it.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// What one worker counted since it started.
#[derive(Debug, Default)]
pub struct Counters {
    /// Connections made to backends.
    pub upstream_connects: Count,
    /// Attempts to connect that failed or timed out.
    pub upstream_connect_failures: Count,
    /// Times that a backend failed, in the order of [`Cause::ALL`].
    pub(crate) upstream_failures: [Count; Cause::ALL.len()],
    /// Requests sent on a backend's connection that had served another before.
    pub upstream_reuses: Count,
    /// Requests sent a second time because the reused connection died before answering.
    pub upstream_replays: Count,
    /// Connections that a drain cut because its time was over.
    pub shutdown_aborted_connections: Count,
    /// Panics that were caught; each ended one connection.
    pub panics: Count,
    /// Times that accepting paused because there were as many connections as there may be, or no descriptor left.
    pub accept_pauses: Count,
    /// What its UDP sockets did for HTTP/3.
    pub quic: QuicCounters,
    /// One entry per listener that this worker has served, in the order of their first appearance; never removed, so that
    /// the sums never fall. Locked when a snapshot is applied and at scrape, never on the request path.
    listeners: Mutex<Vec<Arc<ListenerCounters>>>,
}

impl Counters {
    /// Times that a backend failed for that cause.
    pub fn upstream_failures(&self, cause: Cause) -> u64 {
        self.upstream_failures.get(cause as usize).map_or(0, Count::get)
    }

    /// The counters of every listener that this worker has served.
    pub fn listeners(&self) -> Vec<Arc<ListenerCounters>> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The counters of that listener, made if it is new.
    pub(crate) fn listener(&self, name: &Arc<str>) -> Arc<ListenerCounters> {
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = listeners.iter().find(|counters| counters.name == *name) {
            return Arc::clone(found);
        }
        let new = Arc::new(ListenerCounters::new(Arc::clone(name)));
        listeners.push(Arc::clone(&new));
        new
    }
}

/// What one worker counted for QUIC, over all its UDP sockets. Datagrams over calls is how many one system call moved.
#[derive(Debug, Default)]
pub struct QuicCounters {
    /// Handshakes that were completed.
    pub handshakes: Count,
    /// Datagrams that came in, after the kernel's coalescing was undone.
    pub received_datagrams: Count,
    /// Their bytes.
    pub received_bytes: Count,
    /// System calls that received at least one.
    pub receive_calls: Count,
    /// Datagrams that went out.
    pub sent_datagrams: Count,
    /// Their bytes.
    pub sent_bytes: Count,
    /// System calls that sent at least one.
    pub send_calls: Count,
    /// Times that the kernel's send buffer was full.
    pub send_waits: Count,
    /// Bursts that the kernel refused for another reason; QUIC sends what was in them again.
    pub send_failures: Count,
    /// Clients that spoke another version and were told which ones we speak.
    pub version_negotiations: Count,
    /// Clients that came during a drain, or when there were as many connections as there may be, and were turned away.
    pub refused: Count,
    /// Datagrams dropped: for an address that is not the listener's.
    pub foreign_destination: Count,
    /// Datagrams dropped: no QUIC packet, or one that a client never sends.
    pub malformed: Count,
    /// Datagrams dropped: for a connection that is not known here.
    pub unknown_connection: Count,
}

const STATUSES: usize = 500;

/// What one worker counted for one listener.
#[derive(Debug)]
pub struct ListenerCounters {
    /// The listener's name.
    pub name: Arc<str>,
    /// By protocol, what its connections did; the last are those that have not said yet what they speak.
    connections: [ConnectionCounters; 4],
    /// Bytes of request bodies taken from clients.
    pub received_body_bytes: Count,
    /// Bytes of response bodies handed to clients.
    pub sent_body_bytes: Count,
    /// Responses that were cut because they could not be completed.
    pub aborted_responses: Count,
    /// Requests whose client went away before the response was complete.
    pub cancelled_requests: Count,
    /// TLS or QUIC handshakes that failed or timed out.
    pub handshake_failures: Count,
    requests: Box<[Count]>,
}

/// Connections of one protocol.
#[derive(Debug, Default)]
pub struct ConnectionCounters {
    /// How many were accepted and spoke this protocol, or ended before they spoke any.
    pub accepted: Count,
    /// How many are open now.
    pub active: Count,
}

impl ListenerCounters {
    fn new(name: Arc<str>) -> ListenerCounters {
        ListenerCounters {
            name,
            connections: Default::default(),
            received_body_bytes: Count::default(),
            sent_body_bytes: Count::default(),
            aborted_responses: Count::default(),
            cancelled_requests: Count::default(),
            handshake_failures: Count::default(),
            requests: (0..STATUSES * Protocol::ALL.len()).map(|_| Count::default()).collect(),
        }
    }

    /// Connections of that protocol; with `None` those that have not said yet what they speak.
    pub fn connections(&self, protocol: Option<Protocol>) -> &ConnectionCounters {
        let [h1, h2, h3, none] = &self.connections;
        match protocol {
            Some(Protocol::H1) => h1,
            Some(Protocol::H2) => h2,
            Some(Protocol::H3) => h3,
            None => none,
        }
    }

    /// One request was answered with that status (100..=599; others are not counted).
    pub(crate) fn request(&self, protocol: Protocol, status: u16) {
        let index = protocol as usize * STATUSES + usize::from(status).wrapping_sub(100);
        if (100..=599).contains(&status)
            && let Some(count) = self.requests.get(index)
        {
            count.add(1);
        }
    }

    /// Every (protocol, status) that occurred, with how often.
    pub fn requests(&self) -> impl Iterator<Item = (Protocol, u16, u64)> {
        Protocol::ALL.into_iter().zip(self.requests.chunks(STATUSES)).flat_map(|(protocol, counts)| {
            let figures = (100u16..).zip(counts).map(|(status, count)| (status, count.get()));
            figures.filter(|&(_, count)| count > 0).map(move |(status, count)| (protocol, status, count))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_protocol_and_real_status() {
        let counters = Counters::default();
        let listener = counters.listener(&"web".into());
        listener.request(Protocol::H2, 200);
        listener.request(Protocol::H2, 200);
        listener.request(Protocol::H3, 599);
        listener.request(Protocol::H1, 99);
        listener.request(Protocol::H1, 600);
        let all: Vec<_> = counters.listener(&"web".into()).requests().collect();
        assert_eq!(all, [(Protocol::H2, 200, 2), (Protocol::H3, 599, 1)]);
        assert_eq!(counters.listeners().len(), 1);
    }
}
