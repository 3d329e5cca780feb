// SPDX-License-Identifier: GPL-3.0-only
//! Fragments that came before their first, within bounds. Knows no clock and no kernel: time is an argument, and what the
//! kernel knows of a datagram is asked by the caller.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use eg_skel::abi::FragKey;

/// All fragments held. Reordering puts a fragment microseconds to milliseconds before its first, so an honest million
/// datagrams a second have a few hundred under way. When it is reached, the oldest datagram is given up: an honest one's
/// first comes soon or not at all, so what has waited longest is worth least. At worst, a flood of fragments without their
/// firsts leaves an honest one the time in which 1,024 of them arrive.
const FRAGMENTS: usize = 1024;
/// Their bytes: as many full frames of Ethernet. What is held is copied, so this is what the worst flood costs.
const BYTES: usize = 1536 * 1024;
/// Of one datagram: 65,535 bytes in fragments of IPv6's least MTU (RFC 8200 section 5) are 54. More are given up alone.
const OF_ONE: usize = 64;
/// How long one waits: beyond any reordering, and well below the 15 s that RFC 791 section 3.2 lets a receiver wait for
/// the rest, who would not get it complete anyway.
const PATIENCE: Duration = Duration::from_secs(1);

/// A frame, and the interface that it came in by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) ifindex: u32,
    pub(super) bytes: Vec<u8>,
}

#[derive(Debug, Default)]
pub(super) struct Waiting {
    datagrams: HashMap<FragKey, Datagram>,
    /// Oldest first; a number that its datagram no longer has is left over.
    order: VecDeque<(u64, FragKey)>,
    next: u64,
    fragments: usize,
    bytes: usize,
}

#[derive(Debug)]
struct Datagram {
    number: u64,
    since: Instant,
    frames: Vec<Frame>,
}

impl Waiting {
    /// Takes one in, and returns those for which there is no room.
    pub(super) fn hold(&mut self, key: FragKey, frame: Frame, now: Instant) -> Vec<Frame> {
        let datagram = self.datagrams.entry(key).or_insert_with(|| {
            self.next += 1;
            self.order.push_back((self.next, key));
            Datagram { number: self.next, since: now, frames: Vec::new() }
        });
        if datagram.frames.len() >= OF_ONE {
            return vec![frame];
        }
        self.fragments += 1;
        self.bytes += frame.bytes.len();
        datagram.frames.push(frame);
        let mut given_up = Vec::new();
        while self.fragments > FRAGMENTS || self.bytes > BYTES {
            let Some((number, key)) = self.order.pop_front() else { break };
            if self.datagrams.get(&key).is_some_and(|datagram| datagram.number == number) {
                given_up.extend(self.release(&key));
            }
        }
        given_up
    }

    /// Those whose datagram is `known` by now, in the order in which they came.
    pub(super) fn ready(&mut self, mut known: impl FnMut(&FragKey) -> bool) -> Vec<Frame> {
        let found: Vec<FragKey> = self.datagrams.keys().filter(|key| known(key)).copied().collect();
        found.iter().flat_map(|key| self.release(key)).collect()
    }

    /// Those that have waited too long.
    pub(super) fn expired(&mut self, now: Instant) -> Vec<Frame> {
        let mut found = Vec::new();
        while let Some((number, key)) = self.order.front().copied() {
            match self.datagrams.get(&key).filter(|datagram| datagram.number == number) {
                Some(datagram) if now.duration_since(datagram.since) < PATIENCE => break,
                Some(_) => found.extend(self.release(&key)),
                None => {}
            }
            self.order.pop_front();
        }
        found
    }

    /// All of them.
    pub(super) fn drain(&mut self) -> Vec<Frame> {
        self.ready(|_| true)
    }

    pub(super) fn fragments(&self) -> usize {
        self.fragments
    }

    fn release(&mut self, key: &FragKey) -> Vec<Frame> {
        let frames = self.datagrams.remove(key).map(|datagram| datagram.frames).unwrap_or_default();
        self.fragments -= frames.len();
        self.bytes -= frames.iter().map(|frame| frame.bytes.len()).sum::<usize>();
        frames
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: u32) -> FragKey {
        FragKey { id, ..FragKey::default() }
    }

    fn frame(byte: u8, length: usize) -> Frame {
        Frame { ifindex: 1, bytes: vec![byte; length] }
    }

    #[test]
    fn what_is_known_is_released_in_the_order_it_came() {
        let (mut waiting, now) = (Waiting::default(), Instant::now());
        for byte in 0..3 {
            assert!(waiting.hold(key(1), frame(byte, 10), now).is_empty());
        }
        waiting.hold(key(2), frame(9, 10), now);
        let ready = waiting.ready(|it| *it == key(1));
        assert_eq!(ready, [frame(0, 10), frame(1, 10), frame(2, 10)]);
        assert_eq!(waiting.fragments(), 1);
        assert!(waiting.ready(|it| *it == key(1)).is_empty());
    }

    #[test]
    fn the_oldest_datagram_makes_room() {
        let (mut waiting, now) = (Waiting::default(), Instant::now());
        waiting.hold(key(0), frame(1, 10), now);
        waiting.hold(key(0), frame(2, 10), now);
        for id in 1..FRAGMENTS as u32 - 1 {
            assert!(waiting.hold(key(id), frame(3, 10), now).is_empty());
        }
        assert_eq!(waiting.hold(key(5000), frame(4, 10), now), [frame(1, 10), frame(2, 10)]);
        assert_eq!(waiting.fragments(), FRAGMENTS - 1);
    }

    #[test]
    fn bytes_are_bounded_too() {
        let (mut waiting, now) = (Waiting::default(), Instant::now());
        for id in 0..(BYTES / 3000) as u32 {
            assert!(waiting.hold(key(id), frame(0, 3000), now).is_empty());
        }
        assert_eq!(waiting.hold(key(5000), frame(0, 3000), now).len(), 1);
    }

    #[test]
    fn one_datagram_does_not_take_all_the_room() {
        let (mut waiting, now) = (Waiting::default(), Instant::now());
        for _ in 0..OF_ONE {
            assert!(waiting.hold(key(1), frame(1, 10), now).is_empty());
        }
        assert_eq!(waiting.hold(key(1), frame(2, 10), now), [frame(2, 10)]);
        assert_eq!(waiting.fragments(), OF_ONE);
    }

    #[test]
    fn patience_ends_after_a_second_for_each() {
        let (mut waiting, now) = (Waiting::default(), Instant::now());
        waiting.hold(key(1), frame(1, 10), now);
        waiting.hold(key(2), frame(2, 10), now + PATIENCE / 2);
        assert!(waiting.expired(now + PATIENCE / 2).is_empty());
        assert_eq!(waiting.expired(now + PATIENCE), [frame(1, 10)]);
        assert_eq!(waiting.expired(now + PATIENCE * 2), [frame(2, 10)]);
        assert_eq!(waiting.fragments(), 0);
    }

    #[test]
    fn an_identification_that_comes_again_waits_anew() {
        let (mut waiting, now) = (Waiting::default(), Instant::now());
        waiting.hold(key(1), frame(1, 10), now);
        waiting.drain();
        waiting.hold(key(1), frame(2, 10), now + PATIENCE / 2);
        assert!(waiting.expired(now + PATIENCE).is_empty(), "the old number is left over");
        assert_eq!(waiting.expired(now + PATIENCE * 2), [frame(2, 10)]);
    }
}
