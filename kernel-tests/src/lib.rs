// SPDX-License-Identifier: GPL-3.0-only
//! Tests of the kernel side: what they need, and how they say that it is missing.
//!
//! [`packet`] runs single packets through the loaded program (BPF_PROG_TEST_RUN) with frames built and judged by pnet, an
//! implementation that shares nothing with ours. [`model`] decides packets a second time, beside the program.
//! [`topology`] builds small networks of namespaces with real sockets around the built gateway. The tests themselves are in
//! `tests/`.
//!
//! Unlike the product's libraries this one may panic: it is linked into tests alone, where a panic is how a test fails.

pub mod model;
pub mod packet;
mod require;
pub mod topology;
pub mod verifier;

pub use require::{full, missing, require};
