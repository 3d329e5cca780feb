// SPDX-License-Identifier: GPL-3.0-only
//! Single values in their written form: addresses, durations, names, port ranges. Each error says what was expected.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use tracing_subscriber::EnvFilter;

/// A name becomes a metric label, a log field and part of a path: letters, digits, `.`, `_` and `-`, at most 64.
pub(crate) fn name(text: &str) -> Result<String, String> {
    let fits = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    if fits && (1..=64).contains(&text.len()) {
        return Ok(text.to_owned());
    }
    Err(format!("{text:?} is not a name: expected 1 to 64 letters, digits, \".\", \"_\" or \"-\""))
}

pub(crate) fn address(text: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return match address.ip() {
            IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some() => Err(format!(
                "{text:?} is an IPv4 address in disguise: expected \"{}:{}\"",
                ip.to_canonical(),
                address.port()
            )),
            _ => Ok(address),
        };
    }
    let why = match text.parse::<IpAddr>() {
        Ok(IpAddr::V4(_)) => format!("has no port: expected \"{text}:PORT\""),
        // "::1:80" is an address as well: only the operator knows which was meant.
        Ok(IpAddr::V6(_)) => "needs brackets around the address and a port: expected \"[ip]:port\"".to_owned(),
        Err(_) => match text.rsplit_once(':') {
            Some((host, _)) if host.parse::<std::net::Ipv6Addr>().is_ok() => {
                "needs brackets around an IPv6 address: expected \"[ip]:port\"".to_owned()
            }
            Some((host, port)) if host.parse::<std::net::Ipv4Addr>().is_ok() => {
                format!("has the port {port:?}: expected 0 to 65535")
            }
            _ => "is not an address: expected \"ip:port\" or \"[ip]:port\", host names are not resolved".to_owned(),
        },
    };
    Err(format!("{text:?} {why}"))
}

pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    const MAX: Duration = Duration::from_secs(86_400);
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let milliseconds = match unit {
        "ms" => Some(1),
        "s" => Some(1_000),
        "m" => Some(60_000),
        "h" => Some(3_600_000),
        _ => None,
    };
    let amount: Option<u64> = number.parse().ok();
    match amount.zip(milliseconds).and_then(|(amount, unit)| amount.checked_mul(unit)).map(Duration::from_millis) {
        Some(duration) if duration <= MAX => Ok(duration),
        Some(_) => Err(format!("{text:?} is too long: expected at most \"24h\"")),
        None => Err(format!("{text:?} is not a duration: expected a whole number and ms, s, m or h, such as \"60s\"")),
    }
}

/// The shortest text that [`duration`] reads back as the same.
pub(crate) fn duration_text(duration: Duration) -> String {
    let milliseconds = duration.as_millis();
    match milliseconds {
        whole if whole > 0 && whole % 3_600_000 == 0 => format!("{}h", whole / 3_600_000),
        whole if whole > 0 && whole % 60_000 == 0 => format!("{}m", whole / 60_000),
        whole if whole % 1_000 == 0 => format!("{}s", whole / 1_000),
        whole => format!("{whole}ms"),
    }
}

/// Ports below 1024 belong to services; fewer than 1,024 in all would run out under a modest load.
pub(crate) fn ports(text: &str) -> Result<RangeInclusive<u16>, String> {
    const LEAST: u16 = 1024;
    let range = text.split_once('-').and_then(|(first, last)| {
        let first: u16 = first.trim().parse().ok()?;
        let last: u16 = last.trim().parse().ok()?;
        Some(first..=last)
    });
    match range {
        None => Err(format!("{text:?} is not a range of ports: expected \"FIRST-LAST\", such as \"10240-32767\"")),
        Some(range) if range.start() > range.end() => Err(format!("{text:?} ends before it starts")),
        Some(range) if *range.start() < LEAST => {
            Err(format!("{text:?} starts below {LEAST}, among the ports of services"))
        }
        Some(range) if range.end() - range.start() < LEAST - 1 => {
            Err(format!("{text:?} has fewer than {LEAST} ports: they would run out"))
        }
        Some(range) => Ok(range),
    }
}

pub(crate) fn hash_seed(text: &str) -> Result<[u8; 16], String> {
    unhex(text).ok_or_else(|| "expected 32 hexadecimal digits, such as those of `openssl rand -hex 16`".to_owned())
}

