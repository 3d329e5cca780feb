// SPDX-License-Identifier: GPL-3.0-only
//! The end: say so, let whoever watches notice, stop accepting, let work finish, count what could not.

use std::time::Instant;

use crate::app::{App, causes};
use crate::vitals::Phase;

pub(super) async fn drain(app: App) {
    let App { vitals, edge, datapath, .. } = app;
    let plan = vitals.plan.load_full();
    vitals.enter(Phase::Draining);
    let settle = plan.runtime.drain_settle;
    if !settle.is_zero() {
        tracing::info!(settle_ms = settle.as_millis(), "/readyz says 503, still accepting");
        tokio::time::sleep(settle).await;
    }
    let timeout = plan.runtime.drain_timeout;
    tracing::info!(timeout_ms = timeout.as_millis(), "no new connections, waiting for work to finish");
    let began = Instant::now();
    let drained = edge.drain(began + timeout).await;
    let took_ms = began.elapsed().as_millis();
    tracing::info!(shutdown_aborted_connections_total = drained.aborted_connections, took_ms, "drained");
    if let Some(datapath) = datapath
        && let Err(error) = datapath.stop().await
    {
        tracing::error!(error = causes(&error), "cannot stop the kernel datapath");
    }
}
