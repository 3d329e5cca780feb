// SPDX-License-Identifier: GPL-3.0-only
//! `/metrics` in OpenMetrics: nothing is sampled, each scrape reads the counters where they are bumped.
//!
//! `edge` sums what the L7 workers count, `kernel` reads the BPF maps, `process` tells of the process itself. Labels come
//! from the configuration or from closed sets, never from a request. `docs/metrics.md` lists them all.

mod edge;
mod kernel;
mod process;
mod write;

use std::fmt;
use std::sync::Arc;

use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;

use crate::vitals::Vitals;

pub struct Metrics {
    registry: Registry,
}

impl Metrics {
    pub fn new(vitals: &Arc<Vitals>) -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(process::Process(Arc::clone(vitals))));
        registry.register_collector(Box::new(edge::Edge(Arc::clone(vitals))));
        registry.register_collector(Box::new(kernel::Kernel(Arc::clone(vitals))));
        Self { registry }
    }

    /// The text of one scrape.
    ///
    /// # Errors
    /// None that a string can cause.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut body = String::new();
        text::encode(&mut body, &self.registry)?;
        Ok(body)
    }
}
