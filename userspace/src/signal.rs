// SPDX-License-Identifier: GPL-3.0-only
//! The signals that the process lives by, and what each asks for. `control` answers them.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that matter, caught from the moment this exists.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    user1: Signal,
    user2: Signal,
}

/// What one of them asks for.
pub(crate) enum Event {
    Stop(&'static str),
    Reload,
    Certificates,
    HandOver,
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
            user1: signal(SignalKind::user_defined1())?,
            user2: signal(SignalKind::user_defined2())?,
        })
    }

    /// The next one; waits for it.
    pub(crate) async fn next(&mut self) -> Event {
        tokio::select! {
            _ = self.terminate.recv() => Event::Stop("SIGTERM"),
            _ = self.interrupt.recv() => Event::Stop("SIGINT"),
            _ = self.hangup.recv() => Event::Reload,
            _ = self.user1.recv() => Event::Certificates,
            _ = self.user2.recv() => Event::HandOver,
        }
    }
}
