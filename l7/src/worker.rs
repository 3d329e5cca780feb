// SPDX-License-Identifier: GPL-3.0-only
//! One worker: a thread with its own runtime, sockets, backend connections and clock. A request never leaves it.
//!
//! [`Worker`] is what every task of the thread shares, through `Rc` and cells; nothing of it is locked, and no borrow of
//! it is held across an await or a connection's step. `edge` starts workers and sends them [`Command`]s; `run` is the
//! thread's body.

mod buffers;
mod isolate;
mod lease;
pub(crate) mod run;
mod seldom;
mod view;
mod watch;

pub use isolate::{Panicked, isolate};
pub(crate) use lease::{Budget, Purse, Slot};
pub(crate) use seldom::Seldom;
pub use view::{Binding, Live, View};
pub use watch::Watch;

use crate::back::pool::Server;
use crate::observe::Counters;
use crate::snapshot::Snapshot;
use crate::steering::LiveGauge;
use buffers::Buffers;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use watch::Watches;

/// What the tasks of one worker share.
pub struct Worker {
    /// 0 to the number of workers.
    pub index: usize,
    /// What this worker counts.
    pub counters: Arc<Counters>,
    pub(crate) gauge: Option<Arc<dyn LiveGauge>>,
    pub(crate) buffers: Buffers,
    /// Client connections that may still be taken.
    pub(crate) clients: Rc<Purse>,
    /// Connections to backends that may still be made.
    pub(crate) upstream: Rc<Purse>,
    /// That accepting pauses.
    pub(crate) paused: Seldom,
    servers: RefCell<HashMap<SocketAddr, Rc<Server>>>,
    snapshot: RefCell<Arc<Snapshot>>,
    bindings: RefCell<Vec<Rc<Binding>>>,
    watches: RefCell<Watches>,
    phase: Cell<Phase>,
    now: Cell<Instant>,
    swept: Cell<Instant>,
    live: Cell<u64>,
}

/// Where a worker is in its life. Whoever holds a [`Watch`] is woken when it changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Serving.
    Running,
    /// No new connections; say goodbye in each protocol; requests in flight go on.
    Draining,
    /// The time for draining is over: abort what is left.
    Aborting,
}

/// How often idle connections to backends are looked at.
const SWEEP: Duration = Duration::from_secs(1);

/// Idle connections to backends are given up while less than one in this many places is free.
const SCARCE: usize = 8;

impl Worker {
    pub(crate) fn new(
        index: usize,
        counters: Arc<Counters>,
        gauge: Option<Arc<dyn LiveGauge>>,
        snapshot: Arc<Snapshot>,
        [clients, upstream]: [&Arc<Budget>; 2],
    ) -> Rc<Worker> {
        Rc::new(Worker {
            index,
            counters,
            gauge,
            buffers: Buffers::default(),
            clients: Purse::new(clients),
            upstream: Purse::new(upstream),
            paused: Seldom::default(),
            servers: RefCell::default(),
            swept: Cell::new(Instant::now()),
            snapshot: RefCell::new(snapshot),
            bindings: RefCell::default(),
            watches: RefCell::default(),
            phase: Cell::new(Phase::Running),
            now: Cell::new(Instant::now()),
            live: Cell::new(0),
        })
    }

    /// Where the worker is in its life.
    pub fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// The time, at most one tick (50 ms) old: good enough for deadlines, and free.
    pub fn now(&self) -> Instant {
        self.now.get()
    }

    /// A place for a connection to a backend; an idle one makes room for it where it must.
    pub(crate) fn upstream_slot(&self) -> Option<Slot> {
        if !self.upstream.has_one() {
            let _ = self.servers.borrow().values().any(|server| server.shed());
        }
        self.upstream.take()
    }

    /// Client connections that are open, of any protocol.
    pub fn live(&self) -> u64 {
        self.live.get()
    }

    /// Spawns a task on this thread. A panic in it is counted, logged and ends that task alone.
    pub fn spawn(self: &Rc<Self>, what: &'static str, task: impl Future<Output = ()> + 'static) {
        let worker = Rc::clone(self);
        tokio::task::spawn_local(async move {
            if let Err(panicked) = isolate(task).await {
                worker.panicked(what, &panicked);
            }
        });
    }

    /// Counts and logs a panic that was caught.
    pub fn panicked(&self, what: &str, panicked: &Panicked) {
        self.counters.panics.add(1);
        tracing::error!(worker = self.index, what, message = %panicked, "a panic ended one connection");
    }

    fn set_phase(&self, phase: Phase) {
        self.phase.set(phase);
        self.watches.borrow_mut().wake_all();
    }

    fn tick(&self) {
        let now = Instant::now();
        self.now.set(now);
        self.watches.borrow_mut().wake_expired(now);
        if self.upstream.is_scarce(SCARCE) {
            // What this worker keeps idle, another may need.
            self.servers.borrow().values().for_each(|server| server.sweep(now, Duration::ZERO));
        }
        if now.saturating_duration_since(self.swept.get()) >= SWEEP {
            self.swept.set(now);
            let most = self.snapshot.borrow().limits.upstream_keep_alive;
            self.servers.borrow().values().for_each(|server| server.sweep(now, most));
        }
    }

    /// The server at that address, made if it is new.
    fn server(&self, address: SocketAddr) -> Rc<Server> {
        Rc::clone(self.servers.borrow_mut().entry(address).or_insert_with(|| Server::new(address)))
    }

    /// Takes a new snapshot: bindings see it from their next request on; those that are
    /// no longer in it are forgotten, and their connections keep the last view that had them.
    fn adopt(&self, snapshot: Arc<Snapshot>) {
        let mut bindings = self.bindings.borrow_mut();
        bindings.retain(|binding| {
            let listener = snapshot.listeners.iter().find(|listener| listener.name == *binding.name());
            if let Some(listener) = listener {
                binding.adopt(View::new(self, listener, &snapshot));
            }
            listener.is_some()
        });
        drop(bindings);
        // Backends that no view names any more take their idle connections with them.
        self.servers.borrow_mut().retain(|_, server| Rc::strong_count(server) > 1);
        *self.snapshot.borrow_mut() = snapshot;
        self.watches.borrow_mut().wake_all();
    }

    /// The binding of that listener, made if it is new.
    fn binding(&self, name: &str) -> Option<Rc<Binding>> {
        if let Some(found) = self.bindings.borrow().iter().find(|binding| &**binding.name() == name) {
            return Some(Rc::clone(found));
        }
        let snapshot = Arc::clone(&self.snapshot.borrow());
        let listener = snapshot.listeners.iter().find(|listener| &*listener.name == name)?;
        let binding = Binding::new(View::new(self, listener, &snapshot));
        self.bindings.borrow_mut().push(Rc::clone(&binding));
        Some(binding)
    }
}
