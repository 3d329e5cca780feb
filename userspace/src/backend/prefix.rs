// SPDX-License-Identifier: GPL-3.0-only
//! `10.0.0.0/8`, `2001:db8::/32`, or one address.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// An address and how many of its first bits count; the others are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Prefix {
    pub address: IpAddr,
    pub length: u8,
}

impl Prefix {
    /// Every address of both families, as the tables hold it: the form of IPv4 lies within.
    pub fn covers_mapped(&self) -> bool {
        // ::ffff:0:0/96 begins with 80 zero bits and 16 ones.
        self.address.is_ipv6() && self.address.is_unspecified() && self.length <= 80
    }
}

impl FromStr for Prefix {
    type Err = String;

    fn from_str(text: &str) -> Result<Prefix, String> {
        let (address, length) = text.split_once('/').map_or((text, None), |(a, l)| (a, Some(l)));
        let address: IpAddr = address.parse().map_err(|_| format!("{address:?} is no IP address"))?;
        if let IpAddr::V6(v6) = address
            && v6.to_ipv4_mapped().is_some()
        {
            return Err(format!("{v6}: write IPv4 as IPv4"));
        }
        let whole = if address.is_ipv4() { 32 } else { 128 };
        let length = match length {
            None => whole,
            Some(length) => length
                .parse()
                .ok()
                .filter(|length| *length <= whole)
                .ok_or_else(|| format!("/{length}: expected a length from 0 to {whole}"))?,
        };
        let network = network(address, length);
        if network != address {
            return Err(format!("{text}: has bits behind the prefix; did you mean {network}/{length}?"));
        }
        Ok(Prefix { address, length })
    }
}

fn network(address: IpAddr, length: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
            IpAddr::V4((v4.to_bits() & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
            IpAddr::V6((v6.to_bits() & mask).into())
        }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_read_strictly() {
        for (text, same) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("10.1.2.3", "10.1.2.3/32"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("::1", "::1/128"),
            ("::/0", "::/0"),
        ] {
            assert_eq!(text.parse::<Prefix>().unwrap().to_string(), same);
        }
        for (text, why) in [
            ("10.0.0.1/8", "10.0.0.1/8: has bits behind the prefix; did you mean 10.0.0.0/8?"),
            ("10.0.0.0/33", "/33: expected a length from 0 to 32"),
            ("10.0.0.0/", "/: expected a length from 0 to 32"),
            ("2001:db8::/-1", "/-1: expected a length from 0 to 128"),
            ("gateway", "\"gateway\" is no IP address"),
            ("::ffff:10.0.0.1", "::ffff:10.0.0.1: write IPv4 as IPv4"),
        ] {
            assert_eq!(text.parse::<Prefix>().unwrap_err(), why);
        }
    }
}
