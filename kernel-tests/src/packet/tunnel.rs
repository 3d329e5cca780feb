// SPDX-License-Identifier: GPL-3.0-only
//! Encapsulated packets, built with pnet: what a gateway sends to a backend host.
//!
//! An inner packet is L3 bytes: [`Inner`] makes them for what a client sends, [`Tunnel`] puts headers around any bytes,
//! however wrong.

use std::net::{IpAddr, SocketAddr};

use pnet::packet::icmp::{self, IcmpPacket, IcmpTypes, MutableIcmpPacket};
use pnet::packet::icmpv6::{self, Icmpv6Packet, Icmpv6Types, MutableIcmpv6Packet};
use pnet::packet::ip::{IpNextHeaderProtocol, IpNextHeaderProtocols};
use pnet::packet::ipv4::{self, Ipv4Packet, MutableIpv4Packet};
use pnet::packet::ipv6::MutableIpv6Packet;
use pnet::packet::udp::MutableUdpPacket;
use pnet::util::MacAddr;

use super::frame::{CLIENT_MAC, Frame, L4};

/// Congestion marks, RFC 3168 section 5.
pub const NOT_ECT: u8 = 0;
pub const ECT_1: u8 = 1;
pub const ECT_0: u8 = 2;
pub const CE: u8 = 3;

/// Where GUE is sent to.
pub const GUE_PORT: u16 = 6080;

/// What is between the outer IP header and the inner packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Encap {
    /// Nothing: IPIP, IP6IP6, 4in6, 6in4.
    Ip,
    /// UDP and a GUE header of variant 0 with these bytes behind its first four.
    Gue(Vec<u8>),
    /// UDP alone: GUE of variant 1.
    Gue1,
}

impl Encap {
    pub fn all() -> [Encap; 5] {
        [Encap::Ip, Encap::Gue(Vec::new()), Encap::Gue(vec![0xa5; 4]), Encap::Gue(vec![0x5a; 124]), Encap::Gue1]
    }
}

/// Outer headers to be built. Fields are public: a test says what differs.
#[derive(Clone, Debug)]
pub struct Tunnel {
    pub smac: MacAddr,
    pub dmac: MacAddr,
    pub source: IpAddr,
    pub destination: IpAddr,
    pub encap: Encap,
    pub ecn: u8,
    /// Raw IPv4 options, or an IPv6 fragment header.
    pub extra: Vec<u8>,
    /// IPv4 flags and fragment offset; a gateway sets DF.
    pub fragment: u16,
    pub port: u16,
    /// Raw bytes behind the packet.
    pub padding: Vec<u8>,
}

impl Tunnel {
    pub fn new(source: IpAddr, destination: IpAddr, encap: Encap) -> Tunnel {
        Tunnel {
            smac: CLIENT_MAC,
            dmac: MacAddr::zero(),
            source,
            destination,
            encap,
            ecn: NOT_ECT,
            extra: Vec::new(),
            fragment: 0x4000,
            port: GUE_PORT,
            padding: Vec::new(),
        }
    }

    /// How many bytes stand before the inner packet, Ethernet aside.
    pub fn overhead(&self) -> usize {
        let outer = if self.source.is_ipv4() { 20 } else { 40 };
        let middle = match &self.encap {
            Encap::Ip => 0,
            Encap::Gue(options) => 12 + options.len(),
            Encap::Gue1 => 8,
        };
        outer + self.extra.len() + middle
    }

    /// The frame around `inner`.
    pub fn around(&self, inner: &[u8]) -> Vec<u8> {
        self.around_protocol(inner, if is_v4(inner) { 4 } else { 41 })
    }

    /// The same, with the protocol number that tells what is inside.
    pub fn around_protocol(&self, inner: &[u8], protocol: u8) -> Vec<u8> {
        let (outer_protocol, payload) = match &self.encap {
            Encap::Ip => (protocol, inner.to_vec()),
            Encap::Gue(options) => {
                let words = u8::try_from(options.len() / 4).expect("at most 31 words");
                (17, self.udp([&[words, protocol, 0, 0], options.as_slice(), inner].concat()))
            }
            Encap::Gue1 => (17, self.udp(inner.to_vec())),
        };
        self.around_raw(&payload, outer_protocol)
    }

