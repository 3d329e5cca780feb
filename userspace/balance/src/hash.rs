// SPDX-License-Identifier: GPL-3.0-only
//! Keyed hashes: SipHash-1-3 (Aumasson and Bernstein, "SipHash: a fast short-input PRF", with one compression round and
//! three finalization rounds). Who does not know the key cannot compute which flows meet on one backend.

use siphasher::sip::SipHasher13;

/// The hash of a flow: what `hash_flow` in `bpf/lib/hash.h` computes over the 40 bytes of a client packet's
/// `eg_flow_key`.
pub fn flow(key: [u64; 2], bytes: &[u8; 40]) -> u64 {
    bytes_of(key, bytes)
}

/// The hash of anything else that one backend should keep getting: an address, a header's value.
pub fn bytes_of([k0, k1]: [u64; 2], bytes: &[u8]) -> u64 {
    SipHasher13::new_with_keys(k0, k1).hash(bytes)
}

/// The key of a pool: the same on every node that has the same seed and configuration, and of no use for another pool.
pub fn pool_key(seed: [u8; 16], pool: &str) -> [u64; 2] {
    let keyed = SipHasher13::new_with_key(&seed);
    let half = |domain: &[u8]| keyed.hash(&[domain, pool.as_bytes()].concat());
    [half(b"eg pool key 0:"), half(b"eg pool key 1:")]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SipHash-1-3 written out from the paper's definition, to check the library against.
    fn siphash13([k0, k1]: [u64; 2], bytes: &[u8]) -> u64 {
        fn round(v: &mut [u64; 4]) {
            v[0] = v[0].wrapping_add(v[1]);
            v[2] = v[2].wrapping_add(v[3]);
            v[1] = v[1].rotate_left(13) ^ v[0];
            v[3] = v[3].rotate_left(16) ^ v[2];
            v[0] = v[0].rotate_left(32);
            v[2] = v[2].wrapping_add(v[1]);
            v[0] = v[0].wrapping_add(v[3]);
            v[1] = v[1].rotate_left(17) ^ v[2];
            v[3] = v[3].rotate_left(21) ^ v[0];
            v[2] = v[2].rotate_left(32);
        }
        let mut v =
            [k0 ^ 0x736f6d6570736575, k1 ^ 0x646f72616e646f6d, k0 ^ 0x6c7967656e657261, k1 ^ 0x7465646279746573];
        let mut padded = bytes.to_vec();
        while padded.len() % 8 != 7 {
            padded.push(0);
        }
        padded.push(bytes.len() as u8);
        for word in padded.chunks_exact(8) {
            let m = u64::from_le_bytes(word.try_into().unwrap());
            v[3] ^= m;
            round(&mut v);
            v[0] ^= m;
        }
        v[2] ^= 0xff;
        for _ in 0..3 {
            round(&mut v);
        }
        v[0] ^ v[1] ^ v[2] ^ v[3]
    }

    #[test]
    fn flow_hash_is_siphash_1_3() {
        for i in 0..100u8 {
            let mut bytes = [0u8; 40];
            for (j, b) in bytes.iter_mut().enumerate() {
                *b = i.wrapping_mul(31).wrapping_add((j * 7) as u8);
            }
            let key = [u64::from(i) << 56 | 1, u64::MAX - u64::from(i)];
            assert_eq!(flow(key, &bytes), siphash13(key, &bytes));
        }
    }

    #[test]
    fn pools_have_keys_of_their_own() {
        let seed = [7; 16];
        let a = pool_key(seed, "a");
        assert_eq!(a, pool_key(seed, "a"));
        assert_ne!(a, pool_key(seed, "b"));
        assert_ne!(a, pool_key([8; 16], "a"));
        assert_ne!(a[0], a[1]);
    }
}
