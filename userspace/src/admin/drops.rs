// SPDX-License-Identifier: GPL-3.0-only
//! `/drops`: the last refused packets, as JSON for `egctl drops --samples`. `docs/metrics.md` documents the shape.

use std::time::UNIX_EPOCH;

use serde_json::{Value, json};

use crate::datapath::{self, DropSample, SAMPLES_KEPT};
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
        "protocol": datapath::protocol(sample.protocol),
        "source": datapath::end(sample.source, sample.destination),
        "destination": datapath::end(sample.destination, sample.source),
        "vip": sample.vip,
        "pool": sample.backend.as_ref().map(|(pool, _)| pool),
        "backend": sample.backend.as_ref().map(|(_, name)| name),
        "length": sample.length,
    })
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
