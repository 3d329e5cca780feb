// SPDX-License-Identifier: GPL-3.0-only
//! The bytes that leave: docs/packet-path.md, step 7.

use eg_abi::{Addr, Be16, Forward};

use super::parse::{Packet, TCP, UDP};

/// Where a packet goes, and by which headers.
#[derive(Clone, Debug)]
pub(super) struct Way {
    pub source: (Addr, Be16),
    pub destination: (Addr, Be16),
    pub ifindex: u32,
    pub dmac: [u8; 6],
    pub smac: [u8; 6],
    /// 0: unknown.
    pub mtu: u16,
    pub mode: Forward,
    /// The outer header is IPv6's.
    pub outer6: bool,
}

pub(super) fn is_v6(addr: &Addr) -> bool {
    addr.b[..10] != [0; 10] || addr.b[10..12] != [0xff; 2]
}

/// Bytes of the headers that a mode puts before a packet.
pub(super) fn room(mode: Forward, outer6: bool) -> usize {
    let ip = if outer6 { 40 } else { 20 };
    match mode {
        Forward::Nat | Forward::L2 => 0,
        Forward::Ipip => ip,
        Forward::Gue => ip + 12,
    }
}

pub(super) fn forward(frame: &[u8], p: &Packet, way: &Way) -> Vec<u8> {
    let mut out = frame.to_vec();
    match way.mode {
        Forward::Nat => translate(&mut out, p, way),
        _ => hop(&mut out, p),
    }
    if room(way.mode, way.outer6) != 0 {
        let kind: [u8; 2] = if way.outer6 { [0x86, 0xdd] } else { [0x08, 0x00] };
        out[p.l3 - 2..p.l3].copy_from_slice(&kind);
        out.splice(p.l3..p.l3, outer(p, way));
    }
    out[..6].copy_from_slice(&way.dmac);
    out[6..12].copy_from_slice(&way.smac);
    out
}

/// Replaces bytes at `at`, and corrects the checksum at `check` by the difference (RFC 1624, equation 3).
pub(super) fn replace(out: &mut [u8], at: usize, new: &[u8], check: Option<usize>) {
    let words = |bytes: &[u8]| -> Vec<u16> { bytes.chunks(2).map(|w| u16::from_be_bytes([w[0], w[1]])).collect() };
    if let Some(check) = check {
        let old = words(&out[at..at + new.len()]);
        let was = u16::from_be_bytes([out[check], out[check + 1]]);
        let difference: u32 = old.iter().zip(words(new)).map(|(m, n)| u32::from(!m) + u32::from(n)).sum();
        let sum = fold(u32::from(!was) + difference);
        out[check..check + 2].copy_from_slice(&(!sum).to_be_bytes());
    }
    out[at..at + new.len()].copy_from_slice(new);
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// A checksum from nothing (RFC 1071), in one's complement's only form of a sum that is not all zeros.
pub(super) fn checksum<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> [u8; 2] {
    let words = parts.into_iter().flat_map(|part| part.chunks(2));
    let sum: u32 = words.map(|w| u32::from(w[0]) << 8 | w.get(1).map_or(0, |b| u32::from(*b))).sum();
    (!fold(sum)).to_be_bytes()
}

/// One hop less to live.
pub(super) fn hop(out: &mut [u8], p: &Packet) {
    if p.v6 {
        out[p.l3 + 7] -= 1;
    } else {
        let next = [out[p.l3 + 8] - 1, out[p.l3 + 9]];
        replace(out, p.l3 + 8, &next, Some(p.l3 + 10));
    }
}

fn translate(out: &mut [u8], p: &Packet, way: &Way) {
    let check = p.l4 + if p.key.proto == TCP { 16 } else { 6 };
    // An absent UDP checksum stays absent.
    let absent = p.key.proto == UDP && out[check..check + 2] == [0, 0];
    let l4 = (!absent).then_some(check);
    hop(out, p);
    let (at, size) = if p.v6 { (p.l3 + 8, 16) } else { (p.l3 + 12, 4) };
    let (source, destination) = (&way.source.0.b[16 - size..], &way.destination.0.b[16 - size..]);
    let new = [source, destination].concat();
    if !p.v6 {
        // Both sums change: first the header's, with the old addresses still in place.
        let old = out[at..at + 8].to_vec();
        replace(out, at, &new, Some(p.l3 + 10));
        out[at..at + 8].copy_from_slice(&old);
    }
    replace(out, at, &new, l4);
    replace(out, p.l4, &[way.source.1.0, way.destination.1.0].concat(), l4);
    if p.key.proto == UDP && !absent && out[check..check + 2] == [0, 0] {
        out[check..check + 2].fill(0xff);
    }
}

/// An IPv4 header without options.
pub(super) fn ip4(tos: u8, length: usize, proto: u8, source: &Addr, destination: &Addr) -> Vec<u8> {
    let mut ip = vec![0x45, tos, 0, 0, 0, 0, 0x40, 0, 64, proto, 0, 0];
    ip[2..4].copy_from_slice(&(length as u16).to_be_bytes());
    ip.extend(&source.b[12..]);
    ip.extend(&destination.b[12..]);
    let sum = checksum([&ip[..]]);
    ip[10..12].copy_from_slice(&sum);
    ip
}

/// An IPv6 header; `length` is the payload's.
pub(super) fn ip6(tos: u8, label: u16, length: usize, proto: u8, source: &Addr, destination: &Addr) -> Vec<u8> {
    let mut ip = (6 << 28 | u32::from(tos) << 20 | u32::from(label)).to_be_bytes().to_vec();
    ip.extend((length as u16).to_be_bytes());
    ip.extend([proto, 64]);
    ip.extend(source.b);
    ip.extend(destination.b);
    ip
}

/// What goes between Ethernet and the packet.
fn outer(p: &Packet, way: &Way) -> Vec<u8> {
    let inner = if p.v6 { 41 } else { 4 };
    let (source, destination) = (&way.source.0, &way.destination.0);
    let mut gue = Vec::new();
    if way.mode == Forward::Gue {
        gue.extend([way.source.1.0, way.destination.1.0, (p.len as u16 + 12).to_be_bytes(), [0, 0]].concat());
        gue.extend([0, inner, 0, 0]);
    }
    let proto = if gue.is_empty() { inner } else { UDP };
    let length = p.len + gue.len();
    let mut bytes = if way.outer6 {
        ip6(p.tos, way.source.1.into(), length, proto, source, destination)
    } else {
        ip4(p.tos, length + 20, proto, source, destination)
    };
    bytes.extend(gue);
    bytes
}
