// SPDX-License-Identifier: GPL-3.0-only
//! The facade: everything at layer 7 of this process. `userspace/app` starts it, applies snapshots, drains it.
//!
//! It promises that a failing start or change leaves nothing behind: every new socket of every worker is bound, and
//! steered to, before any thread serves on one of them.

use crate::error::EdgeError;
use crate::listen::bind::{self, Bound};
use crate::listen::{Endpoint, Place, Retired};
use crate::observe::Counters;
use crate::snapshot::Snapshot;
use crate::steering::{Steering, Transport};
use crate::worker::run::{self, Command};
use crate::worker::{Budget, Worker};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;
use tokio::runtime::LocalOptions;
use tokio::sync::{mpsc, oneshot};

/// How the edge runs; cannot change while it does.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many worker threads; 0 is one per core.
    pub workers: usize,
    /// Whether each worker stays on one core.
    pub pin_cores: bool,
    /// Client connections of all workers and protocols together. When there are as many, accepting pauses.
    pub connections: usize,
    /// Connections to backends of all workers together. When there are as many and none is idle, requests get 503.
    pub upstream_connections: usize,
}

impl Default for Options {
    /// One worker per core, not pinned, no limits.
    fn default() -> Options {
        Options { workers: 0, pin_cores: false, connections: usize::MAX, upstream_connections: usize::MAX }
    }
}

/// The running layer 7 side. Dropping it without [`Edge::drain`] cuts every connection.
pub struct Edge {
    workers: Vec<Handle>,
    counters: Vec<Arc<Counters>>,
    steering: Option<Arc<dyn Steering>>,
    /// What is bound now. Locked only while a snapshot is applied or addresses are asked for: never by a worker.
    places: Mutex<Vec<Bind>>,
    /// Removed, while a worker still has a socket of theirs: an HTTP/3 one stays as long as its connections. Locked like
    /// `places`.
    leaving: Mutex<Vec<Bind>>,
}

/// What a drain came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Connections that were cut because the time was over.
    pub aborted_connections: u64,
}

struct Handle {
    commands: mpsc::UnboundedSender<Command>,
    thread: Option<JoinHandle<()>>,
}

struct Bind {
    place: Place,
    addresses: Vec<SocketAddr>,
    retired: Retired,
}

