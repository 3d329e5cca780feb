// SPDX-License-Identifier: GPL-3.0-only
//! What the process writes: the model's copy of its maps.

use std::collections::HashMap;
use std::sync::Arc;

use eg_abi::{
    ADDR_VIP, Addr, Backend, BackendState, Be16, CONF_RETURN_PATH, Conf, Flow, FlowKey, FlowState, Pool, Slot, Vip,
};

use super::parse::UDP;
use crate::packet::gateway::INGRESS;
use crate::packet::{Tunables, Verdict};

/// Everything that a decision asks for and no packet changes.
#[derive(Clone, Debug)]
pub struct Config {
    pub hz: u32,
    pub tunables: Tunables,
    pub conf: Conf,
    pub vips: HashMap<u32, Vip>,
    /// What an address is to us: bits.
    pub uses: HashMap<Addr, u32>,
    pub backends: HashMap<u32, Backend>,
    pub pools: HashMap<u32, Pool>,
    pub rings: HashMap<u32, Arc<Vec<Slot>>>,
}

impl Config {
    pub(super) fn vip(&self, id: u32) -> Vip {
        self.vips.get(&id).copied().unwrap_or_default()
    }

    pub(super) fn backend(&self, id: u32) -> Backend {
        self.backends.get(&id).copied().unwrap_or_default()
    }

    /// The VIP that a client's packet is for.
    pub(super) fn vip_id(&self, key: &FlowKey) -> Option<u32> {
        let at = |vip: &Vip| (vip.addr, vip.port, vip.proto);
        let found = self.vips.iter().find(|(_, vip)| at(vip) == (key.daddr, key.dport, key.proto));
        // Port 0 is no VIP's, but has entries of another meaning.
        found.map(|(id, _)| *id).filter(|_| key.dport != Be16::default())
    }

    pub(super) fn uses(&self, addr: &Addr) -> u32 {
        self.uses.get(addr).copied().unwrap_or(0)
    }

    pub(super) fn carries_vips(&self, addr: &Addr) -> bool {
        self.uses(addr) & ADDR_VIP != 0
    }

    /// Can no packet to it be for us?
    pub(super) fn is_foreign(&self, addr: &Addr) -> bool {
        self.uses(addr) == 0 && self.conf.flags & CONF_RETURN_PATH == 0
    }

    pub(super) fn takes_flows(&self, backend: u32) -> bool {
        backend != 0 && u32::from(self.backend(backend).state) == BackendState::Up.code()
    }

    pub(super) fn send(&self, ifindex: u32) -> Verdict {
        if ifindex == INGRESS { Verdict::Tx } else { Verdict::Redirect }
    }

    /// Idle jiffies after which a half counts no more.
    fn timeout(&self, state: u8, proto: u8) -> u32 {
        // The two that tests do not set are those of docs/config.md.
        let seconds = match FlowState::from_code(state.into()) {
            _ if proto == UDP => 300,
            Some(FlowState::Open) => self.tunables.timeout_open_s,
            Some(FlowState::Closing) => self.tunables.timeout_closing_s,
            _ => 70,
        };
        seconds * self.hz
    }

    pub(super) fn expired(&self, flow: &Flow, proto: u8, now: u32) -> bool {
        now.wrapping_sub(flow.seen) >= self.timeout(flow.state, proto)
    }

    /// Are its VIP and backend what they were?
    pub(super) fn stands(&self, flow: &Flow) -> bool {
        let backend = self.backend(flow.backend);
        self.vip(flow.vip).epoch == flow.epoch
            && backend.generation == flow.generation
            && u32::from(backend.state) != BackendState::None.code()
    }
}
