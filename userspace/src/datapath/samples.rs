// SPDX-License-Identifier: GPL-3.0-only
//! The last refused packets of each reason, for whoever asks "what exactly is being dropped?".
//!
//! `events` writes, the admin server reads; `egctl drops --samples` shows. The kernel side already bounds how many events
//! there are, so these are samples: the exact numbers are in the counters. Names are looked up when somebody asks, not
//! when a packet is dropped.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use eg_skel::abi::{Addr, Be16, Drop as DropReason, Event, PROTO_TCP, PROTO_UDP};
use nix::net::if_::if_indextoname;

use super::keeper::lock;
use super::sync::Tables;

/// Samples kept of each reason. Worst cost: some 100 bytes each, so a few kilobytes a reason whatever comes in. When full
/// the oldest of that reason goes: a flood of one reason hides no other. A screen holds about as many.
pub const KEPT: usize = 32;

/// One refused packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DropSample {
    /// Counts up from 1 over all reasons, so that a reader can ask for what is new.
    pub number: u64,
    /// When the process read of it, some milliseconds after the packet came.
    pub at: SystemTime,
    pub reason: DropReason,
    pub ifindex: u32,
    /// `None`: gone since.
    pub interface: Option<String>,
    /// IP protocol number; 0 where the packet was refused before it was known.
    pub protocol: u8,
    pub source: SocketAddr,
    pub destination: SocketAddr,
    /// The listener of the VIP, where the packet was known to be one's. Names are those of now.
    pub vip: Option<String>,
    /// Pool and name.
    pub backend: Option<(String, String)>,
    /// Layer 3 bytes.
    pub length: u32,
}

#[derive(Clone, Copy)]
struct Kept {
    number: u64,
    at: SystemTime,
    event: Event,
}

/// One ring for each reason. The lock is held for a push, or for a copy of all: never across an await.
#[derive(Default)]
pub(crate) struct Samples(Mutex<Rings>);

#[derive(Default)]
struct Rings {
    last: u64,
    rings: Vec<(DropReason, VecDeque<Kept>)>,
}

impl Samples {
    /// Keeps an event that tells of a refused packet; a reason that we have no name for has no ring.
    pub(crate) fn keep(&self, event: &Event, at: SystemTime) {
        let Some(reason) = DropReason::from_code(event.code) else { return };
        let mut kept = self.rings();
        kept.last += 1;
        let sample = Kept { number: kept.last, at, event: *event };
        match kept.rings.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, ring)) => {
                if ring.len() >= KEPT {
                    ring.pop_front();
                }
                ring.push_back(sample);
            }
            None => kept.rings.push((reason, VecDeque::from([sample]))),
        }
    }

    /// The number of the newest, and those above `after`, oldest first.
    fn after(&self, after: u64) -> (u64, Vec<(DropReason, Kept)>) {
        let kept = self.rings();
        let new = kept.rings.iter().flat_map(|(reason, ring)| ring.iter().map(|sample| (*reason, *sample)));
        let mut found: Vec<_> = new.filter(|(_, sample)| sample.number > after).collect();
        found.sort_unstable_by_key(|(_, sample)| sample.number);
        (kept.last, found)
    }

    fn rings(&self) -> MutexGuard<'_, Rings> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads the samples; cheap to clone, outlives the datapath without harm.
#[derive(Clone)]
pub struct SamplesReader {
    samples: Arc<Samples>,
    tables: Arc<Mutex<Tables>>,
}

impl SamplesReader {
    pub(crate) fn new(samples: Arc<Samples>, tables: Arc<Mutex<Tables>>) -> SamplesReader {
        SamplesReader { samples, tables }
    }

    /// The number of the newest sample there ever was, and those kept whose number is above `after`, oldest first.
    pub fn after(&self, after: u64) -> (u64, Vec<DropSample>) {
        let (last, kept) = self.samples.after(after);
        let tables = lock(&self.tables);
        let named = kept.into_iter().map(|(reason, Kept { number, at, event })| {
            let vip = tables.vips.values().find(|entry| event.vip != 0 && entry.id == event.vip);
            let backend = tables.backends.iter().find(|(_, entry)| event.backend != 0 && entry.id == event.backend);
            DropSample {
                number,
                at,
                reason,
                ifindex: event.ifindex,
                interface: if_indextoname(event.ifindex).ok().map(|name| name.to_string_lossy().into_owned()),
                protocol: event.key.proto,
                source: socket(event.key.saddr, event.key.sport),
                destination: socket(event.key.daddr, event.key.dport),
                vip: vip.map(|entry| entry.listener.clone()),
                backend: backend.map(|(key, _)| (key.pool.clone(), key.name.clone())),
                length: event.length,
            }
        });
        (last, named.collect())
    }
}

/// A protocol's name or number; `None`: the packet was refused before it was known.
pub fn protocol(number: u8) -> Option<String> {
    match number {
        0 => None,
        PROTO_TCP => Some("tcp".to_owned()),
        PROTO_UDP => Some("udp".to_owned()),
        other => Some(other.to_string()),
    }
}

/// One end of a refused packet: with its port, unless the packet was refused before the ports were known.
pub fn end(this: SocketAddr, other: SocketAddr) -> String {
    if this.port() == 0 && other.port() == 0 { this.ip().to_string() } else { this.to_string() }
}

pub(crate) fn socket(address: Addr, port: Be16) -> SocketAddr {
    SocketAddr::new(address.into(), port.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(reason: DropReason, length: u32) -> Event {
        Event { code: reason.code(), length, ..Event::default() }
    }

    #[test]
    fn a_flood_of_one_reason_hides_no_other() {
        let samples = Samples::default();
        samples.keep(&event(DropReason::Malformed, 7), SystemTime::UNIX_EPOCH);
        for length in 0..1000 {
            samples.keep(&event(DropReason::NoFlow, length), SystemTime::UNIX_EPOCH);
        }
        let (last, kept) = samples.after(0);
        assert_eq!((last, kept.len()), (1001, KEPT + 1));
        assert_eq!(
            kept.first().map(|(reason, sample)| (*reason, sample.event.length)),
            Some((DropReason::Malformed, 7))
        );
        let lengths: Vec<u32> = kept.iter().skip(1).map(|(_, sample)| sample.event.length).collect();
        assert_eq!(lengths, (1000 - KEPT as u32..1000).collect::<Vec<_>>(), "the newest stay, oldest first");
    }

    #[test]
    fn a_reader_can_ask_for_what_is_new() {
        let samples = Samples::default();
        samples.keep(&event(DropReason::NoFlow, 1), SystemTime::UNIX_EPOCH);
        let (seen, _) = samples.after(0);
        assert!(samples.after(seen).1.is_empty());
        samples.keep(&event(DropReason::Ttl, 2), SystemTime::UNIX_EPOCH);
        let (last, new) = samples.after(seen);
        assert_eq!((last, new.len()), (2, 1));
        assert_eq!(new.first().map(|(reason, _)| *reason), Some(DropReason::Ttl));
    }

    #[test]
    fn a_code_without_a_name_is_not_kept() {
        let samples = Samples::default();
        samples.keep(&Event { code: 0, ..Event::default() }, SystemTime::UNIX_EPOCH);
        samples.keep(&Event { code: u32::MAX, ..Event::default() }, SystemTime::UNIX_EPOCH);
        assert_eq!(samples.after(0).0, 0);
    }
}
