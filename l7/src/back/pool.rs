// SPDX-License-Identifier: GPL-3.0-only
//! Pools and backends as one worker sees them: whose turn it is, and the connections that wait for a next request.
//!
//! A connection comes back only after a message that ended exactly where it should (`back::h1` decides), is looked at
//! before it is used again, and is dropped when it was idle too long. Backends outlive snapshots, so a reload keeps their
//! connections.

use crate::error::Cause;
use crate::io::Io;
use crate::route::pool::{Algorithm, Backend, Pool};
use crate::worker::{Seldom, Slot, Worker};
use eg_balance::round_robin::RoundRobin;
use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A pool.
pub(crate) struct Choice {
    pool: Arc<Pool>,
    servers: Vec<Rc<Server>>,
    turns: RefCell<RoundRobin>,
}

/// A backend, with its idle connections; the newest is last.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    idle: RefCell<Vec<Idle>>,
    /// When each kind of failure was last logged.
    failures: [Seldom; Cause::ALL.len()],
}

/// A connection to a backend, with its place among those that there may be.
pub(crate) struct Connected {
    pub(crate) io: Io,
    pub(crate) slot: Slot,
}

struct Idle {
    connected: Connected,
    since: Instant,
}

impl Choice {
    pub(crate) fn new(worker: &Worker, pool: &Arc<Pool>, server: impl FnMut(&Backend) -> Rc<Server>) -> Choice {
        let servers = pool.backends.iter().map(|backend| &**backend).map(server).collect();
        let turns = RefCell::new(RoundRobin::new(worker.index));
        Choice { pool: Arc::clone(pool), servers, turns }
    }

    /// The server for a client, other than `not`. A client's address decides with Maglev, the turn with round robin.
    pub(crate) fn pick(&self, client: IpAddr, not: Option<&Rc<Server>>) -> Option<&Rc<Server>> {
        let takes = |index: usize| {
            let weighs = self.pool.backends.get(index).is_some_and(|backend| backend.weight > 0);
            weighs && !not.is_some_and(|not| self.servers.get(index).is_some_and(|server| Rc::ptr_eq(server, not)))
        };
        let index = match self.pool.algorithm {
            Algorithm::RoundRobin => self.turns.borrow_mut().pick(self.servers.len(), takes),
            Algorithm::Maglev { .. } => self.pool.maglev(client, takes),
        }?;
        self.servers.get(index)
    }

    /// Counts that a backend failed, and says so in the log, seldom.
    pub(crate) fn failed(&self, worker: &Worker, server: &Rc<Server>, cause: Cause, error: Option<&std::io::Error>) {
        if let Some(count) = worker.counters.upstream_failures.get(cause as usize) {
            count.add(1);
        }
        let Some(unsaid) = server.failures.get(cause as usize).and_then(|seldom| seldom.say(worker.now())) else {
            return;
        };
        let index = self.servers.iter().position(|other| Rc::ptr_eq(other, server));
        let backend = index.and_then(|index| self.pool.backends.get(index)).map_or("", |backend| &*backend.name);
        let (pool, address, cause) = (&*self.pool.name, server.address, cause.label());
        let error = error.map(tracing::field::display);
        tracing::warn!(pool, backend, %address, cause, error, unsaid, "a backend failed");
    }
}

impl Server {
    pub(crate) fn new(address: SocketAddr) -> Rc<Server> {
        Rc::new(Server { address, idle: RefCell::default(), failures: Default::default() })
    }

    /// A connection that served before and is still good. The newest first: the others may then grow old.
    pub(crate) fn reuse(&self) -> Option<Connected> {
        let mut idle = self.idle.borrow_mut();
        while let Some(Idle { connected, .. }) = idle.pop() {
            if connected.io.is_quiet() {
                return Some(connected);
            }
        }
        None
    }

    /// Keeps a connection for later, at most `most` of them.
    pub(crate) fn keep(&self, connected: Connected, now: Instant, most: usize) {
        let mut idle = self.idle.borrow_mut();
        if idle.len() < most {
            idle.push(Idle { connected, since: now });
        }
    }

    /// Drops an idle connection, if there is one.
    pub(crate) fn shed(&self) -> bool {
        self.idle.borrow_mut().pop().is_some()
    }

    /// Drops connections that were closed by the backend, or idle for longer than `most`.
    pub(crate) fn sweep(&self, now: Instant, most: Duration) {
        let good = |idle: &Idle| now.saturating_duration_since(idle.since) < most && idle.connected.io.is_quiet();
        self.idle.borrow_mut().retain(good);
    }
}