impl Edge {
    /// Binds every socket of every worker, then starts the workers. On error nothing stays bound and no thread runs.
    pub fn start(
        snapshot: Arc<Snapshot>,
        options: Options,
        steering: Option<Arc<dyn Steering>>,
    ) -> Result<Edge, EdgeError> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let workers = if options.workers == 0 { cores } else { options.workers };
        let mut edge = Edge {
            workers: Vec::new(),
            counters: Vec::new(),
            steering,
            places: Mutex::default(),
            leaving: Mutex::default(),
        };
        let bound = edge.bind(&snapshot, workers, &[])?;
        let clients = Budget::new(options.connections, workers);
        let upstream = Budget::new(options.upstream_connections, workers);
        for index in 0..workers {
            let counters = Arc::new(Counters::default());
            let core = options.pin_cores.then_some(index % cores);
            let gauge = edge.steering.as_ref().map(|steering| steering.live(index));
            edge.counters.push(Arc::clone(&counters));
            let snapshot = Arc::clone(&snapshot);
            let (clients, upstream) = (Arc::clone(&clients), Arc::clone(&upstream));
            let (commands, receiver) = mpsc::unbounded_channel();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map(drop);
            let body = move || {
                if let Some(core) = core {
                    pin(index, core);
                }
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .event_interval(61)
                    .build_local(LocalOptions::default());
                match runtime {
                    Ok(runtime) => runtime.block_on(async move {
                        let worker = Worker::new(index, counters, gauge, snapshot, [&clients, &upstream]);
                        run::run(worker, receiver).await;
                    }),
                    Err(error) => tracing::error!(worker = index, %error, "cannot start a worker's runtime"),
                }
            };
            let thread =
                runtime.and_then(|()| std::thread::Builder::new().name(format!("eg-worker-{index}")).spawn(body));
            let thread = thread.map_err(|source| EdgeError::Worker { worker: index, source })?;
            edge.workers.push(Handle { commands, thread: Some(thread) });
        }
        edge.hand_over(&snapshot, bound);
        Ok(edge)
    }

    /// Swaps to a new snapshot: binds new listeners first, all or nothing, then closes removed ones. Established
    /// connections stay.
    pub fn apply(&self, snapshot: Arc<Snapshot>) -> Result<(), EdgeError> {
        let kept: Vec<Place> = self.places().iter().map(|bind| bind.place.clone()).collect();
        let bound = self.bind(&snapshot, self.workers.len(), &kept)?;
        self.hand_over(&snapshot, bound);
        Ok(())
    }

    /// Stops accepting, says goodbye in each protocol, waits for work until `deadline`, then aborts what is left.
    pub async fn drain(mut self, deadline: Instant) -> Drained {
        self.withdraw(|_| true);
        let mut waiting = Vec::new();
        for worker in &self.workers {
            let (done, drained) = oneshot::channel();
            // A worker that is gone has no connections left to wait for.
            let _ = worker.commands.send(Command::Drain { deadline, done });
            waiting.push(drained);
        }
        let mut aborted_connections = 0;
        for drained in waiting {
            aborted_connections += drained.await.unwrap_or(0);
        }
        self.join();
        Drained { aborted_connections }
    }

    /// One per worker; to be summed at scrape.
    pub fn counters(&self) -> &[Arc<Counters>] {
        &self.counters
    }

    /// Where each listener can be reached, with real ports.
    pub fn local_addresses(&self) -> Vec<(String, SocketAddr, Transport)> {
        let places = self.places();
        let each = |bind: &Bind| {
            let (name, transport) = (bind.place.listener.to_string(), bind.place.transport);
            bind.addresses.iter().map(move |&address| (name.clone(), address, transport)).collect::<Vec<_>>()
        };
        places.iter().flat_map(each).collect()
    }

    fn places(&self) -> std::sync::MutexGuard<'_, Vec<Bind>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Binds what the snapshot wants beyond `kept`.
    fn bind(&self, snapshot: &Snapshot, workers: usize, kept: &[Place]) -> Result<Vec<Bound>, EdgeError> {
        let mut bound: Vec<Bound> = Vec::new();
        for place in bind::places(snapshot, self.steering.is_some()) {
            if kept.contains(&place) {
                continue;
            }
            let tcp = bound
                .iter()
                .find(|other| other.place.listener == place.listener && other.place.addresses == place.addresses);
            let tcp = tcp.map(|tcp| tcp.addresses.clone()).unwrap_or_default();
            let configured = place.addresses.clone();
            let chosen = |address: SocketAddr| {
                let index = configured.iter().position(|&other| other == address);
                index.and_then(|index| tcp.get(index).copied()).unwrap_or(address)
            };
            let has = |addresses: &[SocketAddr], port: u16| addresses.iter().any(|address| address.port() == port);
            let ours = |transport: Transport, port: u16| {
                self.holds(transport, port)
                    || bound.iter().any(|other| other.place.transport == transport && has(&other.addresses, port))
            };
            match bind::bind(place, workers, self.steering.as_deref(), chosen, ours) {
                Ok(new) => bound.push(new),
                Err(error) => {
                    self.undo(&bound);
                    return Err(error);
                }
            }
        }
        Ok(bound)
    }

    /// Whether a socket of a listener is bound to this port, or may still be.
    fn holds(&self, transport: Transport, port: u16) -> bool {
        let on = |bind: &Bind| {
            bind.place.transport == transport && bind.addresses.iter().any(|address| address.port() == port)
        };
        let mut leaving = self.leaving.lock().unwrap_or_else(PoisonError::into_inner);
        leaving.retain(|bind| bind.retired.is_served());
        leaving.iter().any(on) || self.places().iter().any(on)
    }

    /// Takes back what was published for sockets that will not be served after all.
    fn undo(&self, bound: &[Bound]) {
        for Bound { place, addresses, .. } in bound {
            self.withdraw_one(&place.listener, place.transport, addresses);
        }
    }

    fn hand_over(&self, snapshot: &Arc<Snapshot>, bound: Vec<Bound>) {
        let wanted = bind::places(snapshot, self.steering.is_some());
        let mut per_worker: Vec<Vec<Endpoint>> = self.workers.iter().map(|_| Vec::new()).collect();
        let mut new = Vec::new();
        for Bound { place, addresses, retired, endpoints } in bound {
            for (list, endpoint) in per_worker.iter_mut().zip(endpoints) {
                list.push(endpoint);
            }
            new.push(Bind { place, addresses, retired });
        }
        let still: Vec<(Transport, SocketAddr)> =
            new.iter().flat_map(|bind| bind.addresses.iter().map(|&at| (bind.place.transport, at))).collect();
        self.places().extend(new);
        self.withdraw_except(&wanted, &still);
        for (worker, endpoints) in self.workers.iter().zip(per_worker) {
            // Sending fails only when the worker is gone, which it logged.
            let _ = worker.commands.send(Command::Apply { snapshot: Arc::clone(snapshot), endpoints });
        }
    }

    /// Retires places that are no longer wanted. Addresses that other sockets have taken over stay steered.
    fn withdraw_except(&self, wanted: &[Place], still: &[(Transport, SocketAddr)]) {
        let mut places = self.places();
        let (stay, leave) = std::mem::take(&mut *places).into_iter().partition(|bind| wanted.contains(&bind.place));
        *places = stay;
        drop(places);
        for bind in leave {
            bind.retired.set();
            let gone = |address: &SocketAddr| !still.contains(&(bind.place.transport, *address));
            let addresses: Vec<SocketAddr> = bind.addresses.iter().copied().filter(gone).collect();
            self.withdraw_one(&bind.place.listener, bind.place.transport, &addresses);
            self.leaving.lock().unwrap_or_else(PoisonError::into_inner).push(bind);
        }
    }

    fn withdraw(&self, which: impl Fn(&Bind) -> bool) {
        for bind in self.places().iter().filter(|bind| which(bind)) {
            self.withdraw_one(&bind.place.listener, bind.place.transport, &bind.addresses);
        }
    }

    fn withdraw_one(&self, listener: &str, transport: Transport, addresses: &[SocketAddr]) {
        if let Some(steering) = self.steering.as_ref().filter(|_| !addresses.is_empty())
            && let Err(error) = steering.withdraw(listener, transport, addresses)
        {
            tracing::warn!(listener, %transport, %error, "cannot withdraw a listener's addresses");
        }
    }

    fn join(&mut self) {
        for mut worker in self.workers.drain(..) {
            drop(worker.commands);
            if let Some(Err(_)) = worker.thread.take().map(JoinHandle::join) {
                tracing::error!("a worker's thread panicked");
            }
        }
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        self.join();
    }
}

/// A worker that stays on one core keeps its cache; where the host forbids it we run unpinned and say so.
fn pin(worker: usize, core: usize) {
    let mut set = nix::sched::CpuSet::new();
    let pinned = set.set(core).and_then(|()| nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &set));
    if let Err(error) = pinned {
        tracing::warn!(worker, core, %error, "cannot pin a worker to its core");
    }
}
