// SPDX-License-Identifier: GPL-3.0-only
//! How many bytes each way of forwarding adds to a packet: the one place that knows.
//!
//! Whoever compares MTUs asks here. NAT rewrites in place. IPIP (RFC 2003, RFC 2473) adds an IP header; GUE
//! (draft-ietf-intarea-gue) adds IP, UDP and its own four bytes.

/// A way of forwarding, as far as sizes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forwarding {
    Nat,
    Ipip,
    Gue,
}

/// L3 bytes that are added in front of a packet; `outer_v6`: the backend's address is an IPv6 one.
pub const fn overhead(forwarding: Forwarding, outer_v6: bool) -> u32 {
    let ip = if outer_v6 { 40 } else { 20 };
    match forwarding {
        Forwarding::Nat => 0,
        Forwarding::Ipip => ip,
        Forwarding::Gue => ip + 8 + 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_add_up() {
        let both = |forwarding| (overhead(forwarding, false), overhead(forwarding, true));
        assert_eq!(both(Forwarding::Nat), (0, 0));
        assert_eq!(both(Forwarding::Ipip), (20, 40));
        assert_eq!(both(Forwarding::Gue), (32, 52));
    }
}
