// SPDX-License-Identifier: GPL-3.0-only
//! A second opinion: what the datapath should do with a packet, decided in plain Rust over hash maps.
//!
//! [`Model::receive`] takes a frame and gives the verdict, the reason, the bytes that leave and what is remembered then.
//! It follows docs/packet-path.md, docs/guards.md and the ABI, and where these are silent what `bpf/lib/` says in its
//! comments; for one CPU at a time and for tables that never evict. The program must agree with it in every bit ([`run`]).
//! Outside of it are fragments, limits by source and prefix lists, local sockets, and algorithms that count.

mod answer;
pub mod case;
mod claim;
mod config;
mod counts;
mod decide;
mod flow;
mod icmp;
mod known;
mod mutate;
mod open;
mod opening;
pub mod parse;
pub mod run;
mod shrink;
pub mod traffic;
mod write;

use std::collections::HashMap;

use eg_abi::{Drop as Reason, Flow, FlowKey};

use crate::packet::{Outcome, Verdict};

pub use case::{Case, Step};
pub use config::Config;
pub use counts::Counts;
pub use run::Bench;
pub use shrink::shrink;

use parse::{Packet, Parsed};
use write::Way;

/// What is remembered of connections: `eg_flows` and `eg_opening`.
#[derive(Clone, Debug, Default)]
pub struct State {
    pub flows: HashMap<FlowKey, Flow>,
    pub opening: HashMap<FlowKey, Flow>,
}

/// The datapath of one gateway.
#[derive(Clone, Debug)]
pub struct Model {
    pub config: Config,
    pub state: State,
    pub counts: Counts,
    /// Keys that the last packet looked at or changed.
    pub touched: Vec<FlowKey>,
}

/// What becomes of a frame.
#[derive(Clone, Debug)]
pub struct Told {
    pub outcome: Outcome,
    /// Why it was refused; it may be answered all the same.
    pub reason: Option<Reason>,
}

/// Where a decision stands.
#[derive(Clone, Debug)]
enum Becomes {
    Forward(Way),
    Pass,
    Refuse(Reason),
    /// A new flow's, or a half-open one's.
    Open,
    /// The flow that is known does not count.
    Miss,
    TooBig,
    Reset,
    /// These bytes leave by that interface.
    Rewritten(u32, Vec<u8>),
}

impl Model {
    pub fn new(config: Config) -> Model {
        Model { config, state: State::default(), counts: Counts::default(), touched: Vec::new() }
    }

    /// One frame comes in at `now`, the low half of jiffies. `None`: outside of the model, nothing has changed.
    pub fn receive(&mut self, frame: &[u8], now: u32) -> Option<Told> {
        self.touched.clear();
        let (kind, mut p) = parse::parse(frame);
        let step = match kind {
            Parsed::NotOurs => Becomes::Pass,
            Parsed::Malformed if self.config.carries_vips(&p.key.daddr) => Becomes::Refuse(Reason::Malformed),
            Parsed::Malformed => Becomes::Pass,
            Parsed::Fragment if self.config.is_foreign(&p.key.daddr) => Becomes::Pass,
            Parsed::Fragment => return None,
            Parsed::Icmp => self.icmp(frame, &mut p),
            Parsed::Whole => {
                self.touched.push(p.key);
                self.decide(&mut p, now)
            }
        };
        Some(self.carry_out(frame, p, step))
    }

    fn carry_out(&mut self, frame: &[u8], mut p: Packet, step: Becomes) -> Told {
        let (verdict, bytes, reason) = match step {
            Becomes::Forward(way) => (self.config.send(way.ifindex), write::forward(frame, &p, &way), None),
            Becomes::Rewritten(ifindex, bytes) => (self.config.send(ifindex), bytes, None),
            Becomes::TooBig => {
                let mtu = self.mtu_to_tell(&mut p);
                let answer = mtu.map(|mtu| answer::too_big(frame, &p, mtu));
                (answered(&answer), answer.unwrap_or_else(|| frame.to_vec()), Some(Reason::TooBig))
            }
            Becomes::Reset => {
                (p.vip, p.backend) = (self.config.vip_id(&p.key).unwrap_or(0), 0);
                let reason = if p.vip == 0 { Reason::UnusedPort } else { Reason::BackendDown };
                (Verdict::Tx, answer::reset(frame, &p), Some(reason))
            }
            Becomes::Refuse(reason) => (Verdict::Drop, frame.to_vec(), Some(reason)),
            Becomes::Pass | Becomes::Open | Becomes::Miss => (Verdict::Pass, frame.to_vec(), None),
        };
        match reason {
            Some(reason) => self.counts.refused(&p, reason),
            None if verdict == Verdict::Pass => self.counts.passed(&p),
            None => {}
        }
        Told { outcome: Outcome { verdict, bytes }, reason }
    }
}

fn answered(answer: &Option<Vec<u8>>) -> Verdict {
    if answer.is_some() { Verdict::Tx } else { Verdict::Drop }
}
