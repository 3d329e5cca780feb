// SPDX-License-Identifier: GPL-3.0-only
//! Every panic of the process is counted and logged, wherever it is caught.
//!
//! Who takes a panic down with it is decided elsewhere: a worker ends the one connection that panicked.

use std::panic::{self, PanicHookInfo};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

static PANICS: AtomicU64 = AtomicU64::new(0);

/// Panics since the process began.
pub fn total() -> u64 {
    PANICS.load(Relaxed)
}

/// Call once, before any thread is started. Replaces the default hook, whose text would bypass the log's format.
pub fn install() {
    panic::set_hook(Box::new(|info: &PanicHookInfo<'_>| {
        PANICS.fetch_add(1, Relaxed);
        let payload = info.payload();
        let message = payload
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("not a text");
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        let thread = std::thread::current().name().unwrap_or("unnamed").to_owned();
        tracing::error!(place, thread, "panic: {message}");
    }));
}
