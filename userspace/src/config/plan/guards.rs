// SPDX-License-Identifier: GPL-3.0-only
//! `[datapath.guards]`: who may use L4 VIPs, and how much.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::config::net::Net;

/// What is configured for all L4 listeners; which of it holds for one is in its [`GuardSet`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuardsPlan {
    /// With one prefix or more, nobody else may send.
    pub allow: PrefixList,
    /// Wins over `allow`.
    pub deny: PrefixList,
    pub source_packets: Limit,
    pub source_flows: Limit,
    pub udp_packets: Limit,
    /// Bytes of replies for each byte of requests; 0: no limit.
    pub udp_amplification: u32,
    /// Bits of an address that make one source.
    pub source_prefix_v4: u8,
    pub source_prefix_v6: u8,
    /// Capacity of `eg_sources`.
    pub sources: u32,
}

/// The configured ones, and what they hold together.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct PrefixList {
    pub here: Vec<Net>,
    pub files: Vec<PathBuf>,
    /// `here` and what the files held when the configuration was read, in this order.
    pub all: Arc<[Net]>,
}

impl fmt::Debug for PrefixList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} prefixes", self.all.len())
    }
}

/// A token bucket; both are 0 where there is no limit.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Limit {
    pub per_second: u32,
    pub burst: u32,
}

impl Limit {
    pub fn is_off(self) -> bool {
        self.per_second == 0
    }
}

impl fmt::Debug for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Limit { per_second: 0, .. } => f.write_str("off"),
            Limit { per_second, burst } => write!(f, "{per_second} a second, burst {burst}"),
        }
    }
}

/// What an L4 listener can be guarded by, when it is configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Guard {
    Prefixes,
    SourcePackets,
    SourceFlows,
    UdpPackets,
    UdpAmplification,
}

/// The guards of a listener.
pub type GuardSet = BTreeSet<Guard>;

impl Guard {
    pub(crate) const ALL: [Guard; 5] =
        [Guard::Prefixes, Guard::SourcePackets, Guard::SourceFlows, Guard::UdpPackets, Guard::UdpAmplification];

    /// As a configuration file calls it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Guard::Prefixes => "prefixes",
            Guard::SourcePackets => "source_pps",
            Guard::SourceFlows => "source_flows",
            Guard::UdpPackets => "udp_pps",
            Guard::UdpAmplification => "udp_amplification",
        }
    }

    pub(crate) fn is_udp(self) -> bool {
        matches!(self, Guard::UdpPackets | Guard::UdpAmplification)
    }
}
