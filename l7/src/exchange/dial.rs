// SPDX-License-Identifier: GPL-3.0-only
//! A fresh connection to a backend, given up when its deadline passes or the client goes away.

use crate::back::connect::connect;
use crate::back::pool::{Choice, Connected, Server};
use crate::error::Cause;
use crate::snapshot::Limits;
use crate::stream::{Abort, Front};
use crate::worker::{Watch, Worker};
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

/// Why there is no connection.
pub(super) enum Failed {
    /// The backend refused, or did not answer in time.
    Connect,
    /// There was no place left for another connection.
    Limit,
    /// The client went away meanwhile.
    Cancelled(Abort),
}

pub(super) async fn dial(
    worker: &Worker,
    choice: &Choice,
    server: &Rc<Server>,
    limits: &Limits,
    front: &mut impl Front,
    watch: &Watch,
) -> Result<Connected, Failed> {
    let Some(slot) = worker.upstream_slot() else {
        choice.failed(worker, server, Cause::Limit, None);
        return Err(Failed::Limit);
    };
    watch.arm(limits.connect);
    let mut connecting = pin!(connect(server.address));
    let dialled = poll_fn(|cx| {
        if let Poll::Ready(result) = connecting.as_mut().poll(cx) {
            return Poll::Ready(result.map_err(|error| {
                choice.failed(worker, server, Cause::Connect, Some(&error));
                Failed::Connect
            }));
        }
        if let Poll::Ready(why) = front.poll_cancelled(cx) {
            return Poll::Ready(Err(Failed::Cancelled(why)));
        }
        if watch.expired(cx) {
            choice.failed(worker, server, Cause::ConnectTimeout, None);
            return Poll::Ready(Err(Failed::Connect));
        }
        Poll::Pending
    });
    let dialled = dialled.await;
    match &dialled {
        Ok(_) => worker.counters.upstream_connects.add(1),
        Err(Failed::Connect) => worker.counters.upstream_connect_failures.add(1),
        Err(Failed::Limit | Failed::Cancelled(_)) => {}
    }
    dialled.map(|io| Connected { io, slot })
}
