// SPDX-License-Identifier: GPL-3.0-only
//! How many descriptors the process may have, and what they are for: so many connections, and a reserve, so that the
//! process can be asked, reloaded and drained when it has all the connections that it can have.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::config::plan::{Plan, SchemePlan};

/// The usual soft limit, assumed where it cannot be read.
const UNKNOWN: u64 = 1024;

/// A worker's runtime: epoll, its waker, timers and signals.
const PER_WORKER: u64 = 8;

/// More connections than one process can serve; where descriptors are not limited, this is.
pub(crate) const MOST: u64 = 4_000_000;

/// What the descriptors are divided into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Client connections.
    pub connections: usize,
    /// Connections to backends.
    pub upstream: usize,
    /// Connections to the admin server.
    pub admin: usize,
}

/// Raises the soft limit to the hard one and returns what it is then. A failure is logged and lived with.
pub fn raise_descriptors() -> u64 {
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((soft, hard)) if soft >= hard => soft,
        Ok((soft, hard)) => match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
            Ok(()) => {
                tracing::info!(limit = hard, was = soft, "descriptors");
                hard
            }
            Err(error) => {
                tracing::warn!(limit = soft, wanted = hard, %error, "cannot raise the descriptor limit");
                soft
            }
        },
        Err(error) => {
            tracing::warn!(%error, "cannot read the descriptor limit");
            UNKNOWN
        }
    }
}

/// Divides the descriptors, and logs what came of it.
pub fn capacity(descriptors: u64, plan: &Plan, workers: usize) -> Capacity {
    // One of what is listed is the folder being listed.
    let open = std::fs::read_dir("/proc/self/fd").map_or(32, |list| list.count() as u64).saturating_sub(1);
    let capacity = divide(descriptors, open, plan, workers as u64);
    let Capacity { connections, upstream, .. } = capacity;
    tracing::info!(max_connections = connections, upstream, descriptors, "capacity");
    let wanted = plan.runtime.max_connections;
    if wanted > connections as u64 {
        tracing::warn!(
            max_connections = connections,
            configured = wanted,
            descriptors,
            "fewer connections than configured: raise the descriptor limit"
        );
    } else if connections < 100 && wanted == 0 {
        tracing::warn!(max_connections = connections, descriptors, "few connections: raise the descriptor limit");
    }
    capacity
}

/// A proxied connection costs two descriptors, three where the backend is this process itself.
fn divide(descriptors: u64, open: u64, plan: &Plan, workers: u64) -> Capacity {
    let sockets = plan.edge.listeners.iter().map(|listener| {
        let transports = if matches!(listener.scheme, SchemePlan::Https { http3: true, .. }) { 2 } else { 1 };
        listener.addresses.len() as u64 * transports
    });
    let taken = open + workers * (sockets.sum::<u64>() + PER_WORKER);
    // Half of the reserve is for the admin server, the rest for files, and for the sockets of listeners that a reload adds.
    let reserve = (descriptors / 8).clamp(16, 256);
    let each = if crate::snapshot::needs_welcome(plan) { 3 } else { 2 };
    let connections = (descriptors.saturating_sub(taken + reserve) / each).clamp(1, MOST);
    // What the operator allows bounds clients alone: their requests may need as many connections to backends as before.
    let clients =
        if plan.runtime.max_connections == 0 { connections } else { connections.min(plan.runtime.max_connections) };
    let number = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    Capacity { connections: number(clients), upstream: number(connections), admin: number((reserve / 2).min(64)) }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::from_text;

    fn connections(descriptors: u64, backend: &str) -> Capacity {
        let text = format!(
            "[[listeners]]\nname = \"w\"\naddress = [\"127.0.0.1:1\", \"127.0.0.1:2\"]\nprotocol = \"https\"\nhttp3 = true\n\
             [[routes]]\nlistener = \"w\"\npool = \"p\"\n[[pools.p.backends]]\n{backend}\n"
        );
        divide(descriptors, 20, &from_text("t", Path::new("/"), &text).unwrap().plan, 2)
    }

    #[test]
    fn descriptors_are_divided_with_a_reserve() {
        let address = "address = \"127.0.0.1:3000\"";
        // 20 open, 2 workers with 4 sockets and 8 of their own each, and the reserve.
        assert_eq!(connections(80, address), Capacity { connections: 10, upstream: 10, admin: 8 });
        assert_eq!(connections(1024, address), Capacity { connections: 426, upstream: 426, admin: 64 });
        assert_eq!(connections(1024, "builtin = \"welcome\"").connections, 284);
        assert_eq!(connections(30, address).connections, 1);
        assert_eq!(connections(u64::MAX, address).connections, 4_000_000);
    }

    #[test]
    fn what_is_configured_bounds_clients_and_cannot_exceed_the_descriptors() {
        let of = |most: u64| {
            let text = format!(
                "[runtime]\nmax_connections = {most}\n[[listeners]]\nname = \"w\"\naddress = \"127.0.0.1:1\"\nprotocol = \"http\"\n\
                 [[routes]]\nlistener = \"w\"\npool = \"p\"\n[[pools.p.backends]]\naddress = \"127.0.0.1:3000\"\n"
            );
            divide(1024, 20, &from_text("t", Path::new("/"), &text).unwrap().plan, 2)
        };
        let all = of(0);
        assert_eq!(of(10), Capacity { connections: 10, ..all });
        assert_eq!(of(4_000_000), all);
    }
}
