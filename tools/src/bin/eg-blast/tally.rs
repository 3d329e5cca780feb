// SPDX-License-Identifier: GPL-3.0-only
//! What happened, counted. One per run, shared by its tasks on one thread.

use std::collections::BTreeMap;
use std::time::Duration;

#[derive(Default)]
pub(crate) struct Tally {
    /// Requests answered completely with a status below 500, or payloads that came back as they went.
    pub(crate) ok: u64,
    /// By kind; anything here makes the run a failure.
    pub(crate) failures: BTreeMap<String, u64>,
    /// A keep-alive connection closed before the first byte of the answer to a request on it: the race that RFC 9112
    /// section 9.5 permits ("a client [...] MAY close at any time", the server likewise). The request is sent again.
    pub(crate) idle_close_races: u64,
    pub(crate) connections: u64,
    pub(crate) statuses: BTreeMap<u16, u64>,
    /// By the name the backend gives itself.
    pub(crate) backends: BTreeMap<String, u64>,
    latencies_us: Vec<u32>,
}

impl Tally {
    pub(crate) fn fail(&mut self, kind: &str) {
        *self.failures.entry(kind.to_owned()).or_default() += 1;
    }

    pub(crate) fn backend(&mut self, name: &str) {
        *self.backends.entry(name.to_owned()).or_default() += 1;
    }

    pub(crate) fn took(&mut self, time: Duration) {
        self.latencies_us.push(u32::try_from(time.as_micros()).unwrap_or(u32::MAX));
    }

    /// Nothing failed and something succeeded.
    pub(crate) fn clean(&self) -> bool {
        self.failures.is_empty() && self.ok > 0
    }

    pub(crate) fn json(&self) -> String {
        let mut sorted = self.latencies_us.clone();
        sorted.sort_unstable();
        // The nearest-rank percentile.
        let at = |percent: usize| sorted.get((sorted.len() * percent).div_ceil(100).saturating_sub(1)).copied();
        serde_json::json!({
            "ok": self.ok,
            "failed": self.failures.values().sum::<u64>(),
            "failures": self.failures,
            "idle_close_races": self.idle_close_races,
            "connections": self.connections,
            "statuses": self.statuses,
            "backends": self.backends,
            "latency_us": { "p50": at(50), "p99": at(99), "max": at(100) },
        })
        .to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_rank() {
        let mut tally = Tally::default();
        (1..=200).for_each(|us| tally.took(Duration::from_micros(us)));
        let json: serde_json::Value = serde_json::from_str(&tally.json()).unwrap();
        assert_eq!(json["latency_us"], serde_json::json!({ "p50": 100, "p99": 198, "max": 200 }));
    }

    #[test]
    fn a_run_without_success_is_not_clean() {
        let mut tally = Tally::default();
        assert!(!tally.clean());
        tally.ok = 1;
        assert!(tally.clean());
        tally.fail("connect");
        assert!(!tally.clean());
    }
}
