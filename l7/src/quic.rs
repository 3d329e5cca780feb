// SPDX-License-Identifier: GPL-3.0-only
//! HTTP/3's transport: one driver per worker and UDP socket, which owns that socket's QUIC connections.
//!
//! A datagram meets the modules in this order: [`socket`] receives it in a batch, [`driver`] finds its connection by what
//! [`packet`] reads, [`connection`] feeds it to quiche and turns what comes out into events for its [`stream`]s, whose
//! exchanges are local tasks. What they answer leaves the same way backwards. Not here yet: Retry, stateless reset,
//! migration, 0-RTT, datagrams.

mod config;
pub(crate) mod connection;
mod driver;
mod held;
mod packet;
mod socket;
pub(crate) mod stream;

use crate::listen::Retired;
use crate::worker::{Binding, Worker};
use driver::Driver;
use std::net::{SocketAddr, UdpSocket};
use std::rc::Rc;

/// Serves HTTP/3 on a socket in tasks of this worker until it has drained or the listener is retired. `destinations` are
/// the only addresses that are answered, for a socket that gets traffic for others too.
pub(crate) fn serve(
    worker: &Rc<Worker>,
    binding: Rc<Binding>,
    socket: UdpSocket,
    destinations: Option<Vec<SocketAddr>>,
    retired: Retired,
) {
    let listener = std::sync::Arc::clone(binding.name());
    match Driver::new(worker, binding, socket, destinations, retired) {
        Ok(driver) => worker.spawn("QUIC driver", driver.run()),
        Err(error) => tracing::error!(worker = worker.index, %listener, %error, "cannot serve HTTP/3"),
    }
}
