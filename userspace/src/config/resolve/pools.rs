// SPDX-License-Identifier: GPL-3.0-only
//! Pools, as the L7 side and as the kernel see them, and what makes one wrong by itself.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::time::Duration;

use super::{File, number};
use crate::config::error::Problems;
use crate::config::plan::{
    AffinityPlan, Algorithm, BackendPlan, EdgeAlgorithm, EdgeBackendPlan, EdgePoolPlan, PoolPlan, Target,
};
use crate::config::schema::{Backend, Pool};

const DRAIN_TIMEOUT: Duration = Duration::from_secs(60);
/// Longer than people think between two clicks, shorter than addresses change hands.
const AFFINITY_TIMEOUT: Duration = Duration::from_secs(600);

/// Checks every pool, used or not.
pub(super) fn check(file: &File, l4: &BTreeSet<&str>, l7: &BTreeSet<&str>, problems: &Problems) {
    for pool in &file.pools {
        let name = pool.name.value.as_str();
        unique(pool, problems);
        affinity_in_use(pool, problems);
        if let Some(algorithm) = pool.algorithm.as_ref().filter(|_| l7.contains(name))
            && !matches!(algorithm.value, Algorithm::RoundRobin | Algorithm::Maglev)
        {
            let word = algorithm.value.name();
            let message = format!(
                "{word:?} is for tcp and udp listeners; a route uses this pool, which takes \"round-robin\" or \"maglev\""
            );
            problems.error(&algorithm.place, message);
        }
        if !l4.contains(name) && !l7.contains(name) {
            problems.note(&pool.name.place, "no listener and no route uses this pool");
        } else if !l4.contains(name)
            && let Some(timeout) = &pool.drain_timeout
        {
            problems.note(&timeout.place, "has no effect: no tcp or udp listener uses this pool");
        }
        if let Some(policy) = pool.on_backend_down.as_ref().filter(|_| l7.contains(name) && !l4.contains(name)) {
            problems.note(&policy.place, "has no effect: no tcp or udp listener uses this pool");
        }
        if !l4.contains(name) && l7.contains(name) && edge(pool, false).algorithm == EdgeAlgorithm::RoundRobin {
            for weight in pool.backends.iter().filter_map(|backend| backend.weight.as_ref()).filter(|w| w.value != 1) {
                let why = "has no effect: round-robin gives every backend its turn, maglev goes by weight";
                problems.note(&weight.place, why);
            }
        }
    }
}

/// Keys that another algorithm would ignore.
fn affinity_in_use(pool: &Pool, problems: &Problems) {
    if pool.algorithm.as_ref().is_some_and(|algorithm| algorithm.value == Algorithm::SessionAffinity) {
        return;
    }
    let keys = &pool.affinity;
    let places = [&keys.prefix_v4, &keys.prefix_v6].into_iter().flatten().map(|at| &at.place);
    for place in places.chain(keys.timeout.as_ref().map(|at| &at.place)) {
        problems.error(place, "is for algorithm = \"session-affinity\"");
    }
}

fn unique(pool: &Pool, problems: &Problems) {
    let mut names: HashMap<String, &Backend> = HashMap::new();
    let mut addresses: HashMap<SocketAddr, &Backend> = HashMap::new();
    for backend in &pool.backends {
        if let Some(address) = &backend.address {
            if address.value.port() == 0 || address.value.ip().is_unspecified() || address.value.ip().is_multicast() {
                problems.error(&address.place, format!("{} is not an address that a backend can have", address.value));
            }
            if let Some(earlier) = addresses.insert(address.value, backend) {
                problems.error(
                    &address.place,
                    format!("{} is the address of {} already", address.value, earlier.place.path),
                );
                continue;
            }
        }
        if let Some(earlier) = names.insert(name(backend), backend) {
            let place = backend.name.as_ref().map_or(&backend.place, |name| &name.place);
            problems.error(place, format!("{:?} is the name of {} already", name(backend), earlier.place.path));
        }
    }
}

/// What the operator called it, else its address.
fn name(backend: &Backend) -> String {
    match (&backend.name, &backend.address) {
        (Some(name), _) => name.value.clone(),
        (None, Some(address)) => address.value.to_string(),
        (None, None) => "welcome".to_owned(),
    }
}

fn weight(backend: &Backend) -> u32 {
    u32::try_from(number(&backend.weight, 1)).unwrap_or(u32::MAX)
}

/// Round robin unless the operator says otherwise. A pool that L4 listeners share is Maglev for both: one pool, one
/// algorithm.
pub(super) fn edge(pool: &Pool, shared_with_l4: bool) -> EdgePoolPlan {
    let default = if shared_with_l4 { EdgeAlgorithm::Maglev } else { EdgeAlgorithm::RoundRobin };
    let algorithm = match pool.algorithm.as_ref().map(|algorithm| algorithm.value) {
        Some(Algorithm::RoundRobin) => EdgeAlgorithm::RoundRobin,
        Some(Algorithm::Maglev) => EdgeAlgorithm::Maglev,
        // Any other was reported.
        _ => default,
    };
    let backends = pool.backends.iter().filter_map(|backend| {
        let target = match (&backend.address, &backend.builtin) {
            (Some(address), _) => Target::Address(address.value),
            (None, Some(_)) => Target::Welcome,
            (None, None) => return None,
        };
        Some(EdgeBackendPlan { name: name(backend), target, weight: weight(backend) })
    });
    EdgePoolPlan { name: pool.name.value.clone(), algorithm, backends: backends.collect() }
}

pub(super) fn kernel(pool: &Pool) -> PoolPlan {
    let backends = pool.backends.iter().filter_map(|backend| {
        let address = backend.address.as_ref()?.value;
        Some(BackendPlan { name: name(backend), address, weight: weight(backend) })
    });
    PoolPlan {
        name: pool.name.value.clone(),
        algorithm: pool.algorithm.as_ref().map_or(Algorithm::Maglev, |algorithm| algorithm.value),
        affinity: AffinityPlan {
            prefix_v4: u8::try_from(number(&pool.affinity.prefix_v4, 32)).unwrap_or(32),
            prefix_v6: u8::try_from(number(&pool.affinity.prefix_v6, 64)).unwrap_or(64),
            timeout: pool.affinity.timeout.as_ref().map_or(AFFINITY_TIMEOUT, |timeout| timeout.value),
        },
        backends: backends.collect(),
        drain_timeout: pool.drain_timeout.as_ref().map_or(DRAIN_TIMEOUT, |timeout| timeout.value),
        on_backend_down: pool.on_backend_down.as_ref().map(|at| at.value).unwrap_or_default(),
    }
}
