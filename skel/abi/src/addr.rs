// SPDX-License-Identifier: GPL-3.0-only
//! Addresses and ports as they lie in packets and maps.

use core::fmt;
use core::net::{IpAddr, Ipv6Addr, SocketAddr};

/// `struct eg_addr`: 16 bytes, IPv4 in the mapped form of RFC 4291 section 2.5.5.2.
#[repr(C, align(4))]
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Addr {
    /// As on the wire.
    pub b: [u8; 16],
}

impl From<IpAddr> for Addr {
    fn from(ip: IpAddr) -> Addr {
        let b = match ip {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        };
        Addr { b }
    }
}

impl From<Addr> for IpAddr {
    /// The mapped form comes back as IPv4.
    fn from(addr: Addr) -> IpAddr {
        Ipv6Addr::from(addr.b).to_canonical()
    }
}

impl fmt::Debug for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        IpAddr::from(*self).fmt(f)
    }
}

/// `__be16`: a port in network byte order.
#[repr(transparent)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Be16(pub [u8; 2]);

impl From<u16> for Be16 {
    fn from(port: u16) -> Be16 {
        Be16(port.to_be_bytes())
    }
}

impl From<Be16> for u16 {
    fn from(port: Be16) -> u16 {
        u16::from_be_bytes(port.0)
    }
}

impl fmt::Debug for Be16 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        u16::from(*self).fmt(f)
    }
}

/// Address and port together.
pub(crate) fn split(at: SocketAddr) -> (Addr, Be16) {
    (at.ip().into(), at.port().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::Ipv4Addr;

    #[test]
    fn ipv4_is_mapped_and_comes_back() {
        let ip = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7));
        let addr = Addr::from(ip);
        assert_eq!(addr.b, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 203, 0, 113, 7]);
        assert_eq!(IpAddr::from(addr), ip);
    }

    #[test]
    fn ipv6_stays_as_it_is() {
        let ip: IpAddr = "2001:db8::7".parse().unwrap();
        assert_eq!(IpAddr::from(Addr::from(ip)), ip);
    }

    #[test]
    fn ports_lie_in_network_order() {
        assert_eq!(Be16::from(0x1234).0, [0x12, 0x34]);
        assert_eq!(u16::from(Be16([0x12, 0x34])), 0x1234);
    }
}
