// SPDX-License-Identifier: GPL-3.0-only
//! Errors about flows: docs/packet-path.md, "ICMP errors".

use eg_abi::{Addr, Be16, Drop as Reason, FlowKey, Forward};

use super::decide::{back, is_forward, out};
use super::parse::{Packet, TCP, UDP};
use super::write::{Way, hop, is_v6, replace};
use super::{Becomes, Model};

/// What an error quotes.
struct Quote {
    /// The quoted ends turned round: the flow's half that the packet answers.
    key: FlowKey,
    l3: usize,
    l4: usize,
}

impl Model {
    pub(super) fn icmp(&mut self, frame: &[u8], p: &mut Packet) -> Becomes {
        let Some(quote) = quoted(frame, p) else {
            return Becomes::Pass;
        };
        self.touched.push(quote.key);
        let state = &self.state;
        let Some(flow) = state.flows.get(&quote.key).or_else(|| state.opening.get(&quote.key)).copied() else {
            return Becomes::Pass;
        };
        if !self.config.stands(&flow) {
            return Becomes::Pass;
        }
        let (vip, backend) = (self.config.vip(flow.vip), self.config.backend(flow.backend));
        (p.vip, p.backend) = (flow.vip, flow.backend);
        let way = if is_forward(&flow) { out(&flow, &vip, &backend) } else { back(&flow, &vip) };
        if p.ttl < 2 {
            return Becomes::Refuse(Reason::Ttl);
        }
        if way.ifindex == 0 {
            return Becomes::Refuse(Reason::NoNextHop);
        }
        self.counts.forwarded(p, !is_forward(&flow));
        if way.mode != Forward::Nat {
            return Becomes::Forward(way);
        }
        // A router that complains keeps its address; the backend is known to the client as the VIP.
        let is_the_backend = !is_forward(&flow) && p.key.saddr == quote.key.saddr;
        Becomes::Rewritten(way.ifindex, rewrite(frame, p, &quote, &way, is_the_backend))
    }
}

/// The quoted packet's ends, as far as RFC 792 has them quoted.
fn quoted(frame: &[u8], p: &Packet) -> Option<Quote> {
    let l3 = p.l4 + 8;
    let ip = frame.get(l3..)?;
    let (proto, header, from, to) = if p.v6 {
        let ip: &[u8; 40] = ip.first_chunk()?;
        let addr = |at: usize| Some(Addr { b: *ip[at..].first_chunk()? });
        (ip[6], 40, addr(8)?, addr(24)?)
    } else {
        let ip: &[u8; 20] = ip.first_chunk()?;
        let addr = |at: usize| {
            let [a, b, c, d] = *ip[at..].first_chunk()?;
            Some(Addr::from(std::net::IpAddr::from([a, b, c, d])))
        };
        let header = usize::from(ip[0] & 15) * 4;
        // Ports are in a datagram's first fragment alone.
        if header < 20 || u16::from_be_bytes([ip[6], ip[7]]) & 0x1fff != 0 {
            return None;
        }
        (ip[9], header, addr(12)?, addr(16)?)
    };
    // Inside, the mapped form is IPv4's.
    if p.v6 && !(is_v6(&from) && is_v6(&to)) {
        return None;
    }
    let l4 = l3 + header;
    let ports: &[u8; 8] = frame.get(l4..)?.first_chunk()?;
    let (sport, dport) = (Be16([ports[2], ports[3]]), Be16([ports[0], ports[1]]));
    let key = FlowKey { saddr: to, daddr: from, sport, dport, proto, ..FlowKey::default() };
    [TCP, UDP].contains(&proto).then_some(Quote { key, l3, l4 })
}

/// The quoted ends become what the receiver knows, who sent what is quoted; it is the destination as well.
fn rewrite(frame: &[u8], p: &Packet, quote: &Quote, way: &Way, is_the_backend: bool) -> Vec<u8> {
    let mut bytes = frame.to_vec();
    let (at, size) = if p.v6 { (8, 16) } else { (12, 4) };
    let receiver = &way.destination.0.b[16 - size..];
    let peer = &way.source.0.b[16 - size..];
    let sum = p.l4 + 2;
    let inner = [receiver, peer].concat();
    if !p.v6 {
        // The quoted header's own sum, which the message's covers too.
        let mut header = bytes[quote.l3..quote.l4].to_vec();
        replace(&mut header, at, &inner, Some(10));
        replace(&mut bytes, quote.l3, &header, Some(sum));
    } else {
        replace(&mut bytes, quote.l3 + at, &inner, Some(sum));
    }
    replace(&mut bytes, quote.l4, &[way.destination.1.0, way.source.1.0].concat(), Some(sum));
    hop(&mut bytes, p);
    let outer = if p.v6 { sum } else { p.l3 + 10 };
    replace(&mut bytes, p.l3 + at + size, receiver, Some(outer));
    if is_the_backend {
        replace(&mut bytes, p.l3 + at, peer, Some(outer));
    }
    bytes[..6].copy_from_slice(&way.dmac);
    bytes[6..12].copy_from_slice(&way.smac);
    bytes
}