    /// Ethernet and IP around a payload of whatever protocol.
    pub fn around_raw(&self, payload: &[u8], protocol: u8) -> Vec<u8> {
        let ip = match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let header = 20 + self.extra.len();
                let mut bytes = vec![0; header];
                bytes[20..].copy_from_slice(&self.extra);
                bytes[6..8].copy_from_slice(&self.fragment.to_be_bytes());
                let mut ip = MutableIpv4Packet::new(&mut bytes).expect("room");
                ip.set_version(4);
                ip.set_header_length((header / 4) as u8);
                ip.set_dscp(10);
                ip.set_ecn(self.ecn);
                ip.set_total_length((header + payload.len()) as u16);
                ip.set_ttl(64);
                ip.set_next_level_protocol(IpNextHeaderProtocol(protocol));
                ip.set_source(source);
                ip.set_destination(destination);
                checksum(&mut bytes);
                bytes
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let mut bytes = vec![0; 40];
                let mut ip = MutableIpv6Packet::new(&mut bytes).expect("room");
                ip.set_version(6);
                ip.set_traffic_class(40 | self.ecn);
                ip.set_flow_label(0x54321);
                ip.set_payload_length((self.extra.len() + payload.len()) as u16);
                ip.set_hop_limit(64);
                ip.set_next_header(IpNextHeaderProtocol(if self.extra.is_empty() { protocol } else { 44 }));
                ip.set_source(source);
                ip.set_destination(destination);
                bytes.extend(&self.extra);
                if let Some(next) = bytes.get_mut(40) {
                    *next = protocol;
                }
                bytes
            }
            _ => panic!("one family for both ends"),
        };
        let mut frame = self.ethernet(self.source.is_ipv4());
        frame.extend(ip);
        frame.extend(payload);
        frame.extend(&self.padding);
        frame
    }

    /// The frame as it should come out: the Ethernet addresses of the outer one, the inner packet, the padding.
    pub fn taken_off(&self, inner: &[u8]) -> Vec<u8> {
        let mut frame = self.ethernet(is_v4(inner));
        frame.extend(inner);
        frame.extend(&self.padding);
        frame
    }

    fn ethernet(&self, v4: bool) -> Vec<u8> {
        let kind: [u8; 2] = if v4 { [0x08, 0x00] } else { [0x86, 0xdd] };
        [&self.dmac.octets()[..], &self.smac.octets()[..], &kind].concat()
    }

    /// A UDP header without a checksum, as gateways send it.
    fn udp(&self, payload: Vec<u8>) -> Vec<u8> {
        let mut bytes = vec![0; 8];
        bytes.extend(payload);
        let length = bytes.len() as u16;
        let mut udp = MutableUdpPacket::new(&mut bytes).expect("room");
        udp.set_source(50000);
        udp.set_destination(self.port);
        udp.set_length(length);
        bytes
    }
}

/// What an inner packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inner {
    Tcp,
    Udp,
    UdpNoChecksum,
    Icmp,
}

impl Inner {
    pub const ALL: [Inner; 4] = [Inner::Tcp, Inner::Udp, Inner::UdpNoChecksum, Inner::Icmp];

    /// A client's packet to a VIP, from the IP header on.
    pub fn packet(self, client: SocketAddr, vip: SocketAddr, payload: &[u8]) -> Vec<u8> {
        let l4 = match self {
            Inner::Tcp => L4::Tcp(super::frame::ACK),
            Inner::Udp | Inner::Icmp => L4::Udp,
            Inner::UdpNoChecksum => L4::UdpNoChecksum,
        };
        let mut bytes = Frame::between(client, vip, l4).payload(payload).build();
        let mut bytes = bytes.split_off(14);
        if self == Inner::Icmp {
            into_echo(&mut bytes, client.ip(), vip.ip());
        }
        bytes
    }
}

/// Makes an echo request of a UDP packet: the headers have one length.
fn into_echo(bytes: &mut [u8], source: IpAddr, destination: IpAddr) {
    match (source, destination) {
        (IpAddr::V4(_), _) => {
            let mut ip = MutableIpv4Packet::new(bytes).expect("room");
            ip.set_next_level_protocol(IpNextHeaderProtocols::Icmp);
            checksum(bytes);
            let mut echo = MutableIcmpPacket::new(&mut bytes[20..]).expect("room");
            echo.set_icmp_type(IcmpTypes::EchoRequest);
            let sum = icmp::checksum(&IcmpPacket::new(&bytes[20..]).expect("room"));
            MutableIcmpPacket::new(&mut bytes[20..]).expect("room").set_checksum(sum);
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            MutableIpv6Packet::new(bytes).expect("room").set_next_header(IpNextHeaderProtocols::Icmpv6);
            let mut echo = MutableIcmpv6Packet::new(&mut bytes[40..]).expect("room");
            echo.set_icmpv6_type(Icmpv6Types::EchoRequest);
            let sum = icmpv6::checksum(&Icmpv6Packet::new(&bytes[40..]).expect("room"), &source, &destination);
            MutableIcmpv6Packet::new(&mut bytes[40..]).expect("room").set_checksum(sum);
        }
        _ => panic!("one family for both ends"),
    }
}

/// The packet with this congestion mark.
pub fn marked(packet: &[u8], ecn: u8) -> Vec<u8> {
    let mut bytes = packet.to_vec();
    if is_v4(packet) {
        MutableIpv4Packet::new(&mut bytes).expect("room").set_ecn(ecn);
        checksum(&mut bytes);
    } else {
        let mut ip = MutableIpv6Packet::new(&mut bytes).expect("room");
        let class = ip.get_traffic_class();
        ip.set_traffic_class(class & !3 | ecn);
    }
    bytes
}

/// Writes the header checksum of an IPv4 packet.
pub fn checksum(packet: &mut [u8]) {
    let sum = ipv4::checksum(&Ipv4Packet::new(packet).expect("room"));
    MutableIpv4Packet::new(packet).expect("room").set_checksum(sum);
}

fn is_v4(packet: &[u8]) -> bool {
    packet.first().is_none_or(|byte| byte >> 4 != 6)
}
