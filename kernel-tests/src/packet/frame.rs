// SPDX-License-Identifier: GPL-3.0-only
//! Frames, built with pnet: what clients and backends send, and what we expect to come out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use pnet::packet::ethernet::{EtherTypes, MutableEthernetPacket};
use pnet::packet::ip::{IpNextHeaderProtocol, IpNextHeaderProtocols};
use pnet::packet::ipv4::{self, Ipv4Packet, MutableIpv4Packet};
use pnet::packet::ipv6::MutableIpv6Packet;
use pnet::packet::tcp::{self, MutableTcpPacket, TcpPacket};
use pnet::packet::udp::{self, MutableUdpPacket, UdpPacket};
use pnet::util::MacAddr;

/// The TCP flags that tests use.
pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const ACK: u8 = 0x10;

/// What a frame carries above IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum L4 {
    Tcp(u8),
    Udp,
    /// UDP whose checksum field is zero: "not computed".
    UdpNoChecksum,
}

/// A frame to be built. Fields are public: a test says what differs.
#[derive(Clone, Debug)]
pub struct Frame {
    pub smac: MacAddr,
    pub dmac: MacAddr,
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub l4: L4,
    pub ttl: u8,
    /// IPv4 options or IPv6 extension headers, raw; padded as their standards ask by whoever wrote them. For IPv6 the
    /// first is of type `first_extension`.
    pub extra: Vec<u8>,
    pub first_extension: u8,
    /// IPv4 flags and fragment offset, as in the header.
    pub fragment: u16,
    /// Raw TCP options, a multiple of four bytes.
    pub tcp_options: Vec<u8>,
    pub payload: Vec<u8>,
}

impl Frame {
    /// A frame with 24 bytes of payload and TTL 64, between the client's router and the gateway.
    pub fn new(source: &str, destination: &str, l4: L4) -> Frame {
        Frame::between(source.parse().expect("an address"), destination.parse().expect("an address"), l4)
    }

    /// See [`Frame::new`].
    pub fn between(source: SocketAddr, destination: SocketAddr, l4: L4) -> Frame {
        Frame {
            smac: CLIENT_MAC,
            dmac: GATEWAY_MAC,
            source,
            destination,
            l4,
            ttl: 64,
            extra: Vec::new(),
            first_extension: 0,
            fragment: 0,
            tcp_options: Vec::new(),
            payload: b"twenty-four bytes of it.".to_vec(),
        }
    }

    pub fn payload(mut self, payload: &[u8]) -> Frame {
        self.payload = payload.to_vec();
        self
    }

    pub fn ttl(mut self, ttl: u8) -> Frame {
        self.ttl = ttl;
        self
    }

    pub fn extra(mut self, first: u8, bytes: &[u8]) -> Frame {
        self.first_extension = first;
        self.extra = bytes.to_vec();
        self
    }

    pub fn fragment(mut self, fragment: u16) -> Frame {
        self.fragment = fragment;
        self
    }

    pub fn macs(mut self, source: MacAddr, destination: MacAddr) -> Frame {
        (self.smac, self.dmac) = (source, destination);
        self
    }

    /// This frame as the gateway should send it on: other addresses and MACs, a smaller TTL, all else the same.
    pub fn rewritten(&self, source: SocketAddr, destination: SocketAddr, smac: MacAddr, dmac: MacAddr) -> Frame {
        Frame { source, destination, smac, dmac, ttl: self.ttl - 1, ..self.clone() }
    }

