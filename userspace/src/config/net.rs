// SPDX-License-Identifier: GPL-3.0-only
//! A block of addresses in its written form, and files full of them.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

/// An address and how many of its first bits count; the others are zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Net {
    address: IpAddr,
    length: u8,
}

impl Net {
    pub fn address(self) -> IpAddr {
        self.address
    }

    /// At most 32 for IPv4, 128 for IPv6.
    pub fn length(self) -> u8 {
        self.length
    }
}

impl fmt::Display for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl fmt::Debug for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// `"192.0.2.0/24"`, `"2001:db8::/32"`, or an address by itself.
pub(crate) fn net(text: &str) -> Result<Net, String> {
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (text, None),
    };
    let Ok(address) = address.parse::<IpAddr>() else {
        return Err(format!("{text:?} is not a prefix: expected \"192.0.2.0/24\", \"2001:db8::/32\" or an address"));
    };
    if let IpAddr::V6(v6) = address
        && let Some(v4) = v6.to_ipv4_mapped()
    {
        return Err(format!("{text:?} is an IPv4 address in disguise: expected it as \"{v4}\""));
    }
    let most = if address.is_ipv4() { 32 } else { 128 };
    let read = |length: &str| length.bytes().all(|byte| byte.is_ascii_digit()).then(|| length.parse().ok()).flatten();
    let length = match length {
        None => most,
        Some(length) => match read(length).filter(|length| *length <= most) {
            Some(length) => length,
            None => return Err(format!("{text:?} has the length {length:?}: expected 0 to {most}")),
        },
    };
    let first = first_of(address, length);
    if first != address {
        let fixed = Net { address: first, length };
        return Err(format!("{text:?} has bits behind its length: expected \"{fixed}\", or \"{address}\" alone"));
    }
    Ok(Net { address, length })
}

fn first_of(address: IpAddr, length: u8) -> IpAddr {
    let length = u32::from(length);
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - length).unwrap_or(0);
            Ipv4Addr::from(u32::from(v4) & mask).into()
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - length).unwrap_or(0);
            Ipv6Addr::from(u128::from(v6) & mask).into()
        }
    }
}

/// Two million lines with a comment each. More is not a list of prefixes, or holds more of them than may be.
const MAX_BYTES: u64 = 128 << 20;
/// Wrong lines that are named: enough to see what is wrong with a file, few enough to see the other errors.
const SHOWN: usize = 5;

/// Reads a file of one prefix a line. From `#` on a line is a comment; empty lines are skipped. Errors name the file
/// and the line.
pub(crate) fn read_file(path: &Path) -> Result<Vec<Net>, Vec<String>> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes));
    if let Err(error) = read {
        return Err(vec![format!("cannot read {path:?}: {error}")]);
    }
    if bytes.len() as u64 > MAX_BYTES {
        return Err(vec![format!("{path:?} is larger than {} MiB, the limit for a list", MAX_BYTES >> 20)]);
    }
    let mut nets = Vec::new();
    let mut wrong = Vec::new();
    for (number, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let line = String::from_utf8_lossy(line);
        let entry = line.split('#').next().unwrap_or_default().trim();
        match net(entry) {
            _ if entry.is_empty() => {}
            Ok(net) => nets.push(net),
            Err(error) => wrong.push(format!("{path:?}:{}: {error}", number + 1)),
        }
    }
    if wrong.is_empty() {
        return Ok(nets);
    }
    if wrong.len() > SHOWN {
        let more = wrong.len() - SHOWN;
        wrong.truncate(SHOWN);
        wrong.push(format!("{path:?}: {more} more lines are wrong"));
    }
    Err(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_reads_back_as_it_was_written() {
        for text in ["0.0.0.0/0", "192.0.2.0/24", "255.255.255.255/32", "::/0", "2001:db8::/32", "2001:db8::1/128"] {
            assert_eq!(net(text).unwrap().to_string(), text);
        }
        assert_eq!(net("192.0.2.7").unwrap().to_string(), "192.0.2.7/32");
        assert_eq!(net("2001:db8::7").unwrap().to_string(), "2001:db8::7/128");
    }

    #[test]
    fn a_wrong_prefix_is_told_its_right_form() {
        let says = |text: &str, expected: &str| assert_eq!(net(text).unwrap_err(), expected);
        says(
            "192.0.2.1/24",
            "\"192.0.2.1/24\" has bits behind its length: expected \"192.0.2.0/24\", or \"192.0.2.1\" alone",
        );
        says("192.0.2.0/33", "\"192.0.2.0/33\" has the length \"33\": expected 0 to 32");
        says("2001:db8::/+4", "\"2001:db8::/+4\" has the length \"+4\": expected 0 to 128");
        says("::ffff:192.0.2.1", "\"::ffff:192.0.2.1\" is an IPv4 address in disguise: expected it as \"192.0.2.1\"");
        let shape = "is not a prefix: expected \"192.0.2.0/24\", \"2001:db8::/32\" or an address";
        for text in ["", "/24", "example.com", "192.0.2/24", "192.0.2.0 /24"] {
            says(text, &format!("{text:?} {shape}"));
        }
        assert!(net("192.0.2.0/").is_err());
    }
}
