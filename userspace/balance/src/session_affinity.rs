// SPDX-License-Identifier: GPL-3.0-only
//! Session affinity: a client keeps its backend from connection to connection. What is hashed is what tells clients
//! apart: the source address or a prefix of it, at layer 7 also a header or a cookie.
//!
//! The ring is laid out by weighted rendezvous hashing (Thaler and Ravishankar, "Using Name-Based Mappings to Increase Hit
//! Rates", IEEE/ACM ToN 6(1), 1998; weights by exponential races, as in Efraimidis and Spirakis, "Weighted Random Sampling
//! with a Reservoir", IPL 97(5), 2006): for each slot each backend draws a time from the exponential distribution whose
//! rate is its weight, and the earliest gets the slot. **Who stays keeps every slot when somebody leaves**; a newcomer, or
//! a raised weight, takes slots and moves none between others. Maglev would also end some sessions of those who stayed,
//! in exchange for an evenness that clients behind shared addresses undo anyway. Ring hash promises as much with less even
//! shares, and loses the promise when weights pass a power of two.
//!
//! The alternate is the second earliest: exactly who gets the slot if its owner leaves the pool. So a session that moved
//! because its backend was down moves no second time when that backend is removed.

use crate::hash;
use crate::ring::{NOBODY, Ring, SLOTS};

/// The ring of `backends` (name, weight) under the pool's key. A name must be stable and unique in the pool; its place in
/// the list does not matter. A backend of weight 0 gets no slot.
///
/// With equal weights the greatest share is at most 1.05 times the mean among 10 backends, 1.15 among 100, 1.40 among
/// 655: each slot is drawn for itself. Cost: three multiplications for each slot and backend: 30 ms for 10, 0.2 s for
/// 655, more than a second for 4000.
pub fn ring(key: [u64; 2], backends: &[(&str, u32)]) -> Ring {
    let mut racers: Vec<Racer<'_>> =
        (0u32..).zip(backends).filter_map(|(index, b)| Racer::new(key, index, b)).collect();
    if racers.is_empty() {
        return Ring::new(Vec::new(), Vec::new());
    }
    // Equal times, should they ever occur, go by name: two nodes that list the same pool in another order agree.
    racers.sort_by_key(|racer| racer.name);
    let logarithms = Logarithms::new();
    let mut slots = (Vec::with_capacity(SLOTS), Vec::with_capacity(SLOTS));
    for slot in 0..SLOTS as u64 {
        let slot = hash::bytes_of(key, &[b"slot:", slot.to_le_bytes().as_slice()].concat());
        let (primary, alternate) = race(&racers, &logarithms, slot);
        slots.0.push(primary);
        slots.1.push(alternate);
    }
    Ring::new(slots.0, slots.1)
}

struct Racer<'a> {
    name: &'a str,
    index: u32,
    weight: u64,
    seed: u64,
}

