// SPDX-License-Identifier: GPL-3.0-only
//! The packet cases: which packets, with how many flows, after what warm-up, and what proves that they took the path that
//! the case is named for (the verdict, and the VIPs' own counters, which must have moved by exactly as many packets).

use std::net::SocketAddr;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::Result;
use crate::compile::Workshop;
use crate::frame::{ACK, Frame, SYN, answer, frame};
use crate::world::{Order, TCP, TCP_GUE, TCP_IPIP, TCP_L2, TCP6, TCP6_IPIP, Target, UDP, UDP_IPIP, World};

const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;

/// Where the low bytes of the source address lie in an IPv4 and in an IPv6 frame.
const SOURCE4: usize = 26;
const SOURCE6: usize = 34;

/// The capacity of eg_opening: new flows are measured with the table full, when each insertion evicts.
const TABLE: u32 = 1 << 17;

struct Case {
    name: &'static str,
    /// A power of two.
    flows: u32,
    /// Client and destination.
    from: &'static str,
    to: &'static str,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Packets of flows that are known.
    Hit { tcp: bool },
    /// What a backend answers on a known flow.
    Reply,
    /// Each packet is a SYN of a flow never seen.
    New,
    /// Not for us.
    Foreign,
}

const CASES: [Case; 17] = [
    Case { name: "tcp-hit.1-flow", flows: 1, from: "10.0.0.1:40000", to: TCP, kind: Kind::Hit { tcp: true } },
    Case { name: "tcp-hit.64k-flows", flows: 1 << 16, from: "10.0.0.1:40000", to: TCP, kind: Kind::Hit { tcp: true } },
    Case { name: "tcp-hit.256k-flows", flows: 1 << 18, from: "10.0.0.1:40000", to: TCP, kind: Kind::Hit { tcp: true } },
    Case { name: "udp-reply.1-flow", flows: 1, from: "10.0.0.1:40000", to: UDP, kind: Kind::Reply },
    Case { name: "tcp6-hit.1-flow", flows: 1, from: "[2001:db8:9::1]:40000", to: TCP6, kind: Kind::Hit { tcp: true } },
    Case { name: "udp-hit.1-flow", flows: 1, from: "10.0.0.1:40000", to: UDP, kind: Kind::Hit { tcp: false } },
    Case { name: "udp-hit.64k-flows", flows: 1 << 16, from: "10.0.0.1:40000", to: UDP, kind: Kind::Hit { tcp: false } },
    Case { name: "tcp-syn.new-flow", flows: 1 << 24, from: "11.0.0.0:40000", to: TCP, kind: Kind::New },
    Case { name: "tcp-hit.ipip.1-flow", flows: 1, from: "10.0.0.1:40000", to: TCP_IPIP, kind: Kind::Hit { tcp: true } },
    Case {
        name: "tcp-hit.ipip.64k-flows",
        flows: 1 << 16,
        from: "10.0.0.1:40000",
        to: TCP_IPIP,
        kind: Kind::Hit { tcp: true },
    },
    Case {
        name: "tcp-hit.ipip.512k-flows",
        flows: 1 << 19,
        from: "10.0.0.1:40000",
        to: TCP_IPIP,
        kind: Kind::Hit { tcp: true },
    },
    Case {
        name: "udp-hit.ipip.1-flow",
        flows: 1,
        from: "10.0.0.1:40000",
        to: UDP_IPIP,
        kind: Kind::Hit { tcp: false },
    },
    Case {
        name: "tcp6-hit.ip6ip6.1-flow",
        flows: 1,
        from: "[2001:db8:9::1]:40000",
        to: TCP6_IPIP,
        kind: Kind::Hit { tcp: true },
    },
    Case { name: "tcp-hit.gue.1-flow", flows: 1, from: "10.0.0.1:40000", to: TCP_GUE, kind: Kind::Hit { tcp: true } },
    Case { name: "tcp-hit.l2.1-flow", flows: 1, from: "10.0.0.1:40000", to: TCP_L2, kind: Kind::Hit { tcp: true } },
    Case { name: "tcp-syn.ipip.new-flow", flows: 1 << 24, from: "11.0.0.0:40000", to: TCP_IPIP, kind: Kind::New },
    Case { name: "foreign.1-flow", flows: 1, from: "10.0.0.1:40000", to: "198.51.100.1:80", kind: Kind::Foreign },
];

impl Case {
    fn at(&self) -> usize {
        if self.from.starts_with('[') { SOURCE6 } else { SOURCE4 }
    }

    fn frame(&self, flags: Option<u8>) -> Result<Frame> {
        Ok(frame(self.from.parse::<SocketAddr>()?, self.to.parse::<SocketAddr>()?, flags))
    }

