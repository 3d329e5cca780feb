// SPDX-License-Identifier: GPL-3.0-only
//! What a frame says, read with pnet, and whether a rewrite changed what it should and nothing else.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use pnet::packet::ipv4::Ipv4Packet;
use pnet::packet::ipv6::Ipv6Packet;
use pnet::packet::tcp::{self, TcpPacket};
use pnet::packet::udp::{self, UdpPacket};
use pnet::packet::{ipv4, util};

/// A frame's ends and the places of its headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub tcp: bool,
    pub l3_offset: usize,
    pub l4_offset: usize,
    pub l4_length: usize,
}

/// Where the IP header begins: behind at most two tags, 802.1Q or 802.1ad. `None` if a tag is cut off.
fn l3_offset(frame: &[u8]) -> Option<usize> {
    let mut at = 12;
    while matches!(frame.get(at..at + 2)?, [0x81, 0x00] | [0x88, 0xa8]) && at < 20 {
        at += 4;
    }
    frame.get(at..at + 2)?;
    Some(at + 2)
}

/// L3 bytes as the counters define them: the IP length where it is believable, else all behind the Ethernet header and
/// its tags.
pub fn l3_bytes(frame: &[u8]) -> u64 {
    // A group address ends the parse there, and so does a tag that is cut off.
    let offset = l3_offset(frame).filter(|_| frame[0] & 1 == 0).unwrap_or(14);
    let rest = frame.get(offset..).unwrap_or_default();
    if frame[0] & 1 == 1 {
        return rest.len() as u64;
    }
    let claimed = match frame[offset - 2..offset] {
        [0x08, 0x00] => Ipv4Packet::new(rest).filter(|ip| ip.get_version() == 4).and_then(|ip| {
            let (header, total) = (usize::from(ip.get_header_length()) * 4, usize::from(ip.get_total_length()));
            (header >= 20 && total >= header).then_some(total)
        }),
        [0x86, 0xdd] => Ipv6Packet::new(rest)
            .filter(|ip| ip.get_version() == 6 && !mapped(ip.get_source()) && !mapped(ip.get_destination()))
            .map(|ip| usize::from(ip.get_payload_length()) + 40),
        _ => None,
    };
    claimed.filter(|claimed| *claimed <= rest.len()).unwrap_or(rest.len()) as u64
}

fn mapped(ip: std::net::Ipv6Addr) -> bool {
    ip.to_ipv4_mapped().is_some()
}

/// Reads a whole TCP or UDP frame; `None` for anything else.
pub fn read(frame: &[u8]) -> Option<Seen> {
    let l3 = l3_offset(frame)?;
    let (source, destination, protocol, offset, length): (IpAddr, IpAddr, u8, usize, usize) = match frame[l3 - 2..l3] {
        [0x08, 0x00] => {
            let ip = Ipv4Packet::new(&frame[l3..])?;
            let header = usize::from(ip.get_header_length()) * 4;
            let length = usize::from(ip.get_total_length()).checked_sub(header)?;
            (ip.get_source().into(), ip.get_destination().into(), ip.get_next_level_protocol().0, l3 + header, length)
        }
        [0x86, 0xdd] => {
            let ip = Ipv6Packet::new(&frame[l3..])?;
            let (mut next, mut offset) = (ip.get_next_header().0, l3 + 40);
            let end = l3 + 40 + usize::from(ip.get_payload_length());
            while matches!(next, 0 | 43 | 44 | 60) {
                let size = if next == 44 { 8 } else { 8 + 8 * usize::from(*frame.get(offset + 1)?) };
                next = *frame.get(offset)?;
                offset += size;
            }
            (ip.get_source().into(), ip.get_destination().into(), next, offset, end.checked_sub(offset)?)
        }
        _ => return None,
    };
    let ports = frame.get(offset..offset + 4)?;
    let port = |i: usize| u16::from_be_bytes([ports[i], ports[i + 1]]);
    (matches!(protocol, 6 | 17) && offset + length <= frame.len()).then_some(Seen {
        source: SocketAddr::new(source, port(0)),
        destination: SocketAddr::new(destination, port(2)),
        tcp: protocol == 6,
        l3_offset: l3,
        l4_offset: offset,
        l4_length: length,
    })
}

/// A part of a datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// It has the L4 header.
    pub first: bool,
    /// Where its identification lies.
    pub id: Range<usize>,
}

/// Is this frame one? Atomic fragments are not.
pub fn fragment(frame: &[u8]) -> Option<Fragment> {
    let l3 = l3_offset(frame)?;
    let word = |at: usize| Some(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]));
    if frame[l3 - 2..l3] == [0x08, 0x00] {
        let field = word(l3 + 6)? & 0x3fff;
        return (field != 0).then_some(Fragment { first: field & 0x1fff == 0, id: l3 + 4..l3 + 6 });
    }
    let (mut next, mut offset) = (*frame.get(l3 + 6)?, l3 + 40);
    while matches!(next, 0 | 43 | 60) {
        next = *frame.get(offset)?;
        offset += 8 + 8 * usize::from(*frame.get(offset + 1)?);
    }
    let field = word(offset + 2)? & 0xfff9;
    (next == 44 && field != 0).then_some(Fragment { first: field >> 3 == 0, id: offset + 4..offset + 8 })
}

