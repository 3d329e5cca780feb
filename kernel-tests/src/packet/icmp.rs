// SPDX-License-Identifier: GPL-3.0-only
//! ICMP errors, built with pnet: RFC 792 and RFC 1191, RFC 4443.

use std::net::IpAddr;

use pnet::packet::ethernet::{EtherTypes, MutableEthernetPacket};
use pnet::packet::ip::IpNextHeaderProtocols;
use pnet::packet::ipv4::{self, MutableIpv4Packet};
use pnet::packet::ipv6::MutableIpv6Packet;
use pnet::packet::util;
use pnet::util::MacAddr;

use super::frame::{CLIENT_MAC, GATEWAY_MAC};

/// An ICMP or ICMPv6 message, by the family of its ends.
#[derive(Clone, Debug)]
pub struct Icmp {
    pub smac: MacAddr,
    pub dmac: MacAddr,
    pub tags: Vec<[u8; 4]>,
    pub source: IpAddr,
    pub destination: IpAddr,
    pub ttl: u8,
    pub tos: u8,
    pub kind: u8,
    pub code: u8,
    /// The four bytes behind the checksum: unused, or an MTU.
    pub word: u32,
    /// From the IP header of the packet that it is about.
    pub quote: Vec<u8>,
    pub dont_fragment: bool,
}

impl Icmp {
    /// From a router on the client's side, with 60 hops left.
    pub fn new(source: IpAddr, destination: IpAddr, kind: u8, code: u8, word: u32, quote: &[u8]) -> Icmp {
        Icmp {
            smac: CLIENT_MAC,
            dmac: GATEWAY_MAC,
            tags: Vec::new(),
            source,
            destination,
            ttl: 60,
            tos: 0xc0,
            kind,
            code,
            word,
            quote: quote.to_vec(),
            dont_fragment: false,
        }
    }

    pub fn macs(mut self, source: MacAddr, destination: MacAddr) -> Icmp {
        (self.smac, self.dmac) = (source, destination);
        self
    }

    /// The bytes on the wire, checksums right.
    pub fn build(&self) -> Vec<u8> {
        let mut message = vec![self.kind, self.code, 0, 0];
        message.extend(self.word.to_be_bytes());
        message.extend(&self.quote);
        let v4 = self.source.is_ipv4();
        let mut bytes = vec![0; if v4 { 34 } else { 54 }];
        let mut eth = MutableEthernetPacket::new(&mut bytes).expect("room");
        eth.set_source(self.smac);
        eth.set_destination(self.dmac);
        eth.set_ethertype(if v4 { EtherTypes::Ipv4 } else { EtherTypes::Ipv6 });
        let checksum = match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let mut ip = MutableIpv4Packet::new(&mut bytes[14..]).expect("room");
                ip.set_version(4);
                ip.set_header_length(5);
                ip.set_dscp(self.tos >> 2);
                ip.set_ecn(self.tos & 3);
                ip.set_total_length((20 + message.len()) as u16);
                ip.set_flags(if self.dont_fragment { 2 } else { 0 });
                ip.set_ttl(self.ttl);
                ip.set_next_level_protocol(IpNextHeaderProtocols::Icmp);
                ip.set_source(source);
                ip.set_destination(destination);
                let header = ipv4::checksum(&ip.to_immutable());
                ip.set_checksum(header);
                util::checksum(&message, 1)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let mut ip = MutableIpv6Packet::new(&mut bytes[14..]).expect("room");
                ip.set_version(6);
                ip.set_traffic_class(self.tos);
                ip.set_payload_length(message.len() as u16);
                ip.set_next_header(IpNextHeaderProtocols::Icmpv6);
                ip.set_hop_limit(self.ttl);
                ip.set_source(source);
                ip.set_destination(destination);
                util::ipv6_checksum(&message, 1, &[], &source, &destination, IpNextHeaderProtocols::Icmpv6)
            }
            _ => panic!("one family for both ends"),
        };
        message[2..4].copy_from_slice(&checksum.to_be_bytes());
        bytes.extend(message);
        bytes.splice(12..12, self.tags.concat());
        bytes
    }
}
