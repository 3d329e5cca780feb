// SPDX-License-Identifier: GPL-3.0-only
//! The life of a running process: waits for signals, reloads, drains.
//!
//! `main` calls [`run`] on the control thread once the app has started. SIGTERM and SIGINT drain, a second one exits at
//! once, SIGHUP reloads; during a drain SIGHUP is declined, since what is served is about to end.

mod drain;
mod reload;

use std::io;
use std::process::ExitCode;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::app::App;

/// The signals that matter, caught from the moment this exists.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

enum Event {
    Stop(&'static str),
    Reload,
}

impl Signals {
    /// Must run inside a tokio runtime.
    ///
    /// # Errors
    /// The handlers cannot be installed.
    pub fn catch() -> io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Event {
        tokio::select! {
            _ = self.terminate.recv() => Event::Stop("SIGTERM"),
            _ = self.interrupt.recv() => Event::Stop("SIGINT"),
            _ = self.hangup.recv() => Event::Reload,
        }
    }
}

/// Serves until told to stop. The exit code is 0 after a drain, even one that had to cut connections, and 1 when a second
/// signal cut the drain itself.
pub async fn run(mut app: App, mut signals: Signals) -> ExitCode {
    loop {
        match signals.next().await {
            Event::Reload => reload::reload(&mut app).await,
            Event::Stop(by) => {
                tracing::info!(by, "draining");
                break;
            }
        }
    }
    let drain = drain::drain(app);
    tokio::pin!(drain);
    loop {
        tokio::select! {
            () = &mut drain => return ExitCode::SUCCESS,
            event = signals.next() => match event {
                Event::Reload => tracing::warn!("SIGHUP while draining: nothing is reloaded"),
                Event::Stop(by) => {
                    tracing::warn!(by, "stopping at once, connections are cut");
                    // Workers still wait for work to end: leaving without them is what was asked for.
                    std::process::exit(1);
                }
            },
        }
    }
}