impl<'a> Racer<'a> {
    fn new(key: [u64; 2], index: u32, (name, weight): &(&'a str, u32)) -> Option<Racer<'a>> {
        let seed = hash::bytes_of(key, &[b"rendezvous:", name.as_bytes()].concat());
        (*weight > 0).then_some(Racer { name, index, weight: u64::from(*weight), seed })
    }
}

/// A time is an exponentially distributed number (32 fractional bits) over a weight. Fractions are compared crosswise.
#[derive(Clone, Copy)]
struct Time {
    index: u32,
    exponential: u64,
    weight: u64,
}

impl Time {
    /// Later than any other.
    const NEVER: Time = Time { index: NOBODY, exponential: 1, weight: 0 };

    fn is_before(&self, other: &Time) -> bool {
        u128::from(self.exponential) * u128::from(other.weight)
            < u128::from(other.exponential) * u128::from(self.weight)
    }
}

/// First and second of one slot.
fn race(racers: &[Racer<'_>], logarithms: &Logarithms, slot: u64) -> (u32, u32) {
    let (mut first, mut second) = (Time::NEVER, Time::NEVER);
    // The second's time, rounded up: who is later cannot be among the two.
    let mut late = u64::MAX;
    for racer in racers {
        let uniform = mix(racer.seed ^ slot);
        // -log2(u) >= 1 - u: most are late by that, and the logarithm is taken for a few of a slot's racers only.
        if !uniform >> 32 >= late.saturating_mul(racer.weight) {
            continue;
        }
        let time = Time { index: racer.index, exponential: logarithms.exponential(uniform), weight: racer.weight };
        if time.is_before(&first) {
            second = first;
            first = time;
        } else if time.is_before(&second) {
            second = time;
        } else {
            continue;
        }
        late = if second.weight == 0 { u64::MAX } else { second.exponential.div_ceil(second.weight) };
    }
    (first.index, second.index)
}

/// The finalizer of MurmurHash3: each bit of the input changes each of the output with probability one half. The secret
/// is in the seeds.
fn mix(mut x: u64) -> u64 {
    x = (x ^ x >> 33).wrapping_mul(0xff51afd7ed558ccd);
    x = (x ^ x >> 33).wrapping_mul(0xc4ceb9fe1a85ec53);
    x ^ x >> 33
}

/// Logarithms by interpolation: of 4096 steps from 1 to 2, with 32 fractional bits. In integers: no two machines differ.
struct Logarithms(Vec<u64>);

const STEP_BITS: u32 = 12;

impl Logarithms {
    fn new() -> Logarithms {
        Logarithms(
            (0..=1 << STEP_BITS)
                .map(|step: u64| log2((1 << STEP_BITS) + step) - (u64::from(STEP_BITS) << 32))
                .collect(),
        )
    }

    /// `-log2((uniform + 1) / 2^64)`, which is exponentially distributed, with 32 fractional bits. Too great by up to
    /// 2^-26, as a chord of the logarithm is below it.
    fn exponential(&self, uniform: u64) -> u64 {
        let Some(number) = uniform.checked_add(1) else { return 0 };
        let whole = number.ilog2();
        // Without its leading bit, the number's next 12 bits are the step and 32 more the way to the next step.
        let bits = (number << (63 - whole)) << 1;
        let step = (bits >> (64 - STEP_BITS)) as usize;
        let way = bits << STEP_BITS >> 32;
        let at = |step: usize| self.0.get(step).copied().unwrap_or(0);
        let fraction = at(step) + (((at(step + 1) - at(step)) * way) >> 32);
        (64 << 32) - (u64::from(whole) << 32) - fraction
    }
}

/// With 32 fractional bits, rounded down. The logarithm of a square is twice the logarithm: each squaring yields one more
/// binary digit.
fn log2(number: u64) -> u64 {
    let mut log = u64::from(number.ilog2());
    let mut mantissa = number << (63 - log);
    for _ in 0..32 {
        let square = (u128::from(mantissa) * u128::from(mantissa)) >> 63;
        let digit = (square >> 64) as u64;
        mantissa = (square >> digit) as u64;
        log = log << 1 | digit;
    }
    log
}

/// How much of a source address tells clients apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// Bits of an IPv4 address, at most 32.
    pub v4: u8,
    /// Bits of an IPv6 address, at most 128.
    pub v6: u8,
}

/// IPv4 hosts are told apart. IPv6 hosts change the lower half of their address by themselves (RFC 8981), so a client is
/// its /64.
impl Default for Prefix {
    fn default() -> Prefix {
        Prefix { v4: 32, v6: 64 }
    }
}

impl Prefix {
    /// The two masks, for IPv4 mapped addresses and for the others: what the kernel is given.
    pub fn masks(self) -> ([u8; 16], [u8; 16]) {
        let mask = |bits: u32| u128::MAX.checked_shl(128 - bits.min(128)).unwrap_or(0).to_be_bytes();
        (mask(96 + u32::from(self.v4)), mask(u32::from(self.v6)))
    }

    /// What is hashed of an address (16 bytes, IPv4 mapped): the address under its family's mask.
    pub fn of(self, address: &[u8; 16]) -> [u8; 16] {
        let (v4, v6) = self.masks();
        let mapped = address.starts_with(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]);
        let mask = if mapped { v4 } else { v6 };
        (u128::from_be_bytes(*address) & u128::from_be_bytes(mask)).to_be_bytes()
    }
}

/// The hash of a client: SipHash-1-3 under the pool's key of the 16 bytes of [`Prefix::of`]. [`Ring::slot`] takes it.
pub fn source(key: [u64; 2], prefix: Prefix, address: &[u8; 16]) -> u64 {
    hash::bytes_of(key, &prefix.of(address))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{self, Draws, KEY};
    use std::net::IpAddr;

    #[test]
    fn removing_a_backend_moves_its_own_slots_to_their_alternates_and_no_others() {
        testing::removing_moves_only_its_own_slots_to_their_alternates(ring);
    }

    #[test]
    fn adding_a_backend_moves_slots_to_it_and_nowhere_else() {
        testing::adding_moves_slots_only_to_it(ring);
    }

    #[test]
    fn raising_a_weight_moves_slots_to_it_and_nowhere_else() {
        let before = ring(KEY, &[("a", 1), ("b", 7), ("c", 3), ("d", 1)]);
        let after = ring(KEY, &[("a", 1), ("b", 7), ("c", 30), ("d", 1)]);
        let moved: Vec<_> = (0..SLOTS).filter(|slot| before.at(*slot).0 != after.at(*slot).0).collect();
        // From 3 of 12 to 30 of 39.
        assert!(moved.len().abs_diff(SLOTS * 27 / 52) < SLOTS / 50, "{}", moved.len());
        assert!(moved.iter().all(|slot| after.at(*slot).0 == Some(2)));
    }

    #[test]
    fn the_order_of_the_list_does_not_matter() {
        testing::order_does_not_matter(ring);
    }

    #[test]
    fn a_lone_backend_has_no_alternate_and_an_empty_pool_nobody() {
        testing::lone_and_empty(ring);
    }

    #[test]
    fn shares_are_as_even_as_slots_drawn_one_by_one() {
        for (backends, keys, bound) in [(10, 10, 1.05), (100, 10, 1.15), (655, 3, 1.40)] {
            testing::shares_are_within(ring, backends, keys, bound);
        }
    }

    /// The standard deviation of a quarter is 0.7 % of it: four of them.
    #[test]
    fn shares_follow_the_weights() {
        testing::shares_follow_the_weights(ring, 0.027);
    }

    #[test]
    fn a_failed_backends_load_is_shared_out() {
        testing::heirs_are_in_proportion(ring, 0.10);
    }

    fn bytes(address: &str) -> [u8; 16] {
        match address.parse().unwrap() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        }
    }

