// SPDX-License-Identifier: GPL-3.0-only
//! The packet table once more, on `bpf/tc/ingress` (`packet::hook`): the same frames, the same verdicts, the same bytes.

#[path = "packets.rs"]
mod packets;
#[path = "packets_states.rs"]
mod states;
