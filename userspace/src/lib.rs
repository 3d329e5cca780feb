// SPDX-License-Identifier: GPL-3.0-only
//! The gateway's process as a library: configuration, kernel datapath, lifecycle, admin and telemetry around `eg-l7`.
//!
//! `main.rs` is its only caller in production; tests reach the same modules. It promises that nothing which came from a
//! file, a socket or the kernel can panic it. Protocols are deliberately not here: they live in `eg-l7` and in `bpf/`.
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::unreachable)
)]

pub mod admin;
pub mod app;
pub mod backend;
pub mod cli;
pub mod config;
pub mod control;
pub mod datapath;
mod drain;
pub mod limits;
pub mod logs;
pub mod panic;
pub mod self_signed;
pub mod signal;
pub mod snapshot;
pub mod state;
pub mod telemetry;
pub mod vitals;
pub mod welcome;
