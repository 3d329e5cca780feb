// SPDX-License-Identifier: GPL-3.0-only
//! What a capture is asked for, as `egctl` sends it and the admin server reads it: one query string for both.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use eg_skel::abi::{CAPTURED_HELD, Drop as DropReason, Verdict};

/// A capture costs while it runs, and somebody waits for it: five minutes are longer than anybody looks.
const SECONDS_MAX: u64 = 300;
const SECONDS: u64 = 10;
/// A jumbo frame of 9,000 bytes with its headers, and a third of what one record of a perf buffer may hold.
const SNAP_MAX: u32 = 16_384;
/// All of a frame of 1,500 bytes, with its tags.
const SNAP: u32 = 2048;
/// An Ethernet header: less says nothing.
const SNAP_MIN: u32 = 14;

/// Which packets, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaptureRequest {
    pub duration: Duration,
    /// It ends after so many.
    pub count: Option<u64>,
    /// Bytes of each frame that are kept.
    pub snap: u32,
    pub vip: Option<SocketAddr>,
    pub client: Option<Network>,
    pub verdict: Option<CaptureVerdict>,
}

impl Default for CaptureRequest {
    fn default() -> CaptureRequest {
        let duration = Duration::from_secs(SECONDS);
        CaptureRequest { duration, count: None, snap: SNAP, vip: None, client: None, verdict: None }
    }
}

/// A network, of one address at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

/// What became of the packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CaptureVerdict {
    Forwarded,
    Passed,
    /// By a SYN cookie.
    Answered,
    Held,
    /// For any reason.
    Dropped,
    DroppedFor(DropReason),
}

impl CaptureRequest {
    /// What follows the `?`; what is as by default is left out.
    pub fn query(&self) -> String {
        let Self { duration, count, snap, vip, client, verdict } = self;
        let mut query = format!("seconds={}&snap={snap}", duration.as_secs());
        // Writing to a String cannot fail.
        let _ = count.iter().try_for_each(|count| write!(query, "&count={count}"));
        let _ = vip.iter().try_for_each(|vip| write!(query, "&vip={vip}"));
        let _ = client.iter().try_for_each(|Network { address, bits }| write!(query, "&client={address}/{bits}"));
        let _ = verdict.iter().try_for_each(|verdict| write!(query, "&verdict={}", verdict.word()));
        query
    }

    /// # Errors
    /// The first thing that is wrong, as a sentence.
    pub fn from_query(query: &str) -> Result<CaptureRequest, String> {
        let mut request = CaptureRequest::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').ok_or_else(|| format!("{pair}: expected key=value"))?;
            let wrong = |why: String| format!("{key}={value}: {why}");
            match key {
                "seconds" => request.duration = Duration::from_secs(within(value, 1, SECONDS_MAX).map_err(wrong)?),
                "count" => request.count = Some(within(value, 1, u64::MAX).map_err(wrong)?),
                "snap" => {
                    let snap = within(value, SNAP_MIN.into(), SNAP_MAX.into()).map_err(wrong)?;
                    request.snap = u32::try_from(snap).unwrap_or(SNAP_MAX);
                }
                "vip" => {
                    let vip = value.parse().map_err(|_| wrong("expected an address and port".to_owned()))?;
                    request.vip = Some(vip);
                }
                "client" => request.client = Some(value.parse().map_err(wrong)?),
                "verdict" => request.verdict = Some(value.parse().map_err(wrong)?),
                _ => return Err(format!("{key}: expected seconds, count, snap, vip, client or verdict")),
            }
        }
        Ok(request)
    }
}

fn within(text: &str, least: u64, most: u64) -> Result<u64, String> {
    let number = text.parse().ok().filter(|number| (least..=most).contains(number));
    let bounds = if most == u64::MAX { format!("{least} or more") } else { format!("{least} to {most}") };
    number.ok_or_else(|| format!("expected a number, {bounds}"))
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Network, String> {
        let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let address: IpAddr = address.parse().map_err(|_| "expected an address, or ADDRESS/LENGTH".to_owned())?;
        let whole = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(whole), str::parse).ok().filter(|bits| *bits <= whole);
        bits.map(|bits| Network { address, bits }).ok_or_else(|| format!("expected a length of 0 to {whole}"))
    }
}

impl Network {
    /// Address and mask in the mapped form, in words as they lie in memory.
    pub(super) fn words(self) -> ([u32; 4], [u32; 4]) {
        let (address, bits) = match self.address {
            IpAddr::V4(v4) => (v4.to_ipv6_mapped(), self.bits.saturating_add(96)),
            IpAddr::V6(v6) => (v6, self.bits),
        };
        let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
        (words(u128::from(address)), words(mask))
    }
}

