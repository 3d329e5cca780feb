// SPDX-License-Identifier: GPL-3.0-only
//! The client's side: what a connection speaks, and one adapter per HTTP version to the traits in `stream`.

pub(crate) mod h3;

use crate::worker::{Binding, Live, Worker};
use std::net::SocketAddr;
use std::rc::Rc;
use tokio::net::TcpStream;

/// Serves a TCP connection in a task of its own.
pub(crate) fn tcp(worker: &Rc<Worker>, binding: &Rc<Binding>, stream: TcpStream, peer: SocketAddr, live: Live) {
    let binding = Rc::clone(binding);
    worker.spawn("connection", async move {
        let _ = (&binding, &live, peer);
        drop(stream);
    });
}
