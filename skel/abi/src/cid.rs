// SPDX-License-Identifier: GPL-3.0-only
//! The QUIC connection IDs that we mint: who routes them to which server, worker and process generation.
//!
//! `eg-l7` writes them, the C programs read the same bytes. The layout is the plaintext one of
//! draft-ietf-quic-load-balancers (section 3): first octet with the configuration's id and the length, then the server id,
//! then the rest, of which two octets are ours and the others a nonce:
//!
//! | octets | what |
//! |---|---|
//! | 0 | configuration id (3 bits), length of what follows (5 bits) |
//! | 1..5 | server id |
//! | 5 | worker |
//! | 6 | process generation, modulo 256 |
//! | 7..16 | nonce |
//!
//! The nonce must be random: an ID that can be guessed lets an attacker off the path address the connection. Nothing here
//! draws randomness or encrypts.

/// How long every connection ID of ours is.
pub const LEN: usize = 16;

/// How much of it is random.
pub const NONCE_LEN: usize = 9;

/// Configuration ids are three bits; 7 says "no configuration, not routable" (section 3.1) and is never minted.
pub const MAX_CONFIG: u8 = 6;

/// What a connection ID of ours says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cid {
    /// Which load-balancing configuration it was minted under, at most [`MAX_CONFIG`].
    pub config: u8,
    /// The node that owns the connection.
    pub server: [u8; 4],
    /// The worker that owns the connection.
    pub worker: u8,
    /// The process that owns the connection, when two serve at once.
    pub generation: u8,
    /// Random.
    pub nonce: [u8; NONCE_LEN],
}

impl Cid {
    /// The bytes on the wire. A configuration id above [`MAX_CONFIG`] is cut to its three bits.
    pub fn encode(&self) -> [u8; LEN] {
        let [s0, s1, s2, s3] = self.server;
        let [n0, n1, n2, n3, n4, n5, n6, n7, n8] = self.nonce;
        let first = self.config << 5 | (LEN as u8 - 1);
        [first, s0, s1, s2, s3, self.worker, self.generation, n0, n1, n2, n3, n4, n5, n6, n7, n8]
    }

    /// Reads a connection ID from the start of `bytes`; what follows it is ignored, since a short header does not say how
    /// long its ID is. None if it cannot be one of ours.
    pub fn decode(bytes: &[u8]) -> Option<Cid> {
        let &[first, s0, s1, s2, s3, worker, generation, n0, n1, n2, n3, n4, n5, n6, n7, n8, ..] = bytes else {
            return None;
        };
        let config = first >> 5;
        if config > MAX_CONFIG || usize::from(first & 0x1f) != LEN - 1 {
            return None;
        }
        let nonce = [n0, n1, n2, n3, n4, n5, n6, n7, n8];
        Some(Cid { config, server: [s0, s1, s2, s3], worker, generation, nonce })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CID: Cid = Cid { config: 2, server: [1, 2, 3, 4], worker: 5, generation: 6, nonce: [9; NONCE_LEN] };

    #[test]
    fn what_is_encoded_is_decoded() {
        let bytes = CID.encode();
        assert_eq!(bytes, [0x4f, 1, 2, 3, 4, 5, 6, 9, 9, 9, 9, 9, 9, 9, 9, 9]);
        assert_eq!(Cid::decode(&bytes), Some(CID));
        let mut packet = bytes.to_vec();
        packet.extend_from_slice(b"the rest of a short header packet");
        assert_eq!(Cid::decode(&packet), Some(CID));
    }

    #[test]
    fn what_we_did_not_mint_is_not_decoded() {
        let mut bytes = CID.encode();
        assert_eq!(Cid::decode(&bytes[..LEN - 1]), None);
        bytes[0] = 0x4e;
        assert_eq!(Cid::decode(&bytes), None, "another length");
        bytes[0] = 0xef;
        assert_eq!(Cid::decode(&bytes), None, "configuration 7 is not routable");
    }
}
