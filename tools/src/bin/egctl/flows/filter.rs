// SPDX-License-Identifier: GPL-3.0-only
//! Which flows are asked for: the words of the command line, parsed once.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use clap::{Args, ValueEnum};
use eg_skel::abi::{PROTO_TCP, PROTO_UDP};

use super::pair::Line;

/// All that are given must hold.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Filter {
    /// Flows to this VIP: an address, or an address and port (192.0.2.10:443, [2001:db8::10]:443)
    #[arg(long, value_name = "ADDR[:PORT]")]
    pub(crate) vip: Option<Vip>,
    /// Flows of clients in this prefix, or of this one address
    #[arg(long, value_name = "ADDR[/PREFIX]")]
    pub(crate) client: Option<Prefix>,
    /// Flows to this backend: its name in the configuration, its address, or its address and port
    #[arg(long, value_name = "NAME|ADDR[:PORT]")]
    pub(crate) backend: Option<String>,
    /// Flows of this protocol
    #[arg(long)]
    pub(crate) proto: Option<Proto>,
    /// Flows in this state. opening: the client has not finished the TCP handshake. closing: a FIN or RST was seen in
    /// either direction. UDP is open from its first datagram on
    #[arg(long)]
    pub(crate) state: Option<State>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Proto {
    Tcp,
    Udp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum State {
    Opening,
    Open,
    Closing,
}

impl State {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Opening => "opening",
            Self::Open => "open",
            Self::Closing => "closing",
        }
    }
}

/// An address with or without a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Vip {
    address: IpAddr,
    port: Option<u16>,
}

impl FromStr for Vip {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(at) = text.parse::<SocketAddr>() {
            return Ok(Self { address: at.ip(), port: Some(at.port()) });
        }
        let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        match bare.parse() {
            Ok(address) => Ok(Self { address, port: None }),
            Err(_) => Err("expected an address, or an address and port".to_owned()),
        }
    }
}

impl Vip {
    fn holds(&self, at: SocketAddr) -> bool {
        self.address == at.ip() && self.port.is_none_or(|port| port == at.port())
    }
}

/// A network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Prefix {
    address: IpAddr,
    bits: u32,
}

impl FromStr for Prefix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let address: IpAddr = address.parse().map_err(|_| "expected an address, or ADDRESS/LENGTH".to_owned())?;
        let whole = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(whole), str::parse).ok().filter(|bits| *bits <= whole);
        bits.map(|bits| Self { address, bits }).ok_or_else(|| format!("expected a length of 0 to {whole} after the /"))
    }
}

impl Prefix {
    fn holds(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                (u32::from(a) ^ u32::from(b)).checked_shr(32 - self.bits).unwrap_or(0) == 0
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => {
                (u128::from(a) ^ u128::from(b)).checked_shr(128 - self.bits).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

impl Filter {
    /// What can be said without a look at the other half, which costs a system call.
    pub(crate) fn may_hold(&self, line: &Line) -> bool {
        self.proto.is_none_or(|proto| line.protocol == if proto == Proto::Tcp { PROTO_TCP } else { PROTO_UDP })
            && self.vip.is_none_or(|vip| line.vip.is_some_and(|at| vip.holds(at)))
            && self.client.is_none_or(|prefix| prefix.holds(line.client.ip()))
            && self.backend.as_ref().is_none_or(|wanted| is_backend(wanted, line))
    }

    /// The rest: the state is that of both halves.
    pub(crate) fn holds(&self, line: &Line) -> bool {
        self.state.is_none_or(|state| state == line.state)
    }
}

fn is_backend(wanted: &str, line: &Line) -> bool {
    let name = line.backend.as_ref().is_some_and(|(_, name)| name == wanted);
    name || line.backend_address.is_some_and(|at| wanted.parse::<Vip>().is_ok_and(|wanted| wanted.holds(at)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vip_is_an_address_with_or_without_a_port() {
        let holds = |text: &str, at: &str| text.parse::<Vip>().unwrap().holds(at.parse().unwrap());
        assert!(holds("192.0.2.1", "192.0.2.1:80") && holds("192.0.2.1:80", "192.0.2.1:80"));
        assert!(!holds("192.0.2.1:81", "192.0.2.1:80") && !holds("192.0.2.2", "192.0.2.1:80"));
        assert!(holds("2001:db8::1", "[2001:db8::1]:80") && holds("[2001:db8::1]", "[2001:db8::1]:80"));
        assert!(holds("[2001:db8::1]:80", "[2001:db8::1]:80") && !holds("[2001:db8::1]:8", "[2001:db8::1]:80"));
        for wrong in ["", "web", "192.0.2.1:", "192.0.2.1:x", "192.0.2.1:99999"] {
            assert!(wrong.parse::<Vip>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_prefix_holds_its_addresses_of_its_family() {
        let holds = |text: &str, ip: &str| text.parse::<Prefix>().unwrap().holds(ip.parse().unwrap());
        assert!(holds("10.0.0.0/8", "10.255.0.1") && !holds("10.0.0.0/8", "11.0.0.1"));
        assert!(holds("10.0.0.1", "10.0.0.1") && !holds("10.0.0.1", "10.0.0.2"));
        assert!(holds("0.0.0.0/0", "203.0.113.1") && !holds("0.0.0.0/0", "::1"));
        assert!(holds("2001:db8::/32", "2001:db8:1::1") && !holds("2001:db8::/32", "2001:db9::1"));
        assert!(holds("::/0", "2001:db8::1") && !holds("::/0", "10.0.0.1"));
        for wrong in ["", "10.0.0.0/33", "2001:db8::/129", "10.0.0.0/", "10.0.0.0/-1", "net/8"] {
            assert!(wrong.parse::<Prefix>().is_err(), "{wrong}");
        }
    }
}
