// SPDX-License-Identifier: GPL-3.0-only
//! Logs: one line per change of state to stderr, as text or JSON.
//!
//! `RUST_LOG` beats `observability.log`, at start and at reload, so that an operator can look closer without editing a
//! file. The filter is hot, the format is not.

mod json;

use std::io::IsTerminal;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

use crate::config::plan::{LogFormat, ObservabilityPlan};

/// Changes the filter while the process runs.
pub struct Logs {
    filter: reload::Handle<EnvFilter, Registry>,
}

/// Starts logging; call once.
pub fn start(plan: &ObservabilityPlan) -> Logs {
    let (filter, handle) = reload::Layer::new(filter(&plan.log));
    let layer = match plan.log_format {
        LogFormat::Text => fmt::layer()
            .with_writer(std::io::stderr)
            .with_ansi(std::io::stderr().is_terminal())
            .with_target(false)
            .boxed(),
        LogFormat::Json => {
            fmt::layer().with_writer(std::io::stderr).event_format(json::Json).fmt_fields(json::NoSpanFields).boxed()
        }
    };
    // Fails only if a subscriber is installed already: then that one's owner wants the lines.
    let _ = tracing_subscriber::registry().with(filter).with(layer).try_init();
    Logs { filter: handle }
}

impl Logs {
    pub fn apply(&self, plan: &ObservabilityPlan) {
        if let Err(error) = self.filter.reload(filter(&plan.log)) {
            tracing::warn!(%error, "cannot change the log filter");
        }
    }
}

/// The configuration's filter was checked when it was read; `RUST_LOG` was not, and a wrong one is not worth dying for.
fn filter(configured: &str) -> EnvFilter {
    match std::env::var("RUST_LOG") {
        Ok(text) if !text.is_empty() => EnvFilter::builder().parse_lossy(text),
        _ => EnvFilter::builder().parse_lossy(configured),
    }
}
