// SPDX-License-Identifier: GPL-3.0-only
//! The client's side: what a connection speaks, and one adapter per HTTP version to the traits in `stream`.

mod h1;
mod h2;
pub(crate) mod h3;
mod hello;
mod rewind;

use crate::worker::{Binding, Live, Worker};
use std::net::SocketAddr;
use std::rc::Rc;
use tokio::net::TcpStream;

/// What every request of a connection has in common.
pub(crate) struct Client {
    pub(crate) worker: Rc<Worker>,
    pub(crate) binding: Rc<Binding>,
    pub(crate) peer: SocketAddr,
    pub(crate) local: SocketAddr,
    pub(crate) secure: bool,
    pub(crate) live: Live,
}

/// Serves a TCP connection in a task of its own.
pub(crate) fn tcp(worker: &Rc<Worker>, binding: &Rc<Binding>, stream: TcpStream, peer: SocketAddr, live: Live) {
    // A socket that cannot tell its own address is already dead.
    let Ok(local) = stream.local_addr() else { return };
    let (worker, binding) = (Rc::clone(worker), Rc::clone(binding));
    let client = Client { worker: Rc::clone(&worker), binding, peer, local, secure: false, live };
    worker.spawn("connection", hello::serve(client, stream));
}
