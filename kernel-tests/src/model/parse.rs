// SPDX-License-Identifier: GPL-3.0-only
//! From bytes to a packet: docs/packet-path.md, step 1.

use eg_abi::{Addr, Be16, FlowKey};

use crate::packet::frame::{FIN, SYN};

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMP6: u8 = 58;
const FRAGMENT: u8 = 44;
const ROUTING: u8 = 43;
/// Hop-by-hop options, routing, fragment, destination options.
const EXTENSIONS: [u8; 4] = [0, ROUTING, FRAGMENT, 60];
const EXTENSIONS_MAX: usize = 7;
const TAGS_MAX: usize = 2;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// The stack's business.
    NotOurs,
    /// Headers contradict the frame or each other.
    Malformed,
    /// A part of a datagram.
    Fragment,
    /// An error about some other packet.
    Icmp,
    /// TCP or UDP, whole.
    Whole,
}

/// What is known of a packet; as far as it was understood.
#[derive(Clone, Debug, Default)]
pub struct Packet {
    pub key: FlowKey,
    /// L3 bytes, as they count.
    pub len: usize,
    pub l3: usize,
    pub l4: usize,
    pub v6: bool,
    pub ttl: u8,
    pub tos: u8,
    pub flags: u8,
    pub seq: u32,
    /// Behind the last number that the segment takes.
    pub end: u32,
    pub ack: u32,
    pub dmac: [u8; 6],
    pub smac: [u8; 6],
    /// Whose figures it counts in; 0 is nobody's.
    pub vip: u32,
    pub backend: u32,
}

impl Packet {
    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    pub fn is_tcp(&self) -> bool {
        self.key.proto == TCP
    }
}

/// Reads a frame.
pub fn parse(frame: &[u8]) -> (Parsed, Packet) {
    let mut p = Packet { len: frame.len().saturating_sub(14), ..Packet::default() };
    let kind = ethernet(frame, &mut p).unwrap_or(Parsed::NotOurs);
    (kind, p)
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn long(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// `None` everywhere: not ours.
fn ethernet(frame: &[u8], p: &mut Packet) -> Option<Parsed> {
    let group = frame.first()? & 1 == 1;
    let mut kind = word(frame, 12)?;
    if group {
        return None;
    }
    p.dmac = *frame.first_chunk()?;
    p.smac = *frame.get(6..)?.first_chunk()?;
    let mut l3 = 14;
    for _ in 0..TAGS_MAX {
        if kind == 0x8100 || kind == 0x88a8 {
            kind = word(frame, l3 + 2)?;
            l3 += 4;
        }
    }
    (p.l3, p.len) = (l3, frame.len() - l3);
    match kind {
        0x0800 => ip4(frame, p),
        0x86dd => ip6(frame, p),
        _ => None,
    }
}

fn ip4(frame: &[u8], p: &mut Packet) -> Option<Parsed> {
    let ip: &[u8; 20] = frame.get(p.l3..)?.first_chunk()?;
    if ip[0] >> 4 != 4 {
        return None;
    }
    let mapped = |at: usize| {
        let mut addr = Addr::default();
        addr.b[10..12].fill(0xff);
        addr.b[12..].copy_from_slice(&ip[at..at + 4]);
        addr
    };
    (p.key.saddr, p.key.daddr, p.ttl, p.tos) = (mapped(12), mapped(16), ip[8], ip[1]);
    let (header, total) = (usize::from(ip[0] & 15) * 4, usize::from(word(ip, 2)?));
    if header < 20 || total < header || total > frame.len() - p.l3 {
        return Some(Parsed::Malformed);
    }
    (p.len, p.l4) = (total, p.l3 + header);
    // An offset, or more to come.
    if word(ip, 6)? & 0x3fff != 0 {
        return Some(Parsed::Fragment);
    }
    transport(frame, p, ip[9], total - header)
}

fn ip6(frame: &[u8], p: &mut Packet) -> Option<Parsed> {
    let ip: &[u8; 40] = frame.get(p.l3..)?.first_chunk()?;
    if ip[0] >> 4 != 6 {
        return None;
    }
    (p.key.saddr.b, p.key.daddr.b) = (*ip[8..24].first_chunk()?, *ip[24..].first_chunk()?);
    let mapped = |addr: &Addr| addr.b[..10] == [0; 10] && addr.b[10..12] == [0xff; 2];
    if mapped(&p.key.saddr) || mapped(&p.key.daddr) {
        return None;
    }
    (p.v6, p.ttl, p.tos) = (true, ip[7], ip[0] << 4 | ip[1] >> 4);
    let mut left = usize::from(word(ip, 4)?);
    if left > frame.len() - p.l3 - 40 {
        return Some(Parsed::Malformed);
    }
    (p.len, p.l4) = (left + 40, p.l3 + 40);
    let mut next = ip[6];
    for _ in 0..EXTENSIONS_MAX {
        if [TCP, UDP, ICMP6].contains(&next) {
            break;
        }
        if !EXTENSIONS.contains(&next) {
            return None;
        }
        if left < 8 {
            return Some(Parsed::Malformed);
        }
        let header = frame.get(p.l4..p.l4 + 8)?;
        let length = match next {
            FRAGMENT if word(header, 2)? & 0xfff9 != 0 => return Some(Parsed::Fragment),
            FRAGMENT => 8,
            // A source route that goes on.
            ROUTING if header[3] != 0 => return None,
            _ => 8 + usize::from(header[1]) * 8,
        };
        if length > left {
            return Some(Parsed::Malformed);
        }
        (next, left, p.l4) = (header[0], left - length, p.l4 + length);
    }
    if ![TCP, UDP, ICMP6].contains(&next) {
        return Some(Parsed::Malformed);
    }
    transport(frame, p, next, left)
}

/// `left`: what the IP header says there is.
fn transport(frame: &[u8], p: &mut Packet, proto: u8, left: usize) -> Option<Parsed> {
    let bytes = frame.get(p.l4..p.l4 + left)?;
    p.key.proto = proto;
    match proto {
        TCP => tcp(bytes, p),
        UDP => udp(bytes, p),
        ICMP if !p.v6 && left >= 8 => [3, 11, 12].contains(&bytes[0]).then_some(Parsed::Icmp),
        ICMP6 if p.v6 && left >= 8 => (1..128).contains(&bytes[0]).then_some(Parsed::Icmp),
        _ => None,
    }
}

fn tcp(bytes: &[u8], p: &mut Packet) -> Option<Parsed> {
    let Some(header) = bytes.first_chunk::<20>() else {
        return Some(Parsed::Malformed);
    };
    let length = usize::from(header[12] >> 4) * 4;
    if length < 20 || length > bytes.len() {
        return Some(Parsed::Malformed);
    }
    ports(header, p);
    p.flags = header[13];
    (p.seq, p.ack) = (long(header, 4)?, long(header, 8)?);
    let numbers = (bytes.len() - length) as u32 + u32::from(p.has(SYN)) + u32::from(p.has(FIN));
    p.end = p.seq.wrapping_add(numbers);
    Some(Parsed::Whole)
}

fn udp(bytes: &[u8], p: &mut Packet) -> Option<Parsed> {
    let length = bytes.first_chunk::<8>().and_then(|header| word(header, 4)).map_or(0, usize::from);
    if length < 8 || length > bytes.len() {
        return Some(Parsed::Malformed);
    }
    ports(bytes, p);
    Some(Parsed::Whole)
}

fn ports(header: &[u8], p: &mut Packet) {
    (p.key.sport, p.key.dport) = (Be16([header[0], header[1]]), Be16([header[2], header[3]]));
}
