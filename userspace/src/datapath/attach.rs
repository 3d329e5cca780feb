// SPDX-License-Identifier: GPL-3.0-only
//! What the datapath puts on the host: programs on interfaces (`ladder` by `xdp` or `tc`, pinned by `links`, with the
//! `offloads` that harm them turned off, and the `probes` beside them) and addresses that are local (`vips`).
//!
//! `Datapath` is the only caller, and this folder the only owner of all that: what it makes is marked in the kernel, so
//! that a restart, a reload or `detach` finds it, and nothing else is ever removed.

pub(crate) mod ladder;
pub(crate) mod links;
pub(crate) mod look;
mod offloads;
pub(crate) mod probes;
pub(crate) mod swap;
pub(crate) mod tc;
pub(crate) mod vips;
pub(crate) mod xdp;
