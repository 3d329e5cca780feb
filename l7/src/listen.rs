// SPDX-License-Identifier: GPL-3.0-only
//! Listening sockets: made by `edge` before any worker sees them ([`bind`]), served by the workers ([`serve`]).
//!
//! A set of sockets, one per worker, stands for one listener, one transport and some of its addresses ([`Place`]). What a
//! connection speaks is decided in `front`.

pub(crate) mod bind;
mod tcp;

use crate::quic;
use crate::steering::Transport;
use crate::worker::{Binding, Worker};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What one set of sockets is for; the same place in two snapshots keeps its sockets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) listener: Arc<str>,
    pub(crate) transport: Transport,
    /// As configured: the port may be 0.
    pub(crate) addresses: Vec<SocketAddr>,
}

/// Set when the listener is removed: sockets with this mark take no new connection.
#[derive(Clone, Debug, Default)]
pub struct Retired(Arc<AtomicBool>);

impl Retired {
    /// Whether it is set. The worker's watches are woken after it was.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// Whether a worker still has a socket with this mark; what asks holds the other clone.
    pub(crate) fn is_served(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }

    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::Release);
    }
}

/// One worker's socket of a place.
pub struct Endpoint {
    /// The listener's name.
    pub listener: Arc<str>,
    /// The addresses that it stands for, with their real ports.
    pub addresses: Vec<SocketAddr>,
    /// The kernel hands us the traffic of `addresses`; the socket itself is bound elsewhere (TCP) or to the wildcard
    /// (UDP), so that replies must name their source.
    pub steered: bool,
    /// Whether the listener was removed.
    pub retired: Retired,
    /// The socket, not blocking.
    pub socket: Socket,
}

/// A listening socket.
pub enum Socket {
    /// HTTP/1 and HTTP/2.
    Tcp(TcpListener),
    /// HTTP/3.
    Udp(UdpSocket),
}

/// Starts serving on an endpoint in tasks of its own.
pub(crate) fn serve(worker: &Rc<Worker>, binding: Rc<Binding>, endpoint: Endpoint) {
    let Endpoint { socket, retired, addresses, steered, .. } = endpoint;
    match socket {
        Socket::Tcp(socket) => tcp::serve(worker, binding, socket, retired),
        // A steered socket is bound to the wildcard: it hears what was sent to other addresses of this host, too.
        Socket::Udp(socket) => quic::serve(worker, binding, socket, steered.then_some(addresses), retired),
    }
}
