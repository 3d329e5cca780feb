// SPDX-License-Identifier: GPL-3.0-only
//! Given these maps and this packet: this verdict, these bytes.
//!
//! [`Gateway`] is the program with maps of its own, [`Frame`] builds packets, [`judge`] checks what came out; [`service`] is
//! what most tests talk to. For the backend host's program these are [`Backend`] and [`Tunnel`].

pub mod backend;
pub mod fragments;
pub mod frame;
pub mod gateway;
pub mod hook;
pub mod icmp;
pub mod judge;
pub mod outer;
pub mod random;
pub mod runner;
pub mod service;
pub mod tunnel;
mod twin;

pub use backend::Backend;
pub use frame::{Frame, L4};
pub use gateway::{Gateway, Tunables};
pub use runner::{Outcome, Runner, Verdict};
pub use tunnel::{Encap, Inner, Tunnel};