    /// The bytes on the wire, checksums right.
    pub fn build(&self) -> Vec<u8> {
        let l4 = self.l4_bytes();
        let v4 = self.source.is_ipv4();
        let header = if v4 { 20 + self.extra.len() } else { 40 };
        let mut bytes = vec![0; 14 + header];
        let mut eth = MutableEthernetPacket::new(&mut bytes).expect("room");
        eth.set_source(self.smac);
        eth.set_destination(self.dmac);
        eth.set_ethertype(if v4 { EtherTypes::Ipv4 } else { EtherTypes::Ipv6 });
        match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => self.ip4(&mut bytes[14..], source, destination, l4.len()),
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                self.ip6(&mut bytes[14..], source, destination, l4.len());
                bytes.extend(&self.extra);
            }
            _ => panic!("one family for both ends"),
        }
        bytes.extend(l4);
        bytes
    }

    fn protocol(&self) -> IpNextHeaderProtocol {
        if matches!(self.l4, L4::Tcp(_)) { IpNextHeaderProtocols::Tcp } else { IpNextHeaderProtocols::Udp }
    }

    fn ip4(&self, bytes: &mut [u8], source: Ipv4Addr, destination: Ipv4Addr, l4: usize) {
        bytes[20..].copy_from_slice(&self.extra);
        let header = bytes.len();
        bytes[6..8].copy_from_slice(&self.fragment.to_be_bytes());
        let mut ip = MutableIpv4Packet::new(bytes).expect("room");
        ip.set_version(4);
        ip.set_header_length((header / 4) as u8);
        ip.set_dscp(10);
        ip.set_identification(0x4321);
        ip.set_total_length((header + l4) as u16);
        ip.set_ttl(self.ttl);
        ip.set_next_level_protocol(self.protocol());
        ip.set_source(source);
        ip.set_destination(destination);
        let checksum = ipv4::checksum(&Ipv4Packet::new(ip.pnet_bytes()).expect("room"));
        ip.set_checksum(checksum);
    }

    fn ip6(&self, bytes: &mut [u8], source: Ipv6Addr, destination: Ipv6Addr, l4: usize) {
        let mut ip = MutableIpv6Packet::new(bytes).expect("room");
        ip.set_version(6);
        ip.set_traffic_class(40);
        ip.set_flow_label(0x12345);
        ip.set_payload_length((self.extra.len() + l4) as u16);
        ip.set_hop_limit(self.ttl);
        let first = IpNextHeaderProtocol(self.first_extension);
        ip.set_next_header(if self.extra.is_empty() { self.protocol() } else { first });
        ip.set_source(source);
        ip.set_destination(destination);
    }

    fn l4_bytes(&self) -> Vec<u8> {
        match self.l4 {
            L4::Tcp(flags) => {
                let mut bytes = vec![0; 20];
                bytes.extend(&self.tcp_options);
                bytes.extend(&self.payload);
                let mut tcp = MutableTcpPacket::new(&mut bytes).expect("room");
                tcp.set_source(self.source.port());
                tcp.set_destination(self.destination.port());
                tcp.set_sequence(0x01020304);
                tcp.set_data_offset(5 + (self.tcp_options.len() / 4) as u8);
                tcp.set_flags(flags);
                tcp.set_window(64240);
                let packet = TcpPacket::new(&bytes).expect("room");
                let checksum = match (self.source.ip(), self.destination.ip()) {
                    (IpAddr::V4(s), IpAddr::V4(d)) => tcp::ipv4_checksum(&packet, &s, &d),
                    (IpAddr::V6(s), IpAddr::V6(d)) => tcp::ipv6_checksum(&packet, &s, &d),
                    _ => panic!("one family for both ends"),
                };
                MutableTcpPacket::new(&mut bytes).expect("room").set_checksum(checksum);
                bytes
            }
            L4::Udp | L4::UdpNoChecksum => {
                let mut bytes = vec![0; 8];
                bytes.extend(&self.payload);
                let length = bytes.len() as u16;
                let mut udp = MutableUdpPacket::new(&mut bytes).expect("room");
                udp.set_source(self.source.port());
                udp.set_destination(self.destination.port());
                udp.set_length(length);
                if self.l4 == L4::UdpNoChecksum {
                    return bytes;
                }
                let packet = UdpPacket::new(&bytes).expect("room");
                let checksum = match (self.source.ip(), self.destination.ip()) {
                    (IpAddr::V4(s), IpAddr::V4(d)) => udp::ipv4_checksum(&packet, &s, &d),
                    (IpAddr::V6(s), IpAddr::V6(d)) => udp::ipv6_checksum(&packet, &s, &d),
                    _ => panic!("one family for both ends"),
                };
                // RFC 768: a checksum that computes to zero is sent as all ones.
                let checksum = if checksum == 0 { 0xffff } else { checksum };
                MutableUdpPacket::new(&mut bytes).expect("room").set_checksum(checksum);
                bytes
            }
        }
    }
}

/// The client's router, as the gateway's wire sees it.
pub const CLIENT_MAC: MacAddr = MacAddr(0x02, 0, 0, 0, 0, 0xc);
/// The gateway.
pub const GATEWAY_MAC: MacAddr = MacAddr(0x02, 0, 0, 0, 0, 0x9);

trait PnetBytes {
    fn pnet_bytes(&self) -> &[u8];
}

impl PnetBytes for MutableIpv4Packet<'_> {
    fn pnet_bytes(&self) -> &[u8] {
        pnet::packet::Packet::packet(self)
    }
}
