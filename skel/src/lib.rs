// SPDX-License-Identifier: GPL-3.0-only
//! The BPF objects and the maps they share, as Rust sees them.
//!
//! [`xdp_ingress`], [`tc_ingress`], their twins [`xdp_capture`] and [`tc_capture`], [`sock_lookup`], [`tc_backend`] and
//! [`tc_egress`] are the generated skeletons (open, load, attach). [`share`] makes several objects
//! use one set of pinned maps. [`Maps`] is those maps opened from their pins, each behind a small typed wrapper. Who
//! decides what to load, where to attach and what to write is `userspace/datapath`; `egctl` and the tests only read and
//! write maps. Nothing here keeps state of its own.

#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::unreachable)
)]

pub mod features;
mod layout;
mod layout_backend;
mod layout_probe;
pub mod live;
pub mod loaded;
pub mod maps;
pub mod program;
pub mod share;
pub mod twin;

pub use eg_abi as abi;
pub use maps::{BackendMaps, MapError, Maps, ProbeMaps};

/// The compiler that the objects were built with, as "clang-19".
pub const CLANG: &str = env!("EG_CLANG");

/// The skeleton of `bpf/xdp/ingress.bpf.c`; its program is `eg_xdp_ingress`.
#[allow(clippy::all, unused_qualifications, unreachable_pub, rust_2018_idioms, missing_debug_implementations)]
#[allow(clippy::undocumented_unsafe_blocks, clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#[allow(clippy::indexing_slicing, clippy::unreachable)]
pub mod xdp_ingress {
    include!(concat!(env!("OUT_DIR"), "/xdp_ingress.skel.rs"));
}

/// The skeleton of `bpf/tc/ingress.bpf.c`; its program is `eg_tc_ingress`.
#[allow(clippy::all, unused_qualifications, unreachable_pub, rust_2018_idioms, missing_debug_implementations)]
#[allow(clippy::undocumented_unsafe_blocks, clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#[allow(clippy::indexing_slicing, clippy::unreachable)]
pub mod tc_ingress {
    include!(concat!(env!("OUT_DIR"), "/tc_ingress.skel.rs"));
}

/// The skeleton of `bpf/xdp/capture.bpf.c`, the twin of `xdp_ingress` that captures: its programs have the same names.
#[allow(clippy::all, unused_qualifications, unreachable_pub, rust_2018_idioms, missing_debug_implementations)]
#[allow(clippy::undocumented_unsafe_blocks, clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#[allow(clippy::indexing_slicing, clippy::unreachable)]
pub mod xdp_capture {
    include!(concat!(env!("OUT_DIR"), "/xdp_capture.skel.rs"));
}

/// The skeleton of `bpf/tc/capture.bpf.c`, the twin of `tc_ingress` that captures: its programs have the same names.
#[allow(clippy::all, unused_qualifications, unreachable_pub, rust_2018_idioms, missing_debug_implementations)]
#[allow(clippy::undocumented_unsafe_blocks, clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#[allow(clippy::indexing_slicing, clippy::unreachable)]
pub mod tc_capture {
    include!(concat!(env!("OUT_DIR"), "/tc_capture.skel.rs"));
}

/// The skeleton of `bpf/sock/lookup.bpf.c`; its program is `eg_sk_lookup`.
#[allow(clippy::all, unused_qualifications, unreachable_pub, rust_2018_idioms, missing_debug_implementations)]
#[allow(clippy::undocumented_unsafe_blocks, clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#[allow(clippy::indexing_slicing, clippy::unreachable)]
pub mod sock_lookup {
    include!(concat!(env!("OUT_DIR"), "/sock_lookup.skel.rs"));
}

/// The skeleton of `bpf/tc/backend.bpf.c`; its program is `eg_tc_backend`.
#[allow(clippy::all, unused_qualifications, unreachable_pub, rust_2018_idioms, missing_debug_implementations)]
#[allow(clippy::undocumented_unsafe_blocks, clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#[allow(clippy::indexing_slicing, clippy::unreachable)]
pub mod tc_backend {
    include!(concat!(env!("OUT_DIR"), "/tc_backend.skel.rs"));
}

/// The skeleton of `bpf/tc/egress.bpf.c`; its programs are `eg_tc_egress` and `eg_tc_answer`.
#[allow(clippy::all, unused_qualifications, unreachable_pub, rust_2018_idioms, missing_debug_implementations)]
#[allow(clippy::undocumented_unsafe_blocks, clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#[allow(clippy::indexing_slicing, clippy::unreachable)]
pub mod tc_egress {
    include!(concat!(env!("OUT_DIR"), "/tc_egress.skel.rs"));
}
