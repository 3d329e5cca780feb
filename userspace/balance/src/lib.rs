// SPDX-License-Identifier: GPL-3.0-only
//! Which backend gets it: one file per algorithm, pure. Clock, randomness, loads and health are passed in.
//!
//! The control plane fills the kernel's rings from [`Algorithm::ring`], and the kernel finds a slot and a backend in them;
//! the L7 workers do the same in user space. Backends are indexes into the caller's list: what stands behind one, and
//! whether it is up, is the caller's business. Where the kernel picks by the same data (`bpf/lib/hash.h`,
//! `bpf/lib/pick.h`), the arithmetic here is integers only, each step is written down, and tests hold the two together.
//!
//! [`ring`] is what is picked from, [`load`] how loads are compared, [`sequence`] how turns are laid out;
//! [`bounded_load`] and [`slow_start`] modify what an algorithm does. `docs/algorithms.md` compares the eleven.

#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::unreachable)
)]

mod algorithm;
pub mod bounded_load;
pub mod ewma;
pub mod hash;
pub mod least_connections;
pub mod least_requests;
pub mod load;
pub mod maglev;
pub mod p2c;
pub mod random;
pub mod ring;
pub mod ring_hash;
pub mod round_robin;
pub mod sequence;
pub mod session_affinity;
pub mod slow_start;
pub mod weighted_random;
pub mod weighted_round_robin;

#[cfg(test)]
mod testing;

pub use algorithm::Algorithm;
pub use ring::Ring;
