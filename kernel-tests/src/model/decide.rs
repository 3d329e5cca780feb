// SPDX-License-Identifier: GPL-3.0-only
//! The order of questions: docs/packet-path.md, steps 2 to 6.

use eg_abi::{BACKEND_ON_LINK, Backend, Drop as Reason, Flow, FlowDir, Forward, Miss, Vip};

use super::parse::Packet;
use super::write::{self, Way};
use super::{Becomes, Model};
use crate::packet::frame::{ACK, FIN, RST, SYN};

/// So far from what is expected a sequence number is still believed.
pub(super) const WINDOW: u32 = 65536;

/// Within the window to either side.
pub(super) fn near(seq: u32, expected: u32) -> bool {
    let distance = seq.wrapping_sub(expected).cast_signed();
    distance.unsigned_abs() <= WINDOW
}

/// At the number or after it, within the window.
pub(super) fn follows(seq: u32, expected: u32) -> bool {
    seq.wrapping_sub(expected) <= WINDOW
}

pub(super) fn opens(p: &Packet) -> bool {
    p.is_tcp() && p.has(SYN) && !p.has(ACK) && !p.has(RST) && !p.has(FIN)
}

pub(super) fn is_forward(flow: &Flow) -> bool {
    u32::from(flow.dir) == FlowDir::Forward.code()
}

pub(super) fn is_nat(vip: &Vip) -> bool {
    u32::from(vip.forward) == Forward::Nat.code()
}

/// Flags that nothing honest sends: neither SYN, RST nor ACK; or SYN with FIN or RST.
pub(super) fn bad_flags(p: &Packet) -> bool {
    p.is_tcp() && (!(p.has(SYN) || p.has(RST) || p.has(ACK)) || (p.has(SYN) && (p.has(FIN) || p.has(RST))))
}

impl Model {
    pub(super) fn decide(&mut self, p: &mut Packet, now: u32) -> Becomes {
        if let Some(flow) = self.state.flows.get(&p.key).copied() {
            match self.known(p, flow, now) {
                Becomes::Miss => {}
                Becomes::Open => return self.open(p, now),
                step => return step,
            }
            (p.vip, p.backend) = (0, 0);
        }
        if self.config.is_foreign(&p.key.daddr) {
            return Becomes::Pass;
        }
        self.open(p, now)
    }

    /// A half-open flow's packet, or one that no flow is known for.
    fn open(&mut self, p: &mut Packet, now: u32) -> Becomes {
        (p.vip, p.backend) = (0, 0);
        if let Some(flow) = self.state.opening.get(&p.key).copied() {
            match self.half_open(p, flow, now) {
                Becomes::Miss => (p.vip, p.backend) = (0, 0),
                step => return step,
            }
        }
        self.begin(p, now)
    }

    /// A flow that does not count: the client may begin anew, a backend's reply goes nowhere.
    pub(super) fn miss(&mut self, p: &mut Packet, flow: &Flow, vip: u32, miss: Miss) -> Becomes {
        self.counts.missed(miss);
        if is_forward(flow) {
            return Becomes::Miss;
        }
        p.vip = vip;
        Becomes::Refuse(Reason::StaleReply)
    }

    /// Everything about the flow holds: may its packet go?
    pub(super) fn way(&self, p: &Packet, flow: &Flow, vip: &Vip, backend: &Backend) -> Becomes {
        let way = if is_forward(flow) { out(flow, vip, backend) } else { back(flow, vip) };
        if p.ttl < 2 {
            Becomes::Refuse(Reason::Ttl)
        } else if way.ifindex == 0 {
            Becomes::Refuse(Reason::NoNextHop)
        } else if way.mtu != 0 && p.len + write::room(way.mode, way.outer6) > usize::from(way.mtu) {
            Becomes::TooBig
        } else {
            Becomes::Forward(way)
        }
    }
}

pub(super) fn out(flow: &Flow, vip: &Vip, backend: &Backend) -> Way {
    let mode = Forward::from_code(vip.forward.into()).expect("a way to forward");
    let reachable = mode != Forward::L2 || backend.flags & BACKEND_ON_LINK != 0;
    Way {
        source: (flow.addr, flow.port),
        destination: (backend.addr, if mode == Forward::Gue { vip.gue_port } else { backend.port }),
        ifindex: if reachable { backend.ifindex } else { 0 },
        dmac: backend.dmac,
        smac: backend.smac,
        mtu: backend.mtu,
        mode,
        outer6: write::is_v6(&backend.addr),
    }
}

pub(super) fn back(flow: &Flow, vip: &Vip) -> Way {
    Way {
        source: (vip.addr, vip.port),
        destination: (flow.addr, flow.port),
        ifindex: flow.ifindex,
        dmac: flow.dmac,
        smac: flow.smac,
        mtu: 0,
        mode: Forward::Nat,
        outer6: false,
    }
}
