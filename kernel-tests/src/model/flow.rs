// SPDX-License-Identifier: GPL-3.0-only
//! Where the halves of a flow under NAT lie.

use eg_abi::{Flow, FlowKey};

use super::Model;
use super::decide::is_forward;

impl Model {
    /// The other half's key, from what this one remembers.
    pub(super) fn other_key(&self, flow: &Flow, proto: u8) -> FlowKey {
        if is_forward(flow) { self.reverse_key(flow, proto) } else { self.forward_key(flow, proto) }
    }

    pub(super) fn forward_key(&self, reverse: &Flow, proto: u8) -> FlowKey {
        let vip = self.config.vip(reverse.vip);
        FlowKey {
            saddr: reverse.addr,
            sport: reverse.port,
            daddr: vip.addr,
            dport: vip.port,
            proto,
            ..FlowKey::default()
        }
    }

    pub(super) fn reverse_key(&self, forward: &Flow, proto: u8) -> FlowKey {
        let backend = self.config.backend(forward.backend);
        FlowKey {
            saddr: backend.addr,
            sport: backend.port,
            daddr: forward.addr,
            dport: forward.port,
            proto,
            ..FlowKey::default()
        }
    }
}
