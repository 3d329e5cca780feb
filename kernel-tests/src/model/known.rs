// SPDX-License-Identifier: GPL-3.0-only
//! A packet of an established flow: does it still count, and what does the packet change about it?

use eg_abi::{BackendState, Drop as Reason, Flow, FlowState, Miss, VIP_REPICK, VIP_RESET, Vip};

use super::decide::{bad_flags, follows, is_forward, is_nat, near, opens};
use super::parse::Packet;
use super::{Becomes, Model};
use crate::packet::frame::{ACK, FIN, RST, SYN};

const OPEN: u8 = FlowState::Open.code() as u8;
const CLOSING: u8 = FlowState::Closing.code() as u8;

impl Model {
    pub(super) fn known(&mut self, p: &mut Packet, flow: Flow, now: u32) -> Becomes {
        let forward = is_forward(&flow);
        let (vip, backend) = (self.config.vip(flow.vip), self.config.backend(flow.backend));
        let state = BackendState::from_code(backend.state.into());
        if vip.epoch != flow.epoch {
            return self.dead(p, &flow, 0, Miss::Epoch);
        }
        if backend.generation != flow.generation || state == Some(BackendState::None) {
            return self.gone(p, &flow, &vip, Miss::Generation);
        }
        if state == Some(BackendState::Down) && vip.flags & (VIP_REPICK | VIP_RESET) != 0 {
            return self.gone(p, &flow, &vip, Miss::Down);
        }
        let mut flow = flow;
        if now.wrapping_sub(flow.seen) >= self.config.hz {
            if let Err(miss) = self.refresh(p, &mut flow, &vip, now) {
                return self.dead(p, &flow, flow.vip, miss);
            }
            self.state.flows.insert(p.key, flow);
        }
        if forward && flow.state == CLOSING && opens(p) {
            return self.dead(p, &flow, flow.vip, Miss::Reopened);
        }
        if (if forward { flow.state == CLOSING } else { p.has(SYN) }) && self.began_anew(p, forward) {
            return Becomes::Open;
        }
        (p.vip, p.backend) = (flow.vip, flow.backend);
        if forward && bad_flags(p) {
            return Becomes::Refuse(Reason::BadFlags);
        }
        let step = self.way(p, &flow, &vip, &backend);
        if let Becomes::Forward(_) = step {
            self.follow(p, flow, &vip);
            self.counts.forwarded(p, !forward);
        }
        step
    }

    /// Is there a newer flow under this key, half-open, that the packet is of?
    fn began_anew(&self, p: &Packet, forward: bool) -> bool {
        self.state.opening.get(&p.key).is_some_and(|newer| !forward || follows(p.seq, newer.next))
    }

    fn dead(&mut self, p: &mut Packet, flow: &Flow, vip: u32, miss: Miss) -> Becomes {
        match self.miss(p, flow, vip, miss) {
            Becomes::Refuse(_) if self.began_anew(p, is_forward(flow)) => Becomes::Open,
            step => step,
        }
    }

    /// Its backend is gone, or down and not to be waited for.
    fn gone(&mut self, p: &mut Packet, flow: &Flow, vip: &Vip, miss: Miss) -> Becomes {
        match self.dead(p, flow, flow.vip, miss) {
            Becomes::Miss if vip.flags & VIP_RESET != 0 && p.is_tcp() && !p.has(SYN) && !p.has(RST) => Becomes::Reset,
            step => step,
        }
    }

