// SPDX-License-Identifier: GPL-3.0-only
//! What the black-box tests share: the built gateway as a process, raw backends, and clients that are not ours.
//!
//! A test file says `#[path = "support/harness.rs"] mod support;`. Everything runs on loopback ports that this process holds a
//! lock on; everything started here ends with the value that stands for it. Nothing here knows the gateway's insides:
//! it sees sockets, signals, /metrics and /proc.
#![allow(dead_code, reason = "each test binary uses its own part")]

pub(crate) mod bytes;
pub(crate) mod curl;
pub(crate) mod front;
pub(crate) mod gateway;
pub(crate) mod metrics;
pub(crate) mod origin;
pub(crate) mod ports;
pub(crate) mod python;
pub(crate) mod raw;
pub(crate) mod routes;

use std::time::{Duration, Instant};

/// For whatever should happen at once. Long, because two busy cores may be shared with a build.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// Polls until `done` answers something, or fails the test with `what` after `limit`.
#[track_caller]
pub(crate) fn wait_for<T>(what: &str, limit: Duration, mut done: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + limit;
    loop {
        if let Some(value) = done() {
            return value;
        }
        assert!(Instant::now() < end, "{what}: not within {limit:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// True when `EG_FULL` asks for the sizes that take minutes.
pub(crate) fn full() -> bool {
    std::env::var_os("EG_FULL").is_some_and(|value| !value.is_empty() && value != "0")
}

/// What `EG_REQUIRE` may name.
fn features() -> impl Iterator<Item = &'static str> {
    let list = include_str!("../../../kernel-tests/features.txt");
    list.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
}

/// A name in `EG_REQUIRE` that is none would turn no skip into a failure, and nobody would notice.
#[track_caller]
pub(crate) fn check_required() {
    let required = std::env::var("EG_REQUIRE").unwrap_or_default();
    for name in required.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        let known: Vec<&str> = features().collect();
        assert!(known.contains(&name), "EG_REQUIRE names {name:?}, which no test knows; known: {}", known.join(", "));
    }
}

/// Says why a test does not run here, or fails it when `EG_REQUIRE` (a comma-separated list) names what is missing.
#[track_caller]
pub(crate) fn skip(need: &str, why: &str) {
    assert!(features().any(|name| name == need), "kernel-tests/features.txt lacks {need}");
    let required = std::env::var("EG_REQUIRE").unwrap_or_default();
    assert!(!required.split(',').any(|name| name.trim() == need), "EG_REQUIRE names {need}, but {why}");
    println!("skipped, because {why}");
}
