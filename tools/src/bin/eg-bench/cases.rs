// SPDX-License-Identifier: GPL-3.0-only
//! The packet cases: which packets, with how many flows, to which VIP.

use std::net::SocketAddr;

use eg_abi::{Forward, PROTO_TCP, PROTO_UDP};

use crate::Result;
use crate::frame::{ACK, LENGTH, SYN, frame};

/// Where the low bytes of the source address lie in an IPv4 and in an IPv6 frame.
const SOURCE4: usize = 26;
const SOURCE6: usize = 34;

/// A QUIC packet of 1,200 bytes (the least that RFC 9000 section 14.1 lets an endpoint count on) in UDP in IPv6.
const QUIC: usize = 1262;

const MODES: [Forward; 4] = [Forward::Nat, Forward::Ipip, Forward::Gue, Forward::L2];

/// A virtual service of the bench's world: one for each mode, family and protocol.
pub(crate) struct Service {
    pub(crate) at: SocketAddr,
    pub(crate) proto: u8,
    pub(crate) forward: Forward,
}

impl Service {
    pub(crate) fn all() -> Result<Vec<Service>> {
        let mut all = Vec::new();
        for (host, forward) in (1..).zip(MODES) {
            for v6 in [false, true] {
                for (proto, port) in [(PROTO_TCP, 80), (PROTO_UDP, 443)] {
                    let ip = if v6 { format!("2001:db8::{host}") } else { format!("203.0.113.{host}") };
                    all.push(Service { at: SocketAddr::new(ip.parse()?, port), proto, forward });
                }
            }
        }
        Ok(all)
    }

    /// Bytes of the outer header that its packets get.
    pub(crate) fn room(&self) -> u32 {
        let ip = if self.at.is_ipv6() { 40 } else { 20 };
        match self.forward {
            Forward::Ipip => ip,
            // UDP and GUE without flags: eight and four bytes.
            Forward::Gue => ip + 12,
            _ => 0,
        }
    }

    /// As case names have it; `nat` is the default and goes without saying.
    fn mode(&self) -> &'static str {
        match (self.forward, self.at.is_ipv6()) {
            (Forward::Ipip, false) => ".ipip",
            (Forward::Ipip, true) => ".ip6ip6",
            (Forward::Gue, _) => ".gue",
            (Forward::L2, _) => ".l2",
            _ => "",
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Packets of flows that are known.
    Hit,
    /// What a backend answers on a known flow.
    Reply,
    /// Each packet is a SYN of a flow never seen.
    New,
    /// Not for us.
    Foreign,
}

pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    /// What is measured is what this guard adds.
    pub(crate) guard: Option<Guard>,
    /// A power of two.
    pub(crate) flows: u32,
    /// Of one packet, bytes.
    pub(crate) length: usize,
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    /// The index of `to`'s service in [`Service::all`], unless foreign.
    pub(crate) service: Option<usize>,
    /// Of the outer header that its packets get.
    pub(crate) room: u32,
}

/// A guard that a listener may have. Those that are always on cost no lookup on a known flow.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Guard {
    /// `allow` and `deny`, of a hundred thousand prefixes.
    Prefixes,
    /// Packets of one source.
    Packets,
    /// New flows of one source.
    Flows,
    /// UDP packets of one source.
    Udp,
    /// Requests against replies; those are what it refuses.
    Amplification,
    /// New flows of the listener.
    Budget,
}

const GUARDS: [(Guard, &str, Kind, u8); 8] = [
    (Guard::Prefixes, "prefix-lists", Kind::Hit, PROTO_TCP),
    (Guard::Prefixes, "prefix-lists", Kind::New, PROTO_TCP),
    (Guard::Packets, "source-packets", Kind::Hit, PROTO_TCP),
    (Guard::Packets, "source-packets", Kind::New, PROTO_TCP),
    (Guard::Flows, "source-flows", Kind::New, PROTO_TCP),
    (Guard::Udp, "udp-rate", Kind::Hit, PROTO_UDP),
    (Guard::Amplification, "udp-amplification", Kind::Hit, PROTO_UDP),
    (Guard::Budget, "flow-budget", Kind::New, PROTO_TCP),
];

