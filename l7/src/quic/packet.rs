// SPDX-License-Identifier: GPL-3.0-only
//! QUIC packets as far as they concern no connection: what is invariant in every version, version negotiation, and the
//! refusal of a client's first packet.
//!
//! The driver reads each datagram's first packet here to find its connection. Everything inside a connection is quiche's.

use boring::rand::rand_bytes;
use rustls::Side;
use rustls::quic::{Keys, Version};

/// RFC 9000 section 14.1: "A server MUST discard an Initial packet that is carried in a UDP datagram with a payload that is
/// smaller than the smallest allowed maximum datagram size of 1200 bytes."
pub(super) const MIN_INITIAL: usize = 1200;

/// RFC 9000 section 7.2: "This Destination Connection ID MUST be at least 8 bytes in length."
const MIN_CLIENT_CHOSEN: usize = 8;

/// RFC 9000 section 17.2: "In QUIC version 1, this value MUST NOT exceed 20 bytes."
const MAX_CID: usize = 20;

/// RFC 9000 section 20.1.
pub(super) const CONNECTION_REFUSED: u64 = 0x02;

/// The one version that is spoken.
pub(super) const VERSION: u32 = 1;

/// What the first packet of a datagram says before any key is needed (RFC 8999).
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Packet<'a> {
    /// Belongs to a connection: the destination's connection ID is at the start of the slice, its length is ours to know.
    Short(&'a [u8]),
    /// Version 1, Initial, fit to open a connection.
    Initial { destination: &'a [u8], source: &'a [u8] },
    /// Version 1, any other long header, or an Initial that cannot open a connection.
    Long(&'a [u8]),
    /// A version that we do not speak, in a datagram large enough to be answered.
    Foreign { destination: &'a [u8], source: &'a [u8] },
    /// Nothing that concerns a server.
    Junk,
}

/// Reads the first packet of a datagram. The version is looked at before the packet's type, which differs by version.
pub(super) fn parse(datagram: &[u8]) -> Packet<'_> {
    let Some((&first, rest)) = datagram.split_first() else { return Packet::Junk };
    if first & 0x80 == 0 {
        return Packet::Short(rest);
    }
    let Some((version, rest)) = rest.split_first_chunk::<4>() else { return Packet::Junk };
    let Some((destination, rest)) = counted(rest) else { return Packet::Junk };
    let Some((source, _)) = counted(rest) else { return Packet::Junk };
    match u32::from_be_bytes(*version) {
        // Version negotiation, which only servers send.
        0 => Packet::Junk,
        VERSION if destination.len() > MAX_CID || source.len() > MAX_CID => Packet::Junk,
        VERSION => {
            let initial = first & 0x30 == 0;
            match initial && datagram.len() >= MIN_INITIAL && destination.len() >= MIN_CLIENT_CHOSEN {
                true => Packet::Initial { destination, source },
                false => Packet::Long(destination),
            }
        }
        // RFC 9000 section 5.2.2: a server that answers smaller datagrams could be used to amplify.
        _ if datagram.len() >= MIN_INITIAL => Packet::Foreign { destination, source },
        _ => Packet::Junk,
    }
}

fn counted(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&len, rest) = bytes.split_first()?;
    rest.split_at_checked(usize::from(len))
}

/// The Version Negotiation packet for a client that sent these connection IDs (RFC 8999 section 6).
pub(super) fn negotiate(destination: &[u8], source: &[u8]) -> Option<Vec<u8>> {
    let mut unused = [0u8; 1];
    rand_bytes(&mut unused).ok()?;
    let [unused] = unused;
    let mut packet = vec![0x80 | unused, 0, 0, 0, 0];
    for id in [source, destination] {
        packet.push(u8::try_from(id.len()).ok()?);
        packet.extend_from_slice(id);
    }
    packet.extend_from_slice(&VERSION.to_be_bytes());
    Some(packet)
}

