// SPDX-License-Identifier: GPL-3.0-only
//! Path MTUs towards backends, as routers told us about packets of ours (RFC 1191, RFC 8201).
//!
//! The kernel side hears the ICMP errors and sends events; a backend's element then holds the smaller of this and its
//! link's MTU, and a client whose packet does not fit is told so.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// RFC 1191 section 6.3 and RFC 8201 section 4: after ten minutes a larger one may be tried.
const KEPT: Duration = Duration::from_secs(600);
/// A lower one is not believed: RFC 8200 section 5 for IPv6, and for IPv4 what Linux takes for the least (`min_pmtu`), so
/// that a forged error cannot make every packet too big.
const LEAST_V4: u16 = 552;
const LEAST_V6: u16 = 1280;

/// What was learned, by backend address.
#[derive(Default)]
pub(super) struct Mtus {
    learned: HashMap<IpAddr, (u16, Instant)>,
}

impl Mtus {
    /// A router says that `address` is reached by packets of at most `mtu` bytes.
    pub(super) fn learn(&mut self, address: IpAddr, mtu: u16, now: Instant) {
        let mtu = mtu.max(if address.is_ipv4() { LEAST_V4 } else { LEAST_V6 });
        self.learned.insert(address, (mtu, now));
    }

    /// The MTU towards `address`, whose link's is `link`.
    pub(super) fn of(&self, address: IpAddr, link: u16, now: Instant) -> u16 {
        match self.learned.get(&address) {
            Some((mtu, at)) if now.duration_since(*at) < KEPT => link.min(*mtu),
            _ => link,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_router_says_holds_for_ten_minutes_and_within_reason() {
        let (mut mtus, start) = (Mtus::default(), Instant::now());
        let (v4, v6) = ("192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap());
        mtus.learn(v4, 1400, start);
        mtus.learn(v6, 68, start);
        assert_eq!((mtus.of(v4, 1500, start), mtus.of(v6, 1500, start)), (1400, 1280));
        assert_eq!(mtus.of(v4, 1300, start), 1300);
        assert_eq!(mtus.of(v4, 1500, start + KEPT), 1500);
        mtus.learn(v4, 0, start);
        assert_eq!(mtus.of(v4, 1500, start), 552);
    }
}
