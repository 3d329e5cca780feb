// SPDX-License-Identifier: GPL-3.0-only
//! What the datapath puts on the host: programs on interfaces (`links`) and addresses that are local (`vips`).
//!
//! `Datapath` is the only caller, and this folder the only owner of both: what it makes is marked in the kernel, so
//! that a restart, a reload or `detach` finds it, and nothing else is ever removed.

pub(crate) mod links;
pub(crate) mod vips;