    /// Opens the flows and returns the frame to measure.
    fn prepare(&self, world: &World) -> Result<Frame> {
        // New flows must go on where this ends, so theirs is the one order from the start.
        let order = if self.kind == Kind::New { Order::Scattered } else { Order::Made };
        let send =
            |frame: &Frame, flows, packets| world.send(Target::Product, frame, flows, self.at(), (order, 0), packets);
        match self.kind {
            Kind::Hit { tcp } => {
                world.establish(self.from.parse()?, self.to, self.flows)?;
                self.frame(tcp.then_some(ACK))
            }
            Kind::Reply => {
                // A datagram and its answer: from then on the flow is established, and replies of it are hits.
                let (forwarded, _) = world.alone(Target::Product, &self.frame(None)?, 1)?;
                let reply = answer(&forwarded);
                world.alone(Target::Product, &reply, 1)?;
                Ok(reply)
            }
            Kind::New => {
                let syn = self.frame(Some(SYN))?;
                send(&syn, self.flows, TABLE)?;
                Ok(syn)
            }
            Kind::Foreign => self.frame(Some(ACK)),
        }
    }

    /// Measures the product's program once and proves where the packets went.
    fn measure(&self, world: &World, frame: &Frame, turn: u32, packets: u32) -> Result<f64> {
        let before = world.stats()?;
        let (nanoseconds, verdict) =
            world.send(Target::Product, frame, self.flows, self.at(), (Order::Scattered, turn), packets)?;
        let after = world.stats()?;
        let moved = [
            after.packets.wrapping_sub(before.packets),
            after.reply_packets.wrapping_sub(before.reply_packets),
            after.flows.wrapping_sub(before.flows),
            after.drops.wrapping_sub(before.drops),
        ];
        let n = u64::from(packets);
        let (wanted, wanted_verdict) = match self.kind {
            Kind::Hit { .. } => ([n, 0, 0, 0], XDP_TX),
            Kind::Reply => ([0, n, 0, 0], XDP_TX),
            Kind::New => ([n, 0, n, 0], XDP_TX),
            Kind::Foreign => ([0, 0, 0, 0], XDP_PASS),
        };
        if (moved, verdict) != (wanted, wanted_verdict) {
            return Err(format!(
                "{}: verdict {verdict}, packets, replies, flows and drops moved by {moved:?}; expected {wanted_verdict}, {wanted:?}",
                self.name
            )
            .into());
        }
        Ok(nanoseconds)
    }

    fn run(&self, workshop: &Workshop, rounds: u32, packets: u32) -> Result<Value> {
        // New flows never repeat within a case: each costs several times a hit, and the addresses must suffice.
        let packets = if self.kind == Kind::New { packets / 4 } else { packets };
        // The yardstick has one key where the case's flows are all new: many would say nothing about one lookup.
        let keys = if self.kind == Kind::New { 1 } else { self.flows };

        let world = World::product(workshop)?;
        let frame = self.prepare(&world)?;
        world.keys(&frame, keys, self.at())?;
        let mut turn = if self.kind == Kind::New { TABLE } else { 0 };
        let mut samples = Vec::new();
        for _ in 0..rounds {
            let (floor, _) =
                world.send(Target::Empty, &frame, self.flows, self.at(), (Order::Scattered, turn), packets)?;
            let (floor_of_keys, _) =
                world.send(Target::Empty, &frame, keys, self.at(), (Order::Scattered, 0), packets)?;
            let (lookup, verdict) =
                world.send(Target::Lookup, &frame, keys, self.at(), (Order::Scattered, 0), packets)?;
            if verdict != XDP_TX {
                return Err(format!("{}: the yardstick did not find its key (verdict {verdict})", self.name).into());
            }
            let ours = self.measure(&world, &frame, turn, packets)?;
            let (_, empty) = world.alone(Target::Empty, &frame, packets)?;
            samples.push(json!({ "ours": ours - floor, "lookup": lookup - floor_of_keys, "empty": empty }));
            if self.kind == Kind::New {
                turn += packets;
            }
        }
        // The counters make the program larger: where the verifier refuses the copy, the times still stand.
        let counts =
            self.count(workshop).map_err(|error| eprintln!("eg-bench: {}: not counted: {error}", self.name)).ok();
        let (lookups, changes) = counts.unzip();
        Ok(json!({ "case": self.name, "samples": samples, "lookups": lookups, "changes": changes }))
    }

    /// Map lookups, and updates and deletes, per packet: mean over packets of a copy that counts them.
    fn count(&self, workshop: &Workshop) -> Result<(f64, f64)> {
        let packets = 1 << 12;
        let world = World::counted(workshop)?;
        let frame = self.prepare(&world)?;
        let before = world.tally()?;
        let turn = if self.kind == Kind::New { TABLE } else { 0 };
        self.measure(&world, &frame, turn, packets)?;
        let after = world.tally()?;
        let mean = |after: u64, before: u64| (after - before) as f64 / f64::from(packets);
        Ok((mean(after.0, before.0), mean(after.1, before.1)))
    }
}

pub(crate) fn run(rounds: u32, packets: u32, core: usize) -> Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(core)?;
    sched_setaffinity(Pid::from_raw(0), &cpus)?;
    let workshop = Workshop::new()?;
    let cases = CASES.iter().map(|case| case.run(&workshop, rounds, packets)).collect::<Result<Vec<_>>>()?;
    println!("{}", serde_json::to_string(&cases)?);
    Ok(())
}
