// SPDX-License-Identifier: GPL-3.0-only
//! What we say ourselves to a packet that we refuse: "too big", and resets.

use eg_abi::Forward;

use super::Model;
use super::parse::{Packet, TCP};
use super::write::{checksum, ip4, ip6, is_v6, room};
use crate::packet::frame::{ACK, RST};

/// Bytes that an ICMP error quotes, and the least MTU of IPv6.
const QUOTE4: usize = 520;
const QUOTE6: usize = 1228;
const MTU6: usize = 1280;

impl Model {
    /// What to tell the sender of a packet that does not fit its flow's way; `None`: nothing.
    pub(super) fn mtu_to_tell(&self, p: &mut Packet) -> Option<usize> {
        (p.vip, p.backend) = (0, 0);
        let flow = self.state.flows.get(&p.key).or_else(|| self.state.opening.get(&p.key))?;
        (p.vip, p.backend) = (flow.vip, flow.backend);
        let (vip, backend) = (self.config.vip(flow.vip), self.config.backend(flow.backend));
        let mode = Forward::from_code(vip.forward.into())?;
        let (mtu, room) = (usize::from(backend.mtu), room(mode, is_v6(&backend.addr)));
        if mtu == 0 || p.len + room <= mtu || p.len < if p.v6 { QUOTE6 } else { QUOTE4 } {
            return None;
        }
        let fits = mtu.saturating_sub(room);
        if p.v6 { Some(fits.max(MTU6)) } else { Some(fits).filter(|fits| *fits != 0) }
    }
}

/// The Ethernet header turned round, its tags kept.
fn back(frame: &[u8], p: &Packet) -> Vec<u8> {
    [&p.smac, &p.dmac, &frame[12..p.l3]].concat()
}

pub(super) fn too_big(frame: &[u8], p: &Packet, mtu: usize) -> Vec<u8> {
    let quote = &frame[p.l3..p.l3 + if p.v6 { QUOTE6 } else { QUOTE4 }];
    let length = quote.len() + 8;
    let (kind, ip) = if p.v6 {
        ([2, 0], ip6(0, 0, length, 58, &p.key.daddr, &p.key.saddr))
    } else {
        ([3, 4], ip4(0xc0, 20 + length, 1, &p.key.daddr, &p.key.saddr))
    };
    let mtu = (mtu as u16).to_be_bytes();
    let pseudo = if p.v6 { pseudo(p, 58, length) } else { Vec::new() };
    let sum = checksum([&pseudo, &kind[..], &mtu, quote]);
    [back(frame, p), ip, kind.to_vec(), sum.to_vec(), vec![0, 0], mtu.to_vec(), quote.to_vec()].concat()
}

/// RFC 9293 section 3.10.7.1.
pub(super) fn reset(frame: &[u8], p: &Packet) -> Vec<u8> {
    let (seq, ack, flags) = if p.has(ACK) { (p.ack, 0, RST) } else { (0, p.end, RST | ACK) };
    let mut tcp = [p.key.dport.0, p.key.sport.0].concat();
    tcp.extend(seq.to_be_bytes());
    tcp.extend(ack.to_be_bytes());
    tcp.extend([0x50, flags, 0, 0, 0, 0, 0, 0]);
    let sum = checksum([&pseudo(p, TCP, 20)[..], &tcp]);
    tcp[16..18].copy_from_slice(&sum);
    let ip =
        if p.v6 { ip6(0, 0, 20, TCP, &p.key.daddr, &p.key.saddr) } else { ip4(0, 40, TCP, &p.key.daddr, &p.key.saddr) };
    [back(frame, p), ip, tcp].concat()
}

/// The pseudo-header of either family, from the VIP to the client.
fn pseudo(p: &Packet, proto: u8, length: usize) -> Vec<u8> {
    let from = if p.v6 { 0 } else { 12 };
    let tail = [0, proto, (length >> 8) as u8, length as u8];
    [&p.key.daddr.b[from..], &p.key.saddr.b[from..], &tail].concat()
}
