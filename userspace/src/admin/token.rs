// SPDX-License-Identifier: GPL-3.0-only
//! Whether a request may see metrics and status (RFC 6750 section 2.1: `Authorization: Bearer TOKEN`).

use sha2::{Digest, Sha256};

/// True without a configured token: then the server is on loopback.
pub(super) fn allows(expected: Option<&[u8; 32]>, authorization: Option<&[u8]>) -> bool {
    let Some(expected) = expected else { return true };
    let Some((scheme, token)) = authorization.and_then(|value| value.split_at_checked(7)) else { return false };
    scheme.eq_ignore_ascii_case(b"bearer ") && same(expected, &Sha256::digest(token.trim_ascii()))
}

/// Takes as long for a near miss as for a far one; both sides are digests, so their length says nothing.
fn same(one: &[u8], other: &[u8]) -> bool {
    let differing = one.iter().zip(other).fold(0, |seen, (a, b)| seen | (a ^ b));
    one.len() == other.len() && std::hint::black_box(differing) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_token_whose_hash_is_configured_passes() {
        let hash: [u8; 32] = Sha256::digest(b"test").into();
        let with = |value: &str| allows(Some(&hash), Some(value.as_bytes()));
        assert!(with("Bearer test"));
        assert!(with("bearer test "));
        for wrong in ["", "Bearer", "Bearer ", "Bearer tes", "Bearer testt", "Basic test", "test", "Bearer\u{e9}test"] {
            assert!(!with(wrong), "{wrong}");
        }
        assert!(!allows(Some(&hash), None));
        assert!(allows(None, None));
    }
}
