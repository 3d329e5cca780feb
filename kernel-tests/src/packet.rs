// SPDX-License-Identifier: GPL-3.0-only
//! Given these maps and this packet: this verdict, these bytes.
//!
//! [`Gateway`] is the program with maps of its own, [`Frame`] builds packets, [`judge`] checks what came out.

pub mod fragments;
pub mod frame;
pub mod gateway;
pub mod judge;
pub mod random;

pub use frame::{Frame, L4};
pub use gateway::{Gateway, Outcome, Verdict};
