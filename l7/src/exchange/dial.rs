// SPDX-License-Identifier: GPL-3.0-only
//! A fresh connection to a backend, given up when its deadline passes or the client goes away.

use crate::back::connect::connect;
use crate::back::pool::Server;
use crate::io::Io;
use crate::snapshot::Limits;
use crate::stream::{Abort, Front};
use crate::worker::{Watch, Worker};
use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

/// Why there is no connection.
pub(super) enum Failed {
    /// The backend refused, or did not answer in time.
    Connect,
    /// The client went away meanwhile.
    Cancelled(Abort),
}

pub(super) async fn dial(
    worker: &Worker,
    server: &Server,
    limits: &Limits,
    front: &mut impl Front,
    watch: &Watch,
) -> Result<Io, Failed> {
    watch.arm(limits.connect);
    let mut connecting = pin!(connect(server.address));
    let dialled = poll_fn(|cx| {
        if let Poll::Ready(result) = connecting.as_mut().poll(cx) {
            return Poll::Ready(result.map_err(|error| {
                tracing::debug!(backend = %server.address, %error, "cannot connect");
                Failed::Connect
            }));
        }
        if let Poll::Ready(why) = front.poll_cancelled(cx) {
            return Poll::Ready(Err(Failed::Cancelled(why)));
        }
        if watch.expired(cx) {
            tracing::debug!(backend = %server.address, "connecting takes too long");
            return Poll::Ready(Err(Failed::Connect));
        }
        Poll::Pending
    });
    let dialled = dialled.await;
    match &dialled {
        Ok(_) => worker.counters.upstream_connects.add(1),
        Err(Failed::Connect) => worker.counters.upstream_connect_failures.add(1),
        Err(Failed::Cancelled(_)) => {}
    }
    dialled
}