pub(crate) fn token_hash(text: &str) -> Result<[u8; 32], String> {
    text.strip_prefix("sha256:").and_then(unhex).ok_or_else(|| {
        "expected \"sha256:\" and 64 hexadecimal digits, those of `printf %s TOKEN | sha256sum`".to_owned()
    })
}

/// Interface names as the kernel takes them (`dev_valid_name` in net/core/dev.c).
pub(crate) fn interface(text: &str) -> Result<String, String> {
    let fits = text.bytes().all(|byte| byte.is_ascii_graphic() && !b"/:".contains(&byte));
    if fits && (1..=15).contains(&text.len()) && text != "." && text != ".." {
        return Ok(text.to_owned());
    }
    Err(format!("{text:?} is not an interface name: expected 1 to 15 characters without \"/\", \":\" or spaces"))
}

pub(crate) fn absolute_path(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if path.is_absolute() { Ok(path) } else { Err(format!("{text:?} is not an absolute path")) }
}

/// What a request's path is compared with: RFC 3986 section 3.3 characters, no query and no fragment.
pub(crate) fn path_prefix(text: &str) -> Result<String, String> {
    if !text.starts_with('/') {
        return Err(format!("{text:?} is not a path prefix: expected it to start with \"/\""));
    }
    match text.chars().find(|letter| !letter.is_ascii_graphic() || "?#\"<>\\^`{|}".contains(*letter)) {
        Some(letter) => Err(format!("{text:?} has {letter:?}, which no request path has: write it percent-encoded")),
        None => match eg_l7::route::path::normal(text.as_bytes()) {
            Ok(normal) if *normal == *text.as_bytes() => Ok(text.to_owned()),
            Ok(normal) => {
                let normal = String::from_utf8_lossy(&normal);
                Err(format!("{text:?} is never matched: requests for it are requests for {normal:?}, write that"))
            }
            Err(why) => Err(format!("{text:?} {why}: requests for it are refused")),
        },
    }
}

pub(crate) fn log_filter(text: &str) -> Result<String, String> {
    match EnvFilter::builder().parse(text) {
        Ok(_) if !text.trim().is_empty() => Ok(text.to_owned()),
        _ => Err(format!(
            "{text:?} is not a log filter: expected error, warn, info, debug or trace, or a list such as \"info,eg_l7=debug\""
        )),
    }
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits: Option<Vec<u8>> = text.chars().map(|digit| u8::try_from(digit.to_digit(16)?).ok()).collect();
    let digits = digits?;
    let bytes: Vec<u8> =
        digits.chunks_exact(2).map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit)).collect();
    if digits.len() == 2 * N { bytes.try_into().ok() } else { None }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_back_as_they_were_written() {
        for (text, milliseconds) in [("0s", 0), ("250ms", 250), ("60s", 60_000), ("90s", 90_000), ("24h", 86_400_000)] {
            let read = duration(text).unwrap();
            assert_eq!(read, Duration::from_millis(milliseconds));
            assert_eq!(duration(&duration_text(read)), Ok(read));
        }
        for wrong in ["", "s", "5", "1.5s", "-1s", "5 s", "25h", "99999999999999999999s", "18446744073709551615h"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_wrong_address_is_told_its_right_form() {
        assert_eq!(address("10.0.0.1").unwrap_err(), "\"10.0.0.1\" has no port: expected \"10.0.0.1:PORT\"");
        let brackets = "needs brackets around the address and a port: expected \"[ip]:port\"";
        assert_eq!(address("::1").unwrap_err(), format!("\"::1\" {brackets}"));
        assert_eq!(
            address("10.0.0.1:99999").unwrap_err(),
            "\"10.0.0.1:99999\" has the port \"99999\": expected 0 to 65535"
        );
        assert!(address("localhost:80").unwrap_err().contains("host names are not resolved"));
        let disguised = address("[::ffff:10.0.0.1]:80").unwrap_err();
        assert_eq!(disguised, "\"[::ffff:10.0.0.1]:80\" is an IPv4 address in disguise: expected \"10.0.0.1:80\"");
        assert!(address("[2001:db8::1]:443").is_ok());
    }

    #[test]
    fn hexadecimal_goes_both_ways_and_nothing_else_passes() {
        let text = "00ff10a5000000000000000000000001";
        assert_eq!(hex(&hash_seed(text).unwrap()), text);
        for wrong in [
            "",
            "0",
            "00ff10a500000000000000000000001",
            "zzff10a5000000000000000000000001",
            "+0ff10a5000000000000000000000001",
        ] {
            assert!(hash_seed(wrong).is_err(), "{wrong}");
        }
    }
}
