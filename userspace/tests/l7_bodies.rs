// SPDX-License-Identifier: GPL-3.0-only
//! Large bodies, each way, on every front: whole at the far end, and never held by the gateway.
//!
//! 64 MiB is a thousand windows of 64 KiB. `EG_FULL=1` makes it 1 GiB.

#[path = "support/harness.rs"]
mod support;

use std::sync::Mutex;

use support::bytes::{self, MIB};
use support::front::{Front, Request, Upload};
use support::gateway::{Config, Gateway};
use support::origin::Origin;

/// What one stream may add to the process beyond its state after a first, small request: windows, socket buffers' copies
/// and the allocator's slack, with room. A gateway that held the body would need four times this.
const GROWTH: u64 = 4 * MIB;

/// One at a time: each uses both cores, and each watches a memory that is its own.
static ONE: Mutex<()> = Mutex::new(());

fn size() -> u64 {
    if support::full() { 1024 * MIB } else { 64 * MIB }
}

fn watched(front: Front, request: &Request) {
    let _one = ONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if front == Front::H3 && !support::python::available() {
        return;
    }
    let origin = Origin::standard();
    let gateway = Gateway::start(&Config::to(origin.address));
    for _ in 0..2 {
        front.send(&gateway, &Request::get("/bytes/1000000")).expect(200);
        front.send(&gateway, &Request::post("/digest", Upload::Pattern(1_000_000))).expect(200);
    }
    gateway.forget_peak();
    let before = gateway.memory();
    let reply = front.send(&gateway, request);
    let after = gateway.memory();
    reply.expect(200);
    let len = size();
    if request.body.is_some() {
        assert_eq!(reply.text(), format!("{len} {}", bytes::digest(len)));
    } else {
        assert_eq!((reply.len, reply.sha256), (len, bytes::digest(len)));
    }
    let growth = after.peak.saturating_sub(before.resident);
    println!(
        "{front:?} {} {}: {} MiB resident before, peak {} KiB above",
        request.method,
        request.path,
        before.resident / MIB,
        growth / 1024
    );
    assert!(growth < GROWTH, "{front:?}: memory grew by {growth} bytes for one body of {len}");
    assert_eq!(origin.oddities(), Vec::<String>::new());
    gateway.stop();
}

fn down(front: Front) {
    watched(front, &Request::get(&format!("/bytes/{}", size())));
}

fn up(front: Front) {
    watched(front, &Request::post("/digest", Upload::Pattern(size())));
}

#[test]
fn a_large_download_is_whole_and_not_held_on_h1() {
    down(Front::H1);
}

#[test]
fn a_large_download_is_whole_and_not_held_on_h1_tls() {
    down(Front::H1Tls);
}

#[test]
fn a_large_download_is_whole_and_not_held_on_h2() {
    down(Front::H2);
}

#[test]
fn a_large_download_is_whole_and_not_held_on_h2_tls() {
    down(Front::H2Tls);
}

#[test]
fn a_large_download_is_whole_and_not_held_on_h3() {
    down(Front::H3);
}

#[test]
fn a_large_upload_is_whole_and_not_held_on_h1() {
    up(Front::H1);
}

#[test]
fn a_large_upload_is_whole_and_not_held_on_h1_tls() {
    up(Front::H1Tls);
}

#[test]
fn a_large_upload_is_whole_and_not_held_on_h2() {
    up(Front::H2);
}

#[test]
fn a_large_upload_is_whole_and_not_held_on_h2_tls() {
    up(Front::H2Tls);
}

#[test]
fn a_large_upload_is_whole_and_not_held_on_h3() {
    up(Front::H3);
}

#[test]
fn chunked_bodies_are_streamed_too() {
    watched(Front::H1, &Request::get(&format!("/chunked/{}", size())));
    watched(Front::H2Tls, &Request::get(&format!("/chunked/{}", size())));
    watched(Front::H1, &Request::post("/digest", Upload::Pattern(size())).unknown_length());
    watched(Front::H2Tls, &Request::post("/digest", Upload::Pattern(size())).unknown_length());
}
