// SPDX-License-Identifier: GPL-3.0-only
//! The life of a running process: waits for signals, reloads, drains.
//!
//! `main` calls [`run`] on the control thread once the app has started. SIGTERM and SIGINT drain, a second one exits at
//! once, SIGHUP reloads, SIGUSR1 reads certificates again; during a drain both are declined, since what is served is
//! about to end. SIGUSR2 is answered in the log: a process manager that takes us for a server with hand-over must not
//! kill us with it.

mod certificates;
mod reload;

use std::process::ExitCode;

use tokio::sync::mpsc;

use crate::app::App;
use crate::datapath::{CaptureAsk, CaptureRefused, Why};
use crate::drain;
use crate::signal::{Event, Signals};

/// Serves until told to stop. The exit code is 0 after a drain, even one that had to cut connections, and 1 when a second
/// signal cut the drain itself.
pub async fn run(mut app: App, mut signals: Signals) -> ExitCode {
    let mut captures = app.captures.take();
    loop {
        let event = tokio::select! {
            event = signals.next() => event,
            ask = wanted(&mut captures) => {
                capture(&mut app, ask).await;
                continue;
            }
            why = capture_over(&app) => {
                if let Some(datapath) = &mut app.datapath {
                    datapath.end_capture(why);
                }
                continue;
            }
            () = interfaces_may_differ(&app) => {
                if let Some(datapath) = &mut app.datapath {
                    datapath.follow_interfaces().await;
                }
                continue;
            }
        };
        match event {
            Event::Reload => reload::reload(&mut app).await,
            Event::Certificates => certificates::reread(&mut app),
            Event::HandOver => no_hand_over(),
            Event::Stop(by) => {
                tracing::info!(by, "draining");
                break;
            }
        }
    }
    // Who still asks for a capture is told that the gateway stops.
    drop(captures);
    let drain = drain::drain(app);
    tokio::pin!(drain);
    loop {
        tokio::select! {
            () = &mut drain => return ExitCode::SUCCESS,
            event = signals.next() => match event {
                Event::Reload => tracing::warn!("SIGHUP while draining: nothing is reloaded"),
                Event::Certificates => tracing::warn!("SIGUSR1 while draining: no certificate is read again"),
                Event::HandOver => no_hand_over(),
                Event::Stop(by) => {
                    tracing::warn!(by, "stopping at once, connections are cut");
                    // Workers still wait for work to end: leaving without them is what was asked for.
                    std::process::exit(1);
                }
            },
        }
    }
}

/// Never, without a datapath.
async fn interfaces_may_differ(app: &App) {
    match &app.datapath {
        Some(datapath) => datapath.interfaces_may_differ().await,
        None => std::future::pending().await,
    }
}

/// The next capture that somebody asks for.
async fn wanted(captures: &mut Option<mpsc::Receiver<CaptureAsk>>) -> CaptureAsk {
    match captures {
        Some(captures) => match captures.recv().await {
            Some(ask) => ask,
            // The admin server has ended.
            None => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}

async fn capture(app: &mut App, ask: CaptureAsk) {
    let CaptureAsk { request, answer } = ask;
    // Loading takes a while: nobody may be there any more.
    if answer.is_closed() {
        return;
    }
    let result = match &mut app.datapath {
        Some(datapath) => datapath.capture(&request).await,
        None => Err(CaptureRefused::Off),
    };
    // Without a client the reader sees that its own is gone, and the capture ends.
    let _ = answer.send(result);
}

/// Never, while none is under way.
async fn capture_over(app: &App) -> Why {
    match &app.datapath {
        Some(datapath) => datapath.capture_over().await,
        None => std::future::pending().await,
    }
}

fn no_hand_over() {
    tracing::warn!(
        "SIGUSR2: handing over to a new binary is not available in this build; nothing was done. To upgrade, stop and start: \
         L4 flows go on meanwhile, HTTP connections are drained"
    );
}