fn words(value: u128) -> [u32; 4] {
    [96, 64, 32, 0].map(|shift| ((value >> shift) as u32).to_be())
}

impl CaptureVerdict {
    fn word(self) -> &'static str {
        match self {
            CaptureVerdict::Forwarded => Verdict::Forwarded.label(),
            CaptureVerdict::Passed => Verdict::Passed.label(),
            CaptureVerdict::Answered => Verdict::Answered.label(),
            CaptureVerdict::Held => "held",
            CaptureVerdict::Dropped => Verdict::Dropped.label(),
            CaptureVerdict::DroppedFor(reason) => reason.label(),
        }
    }

    /// The bit of the verdict, and the code of the reason.
    pub(super) fn codes(self) -> (u32, u32) {
        let bit = |verdict: Verdict| 1 << verdict.code();
        match self {
            CaptureVerdict::Forwarded => (bit(Verdict::Forwarded), 0),
            CaptureVerdict::Passed => (bit(Verdict::Passed), 0),
            CaptureVerdict::Answered => (bit(Verdict::Answered), 0),
            CaptureVerdict::Held => (1 << CAPTURED_HELD, 0),
            CaptureVerdict::Dropped => (bit(Verdict::Dropped), 0),
            CaptureVerdict::DroppedFor(reason) => (bit(Verdict::Dropped), reason.code()),
        }
    }
}

impl FromStr for CaptureVerdict {
    type Err = String;

    /// Also the verbs that other tools have for it.
    fn from_str(text: &str) -> Result<CaptureVerdict, String> {
        let reason = || DropReason::ALL.iter().find(|reason| reason.label() == text);
        Ok(match text {
            "forwarded" | "forward" => CaptureVerdict::Forwarded,
            "passed" | "pass" => CaptureVerdict::Passed,
            "answered" | "answer" => CaptureVerdict::Answered,
            "held" | "hold" => CaptureVerdict::Held,
            "dropped" | "drop" => CaptureVerdict::Dropped,
            _ => CaptureVerdict::DroppedFor(*reason().ok_or(
                "expected forwarded, passed, dropped, answered, held, or a reason to drop as `egctl drops` names it",
            )?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_egctl_asks_is_what_the_server_reads() {
        let asked = CaptureRequest {
            duration: Duration::from_secs(300),
            count: Some(7),
            snap: SNAP_MAX,
            vip: Some("[2001:db8::1]:443".parse().unwrap()),
            client: Some("198.51.100.0/24".parse().unwrap()),
            verdict: Some(CaptureVerdict::DroppedFor(DropReason::NoFlow)),
        };
        assert_eq!(CaptureRequest::from_query(&asked.query()), Ok(asked));
        let plain = CaptureRequest::default();
        assert_eq!(CaptureRequest::from_query(&plain.query()), Ok(plain.clone()));
        assert_eq!(CaptureRequest::from_query(""), Ok(plain));
    }

    #[test]
    fn a_request_that_is_wrong_is_refused_by_name() {
        for (query, why) in [
            ("seconds=0", "seconds=0: expected a number, 1 to 300"),
            ("seconds=301", "seconds=301: expected a number, 1 to 300"),
            ("snap=13", "snap=13: expected a number, 14 to 16384"),
            ("count=0", "count=0: expected a number, 1 or more"),
            ("vip=192.0.2.1", "vip=192.0.2.1: expected an address and port"),
            ("client=10.0.0.0/33", "client=10.0.0.0/33: expected a length of 0 to 32"),
            ("seconds", "seconds: expected key=value"),
            ("port=1", "port: expected seconds, count, snap, vip, client or verdict"),
        ] {
            assert_eq!(CaptureRequest::from_query(query), Err(why.to_owned()));
        }
        assert!(CaptureRequest::from_query("verdict=lost").is_err());
    }

    #[test]
    fn a_network_is_words_of_the_mapped_form() {
        let words = |text: &str| text.parse::<Network>().unwrap().words();
        let host = |bytes: [u8; 4]| u32::from_ne_bytes(bytes);
        let ones = u32::MAX;
        let (address, mask) = words("198.51.100.0/24");
        assert_eq!(address, [0, 0, host([0, 0, 255, 255]), host([198, 51, 100, 0])]);
        assert_eq!(mask, [ones, ones, ones, host([255, 255, 255, 0])]);
        assert_eq!(words("2001:db8::/32").1, [ones, 0, 0, 0]);
        assert_eq!(words("::/0").1, [0; 4], "everybody");
        assert_eq!(words("0.0.0.0/0").1, [ones, ones, ones, 0], "IPv4's");
    }
}
