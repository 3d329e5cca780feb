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

impl L4 {
    /// Is this TCP with that flag?
    pub fn has(self, flag: u8) -> bool {
        matches!(self, L4::Tcp(flags) if flags & flag != 0)
    }

    /// Its number in IP headers and flow keys.
    pub fn proto(self) -> u8 {
        if matches!(self, L4::Tcp(_)) { 6 } else { 17 }
    }
}

/// A frame to be built. Fields are public: a test says what differs.
#[derive(Clone, Debug)]
pub struct Frame {
    pub smac: MacAddr,
    pub dmac: MacAddr,
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub l4: L4,
    /// TCP sequence and acknowledgement numbers. The defaults make a believable stream: see [`CLIENT_ISN`].
    pub seq: u32,
    pub ack: u32,
    pub ttl: u8,
    /// IPv4 type of service or IPv6 traffic class: DSCP and ECN.
    pub tos: u8,
    /// 802.1Q and 802.1ad tags, outermost first: TPID and TCI.
    pub tags: Vec<[u8; 4]>,
    /// IPv4 options or IPv6 extension headers, raw; padded as their standards ask by whoever wrote them. For IPv6 the
    /// first is of type `first_extension`.
    pub extra: Vec<u8>,
    pub first_extension: u8,
    /// IPv4 flags and fragment offset, as in the header.
    pub fragment: u16,
    /// Raw TCP options, a multiple of four bytes.
    pub tcp_options: Vec<u8>,
    pub payload: Vec<u8>,
    /// Bytes behind the IP packet, as Ethernet adds them to short frames.
    pub padding: Vec<u8>,
}

/// A client's initial sequence number.
pub const CLIENT_ISN: u32 = 0x0102_0304;
/// A backend's.
pub const BACKEND_ISN: u32 = 0xa1a2_a3a4;

/// 802.1Q and 802.1ad tags, whose TCI has priority bits set as well.
pub const TAG_Q: [u8; 4] = [0x81, 0x00, 0xa0, 0x05];
pub const TAG_AD: [u8; 4] = [0x88, 0xa8, 0x60, 0x64];

impl Frame {
    /// A client's frame with 24 bytes of payload and TTL 64, between its router and the gateway. Its numbers are those
    /// of a connection's beginning: what follows the SYN follows on it, and acknowledges the backend's.
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
            seq: CLIENT_ISN.wrapping_add(u32::from(!l4.has(SYN))),
            ack: if l4.has(ACK) { BACKEND_ISN.wrapping_add(1) } else { 0 },
            ttl: 64,
            tos: 40,
            tags: Vec::new(),
            extra: Vec::new(),
            first_extension: 0,
            fragment: 0,
            tcp_options: Vec::new(),
            payload: b"twenty-four bytes of it.".to_vec(),
            padding: Vec::new(),
        }
    }

    pub fn seq(mut self, seq: u32) -> Frame {
        self.seq = seq;
        self
    }

    pub fn ack(mut self, ack: u32) -> Frame {
        self.ack = ack;
        self
    }

    pub fn tags(mut self, tags: &[[u8; 4]]) -> Frame {
        self.tags = tags.to_vec();
        self
    }

    pub fn tos(mut self, tos: u8) -> Frame {
        self.tos = tos;
        self
    }

    /// Pads as Ethernet does, here with bytes that are not zero.
    pub fn padded(mut self) -> Frame {
        self.padding = vec![0xee; 26];
        self
    }

    /// Bytes from the IP header to the packet's end.
    pub fn l3_length(&self) -> usize {
        self.build().len() - self.l3_offset() - self.padding.len()
    }

    /// Where the IP header begins.
    pub fn l3_offset(&self) -> usize {
        14 + 4 * self.tags.len()
    }

    /// The sequence number behind this segment: SYN and FIN count as one.
    pub fn end(&self) -> u32 {
        let flags = u32::from(self.l4.has(SYN)) + u32::from(self.l4.has(FIN));
        self.seq.wrapping_add(self.payload.len() as u32 + flags)
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
        bytes.extend(&self.padding);
        bytes.splice(12..12, self.tags.concat());
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
        ip.set_dscp(self.tos >> 2);
        ip.set_ecn(self.tos & 3);
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
        ip.set_traffic_class(self.tos);
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
                tcp.set_sequence(self.seq);
                tcp.set_acknowledgement(self.ack);
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
