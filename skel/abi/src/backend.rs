// SPDX-License-Identifier: GPL-3.0-only
//! The types of `bpf/abi_backend.h`, in its order: what a backend host decapsulates, and what became of its packets.

use core::net::IpAddr;

use crate::Addr;
use crate::labels::labels;
use crate::plain::plain_struct;

/// `EG_BACKEND_ABI`: pins live under `backend/v<BACKEND_ABI>/`.
pub const BACKEND_ABI: u32 = 1;
/// `EG_DEC_ENTRIES`: VIPs, prefixes and addresses that fit, of all interfaces together.
pub const DEC_ENTRIES: u32 = 4096;
/// `EG_DEC_IFACES`: interfaces that fit.
pub const DEC_IFACES: u32 = 256;

plain_struct! {
    /// Key of `eg_dec_vips` and `eg_dec_to`.
    pub struct DecAddr {
        pub ifindex: u32,
        pub addr: Addr,
    }
}

impl DecAddr {
    /// An address as an interface knows it.
    pub fn new(ifindex: u32, ip: IpAddr) -> DecAddr {
        DecAddr { ifindex, addr: ip.into() }
    }
}

plain_struct! {
    /// Key of `eg_dec_from`.
    pub struct DecPrefix {
        /// How many bits of what follows count.
        pub bits: u32,
        pub ifindex: u32,
        pub addr: Addr,
    }
}

impl DecPrefix {
    /// The first `length` bits of `ip`; the others must be zero, and `length` no more than the family has.
    pub fn new(ifindex: u32, ip: IpAddr, length: u8) -> DecPrefix {
        let mapped = if ip.is_ipv4() { 96 } else { 0 };
        DecPrefix { bits: u32::BITS + mapped + u32::from(length), ifindex, addr: ip.into() }
    }

    /// The prefix as an operator writes it.
    pub fn prefix(&self) -> (IpAddr, u32) {
        let ip = IpAddr::from(self.addr);
        let mapped = if ip.is_ipv4() { 96 } else { 0 };
        (ip, self.bits.saturating_sub(u32::BITS + mapped))
    }
}

plain_struct! {
    /// Value of `eg_dec_ifaces`.
    pub struct DecIface {
        /// Ends in a zero.
        pub name: [u8; 16],
        /// [`DecMode`]
        pub mode: u32,
        /// In the host's order, unlike a port of a packet.
        pub gue_port: u16,
        pub pad: u16,
    }
}

impl DecIface {
    /// `name` must be shorter than 16 bytes, as the kernel's own are; what is longer is cut.
    pub fn new(name: &str, mode: DecMode, gue_port: u16) -> DecIface {
        let mut iface = DecIface { mode: mode.code(), gue_port, ..DecIface::default() };
        iface.name.iter_mut().zip(name.bytes().take(15)).for_each(|(to, from)| *to = from);
        iface
    }

    /// The name up to its zero; empty if it is no UTF-8.
    pub fn name(&self) -> &str {
        let name = self.name.split(|byte| *byte == 0).next().unwrap_or_default();
        core::str::from_utf8(name).unwrap_or_default()
    }
}

labels! {
    /// `enum eg_dec_mode`
    pub enum DecMode {
        Tcx = 1 => "tcx",
        Clsact = 2 => "clsact",
    }
}

labels! {
    /// `enum eg_decap`, without the 0 that is no result.
    pub enum Decap {
        Ipip = 1 => "ipip",
        Ip6Ip6 = 2 => "ip6ip6",
        FourInSix = 3 => "4in6",
        SixInFour = 4 => "6in4",
        Gue = 5 => "gue",
        Gue1 = 6 => "gue1",
        Other = 7 => "other",
        NotHere = 8 => "not_here",
        NotFrom = 9 => "not_from",
        NotVip = 10 => "not_vip",
        Fragment = 11 => "fragment",
        Malformed = 12 => "malformed",
        Unsupported = 13 => "unsupported",
        Nested = 14 => "nested",
        Coalesced = 15 => "coalesced",
        Ecn = 16 => "ecn",
        Room = 17 => "room",
    }
}

/// What a [`Decap`] means for the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecapOutcome {
    Decapsulated,
    Passed,
    Dropped,
}

impl DecapOutcome {
    /// The word for people and scripts.
    pub const fn label(self) -> &'static str {
        match self {
            DecapOutcome::Decapsulated => "decapsulated",
            DecapOutcome::Passed => "passed",
            DecapOutcome::Dropped => "dropped",
        }
    }
}

impl Decap {
    /// Which of the three the packet was.
    pub const fn outcome(self) -> DecapOutcome {
        match self {
            Decap::Ipip | Decap::Ip6Ip6 | Decap::FourInSix | Decap::SixInFour | Decap::Gue | Decap::Gue1 => {
                DecapOutcome::Decapsulated
            }
            Decap::Ecn | Decap::Room => DecapOutcome::Dropped,
            _ => DecapOutcome::Passed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_read_back_as_it_was_written() {
        for (ip, length) in [("192.0.2.0", 24), ("0.0.0.0", 0), ("2001:db8::", 32), ("::", 0)] {
            let ip: IpAddr = ip.parse().unwrap();
            assert_eq!(DecPrefix::new(7, ip, length).prefix(), (ip, u32::from(length)));
        }
        assert_eq!(DecPrefix::new(7, "192.0.2.0".parse().unwrap(), 24).bits, 32 + 96 + 24);
    }

    #[test]
    fn an_interface_keeps_its_name_and_port() {
        let iface = DecIface::new("enp3s0f0np0.1234", DecMode::Tcx, 6080);
        assert_eq!((iface.name(), iface.gue_port), ("enp3s0f0np0.123", 6080), "15 bytes are all a name has");
    }
}