    /// Once a second: is the flow in time, and its other half there and its own?
    fn refresh(&mut self, p: &Packet, flow: &mut Flow, vip: &Vip, now: u32) -> Result<(), Miss> {
        let proto = p.key.proto;
        if !is_nat(vip) {
            if self.config.expired(flow, proto, now) {
                return Err(Miss::Expired);
            }
            flow.seen = now;
            return Ok(());
        }
        let forward = is_forward(flow);
        let key = self.other_key(flow, proto);
        self.touched.push(key);
        let other = self.state.flows.get(&key).copied();
        // What the other half must know of us.
        let mine = if forward { (p.key.saddr, p.key.sport) } else { (p.key.daddr, p.key.dport) };
        if other.is_some_and(|o| !same(flow, &o) || o.dir == flow.dir || (o.addr, o.port) != mine) {
            return Err(Miss::Taken);
        }
        if self.config.expired(flow, proto, now) && other.is_none_or(|o| self.config.expired(&o, proto, now)) {
            return Err(Miss::Expired);
        }
        flow.seen = now;
        let other = match other {
            None => twin(p, flow, &key),
            // What the backend acknowledges did arrive.
            Some(o) if !forward => Flow { next: later(o.next, p.ack), ..o },
            Some(o) => toward(p, o),
        };
        self.state.flows.insert(key, other);
        Ok(())
    }

    /// The packet goes by.
    fn follow(&mut self, p: &Packet, mut flow: Flow, vip: &Vip) {
        if !p.is_tcp() {
            return;
        }
        let before = flow.state;
        let in_window = near(p.seq, flow.next);
        if !p.has(SYN) {
            if p.has(FIN) || p.has(RST) {
                if in_window {
                    flow.state = CLOSING;
                }
            } else if before == CLOSING && p.seq != p.end {
                flow.state = OPEN;
            }
        }
        if in_window {
            flow.next = later(flow.next, p.end);
        }
        let change = (is_forward(&flow), before, flow.state);
        let mut closed = i64::from(matches!(change, (true, OPEN, CLOSING)));
        let opened = i64::from(matches!(change, (true, CLOSING, OPEN)));
        if p.has(RST) && is_nat(vip) && in_window {
            closed += i64::from(self.reset_other(p, &flow));
        }
        self.state.flows.insert(p.key, flow);
        if opened + closed != 0 {
            self.counts.load(flow.backend, opened - closed.min(1), opened - closed.min(1));
        }
    }

    /// A reset ends both directions. Was the client's half open?
    fn reset_other(&mut self, p: &Packet, flow: &Flow) -> bool {
        let key = self.other_key(flow, p.key.proto);
        self.touched.push(key);
        let Some(other) = self.state.flows.get_mut(&key).filter(|o| same(flow, o) && o.dir != flow.dir) else {
            return false;
        };
        let before = std::mem::replace(&mut other.state, CLOSING);
        is_forward(other) && before == OPEN
    }
}

/// Do both belong to one flow?
pub(super) fn same(a: &Flow, b: &Flow) -> bool {
    (a.vip, a.epoch, a.backend, a.generation) == (b.vip, b.epoch, b.backend, b.generation)
}

/// The later of two sequence numbers.
fn later(a: u32, b: u32) -> u32 {
    if b.wrapping_sub(a).cast_signed() > 0 { b } else { a }
}

/// A reverse half by which replies go to where the client's packet came from.
pub(super) fn toward(p: &Packet, flow: Flow) -> Flow {
    Flow { ifindex: crate::packet::gateway::INGRESS, dmac: p.smac, smac: p.dmac, ..flow }
}

/// The half that lies under `key`, made from a packet of the other one.
pub(super) fn twin(p: &Packet, flow: &Flow, key: &eg_abi::FlowKey) -> Flow {
    let twin = Flow { tag: key.tag(), next: p.ack, dir: 1 - flow.dir, ..*flow };
    if is_forward(flow) {
        return toward(p, Flow { addr: p.key.saddr, port: p.key.sport, ..twin });
    }
    Flow { addr: p.key.daddr, port: p.key.dport, ifindex: 0, dmac: [0; 6], smac: [0; 6], ..twin }
}

/// Whether a SYN-ACK.
pub(super) fn answers(p: &Packet) -> bool {
    p.has(SYN) && p.has(ACK)
}
