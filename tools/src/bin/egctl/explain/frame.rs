// SPDX-License-Identifier: GPL-3.0-only
//! The packet that is asked about: made from what the command line says, or one that was captured.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use clap::ValueEnum;
use nix::ifaddrs::getifaddrs;

const TCP: u8 = 6;
const UDP: u8 = 17;

/// Whoever sends: locally administered, like no card's.
const SENDER: [u8; 6] = [0x02, 0, 0, 0, 0, 0x01];
/// Where an interface has no address: what comes in is for it all the same.
const NOBODY: [u8; 6] = [0x02, 0, 0, 0, 0, 0x02];

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Flag {
    Fin,
    Syn,
    Rst,
    Psh,
    Ack,
    Urg,
    /// No flag at all
    None,
}

impl Flag {
    pub(super) fn bit(self) -> u8 {
        match self {
            Self::None => 0,
            flag => 1 << flag as u8,
        }
    }
}

/// The flags' names, in the order of their bits.
pub(super) fn flags(bits: u8) -> String {
    let all = [(1, "FIN"), (2, "SYN"), (4, "RST"), (8, "PSH"), (16, "ACK"), (32, "URG"), (64, "ECE"), (128, "CWR")];
    let set: Vec<&str> = all.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, name)| *name).collect();
    if set.is_empty() { "no flags".to_owned() } else { set.join(",") }
}

/// A client of the documentation's networks (RFC 5737, RFC 3849), of the same family.
pub(super) fn anybody(to: SocketAddr) -> SocketAddr {
    let ip = match to {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
    };
    SocketAddr::new(ip, 40_000)
}

/// An interface's address in this network namespace.
pub(super) fn mac_of(interface: &str) -> [u8; 6] {
    let all = getifaddrs().into_iter().flatten().filter(|at| at.interface_name == interface);
    all.filter_map(|at| at.address?.as_link_addr()?.addr()).next().unwrap_or(NOBODY)
}

pub(super) struct Made<'a> {
    pub(super) to: SocketAddr,
    pub(super) from: SocketAddr,
    pub(super) udp: bool,
    pub(super) flags: u8,
    pub(super) seq: u32,
    pub(super) ack: u32,
    pub(super) vlans: &'a [u16],
    pub(super) payload: &'a [u8],
    pub(super) ttl: u8,
    /// Of the interface.
    pub(super) mac: [u8; 6],
}

impl Made<'_> {
    /// The frame, with right checksums.
    pub(super) fn build(&self) -> Result<Vec<u8>, String> {
        let long = |_| "the payload is longer than a packet".to_owned();
        let mut l4 = self.l4(0).map_err(long)?;
        let sum = checksum(&[&self.pseudo(l4.len()), &l4]);
        // RFC 768: "if the computed checksum is zero, it is transmitted as all ones".
        l4 = self.l4(if self.udp && sum == 0 { 0xffff } else { sum }).map_err(long)?;
        let length = u16::try_from(l4.len()).map_err(long)?;
        let mut frame = [self.mac, SENDER].concat();
        for (depth, vlan) in self.vlans.iter().enumerate() {
            // IEEE 802.1ad: all but the innermost tag are the provider's.
            let kind: u16 = if depth + 1 < self.vlans.len() { 0x88a8 } else { 0x8100 };
            frame.extend(kind.to_be_bytes());
            frame.extend(vlan.to_be_bytes());
        }
        match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let total = length.checked_add(20).ok_or("the payload is longer than a packet")?;
                let mut ip = vec![0x45, 0];
                ip.extend(total.to_be_bytes());
                ip.extend([0, 0, 0x40, 0, self.ttl, self.protocol(), 0, 0]);
                ip.extend(from.octets());
                ip.extend(to.octets());
                let sum = checksum(&[&ip]).to_be_bytes();
                ip.splice(10..12, sum);
                frame.extend([0x08, 0]);
                frame.extend(ip);
            }
            (from, to) => {
                frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
                frame.extend(length.to_be_bytes());
                frame.extend([self.protocol(), self.ttl]);
                frame.extend(octets(from));
                frame.extend(octets(to));
            }
        }
        frame.extend(l4);
        Ok(frame)
    }

    fn protocol(&self) -> u8 {
        if self.udp { UDP } else { TCP }
    }

    fn l4(&self, sum: u16) -> Result<Vec<u8>, std::num::TryFromIntError> {
        let mut l4 = [self.from.port().to_be_bytes(), self.to.port().to_be_bytes()].concat();
        if self.udp {
            l4.extend(u16::try_from(8 + self.payload.len())?.to_be_bytes());
            l4.extend(sum.to_be_bytes());
        } else {
            l4.extend(self.seq.to_be_bytes());
            l4.extend(self.ack.to_be_bytes());
            l4.extend([0x50, self.flags, 0xfa, 0xf0]);
            l4.extend(sum.to_be_bytes());
            l4.extend([0, 0]);
        }
        l4.extend(self.payload);
        Ok(l4)
    }

    fn pseudo(&self, length: usize) -> Vec<u8> {
        let mut pseudo = [octets(self.from.ip()), octets(self.to.ip())].concat();
        pseudo.extend((length as u32).to_be_bytes());
        pseudo.extend([0, 0, 0, self.protocol()]);
        pseudo
    }
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// RFC 1071, over parts of even length but the last.
fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u64;
    for part in parts {
        for pair in part.chunks(2) {
            let word = [pair.first().copied().unwrap_or(0), pair.get(1).copied().unwrap_or(0)];
            sum += u64::from(u16::from_be_bytes(word));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// `aa bb:cc` and the like.
pub(super) fn from_hex(text: &str) -> Result<Vec<u8>, String> {
    let digits: Vec<u32> = text
        .chars()
        .filter(|c| !c.is_whitespace() && *c != ':')
        .map(|c| c.to_digit(16).ok_or_else(|| format!("--hex: {c:?} is no hexadecimal digit")))
        .collect::<Result<_, _>>()?;
    if !digits.len().is_multiple_of(2) {
        return Err("--hex: half a byte is missing".to_owned());
    }
    Ok(digits.chunks(2).map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | *digit as u8)).collect())
}

