// SPDX-License-Identifier: GPL-3.0-only
//! Source ports under NAT: a port is its reverse half's key.

use std::collections::HashMap;

use eg_abi::{Addr, Be16, Flow, FlowDir, FlowKey, VIP_SNAT, Vip};

use super::Model;
use super::known::{same, toward};
use super::parse::Packet;

/// Ports tried before the flow is refused.
const TRIES: u32 = 16;

impl Model {
    /// Claims a source for the flow that `p` begins: `wish` first, and nothing else where the client's own is kept.
    pub(super) fn claim(
        &mut self,
        p: &Packet,
        vip: &Vip,
        flow: &Flow,
        hash: u64,
        wish: Option<Be16>,
        now: u32,
    ) -> Option<(Addr, Be16)> {
        let backend = self.config.backend(flow.backend);
        let snat = vip.flags & VIP_SNAT != 0;
        let (min, max) = self.config.tunables.ports;
        let ports = max - min + 1;
        let begin = (hash as u32).wrapping_add(now) % ports;
        let step = (hash >> 32) as u32 % (ports / TRIES).max(1) + 1;
        let search = (0..TRIES).map(|i| Be16::from((min + (begin + i * step) % ports) as u16));
        let tries: Vec<Be16> = match wish {
            Some(port) if !snat => vec![port],
            wish => wish.into_iter().chain(search).take(TRIES as usize).collect(),
        };
        let reverse = toward(
            p,
            Flow { addr: p.key.saddr, port: p.key.sport, dir: FlowDir::Reverse.code() as u8, next: 0, ..*flow },
        );
        let key = |port| FlowKey {
            saddr: backend.addr,
            sport: backend.port,
            daddr: if snat { backend.source } else { p.key.saddr },
            dport: port,
            proto: p.key.proto,
            ..FlowKey::default()
        };
        let free = |key: &FlowKey| {
            [&self.state.flows, &self.state.opening].iter().all(|table| self.is_free(table, key, &reverse, now))
        };
        let key = tries.into_iter().map(key).find(free)?;
        self.touched.push(key);
        self.state.opening.insert(key, Flow { tag: key.tag(), ..reverse });
        Some((key.daddr, key.dport))
    }

    /// Nobody's, this client's at this VIP already, or of a flow that is over.
    fn is_free(&self, table: &HashMap<FlowKey, Flow>, key: &FlowKey, mine: &Flow, now: u32) -> bool {
        let Some(there) = table.get(key) else {
            return true;
        };
        (there.vip, there.addr, there.port) == (mine.vip, mine.addr, mine.port)
            || !self.config.stands(there)
            || (self.config.expired(there, key.proto, now)
                && table.get(&self.forward_key(there, key.proto)).is_none_or(|forward| {
                    !same(forward, there)
                        || (forward.addr, forward.port) != (key.daddr, key.dport)
                        || self.config.expired(forward, key.proto, now)
                }))
    }
}