/// Are all checksums of this frame right (an absent UDP one is)?
pub fn checksums_hold(frame: &[u8]) -> bool {
    let Some(seen) = read(frame) else {
        return false;
    };
    let l4 = &frame[seen.l4_offset..seen.l4_offset + seen.l4_length];
    let ip_holds = !seen.source.is_ipv4()
        || Ipv4Packet::new(&frame[seen.l3_offset..]).is_some_and(|ip| ip.get_checksum() == ipv4::checksum(&ip));
    let l4_holds = match (seen.tcp, seen.source.ip(), seen.destination.ip()) {
        (true, IpAddr::V4(s), IpAddr::V4(d)) => {
            TcpPacket::new(l4).is_some_and(|p| p.get_checksum() == tcp::ipv4_checksum(&p, &s, &d))
        }
        (true, IpAddr::V6(s), IpAddr::V6(d)) => {
            TcpPacket::new(l4).is_some_and(|p| p.get_checksum() == tcp::ipv6_checksum(&p, &s, &d))
        }
        (false, IpAddr::V4(s), IpAddr::V4(d)) => UdpPacket::new(l4)
            .is_some_and(|p| p.get_checksum() == 0 || same(p.get_checksum(), udp::ipv4_checksum(&p, &s, &d))),
        (false, IpAddr::V6(s), IpAddr::V6(d)) => UdpPacket::new(l4)
            .is_some_and(|p| p.get_checksum() == 0 || same(p.get_checksum(), udp::ipv6_checksum(&p, &s, &d))),
        _ => false,
    };
    ip_holds && l4_holds
}

/// Zero and all ones are the same number in ones' complement.
fn same(there: u16, computed: u16) -> bool {
    there == computed || (there == 0xffff && computed == 0)
}

/// Is `out` the frame `input` rewritten: MACs, addresses, ports, one less TTL and fitting checksum changes, every other
/// byte as it was? A wrong checksum must stay exactly as wrong as it was.
pub fn is_rewrite(input: &[u8], out: &[u8]) -> Result<(), String> {
    let (Some(before), Some(after)) = (read(input), read(out)) else {
        return Err("one of the frames is not TCP or UDP".to_owned());
    };
    if input.len() != out.len()
        || before.l4_offset != after.l4_offset
        || before.l3_offset != after.l3_offset
        || before.tcp != after.tcp
    {
        return Err("the shape changed".to_owned());
    }
    let (l3, v4) = (before.l3_offset, before.source.is_ipv4());
    let ttl = l3 + if v4 { 8 } else { 7 };
    if out[ttl] != input[ttl] - 1 {
        return Err(format!("ttl {} became {}", input[ttl], out[ttl]));
    }
    let check = before.l4_offset + if before.tcp { 16 } else { 6 };
    let part = fragment(input);
    let later = part.as_ref().is_some_and(|part| !part.first);
    let mut may_change: Vec<usize> = (0..12).chain([ttl]).collect();
    may_change.extend(part.into_iter().flat_map(|part| part.id));
    if !later {
        may_change.extend((before.l4_offset..before.l4_offset + 4).chain([check, check + 1]));
    }
    may_change.extend(if v4 { l3 + 12..l3 + 20 } else { l3 + 8..l3 + 40 });
    may_change.extend(v4.then_some([l3 + 10, l3 + 11]).into_iter().flatten());
    if let Some(at) = (0..input.len()).find(|at| input[*at] != out[*at] && !may_change.contains(at)) {
        return Err(format!("byte {at} changed from {:#x} to {:#x}", input[at], out[at]));
    }
    let error = |frame: &[u8], seen: &Seen| {
        let addresses = if v4 { &frame[l3 + 12..l3 + 20] } else { &frame[l3 + 8..l3 + 40] };
        let mut segment = addresses.to_vec();
        segment.extend(&frame[seen.l4_offset..seen.l4_offset + seen.l4_length]);
        ones(&segment)
    };
    let header = l3..before.l4_offset;
    if v4 && ones(&input[header.clone()]) != ones(&out[header]) {
        return Err("the IPv4 checksum no longer fits".to_owned());
    }
    if later {
        return Ok(());
    }
    let no_udp_checksum = !before.tcp && input[check..check + 2] == [0, 0];
    if no_udp_checksum && out[check..check + 2] != [0, 0] {
        return Err("an absent UDP checksum appeared".to_owned());
    }
    if !no_udp_checksum && error(input, &before) != error(out, &after) {
        return Err("the L4 checksum no longer fits".to_owned());
    }
    Ok(())
}

/// The ones' complement sum, by pnet (which gives its complement), with one form for zero.
fn ones(bytes: &[u8]) -> u16 {
    let sum = !util::checksum(bytes, usize::MAX);
    if sum == 0xffff { 0 } else { sum }
}
