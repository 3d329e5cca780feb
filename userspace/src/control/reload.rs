// SPDX-License-Identifier: GPL-3.0-only
//! SIGHUP: read the file again, apply what can change while serving, say what cannot.
//!
//! Make before break: backends, rings and VIPs, then the L7 snapshot. A wrong file changes nothing; a failure while
//! applying stops there, puts the kernel back to what was served, and says so.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::SystemTime;

use crate::app::{App, causes, provide};
use crate::config::diff::{Diff, diff};
use crate::config::{self};
use crate::vitals::Reload;

pub(super) async fn reload(app: &mut App) {
    tracing::info!(file = %app.file.display(), "reloading");
    let result = attempt(app).await;
    let (applied, message) = match result {
        Ok(message) => {
            app.vitals.reloads_applied.fetch_add(1, Relaxed);
            let generation = app.vitals.generation.load(Relaxed);
            tracing::info!(generation, "reload: {message}");
            (true, message)
        }
        Err(message) => {
            app.vitals.reloads_failed.fetch_add(1, Relaxed);
            for line in message.lines() {
                tracing::error!("reload refused: {line}");
            }
            (false, message)
        }
    };
    app.vitals.news().last_reload = Some(Reload { at: SystemTime::now(), applied, message });
}

async fn attempt(app: &mut App) -> Result<String, String> {
    let loaded = config::load(&app.file).map_err(|error| error.to_string())?;
    for note in &loaded.notes {
        tracing::warn!("{note}");
    }
    let old = app.vitals.plan.load_full();
    let diff = diff(&old, &loaded.plan).map_err(|error| error.to_string())?;
    for change in &diff.hot {
        tracing::info!("reload: {change}");
    }
    for change in &diff.cold {
        tracing::warn!("reload: {change}: needs a restart, the old value stays");
    }
    let cold = diff.cold.len();
    app.vitals.news().restart_needed = diff.cold.iter().map(ToString::to_string).collect();
    if diff.hot.is_empty() && diff.plan == *old {
        return Ok(if cold == 0 { "nothing changed".to_owned() } else { format!("{cold} settings need a restart") });
    }
    let hot = diff.hot.len();
    apply(app, diff).await?;
    let rest = if cold == 0 { String::new() } else { format!(", {cold} need a restart") };
    Ok(format!("{hot} changes applied{rest}"))
}

async fn apply(app: &mut App, diff: Diff) -> Result<(), String> {
    if app.datapath.is_none() && diff.plan.datapath.as_ref().is_some_and(|datapath| !datapath.vips.is_empty()) {
        return Err(
            "the kernel datapath could not be started: tcp and udp listeners need a restart with the privilege; \
                    nothing was applied"
                .to_owned(),
        );
    }
    let old = app.vitals.plan.load_full();
    let generation = app.vitals.generation.load(Relaxed) + 1;
    provide(&mut app.builder, &diff.plan).map_err(|error| error.to_string())?;
    let snapshot = app.builder.build(&diff.plan, generation).map_err(|error| causes(&error))?;
    if let (Some(datapath), Some(plan)) = (&mut app.datapath, &diff.plan.datapath)
        && let Err(error) = datapath.apply(plan).await
    {
        let back = restore(app, &old).await;
        return Err(format!("{}; {back}", causes(&error)));
    }
    if let Err(error) = app.edge.apply(snapshot) {
        let back = restore(app, &old).await;
        return Err(format!("{}; {back}", causes(&error)));
    }
    app.logs.apply(&diff.plan.observability);
    app.vitals.plan.store(Arc::new(diff.plan));
    app.vitals.generation.store(generation, Relaxed);
    app.announce_addresses();
    Ok(())
}

/// Makes the kernel carry the old plan again after a new one failed half way.
async fn restore(app: &mut App, old: &crate::config::plan::Plan) -> String {
    let (Some(datapath), Some(plan)) = (&mut app.datapath, &old.datapath) else {
        return "nothing was applied, the old configuration is served".to_owned();
    };
    match datapath.apply(plan).await {
        Ok(()) => "the kernel datapath was put back, the old configuration is served".to_owned(),
        Err(error) => format!(
            "putting the kernel datapath back failed as well: {}; L7 serves the old configuration",
            causes(&error)
        ),
    }
}