/// The `packet`th frame, from 1, of a capture in the format of libpcap (<https://www.ietf.org/archive/id/draft-ietf-opsawg-pcap-05.html>).
pub(super) fn from_pcap(file: &[u8], packet: u64) -> Result<Vec<u8>, String> {
    let (head, mut rest) = file.split_first_chunk::<24>().ok_or("this is no capture")?;
    let little = match head[..4] {
        [0xd4, 0xc3, 0xb2, 0xa1] | [0x4d, 0x3c, 0xb2, 0xa1] => true,
        [0xa1, 0xb2, 0xc3, 0xd4] | [0xa1, 0xb2, 0x3c, 0x4d] => false,
        [0x0a, 0x0d, 0x0d, 0x0a] => return Err("this is pcapng: convert it by `editcap -F pcap`".to_owned()),
        _ => return Err("this is no capture".to_owned()),
    };
    let word = |bytes: [u8; 4]| if little { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) };
    let [.., a, b, c, d] = *head;
    if word([a, b, c, d]) & 0xffff != 1 {
        return Err("its frames are not Ethernet's".to_owned());
    }
    for number in 1.. {
        let (head, behind) = rest
            .split_first_chunk::<16>()
            .ok_or_else(|| format!("there is no packet {packet}, the last is {}", number - 1))?;
        let [.., a, b, c, d, e, f, g, h] = *head;
        let (kept, length) = (word([a, b, c, d]), word([e, f, g, h]));
        let frame = behind.get(..kept as usize).ok_or("it ends within a packet")?;
        if number == packet {
            return if kept < length {
                Err(format!("packet {packet}: only {kept} of {length} bytes were captured (`tcpdump -s 0`)"))
            } else {
                Ok(frame.to_vec())
            };
        }
        rest = behind.get(kept as usize..).unwrap_or_default();
    }
    Err("there is no such packet".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made<'a>(from: &str, to: &str, udp: bool, payload: &'a [u8], vlans: &'a [u16]) -> Made<'a> {
        let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
        Made { to, from, udp, flags: 2, seq: 1, ack: 0, vlans, payload, ttl: 64, mac: [2, 0, 0, 0, 0, 9] }
    }

    /// The sum over what is right is zero.
    #[test]
    fn made_frames_have_right_lengths_and_checksums() {
        for (from, to) in [("198.51.100.1:1", "203.0.113.7:443"), ("[2001:db8::1]:1", "[2001:db8::7]:443")] {
            for udp in [false, true] {
                for payload in [&b""[..], b"odd", b"even"] {
                    let made = made(from, to, udp, payload, &[]);
                    let frame = made.build().unwrap();
                    let v4 = made.to.is_ipv4();
                    let header = if v4 { 34 } else { 54 };
                    let l4 = &frame[header..];
                    assert_eq!(l4.len(), if udp { 8 } else { 20 } + payload.len());
                    assert_eq!(checksum(&[&made.pseudo(l4.len()), l4]), 0);
                    if v4 {
                        assert_eq!(checksum(&[&frame[14..34]]), 0);
                        assert_eq!(frame[16..18], (20 + l4.len() as u16).to_be_bytes());
                    } else {
                        assert_eq!(frame[18..20], (l4.len() as u16).to_be_bytes());
                    }
                }
            }
        }
    }

    #[test]
    fn tags_lie_between_addresses_and_type() {
        let tagged = made("198.51.100.1:1", "203.0.113.7:443", false, b"", &[7, 5]).build().unwrap();
        let plain = made("198.51.100.1:1", "203.0.113.7:443", false, b"", &[]).build().unwrap();
        assert_eq!(tagged[12..22], [0x88, 0xa8, 0, 7, 0x81, 0, 0, 5, 8, 0]);
        assert_eq!(tagged[20..], plain[12..]);
    }

    #[test]
    fn hexadecimal_may_have_blanks_and_colons() {
        assert_eq!(from_hex("0aFf 01:02\n").unwrap(), [0x0a, 0xff, 1, 2]);
        assert!(from_hex("0").is_err());
        assert!(from_hex("0g").is_err());
    }

    #[test]
    fn a_capture_is_read_in_either_byte_order_and_refused_when_cut() {
        for little in [true, false] {
            let word = |value: u32| if little { value.to_le_bytes() } else { value.to_be_bytes() };
            let mut file = word(0xa1b2_c3d4).to_vec();
            file.extend([0; 16]);
            file.extend(word(1));
            for (kept, length) in [(2, 2), (3, 3), (1, 9)] {
                file.extend([0; 8]);
                file.extend(word(kept));
                file.extend(word(length));
                file.extend(vec![kept as u8; kept as usize]);
            }
            assert_eq!(from_pcap(&file, 1).unwrap(), [2, 2]);
            assert_eq!(from_pcap(&file, 2).unwrap(), [3, 3, 3]);
            assert!(from_pcap(&file, 3).unwrap_err().contains("1 of 9"));
            assert!(from_pcap(&file, 4).unwrap_err().contains("the last is 3"));
            assert!(from_pcap(&file[..file.len() - 1], 3).unwrap_err().contains("ends within"));
        }
        assert!(from_pcap(&[0; 30], 1).is_err());
        assert!(from_pcap(&[], 1).is_err());
    }
}
