// SPDX-License-Identifier: GPL-3.0-only
//! A packet that no flow is known for: docs/packet-path.md, steps 4 and 5.

use eg_abi::{
    ADDR_PASS, ADDR_RESET, Addr, Algorithm, Be16, Drop as Reason, Flow, FlowKey, FlowState, Forward, Plain as _,
    VIP_SNAT, VIP_STABLE, Vip,
};
use eg_balance::{Ring, hash};

use super::decide::{bad_flags, is_nat, opens};
use super::opening::next;
use super::parse::Packet;
use super::write::is_v6;
use super::{Becomes, Model};
use crate::packet::frame::RST;

const CLOSING: u8 = FlowState::Closing.code() as u8;

impl Model {
    pub(super) fn begin(&mut self, p: &mut Packet, now: u32) -> Becomes {
        if !self.config.carries_vips(&p.key.daddr) {
            return Becomes::Pass;
        }
        let Some(id) = self.config.vip_id(&p.key) else {
            return self.unused(p);
        };
        p.vip = id;
        let vip = self.config.vip(id);
        if let Some(reason) = self.guard(p, &vip) {
            return Becomes::Refuse(reason);
        }
        if p.is_tcp() && !opens(p) && (is_nat(&vip) || !self.is_hashed(vip.pool)) {
            return Becomes::Refuse(Reason::NoFlow);
        }
        if p.ttl < 2 {
            return Becomes::Refuse(Reason::Ttl);
        }
        let flow = match self.place(p, &vip, now) {
            Ok(flow) => flow,
            Err(reason) => return Becomes::Refuse(reason),
        };
        let step = self.way(p, &flow, &vip, &self.config.backend(flow.backend));
        if let Becomes::Forward(_) = step {
            self.counts.forwarded(p, false);
        }
        step
    }

    fn unused(&self, p: &Packet) -> Becomes {
        let uses = self.config.uses(&p.key.daddr);
        if uses & ADDR_PASS != 0 {
            Becomes::Pass
        } else if uses & ADDR_RESET != 0 && p.is_tcp() && !p.has(RST) {
            Becomes::Reset
        } else {
            Becomes::Refuse(Reason::UnusedPort)
        }
    }

    /// What no client's first packet looks like: docs/guards.md.
    fn guard(&self, p: &Packet, vip: &Vip) -> Option<Reason> {
        if bad_flags(p) {
            return Some(Reason::BadFlags);
        }
        // Refused for that, further down.
        if p.is_tcp() && !opens(p) && is_nat(vip) {
            return None;
        }
        if p.key.sport == Be16::default() {
            return Some(Reason::PortZero);
        }
        let forged = if p.v6 { forged6(&p.key) } else { forged4(&p.key) };
        (forged || self.config.carries_vips(&p.key.saddr)).then_some(Reason::BadSource)
    }

    fn is_hashed(&self, pool: u32) -> bool {
        let algorithm = self.config.pools.get(&pool).copied().unwrap_or_default().algorithm;
        u32::from(algorithm) <= Algorithm::SessionAffinity.code()
    }

    /// Chooses a backend and remembers the flow, half-open.
    fn place(&mut self, p: &mut Packet, vip: &Vip, now: u32) -> Result<Flow, Reason> {
        // Who reopens a flow keeps its backend and port.
        let old = self.state.flows.get(&p.key).copied();
        let old = old.filter(|o| o.state == CLOSING && self.config.stands(o) && self.config.takes_flows(o.backend));
        let (hash, picked) = self.pick(p, vip);
        let id = old.map_or(picked, |o| o.backend);
        let backend = self.config.backend(id);
        let rewrites = is_nat(vip) || u32::from(vip.forward) == Forward::L2.code();
        if id == 0 || (rewrites && is_v6(&backend.addr) != p.v6) {
            return Err(Reason::NoBackend);
        }
        p.backend = id;
        if backend.ifindex == 0 {
            return Err(Reason::NoNextHop);
        }
        let known = self.state.opening.contains_key(&p.key);
        let mut flow = Flow {
            tag: p.key.tag(),
            next: next(p),
            state: FlowState::Opening.code() as u8,
            vip: p.vip,
            epoch: vip.epoch,
            backend: id,
            generation: backend.generation,
            seen: now,
            ..Flow::default()
        };
        (flow.addr, flow.port) = if is_nat(vip) {
            let wish = if vip.flags & VIP_SNAT != 0 { old.map(|o| o.port) } else { Some(p.key.sport) };
            self.claim(p, vip, &flow, hash, wish, now).ok_or(Reason::NoPort)?
        } else {
            self.outer(hash, &backend.source, is_v6(&backend.addr))
        };
        if !known && self.state.opening.contains_key(&p.key) {
            return Err(Reason::Map);
        }
        self.state.opening.insert(p.key, flow);
        self.counts.opened(p);
        self.counts.load(id, 0, 1);
        Ok(flow)
    }

    /// The flow's hash, and whom the ring gives; 0 is nobody.
    fn pick(&self, p: &Packet, vip: &Vip) -> (u64, u32) {
        let pool = self.config.pools.get(&vip.pool).copied().unwrap_or_default();
        let of = |key: &FlowKey| hash::flow(pool.hash_key, &key.to_bytes());
        let stable = vip.flags & VIP_STABLE != 0;
        let ends = FlowKey { sport: Be16::default(), dport: Be16::default(), ..p.key };
        let hash = of(if stable { &ends } else { &p.key });
        let slot = match Algorithm::from_code(pool.algorithm.into()) {
            Some(Algorithm::Maglev | Algorithm::RingHash) => Ring::slot(hash),
            _ => (((hash >> 32) * u64::from(pool.period)) >> 32) as usize,
        };
        let slot = self.config.rings.get(&vip.pool).and_then(|ring| ring.get(slot)).copied().unwrap_or_default();
        let takes = |id: &u32| self.config.takes_flows(*id);
        let picked = [slot.primary, slot.alternate].into_iter().find(takes).filter(|_| pool.backends != 0);
        // The search for a port begins by the whole key.
        (of(&p.key), picked.unwrap_or(0))
    }

    /// Where an outer header comes from: the port by the flow, the address too if there is a prefix for it.
    fn outer(&self, hash: u64, source: &Addr, v6: bool) -> (Addr, Be16) {
        let conf = &self.config.conf;
        let (prefix, bits) = if v6 { (conf.outer6, conf.outer6_bits) } else { (conf.outer4, conf.outer4_bits) };
        let mut addr = if bits == 0 { *source } else { prefix };
        if bits != 0 {
            let host = (hash >> 16) as u32 & (u64::MAX >> (64 - bits)) as u32;
            let low: &mut [u8; 4] = addr.b.last_chunk_mut().expect("sixteen bytes");
            *low = (u32::from_be_bytes(*low) | host).to_be_bytes();
        }
        (addr, Be16::from(49152 + (hash % 16384) as u16))
    }
}

fn forged4(key: &FlowKey) -> bool {
    let [.., a, b, _, _] = key.saddr.b;
    let link_local = |addr: &Addr| addr.b[12..14] == [169, 254];
    a == 0 || a == 127 || a >= 224 || ([a, b] == [169, 254] && !link_local(&key.daddr))
}

fn forged6(key: &FlowKey) -> bool {
    let link_local = |addr: &Addr| addr.b[0] == 0xfe && addr.b[1] >> 6 == 2;
    key.saddr.b[..12] == [0; 12] || key.saddr.b[0] == 0xff || (link_local(&key.saddr) && !link_local(&key.daddr))
}
