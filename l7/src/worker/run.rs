// SPDX-License-Identifier: GPL-3.0-only
//! The body of a worker's thread: starts the tasks that accept, ticks the clock, obeys commands, drains.

use super::{Phase, Worker};
use crate::listen::{self, Endpoint};
use crate::snapshot::Snapshot;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// What `edge` tells a worker.
pub(crate) enum Command {
    /// Take this snapshot, and serve on these new sockets.
    Apply { snapshot: Arc<Snapshot>, endpoints: Vec<Endpoint> },
    /// Stop accepting, finish by `deadline`, answer with how many connections had to be cut.
    Drain { deadline: Instant, done: oneshot::Sender<u64> },
}

/// How often deadlines are looked at.
const TICK: Duration = Duration::from_millis(50);

/// How long connections have to end once they were told to abort: they only have to be polled once.
const ABORT_GRACE: Duration = Duration::from_millis(200);

/// Runs until drained, or until the other end of `commands` is gone.
pub(crate) async fn run(worker: Rc<Worker>, mut commands: mpsc::UnboundedReceiver<Command>) {
    let ticking = Rc::clone(&worker);
    tokio::task::spawn_local(async move {
        let mut interval = tokio::time::interval(TICK);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            ticking.tick();
        }
    });
    while let Some(command) = commands.recv().await {
        match command {
            Command::Apply { snapshot, endpoints } => {
                worker.adopt(snapshot);
                for endpoint in endpoints {
                    if let Some(binding) = worker.binding(&endpoint.listener) {
                        listen::serve(&worker, binding, endpoint);
                    }
                }
            }
            Command::Drain { deadline, done } => {
                let aborted = drain(&worker, deadline).await;
                // Whoever asked may have stopped waiting; the drain is over either way.
                let _ = done.send(aborted);
                return;
            }
        }
    }
    drain(&worker, Instant::now()).await;
}

async fn drain(worker: &Rc<Worker>, deadline: Instant) -> u64 {
    worker.set_phase(Phase::Draining);
    settle(worker, deadline).await;
    let aborted = worker.live();
    worker.counters.shutdown_aborted_connections.add(aborted);
    worker.set_phase(Phase::Aborting);
    settle(worker, Instant::now() + ABORT_GRACE).await;
    aborted
}

/// Waits until no connection is left, or until then. Whoever was accepted in the same instant shows up on the first tick.
async fn settle(worker: &Worker, until: Instant) {
    let mut interval = tokio::time::interval(Duration::from_millis(10));
    interval.tick().await;
    loop {
        interval.tick().await;
        if worker.live() == 0 || Instant::now() >= until {
            return;
        }
    }
}
