// SPDX-License-Identifier: GPL-3.0-only
//! A packet of a half-open flow: docs/packet-path.md, step 3.

use eg_abi::{BackendState, Drop as Reason, Flow, FlowState, Miss, Vip};

use super::decide::{bad_flags, follows, is_forward, is_nat, near, opens};
use super::known::{answers, same, toward, twin};
use super::parse::Packet;
use super::{Becomes, Model};
use crate::packet::frame::{RST, SYN};

impl Model {
    pub(super) fn half_open(&mut self, p: &mut Packet, flow: Flow, now: u32) -> Becomes {
        let (vip, backend) = (self.config.vip(flow.vip), self.config.backend(flow.backend));
        if vip.epoch != flow.epoch {
            return self.miss(p, &flow, 0, Miss::Epoch);
        }
        let gone = BackendState::from_code(backend.state.into()) == Some(BackendState::None);
        if backend.generation != flow.generation || gone {
            return self.miss(p, &flow, flow.vip, Miss::Generation);
        }
        if self.config.expired(&flow, p.key.proto, now) {
            return self.miss(p, &flow, flow.vip, Miss::Expired);
        }
        if is_forward(&flow) && is_nat(&vip) && !self.claims(p, &flow) {
            return self.miss(p, &flow, flow.vip, Miss::Taken);
        }
        (p.vip, p.backend) = (flow.vip, flow.backend);
        if is_forward(&flow) && bad_flags(p) {
            return Becomes::Refuse(Reason::BadFlags);
        }
        let step = self.way(p, &flow, &vip, &backend);
        let Becomes::Forward(_) = step else {
            return step;
        };
        if !self.advance(p, flow, &vip, now) {
            return Becomes::Refuse(Reason::Handshake);
        }
        self.counts.forwarded(p, !is_forward(&flow));
        step
    }

    /// What the packet does to the handshake; false if it leads to none.
    fn advance(&mut self, p: &Packet, flow: Flow, vip: &Vip, now: u32) -> bool {
        let (nat, forward) = (is_nat(vip), is_forward(&flow));
        let seen = Flow { seen: now, ..flow };
        match (p.is_tcp(), forward) {
            (true, true) => self.client_says(p, flow, nat, now),
            (true, false) => {
                if answers(p) {
                    let state = FlowState::Answered.code() as u8;
                    self.state.opening.insert(p.key, Flow { state, next: next(p), ..seen });
                }
                true
            }
            (false, true) if nat => {
                self.state.opening.insert(p.key, seen);
                true
            }
            (false, true) => {
                // It still sends a second later.
                if now.wrapping_sub(flow.seen) >= self.config.hz {
                    self.establish(p, flow, nat, now);
                }
                true
            }
            (false, false) => {
                self.establish(p, flow, nat, now);
                true
            }
        }
    }

    fn client_says(&mut self, p: &Packet, flow: Flow, nat: bool, now: u32) -> bool {
        if opens(p) {
            self.state.opening.insert(p.key, Flow { next: next(p), seen: now, ..flow });
            return true;
        }
        if !follows(p.seq, flow.next) {
            return !nat && near(p.seq, flow.next);
        }
        if p.has(RST) {
            return true;
        }
        if nat && !self.acknowledges(p, &flow) {
            return false;
        }
        self.establish(p, flow, nat, now);
        true
    }

    /// Is the port that it writes still its own?
    fn claims(&mut self, p: &Packet, flow: &Flow) -> bool {
        let key = self.reverse_key(flow, p.key.proto);
        self.touched.push(key);
        let halves = [self.state.opening.get(&key), self.state.flows.get(&key)];
        halves
            .into_iter()
            .flatten()
            .any(|half| same(flow, half) && !is_forward(half) && (half.addr, half.port) == (p.key.saddr, p.key.sport))
    }

    /// Does it acknowledge the number that the backend chose?
    fn acknowledges(&mut self, p: &Packet, flow: &Flow) -> bool {
        let key = self.reverse_key(flow, p.key.proto);
        self.touched.push(key);
        self.state.opening.get(&key).is_some_and(|reverse| {
            u32::from(reverse.state) == FlowState::Answered.code()
                && same(flow, reverse)
                && follows(p.ack, reverse.next)
        })
    }

    /// Both halves move to the other table.
    fn establish(&mut self, p: &Packet, flow: Flow, nat: bool, now: u32) {
        let state = FlowState::Open.code() as u8;
        let open = |flow: Flow| Flow { state, seen: now, born: 0, ..flow };
        let forward = is_forward(&flow);
        let mut client = p.key;
        if nat {
            let key = self.other_key(&flow, p.key.proto);
            self.touched.push(key);
            let half = self.state.opening.remove(&key);
            if !forward {
                client = key;
                self.moved(flow.backend, half.is_some());
            }
            let other = half.filter(|o| o.tag == key.tag() && same(&flow, o)).unwrap_or_else(|| twin(p, &flow, &key));
            let other = open(other);
            self.state.flows.insert(key, if forward { toward(p, other) } else { other });
        }
        let was = self.state.opening.remove(&p.key).is_some();
        if client == p.key {
            self.moved(flow.backend, was);
        }
        self.state.flows.insert(p.key, open(flow));
    }

    /// The client's half left the half-open ones.
    fn moved(&mut self, backend: u32, it: bool) {
        if it {
            self.counts.load(backend, 1, 0);
        }
    }
}

/// Data in a SYN may be sent again.
pub(super) fn next(p: &Packet) -> u32 {
    if p.has(SYN) { p.seq.wrapping_add(1) } else { p.end }
}
