// SPDX-License-Identifier: GPL-3.0-only
//! Pools and backends as one worker sees them: whose turn it is, and the connections that wait for a next request.
//!
//! A connection comes back only after a message that ended exactly where it should (`back::h1` decides), is looked at
//! before it is used again, and is dropped when it was idle too long. Backends outlive snapshots, so a reload keeps their
//! connections.

use crate::io::Io;
use crate::snapshot::{Algorithm, Backend, Pool};
use crate::worker::Worker;
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
}

struct Idle {
    io: Io,
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
}

impl Server {
    pub(crate) fn new(address: SocketAddr) -> Rc<Server> {
        Rc::new(Server { address, idle: RefCell::default() })
    }

    /// A connection that served before and is still good. The newest first: the others may then grow old.
    pub(crate) fn reuse(&self) -> Option<Io> {
        let mut idle = self.idle.borrow_mut();
        while let Some(Idle { io, .. }) = idle.pop() {
            if io.is_quiet() {
                return Some(io);
            }
        }
        None
    }

    /// Keeps a connection for later, at most `most` of them.
    pub(crate) fn keep(&self, io: Io, now: Instant, most: usize) {
        let mut idle = self.idle.borrow_mut();
        if idle.len() < most {
            idle.push(Idle { io, since: now });
        }
    }

    /// Drops connections that were closed by the backend, or idle for longer than `most`.
    pub(crate) fn sweep(&self, now: Instant, most: Duration) {
        self.idle.borrow_mut().retain(|idle| now.saturating_duration_since(idle.since) < most && idle.io.is_quiet());
    }
}
