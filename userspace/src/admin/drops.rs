// SPDX-License-Identifier: GPL-3.0-only
//! `/drops`: the last refused packets, as JSON for `egctl drops --samples`. `docs/metrics.md` documents the shape.

use std::net::SocketAddr;
use std::time::UNIX_EPOCH;

use eg_abi::{PROTO_TCP, PROTO_UDP};
use serde_json::{Value, json};

use crate::datapath::{DropSample, SAMPLES_KEPT};
use crate::vitals::Vitals;

/// What `?after=NUMBER` asks for; 0 without a query, `None` for anything else.
pub(super) fn after(query: Option<&str>) -> Option<u64> {
    match query {
        None | Some("") => Some(0),
        Some(query) => query.strip_prefix("after=")?.parse().ok(),
    }
}

/// `last` and `samples` are 0 and empty while the datapath is off.
pub(super) fn drops(vitals: &Vitals, after: u64) -> Value {
    let (last, samples) = vitals.samples.load().as_ref().map_or((0, Vec::new()), |samples| samples.after(after));
    json!({
        "datapath": vitals.samples.load().is_some(),
        "kept_per_reason": SAMPLES_KEPT,
        "last": last,
        "samples": samples.iter().map(sample).collect::<Vec<_>>(),
    })
}

fn sample(sample: &DropSample) -> Value {
    let at = sample.at.duration_since(UNIX_EPOCH).unwrap_or_default();
    json!({
        "number": sample.number,
        "at": (at.as_secs_f64() * 1000.0).round() / 1000.0,
        "reason": sample.reason.label(),
        "interface": sample.interface,
        "ifindex": sample.ifindex,
        "protocol": protocol(sample.protocol),
        "source": end(sample, sample.source),
        "destination": end(sample, sample.destination),
        "vip": sample.vip,
        "pool": sample.backend.as_ref().map(|(pool, _)| pool),
        "backend": sample.backend.as_ref().map(|(_, name)| name),
        "length": sample.length,
    })
}

fn protocol(number: u8) -> Value {
    match number {
        PROTO_TCP => json!("tcp"),
        PROTO_UDP => json!("udp"),
        // Refused before the protocol was known.
        0 => Value::Null,
        other => json!(other.to_string()),
    }
}

/// With its port, unless the packet was refused before the ports were known.
fn end(sample: &DropSample, address: SocketAddr) -> String {
    if sample.source.port() == 0 && sample.destination.port() == 0 {
        address.ip().to_string()
    } else {
        address.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_a_number_or_refused() {
        assert_eq!((after(None), after(Some("")), after(Some("after=17"))), (Some(0), Some(0), Some(17)));
        for wrong in ["after=", "after=-1", "after=x", "before=1", "after=1&after=2"] {
            assert_eq!(after(Some(wrong)), None, "{wrong}");
        }
    }
}