    #[test]
    fn sources_keep_their_backend_when_another_leaves() {
        let names = testing::names(20);
        let pool: Vec<_> = names.iter().map(|name| (name.as_str(), 3)).collect();
        let (before, after) = (ring(KEY, &pool), ring(KEY, &pool[..19]));
        let mut draws = Draws(10);
        let mut homeless = 0;
        for _ in 0..20_000 {
            let address = u128::from(draws.whole()) << 64 | u128::from(draws.whole());
            let hash = source(KEY, Prefix::default(), &address.to_be_bytes());
            let home = before.pick(hash, |_| true);
            match home {
                Some(19) => {
                    homeless += 1;
                    assert_eq!(before.pick(hash, |index| index != 19), after.pick(hash, |_| true));
                }
                _ => assert_eq!(home, after.pick(hash, |_| true)),
            }
        }
        assert!((800..1200).contains(&homeless), "{homeless} of 1000");
    }

    #[test]
    fn a_prefix_is_one_client() {
        let prefix = Prefix { v4: 24, v6: 56 };
        for (address, expected) in
            [("203.0.113.77", "203.0.113.0"), ("2001:db8:1:2ff:3::4", "2001:db8:1:200::"), ("::1", "::")]
        {
            assert_eq!(prefix.of(&bytes(address)), bytes(expected), "{address}");
        }
        let whole = Prefix { v4: 32, v6: 128 };
        for address in ["203.0.113.77", "2001:db8::5"] {
            assert_eq!(whole.of(&bytes(address)), bytes(address));
        }
        assert_eq!(
            Prefix { v4: 0, v6: 0 }.of(&bytes("198.51.100.9")),
            bytes("0.0.0.0"),
            "no prefix spans the families"
        );
        assert_eq!(Prefix { v4: 0, v6: 0 }.of(&bytes("2001:db8::1")), bytes("::"));
        assert_eq!(Prefix { v4: 255, v6: 255 }.of(&bytes("2001:db8::1")), bytes("2001:db8::1"));
        let hash = |address| source(KEY, Prefix::default(), &bytes(address));
        assert_eq!(hash("2001:db8::1"), hash("2001:db8::2"));
        assert_ne!(hash("2001:db8::1"), hash("2001:db8:0:1::1"));
        assert_ne!(hash("203.0.113.1"), hash("203.0.113.2"));
    }

    #[test]
    fn times_are_logarithms() {
        let mut draws = Draws(11);
        let logarithms = Logarithms::new();
        for uniform in (0..10_000).map(|_| draws.whole()).chain([0, 1, u64::MAX - 1, u64::MAX, 1 << 63]) {
            let exact = 64.0 - (uniform as f64 + 1.0).log2();
            let ours = logarithms.exponential(uniform) as f64 / 2f64.powi(32);
            assert!((ours - exact).abs() < 2f64.powi(-26), "{uniform}: {ours}, not {exact}");
            assert!(!uniform >> 32 <= logarithms.exponential(uniform), "the bound of the race holds");
        }
    }
}
