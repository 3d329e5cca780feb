// SPDX-License-Identifier: GPL-3.0-only
//! What a frame says, outermost header first: enough to show before and after. Nothing is judged; what cannot be read is
//! left out.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A frame's headers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) source_mac: Option<[u8; 6]>,
    pub(super) destination_mac: Option<[u8; 6]>,
    pub(super) vlans: Vec<u16>,
    /// The outermost first.
    pub(super) packets: Vec<Packet>,
    pub(super) length: usize,
}

/// An IP header, with the ports behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Packet {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) protocol: u8,
    pub(super) ttl: u8,
    pub(super) ports: Option<(u16, u16)>,
}

/// RFC 2784 and its like aside, these are the ways a packet lies in a packet here: IPIP, 6in4, and GUE behind UDP.
const IPIP: u8 = 4;
const IP6: u8 = 41;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// Headers within headers: a backend's tunnel makes two.
const DEPTH: usize = 2;

impl Seen {
    /// `gue`: the UDP port that means GUE, if the frame was encapsulated so.
    pub(super) fn of(frame: &[u8], gue: Option<u16>) -> Seen {
        let mut seen = Seen { length: frame.len(), ..Seen::default() };
        seen.destination_mac = frame.first_chunk().copied();
        seen.source_mac = frame.get(6..).and_then(|rest| rest.first_chunk().copied());
        let mut at = 12;
        while let Some(0x8100 | 0x88a8) = word(frame, at) {
            let Some(tag) = word(frame, at + 2) else { return seen };
            seen.vlans.push(tag & 0xfff);
            at += 4;
        }
        let mut rest = frame.get(at + 2..);
        while let Some((packet, behind)) = rest.and_then(Packet::read) {
            rest = match (packet.protocol, packet.ports) {
                (IPIP | IP6, _) => Some(behind),
                // UDP's header and GUE's, of which the program writes no option.
                (UDP, Some((_, to))) if Some(to) == gue => behind.get(12..),
                _ => None,
            };
            seen.packets.push(packet);
            if seen.packets.len() == DEPTH {
                break;
            }
        }
        seen
    }
}

impl Packet {
    /// The packet, and what is behind its header.
    fn read(bytes: &[u8]) -> Option<(Packet, &[u8])> {
        let (source, destination): (IpAddr, IpAddr);
        let (protocol, ttl, header, first);
        if bytes.first()? >> 4 == 4 {
            let addresses: &[u8; 8] = bytes.get(12..20)?.first_chunk()?;
            let [a, b, c, d, e, f, g, h] = *addresses;
            (source, destination) = (Ipv4Addr::new(a, b, c, d).into(), Ipv4Addr::new(e, f, g, h).into());
            (protocol, ttl) = (*bytes.get(9)?, *bytes.get(8)?);
            header = usize::from(bytes.first()? & 15) * 4;
            first = word(bytes, 6)? & 0x1fff == 0;
        } else {
            let address = |at| Some(IpAddr::from(Ipv6Addr::from(*bytes.get(at..)?.first_chunk::<16>()?)));
            (source, destination) = (address(8)?, address(24)?);
            (protocol, ttl) = (*bytes.get(6)?, *bytes.get(7)?);
            header = 40;
            first = true;
        }
        let behind = bytes.get(header..)?;
        let ports = matches!(protocol, TCP | UDP).then(|| word(behind, 0).zip(word(behind, 2))).flatten();
        Some((Packet { source, destination, protocol, ttl, ports: ports.filter(|_| first) }, behind))
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|pair| u16::from_be_bytes(*pair))
}

fn end(ip: IpAddr, port: Option<u16>) -> String {
    match port {
        Some(port) => std::net::SocketAddr::new(ip, port).to_string(),
        None => ip.to_string(),
    }
}

pub(super) fn protocol(number: u8) -> String {
    match number {
        1 => "icmp".to_owned(),
        4 => "ipip".to_owned(),
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        41 => "ipv6".to_owned(),
        58 => "icmpv6".to_owned(),
        other => format!("protocol {other}"),
    }
}

pub(super) fn mac(bytes: [u8; 6]) -> String {
    bytes.map(|byte| format!("{byte:02x}")).join(":")
}

impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (from, to) = (self.ports.map(|ports| ports.0), self.ports.map(|ports| ports.1));
        write!(
            f,
            "{} {} > {} ttl {}",
            protocol(self.protocol),
            end(self.source, from),
            end(self.destination, to),
            self.ttl
        )
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let (Some(from), Some(to)) = (self.source_mac, self.destination_mac) {
            write!(f, "{} > {}", mac(from), mac(to))?;
        }
        self.vlans.iter().try_for_each(|vlan| write!(f, " vlan {vlan}"))?;
        for (depth, packet) in self.packets.iter().enumerate() {
            write!(f, "{} {packet}", if depth == 0 { "," } else { " [" })?;
        }
        write!(f, "{}, {} bytes", "]".repeat(self.packets.len().saturating_sub(1)), self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::super::frame::Made;
    use super::*;

    fn frame(from: &str, to: &str, vlans: &[u16]) -> Vec<u8> {
        let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
        let mac = [2, 0, 0, 0, 0, 9];
        Made { to, from, udp: true, flags: 0, seq: 0, ack: 0, vlans, payload: b"x", ttl: 9, mac }.build().unwrap()
    }

    #[test]
    fn a_frame_is_read_as_it_was_made() {
        let text = Seen::of(&frame("192.0.2.1:5", "192.0.2.2:6", &[3]), None).to_string();
        assert_eq!(text, "02:00:00:00:00:01 > 02:00:00:00:00:09 vlan 3, udp 192.0.2.1:5 > 192.0.2.2:6 ttl 9, 47 bytes");
        let six = Seen::of(&frame("[2001:db8::1]:5", "[2001:db8::2]:6", &[]), None).to_string();
        assert!(six.contains("udp [2001:db8::1]:5 > [2001:db8::2]:6 ttl 9"), "{six}");
    }

    #[test]
    fn a_packet_in_a_packet_is_seen() {
        let inner = frame("192.0.2.1:5", "192.0.2.2:6", &[]);
        let mut outer = frame("10.0.0.1:50000", "10.0.0.2:6080", &[])[..42].to_vec();
        outer.extend([0, 4, 0, 0]);
        outer.extend(&inner[14..]);
        let seen = Seen::of(&outer, Some(6080));
        assert_eq!(seen.packets.len(), 2);
        assert_eq!(seen.packets[1].ports, Some((5, 6)));
        assert_eq!(Seen::of(&outer, None).packets.len(), 1);
    }

    #[test]
    fn whatever_is_cut_off_is_left_out() {
        let whole = frame("[2001:db8::1]:5", "[2001:db8::2]:6", &[1, 2]);
        for length in 0..whole.len() {
            let _ = Seen::of(&whole[..length], Some(6)).to_string();
        }
        assert_eq!(Seen::of(&[], None), Seen::default());
    }
}
