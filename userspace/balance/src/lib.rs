// SPDX-License-Identifier: GPL-3.0-only
//! Which backend gets it: one file per algorithm, pure. Clock, randomness and health are passed in.
//!
//! The control plane fills the kernel's rings from [`maglev::Table`], the L7 workers pick with [`maglev::Table`] and
//! [`round_robin::RoundRobin`] themselves. Backends are indexes into the caller's list: what stands behind one, and
//! whether it is up, is the caller's business. Where the kernel picks by the same data (`bpf/lib/hash.h`,
//! `bpf/lib/pick.h`), tests hold the two together.

#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::unreachable)
)]

pub mod hash;
pub mod maglev;
pub mod round_robin;
