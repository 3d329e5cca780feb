// SPDX-License-Identifier: GPL-3.0-only
//! SIGUSR1: read the certificates of the plan that is served again, and nothing else.
//!
//! For whoever renews them: the configuration file is not looked at, so that a half-edited one is not applied by the way. All
//! or nothing, like a reload; new connections get the new certificates, established ones go on.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::app::{App, causes};
use crate::config::pem;

pub(super) fn reread(app: &mut App) {
    match attempt(app) {
        Ok(changed) if changed.is_empty() => tracing::info!("certificates: nothing changed"),
        Ok(changed) => {
            let generation = app.vitals.generation.load(Relaxed);
            tracing::info!(generation, listeners = changed.join(", "), "certificates: new ones are served");
        }
        Err(error) => tracing::error!("certificates: the old ones stay: {error}"),
    }
}

/// The listeners with another certificate than before.
fn attempt(app: &mut App) -> Result<Vec<String>, String> {
    let mut plan = app.vitals.plan.load().as_ref().clone();
    let changed = pem::reread(&mut plan)?;
    if changed.is_empty() {
        return Ok(changed);
    }
    let generation = app.vitals.generation.load(Relaxed) + 1;
    let snapshot = app.builder.build(&plan, generation).map_err(|error| causes(&error))?;
    app.edge.apply(snapshot).map_err(|error| causes(&error))?;
    app.vitals.plan.store(Arc::new(plan));
    app.vitals.generation.store(generation, Relaxed);
    Ok(changed)
}
