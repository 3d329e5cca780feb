// SPDX-License-Identifier: GPL-3.0-only
//! The packet table once more, on `bpf/tc/ingress` (`packet::hook`): the same frames, the same verdicts, the same bytes.

#[path = "packets_algorithms.rs"]
mod algorithms;
#[path = "packets_budget.rs"]
mod budget;
#[path = "packets_cookie.rs"]
mod cookie;
#[path = "explain.rs"]
mod explain;
#[path = "packets_frag.rs"]
mod frag;
#[path = "guards.rs"]
mod guards;
#[path = "packets_icmp.rs"]
mod icmp;
#[path = "packets_modes.rs"]
mod modes;
#[path = "packets.rs"]
mod packets;
#[path = "packets_races.rs"]
mod races;
#[path = "packets_renewal.rs"]
mod renewal;
#[path = "packets_states.rs"]
mod states;
#[path = "packets_too_big.rs"]
mod too_big;