impl Case {
    pub(crate) fn all() -> Result<Vec<Case>> {
        let services = Service::all()?;
        let mut cases = Vec::new();
        for (index, service) in services.iter().enumerate() {
            let proto = if service.proto == PROTO_TCP { "tcp" } else { "udp" };
            let mut push = |kind, flows, length| -> Result<()> {
                let family = if service.at.is_ipv6() { "6" } else { "" };
                let (what, count) = match (kind, flows) {
                    (Kind::New, _) => ("syn", "new-flow".to_owned()),
                    (Kind::Reply, _) => ("reply", "1-flow".to_owned()),
                    (_, 1) => ("hit", "1-flow".to_owned()),
                    (_, many) => ("hit", format!("{}k-flows", many >> 10)),
                };
                let size = if length == QUIC { "quic-size-" } else { "" };
                cases.push(Case {
                    name: format!("{proto}{family}-{size}{what}{}.{count}", service.mode()),
                    kind,
                    guard: None,
                    flows,
                    length,
                    from: client(kind, service.at.is_ipv6())?,
                    to: service.at,
                    service: Some(index),
                    room: service.room(),
                });
                Ok(())
            };
            push(Kind::Hit, 1, LENGTH)?;
            let compared = service.at.is_ipv4() && matches!(service.forward, Forward::Nat | Forward::Ipip);
            if service.proto == PROTO_UDP {
                push(Kind::Hit, 1, QUIC)?;
                if compared {
                    push(Kind::Hit, 1 << 16, LENGTH)?;
                }
                if service.forward == Forward::Nat {
                    push(Kind::Reply, 1, LENGTH)?;
                }
                continue;
            }
            if compared {
                push(Kind::Hit, 1 << 16, LENGTH)?;
                push(Kind::Hit, 1 << 19, LENGTH)?;
            }
            push(Kind::New, 1 << 24, LENGTH)?;
        }
        for (name, to) in [("foreign.1-flow", "198.51.100.1:80"), ("foreign6.1-flow", "[2001:db8:ffff::1]:80")] {
            let to: SocketAddr = to.parse()?;
            cases.push(Case {
                name: name.to_owned(),
                kind: Kind::Foreign,
                guard: None,
                flows: 1,
                length: LENGTH,
                from: client(Kind::Foreign, to.is_ipv6())?,
                to,
                service: None,
                room: 0,
            });
        }
        for (guard, name, kind, proto) in GUARDS {
            let first = services.iter().position(|service| service.proto == proto).ok_or("no such service")?;
            let what = if kind == Kind::New { "syn.new-flow" } else { "hit.1-flow" };
            cases.push(Case {
                name: format!("guard.{name}.{what}"),
                kind,
                guard: Some(guard),
                flows: if kind == Kind::New { 1 << 24 } else { 1 },
                length: LENGTH,
                from: client(kind, false)?,
                to: services.get(first).ok_or("no such service")?.at,
                service: Some(first),
                room: 0,
            });
        }
        Ok(cases)
    }

    /// Where in a frame the four bytes lie that tell flows apart.
    pub(crate) fn at(&self) -> usize {
        if self.from.is_ipv6() { SOURCE6 } else { SOURCE4 }
    }

    /// Many flows fill a table that other cases would find full.
    pub(crate) fn wants_its_own_world(&self) -> bool {
        self.kind == Kind::Hit && self.flows > 1
    }

    pub(crate) fn frame(&self) -> Vec<u8> {
        let flags = match self.kind {
            Kind::New => Some(SYN),
            _ if self.to.port() == 80 => Some(ACK),
            _ => None,
        };
        frame(self.from, self.to, flags, self.length)
    }
}

/// New flows differ in the low 24 bits of these. The flow with replies is opened by its packets, and no other case's.
fn client(kind: Kind, v6: bool) -> Result<SocketAddr> {
    let address = match (kind, v6) {
        (Kind::New, false) => "11.0.0.0:40000",
        (Kind::New, true) => "[2001:db8:a::]:40000",
        (Kind::Reply, false) => "10.0.0.1:40001",
        (Kind::Reply, true) => "[2001:db8:9::1]:40001",
        (_, false) => "10.0.0.1:40000",
        (_, true) => "[2001:db8:9::1]:40000",
    };
    Ok(address.parse()?)
}