/// An Initial packet that closes the connection which a client's Initial with these connection IDs would open, with a
/// transport error code below 64. It needs no state, and is much smaller than what it answers.
pub(super) fn refuse(destination: &[u8], source: &[u8], code: u64) -> Option<Vec<u8>> {
    let suite = rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256.tls13()?;
    let keys = Keys::initial(Version::V1, suite, suite.quic?, destination, Side::Server);
    // CONNECTION_CLOSE: type, code, frame type, reason's length. Padded so that a sample for header protection exists.
    let frame = [0x1c, u8::try_from(code).ok().filter(|&code| code < 64)?, 0, 0, 0, 0, 0, 0];
    let number = [0u8; 4];
    let tag = keys.local.packet.tag_len();
    // Long header, Initial, four octets of packet number.
    let mut packet = vec![0xc3, 0, 0, 0, 1];
    packet.push(u8::try_from(source.len()).ok()?);
    packet.extend_from_slice(source);
    // RFC 9000 section 7.2 wants a connection ID of our choice; nothing will ever be sent to this one.
    packet.push(u8::try_from(destination.len()).ok()?);
    packet.extend_from_slice(destination);
    packet.push(0);
    let length = u16::try_from(number.len() + frame.len() + tag).ok()?;
    packet.extend_from_slice(&(0x4000 | length).to_be_bytes());
    let number_at = packet.len();
    packet.extend_from_slice(&number);
    let mut payload = frame;
    let sealed = keys.local.packet.encrypt_in_place(0, &packet, &mut payload).ok()?;
    packet.extend_from_slice(&payload);
    packet.extend_from_slice(sealed.as_ref());
    let (header, body) = packet.split_at_mut_checked(number_at)?;
    let (number, rest) = body.split_at_mut_checked(4)?;
    let sample = rest.get(..keys.local.header.sample_len())?;
    keys.local.header.encrypt_in_place(sample, header.first_mut()?, number).ok()?;
    Some(packet)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn long(first: u8, version: u32, dcid: &[u8], scid: &[u8], len: usize) -> Vec<u8> {
        let mut packet = vec![first];
        packet.extend_from_slice(&version.to_be_bytes());
        for id in [dcid, scid] {
            packet.push(id.len() as u8);
            packet.extend_from_slice(id);
        }
        packet.resize(len, 0);
        packet
    }

    #[test]
    fn the_version_is_tested_before_the_type() {
        let (destination, source) = (&[1u8; 8][..], &[2u8; 5][..]);
        assert_eq!(parse(&long(0xc0, 1, destination, source, 1200)), Packet::Initial { destination, source });
        // In version 2 these bits are an Initial, in version 1 a 0-RTT packet.
        let foreign = Packet::Foreign { destination, source };
        assert_eq!(parse(&long(0xd0, 0x6b33_43cf, destination, source, 1200)), foreign);
        assert_eq!(parse(&long(0xd0, 1, destination, source, 1200)), Packet::Long(destination));
        assert_eq!(parse(&long(0xc0, 1, destination, source, 1199)), Packet::Long(destination));
        assert_eq!(parse(&long(0xc0, 7, destination, source, 1199)), Packet::Junk, "too small to be answered");
        assert_eq!(parse(&long(0xc0, 0, destination, source, 1200)), Packet::Junk);
        assert_eq!(parse(&long(0xc0, 1, &[1; 21], source, 1200)), Packet::Junk);
        assert_eq!(parse(&[0x40, 7, 8]), Packet::Short(&[7, 8]));
        for cut in 0..19 {
            assert_eq!(parse(&long(0xc0, 1, destination, source, 1200)[..cut]), Packet::Junk, "{cut}");
        }
    }

    #[test]
    fn a_negotiation_swaps_the_connection_ids_and_offers_version_1() {
        let packet = negotiate(&[1; 8], &[2; 3]).unwrap();
        assert_eq!(packet[0] & 0x80, 0x80);
        assert_eq!(packet[1..], [0, 0, 0, 0, 3, 2, 2, 2, 8, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 1]);
    }

    #[test]
    fn a_client_can_open_and_read_a_refusal() {
        let (odcid, scid) = ([7u8; 8], [9u8; 8]);
        let mut packet = refuse(&odcid, &scid, CONNECTION_REFUSED).unwrap();
        let suite = rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256.tls13().unwrap();
        let keys = Keys::initial(Version::V1, suite, suite.quic.unwrap(), &odcid, Side::Client);
        let number_at = 5 + 1 + 8 + 1 + 8 + 1 + 2;
        let (header, body) = packet.split_at_mut(number_at);
        let (number, rest) = body.split_at_mut(4);
        keys.remote.header.decrypt_in_place(&rest[..16], &mut header[0], number).unwrap();
        assert_eq!((header[0], &*number), (0xc3, &[0u8; 4][..]));
        let aad = [header, number].concat();
        let plain = keys.remote.packet.decrypt_in_place(0, &aad, rest).unwrap();
        assert_eq!(plain, [0x1c, 2, 0, 0, 0, 0, 0, 0]);
    }
}
