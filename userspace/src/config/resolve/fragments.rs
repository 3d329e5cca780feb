// SPDX-License-Identifier: GPL-3.0-only
//! What a UDP listener's fragments without ports go by.

use std::collections::HashMap;
use std::net::IpAddr;

use super::of_kind;
use crate::config::error::Problems;
use crate::config::plan::{Algorithm, Fragments};
use crate::config::schema::{File, Listener, Pool, Protocol};

/// "hold" unless the operator says otherwise.
pub(super) fn chosen(listener: &Listener, protocol: Protocol, pool: &Pool, problems: &Problems) -> Fragments {
    let Some(fragments) = &listener.fragments else { return Fragments::default() };
    if protocol != Protocol::Udp {
        problems.error(&fragments.place, format!("is for udp listeners, this one is {}", protocol.word()));
    }
    let algorithm = pool.algorithm.as_ref().map_or(Algorithm::Maglev, |algorithm| algorithm.value);
    let hashes = matches!(algorithm, Algorithm::Maglev | Algorithm::RingHash | Algorithm::SessionAffinity);
    if fragments.value == Fragments::Stable && !hashes {
        let (pool, word) = (&pool.name.value, algorithm.name());
        let message = format!(
            "\"stable\" needs \"maglev\", \"ring-hash\" or \"session-affinity\", which choose by addresses; pools.{pool} is {word:?}"
        );
        problems.error(&fragments.place, message);
    }
    fragments.value
}

/// A fragment without ports cannot say which of an address's ports it is for, so a stable one must be the only one.
pub(super) fn alone(file: &File, problems: &Problems) {
    let udp = || of_kind(file, |protocol| protocol == Protocol::Udp).map(|(listener, _)| listener);
    let mut ports: HashMap<IpAddr, Vec<(u16, &str)>> = HashMap::new();
    for listener in udp() {
        for address in &listener.addresses {
            ports.entry(address.value.ip()).or_default().push((address.value.port(), &listener.place.path));
        }
    }
    for listener in udp() {
        let Some(fragments) = listener.fragments.as_ref().filter(|it| it.value == Fragments::Stable) else { continue };
        for address in &listener.addresses {
            let (ip, port) = (address.value.ip(), address.value.port());
            let other = ports.get(&ip).and_then(|ports| ports.iter().find(|(other, _)| *other != port));
            if let Some((other, path)) = other {
                let message = format!("\"stable\" needs {ip} for port {port} alone; {path} has port {other} of it");
                problems.error(&fragments.place, message);
            }
        }
    }
}
