// SPDX-License-Identifier: GPL-3.0-only
//! The outer headers of tunnels, built with pnet from what the standards say: RFC 2003 (IP in IPv4), RFC 2473 (IP in
//! IPv6), Generic UDP Encapsulation (draft-ietf-intarea-gue section 3, variant 0), RFC 6040 (ECN) and RFC 2983 (DSCP).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use eg_abi::{FlowKey, Forward, Plain as _};
use eg_balance::hash;
use pnet::packet::ethernet::{EtherTypes, MutableEthernetPacket};
use pnet::packet::ip::{IpNextHeaderProtocol, IpNextHeaderProtocols};
use pnet::packet::ipv4::{self, MutableIpv4Packet};
use pnet::packet::ipv6::MutableIpv6Packet;
use pnet::packet::udp::MutableUdpPacket;
use pnet::util::MacAddr;

use super::Frame;

/// Where a packet goes that is not rewritten.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    pub mode: Forward,
    /// The outer header's ends: what differs by flow is the source's low bits and the port.
    pub source: IpAddr,
    pub port: u16,
    pub backend: IpAddr,
    pub gue_port: u16,
    pub smac: MacAddr,
    pub dmac: MacAddr,
}

/// The port between 49152 and 65535 that a flow's outer headers have, by the hash that picks its backend as well.
pub fn port_of(hash_key: [u64; 2], flow: &FlowKey) -> u16 {
    49152 + (hash::flow(hash_key, &flow.to_bytes()) % 16384) as u16
}

/// This frame as it leaves by `way`: as it came but for its TTL, behind the outer header; tags and padding are kept.
pub fn carried(frame: &Frame, way: &Way) -> Vec<u8> {
    let inner = Frame { ttl: frame.ttl - 1, smac: way.smac, dmac: way.dmac, ..frame.clone() };
    carry(&inner.build(), frame.tags.len(), inner.l3_length(), frame.tos, way)
}

/// `whole` is the inner frame with its L2 header as it leaves; `l3_length` does not count its padding.
pub fn carry(whole: &[u8], tags: usize, l3_length: usize, tos: u8, way: &Way) -> Vec<u8> {
    if way.mode == Forward::L2 {
        return whole.to_vec();
    }
    let l3 = 14 + 4 * tags;
    let inner_v6 = whole[l3] >> 4 == 6;
    // The IANA's protocol numbers for a whole IP packet.
    let proto = IpNextHeaderProtocol(if inner_v6 { 41 } else { 4 });
    let mut middle = Vec::new();
    if way.mode == Forward::Gue {
        middle = vec![0; 8];
        let mut udp = MutableUdpPacket::new(&mut middle).expect("room");
        udp.set_source(way.port);
        udp.set_destination(way.gue_port);
        udp.set_length((8 + 4 + l3_length) as u16);
        middle.extend([0, proto.0, 0, 0]);
    }
    let proto = if way.mode == Forward::Gue { IpNextHeaderProtocols::Udp } else { proto };
    let outer = match (way.source, way.backend) {
        (IpAddr::V4(s), IpAddr::V4(d)) => ip4(s, d, tos, proto, middle.len() + l3_length),
        (IpAddr::V6(s), IpAddr::V6(d)) => ip6(s, d, tos, proto, middle.len() + l3_length, way.port),
        _ => panic!("one family for both outer ends"),
    };
    let mut bytes = whole[..l3].to_vec();
    let ethertype = if way.backend.is_ipv4() { EtherTypes::Ipv4 } else { EtherTypes::Ipv6 };
    bytes[l3 - 2..].copy_from_slice(&ethertype.0.to_be_bytes());
    let mut eth = MutableEthernetPacket::new(&mut bytes).expect("room");
    eth.set_source(way.smac);
    eth.set_destination(way.dmac);
    [&bytes[..], &outer, &middle, &whole[l3..]].concat()
}

fn ip4(source: Ipv4Addr, destination: Ipv4Addr, tos: u8, proto: IpNextHeaderProtocol, behind: usize) -> Vec<u8> {
    let mut bytes = vec![0; 20];
    let mut ip = MutableIpv4Packet::new(&mut bytes).expect("room");
    ip.set_version(4);
    ip.set_header_length(5);
    ip.set_dscp(tos >> 2);
    ip.set_ecn(tos & 3);
    ip.set_total_length((20 + behind) as u16);
    ip.set_flags(2); // DF
    ip.set_ttl(64);
    ip.set_next_level_protocol(proto);
    ip.set_source(source);
    ip.set_destination(destination);
    let checksum = ipv4::checksum(&ip.to_immutable());
    ip.set_checksum(checksum);
    bytes
}

fn ip6(
    source: Ipv6Addr,
    destination: Ipv6Addr,
    tos: u8,
    proto: IpNextHeaderProtocol,
    behind: usize,
    label: u16,
) -> Vec<u8> {
    let mut bytes = vec![0; 40];
    let mut ip = MutableIpv6Packet::new(&mut bytes).expect("room");
    ip.set_version(6);
    ip.set_traffic_class(tos);
    ip.set_flow_label(label.into());
    ip.set_payload_length(behind as u16);
    ip.set_next_header(proto);
    ip.set_hop_limit(64);
    ip.set_source(source);
    ip.set_destination(destination);
    bytes
}
