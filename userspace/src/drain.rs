// SPDX-License-Identifier: GPL-3.0-only
//! The end: say so, let whoever watches notice, stop accepting, let work finish, count what could not.

use std::time::{Duration, Instant};

use crate::app::{App, causes};
use crate::datapath::Why;
use crate::vitals::Phase;

/// What a worker may take to cut its connections once the time is over. A process that hangs here would be killed by its
/// supervisor anyway, later and without a word.
const GRACE: Duration = Duration::from_secs(5);

pub(crate) async fn drain(app: App) {
    let App { vitals, edge, mut datapath, .. } = app;
    if let Some(datapath) = &mut datapath {
        datapath.end_capture(Why::Stop);
    }
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
    let Ok(drained) = tokio::time::timeout(timeout + GRACE, edge.drain(began + timeout)).await else {
        tracing::error!("a worker does not answer, leaving without it");
        // Unwinding would wait for that worker's thread.
        std::process::exit(1);
    };
    let took_ms = began.elapsed().as_millis();
    tracing::info!(shutdown_aborted_connections_total = drained.aborted_connections, took_ms, "drained");
    if let Some(datapath) = datapath
        && let Err(error) = datapath.stop().await
    {
        tracing::error!(error = causes(&error), "cannot stop the kernel datapath");
    }
}
