// SPDX-License-Identifier: GPL-3.0-only
//! Frames that the packet cases send: Ethernet, IPv4 or IPv6, TCP or UDP, zeros behind, checksums filled in.

use std::net::{IpAddr, SocketAddr};

/// What bench.bpf.c copies at every turn (its FRAME), and the least length of a frame.
pub(crate) const LENGTH: usize = 128;

pub(crate) const GATEWAY_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub(crate) const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

pub(crate) const SYN: u8 = 0x02;
pub(crate) const ACK: u8 = 0x10;

/// A TCP segment with these flags, or a UDP datagram if `flags` is `None`, of `length` bytes in all.
pub(crate) fn frame(from: SocketAddr, to: SocketAddr, flags: Option<u8>, length: usize) -> Vec<u8> {
    let mut frame = vec![0u8; length];
    frame[0..6].copy_from_slice(&GATEWAY_MAC);
    frame[6..12].copy_from_slice(&CLIENT_MAC);
    let proto = if flags.is_some() { 6 } else { 17 };
    let l4 = match (from.ip(), to.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            frame[12..14].copy_from_slice(&[0x08, 0x00]);
            let ip = &mut frame[14..34];
            ip[0] = 0x45;
            ip[2..4].copy_from_slice(&((length - 14) as u16).to_be_bytes());
            ip[8] = 64;
            ip[9] = proto;
            ip[12..16].copy_from_slice(&source.octets());
            ip[16..20].copy_from_slice(&destination.octets());
            let sum = finish(sum(ip));
            ip[10..12].copy_from_slice(&sum.to_be_bytes());
            34
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            frame[12..14].copy_from_slice(&[0x86, 0xdd]);
            let ip = &mut frame[14..54];
            ip[0] = 0x60;
            ip[4..6].copy_from_slice(&((length - 54) as u16).to_be_bytes());
            ip[6] = proto;
            ip[7] = 64;
            ip[8..24].copy_from_slice(&source.octets());
            ip[24..40].copy_from_slice(&destination.octets());
            54
        }
        _ => panic!("a frame has one IP version: {from} to {to}"),
    };
    let addresses = if l4 == 34 { sum(&frame[26..34]) } else { sum(&frame[22..54]) };
    let segment = &mut frame[l4..];
    segment[0..2].copy_from_slice(&from.port().to_be_bytes());
    segment[2..4].copy_from_slice(&to.port().to_be_bytes());
    let at = match flags {
        Some(flags) => {
            segment[12] = 5 << 4;
            segment[13] = flags;
            segment[14..16].copy_from_slice(&[0xff, 0xff]);
            16
        }
        None => {
            let length = segment.len() as u16;
            segment[4..6].copy_from_slice(&length.to_be_bytes());
            6
        }
    };
    let pseudo = addresses + u32::from(proto) + segment.len() as u32;
    let sum = finish(pseudo + sum(segment));
    segment[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    frame
}

/// The frame that answers `frame`, with acknowledging flags if it is TCP.
pub(crate) fn answer(frame: &[u8]) -> Vec<u8> {
    let port = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
    let v4 = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&frame[at..at + 4]).expect("four bytes"));
    let v6 = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&frame[at..at + 16]).expect("sixteen bytes"));
    let (from, to, proto) = if frame[12] == 0x08 {
        (SocketAddr::new(v4(26), port(34)), SocketAddr::new(v4(30), port(36)), frame[23])
    } else {
        (SocketAddr::new(v6(22), port(54)), SocketAddr::new(v6(38), port(56)), frame[20])
    };
    self::frame(to, from, (proto == 6).then_some(ACK), LENGTH)
}

fn sum(bytes: &[u8]) -> u32 {
    bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]))).sum()
}

fn finish(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_of_a_frame_add_up_to_zero() {
        for (from, to) in [("10.0.0.1:40000", "203.0.113.1:80"), ("[2001:db8::9]:40000", "[2001:db8::1]:80")] {
            let frame = frame(from.parse().unwrap(), to.parse().unwrap(), Some(SYN), LENGTH);
            let (addresses, l4) = if frame[12] == 8 { (&frame[26..34], 34) } else { (&frame[22..54], 54) };
            assert_eq!(finish(sum(addresses) + 6 + (LENGTH - l4) as u32 + sum(&frame[l4..])), 0);
            if l4 == 34 {
                assert_eq!(finish(sum(&frame[14..34])), 0);
            }
        }
    }

    #[test]
    fn an_answer_goes_the_other_way() {
        let sent = frame("10.0.0.1:40000".parse().unwrap(), "203.0.113.1:80".parse().unwrap(), Some(SYN), LENGTH);
        let back = answer(&sent);
        assert_eq!((&back[26..30], &back[30..34]), (&sent[30..34], &sent[26..30]));
        assert_eq!((&back[34..36], &back[36..38]), (&sent[36..38], &sent[34..36]));
        assert_eq!(back[47], ACK);
    }
}
