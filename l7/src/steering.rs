// SPDX-License-Identifier: GPL-3.0-only
//! What the edge asks of the kernel beyond sockets, as traits: hand traffic for any address to these sockets, and see how
//! busy each worker is.
//!
//! `userspace/datapath` implements them with BPF socket lookup. Without an implementation the edge binds ordinary
//! SO_REUSEPORT sockets on each address.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

/// The transport that a listening socket speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// HTTP/1 and HTTP/2.
    Tcp,
    /// HTTP/3.
    Udp,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Transport::Tcp => "tcp",
            Transport::Udp => "udp",
        })
    }
}

/// Hands the traffic of addresses to sockets that are not bound to them.
pub trait Steering: Send + Sync {
    /// Worker `worker` of `workers` offers this listening socket for traffic to these addresses. Called once for each
    /// worker, before any of them accepts.
    #[allow(clippy::too_many_arguments, reason = "each is one fact about the socket; a struct would only rename them")]
    fn publish(
        &self,
        listener: &str,
        transport: Transport,
        addresses: &[SocketAddr],
        worker: usize,
        workers: usize,
        socket: BorrowedFd<'_>,
    ) -> io::Result<()>;

    /// The listener is gone or goes away: no new connection for these addresses.
    fn withdraw(&self, listener: &str, transport: Transport, addresses: &[SocketAddr]) -> io::Result<()>;

    /// The gauge of a worker's live connections, read by whoever picks a worker for the next one.
    fn live(&self, worker: usize) -> Arc<dyn LiveGauge>;
}

/// How many connections a worker holds.
pub trait LiveGauge: Send + Sync {
    /// A connection was accepted.
    fn up(&self);
    /// A connection ended.
    fn down(&self);
}
