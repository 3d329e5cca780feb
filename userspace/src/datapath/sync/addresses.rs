// SPDX-License-Identifier: GPL-3.0-only
//! What addresses are to the kernel side: VIPs', our own sources, and the prefixes that outer headers are taken from.

use std::collections::BTreeMap;

use eg_skel::abi::{self, Addr, Conf, VipKey};

use super::super::error::DatapathError;
use super::Tables;
use crate::config::plan::{DatapathPlan, ForwardPlan, UnusedPorts};

impl Tables {
    /// Brings `eg_vip_ids` up to date with the VIPs and with the addresses that packets to backends leave from.
    pub(super) fn write_uses(&mut self) -> Result<(), DatapathError> {
        let mut wanted: BTreeMap<Addr, u32> = BTreeMap::new();
        for entry in self.vips.values() {
            *wanted.entry(entry.value.addr).or_default() |= abi::ADDR_VIP | rest(entry.unused_ports);
        }
        for entry in self.backends.values().filter(|entry| entry.resolved()) {
            *wanted.entry(entry.value.source).or_default() |= abi::ADDR_SOURCE;
        }
        for addr in &self.cookies {
            *wanted.entry(*addr).or_default() |= abi::ADDR_COOKIE;
        }
        for (addr, uses) in &wanted {
            if self.uses.get(addr) != Some(uses) {
                self.maps.vip_ids.set(&VipKey::any_port(*addr), uses)?;
            }
        }
        for addr in self.uses.keys().filter(|addr| !wanted.contains_key(addr)) {
            self.maps.vip_ids.delete(&VipKey::any_port(*addr))?;
        }
        self.uses = wanted;
        self.write_stable()
    }

    /// The same for the VIPs that take fragments without ports.
    fn write_stable(&mut self) -> Result<(), DatapathError> {
        let stable = self.vips.values().filter(|entry| entry.value.flags & abi::VIP_STABLE != 0);
        let wanted: BTreeMap<(Addr, u8), u32> =
            stable.map(|entry| ((entry.value.addr, entry.value.proto), entry.id)).collect();
        let key = |(addr, proto): &(Addr, u8)| VipKey { proto: *proto, ..VipKey::any_port(*addr) };
        for (at, id) in wanted.iter().filter(|(at, id)| self.stable.get(at) != Some(id)) {
            self.maps.vip_ids.set(&key(at), id)?;
        }
        for at in self.stable.keys().filter(|at| !wanted.contains_key(at)) {
            self.maps.vip_ids.delete(&key(at))?;
        }
        self.stable = wanted;
        Ok(())
    }
}

/// What becomes of an address's ports that carry no VIP.
fn rest(policy: UnusedPorts) -> u32 {
    match policy {
        UnusedPorts::Drop => 0,
        UnusedPorts::Pass => abi::ADDR_PASS,
        UnusedPorts::Reset => abi::ADDR_RESET,
    }
}

/// The way back from `rest`.
pub(super) fn policy(uses: u32) -> UnusedPorts {
    match uses {
        uses if uses & abi::ADDR_PASS != 0 => UnusedPorts::Pass,
        uses if uses & abi::ADDR_RESET != 0 => UnusedPorts::Reset,
        _ => UnusedPorts::Drop,
    }
}

/// The element of `eg_conf`.
pub(super) fn conf(plan: &DatapathPlan) -> Conf {
    let mut conf = Conf::default();
    if plan.vips.iter().any(|vip| vip.forward == ForwardPlan::Nat { snat: false }) {
        conf.flags |= abi::CONF_RETURN_PATH;
    }
    // Beyond 32 host bits the upper ones stay as the prefix has them: 32 vary enough.
    if let Some(prefix) = plan.tunnel_sources.v4 {
        conf.outer4 = Addr::from(prefix.address());
        conf.outer4_bits = 32 - u32::from(prefix.length());
    }
    if let Some(prefix) = plan.tunnel_sources.v6 {
        conf.outer6 = Addr::from(prefix.address());
        conf.outer6_bits = (128 - u32::from(prefix.length())).min(32);
    }
    conf
}
