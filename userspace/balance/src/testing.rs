// SPDX-License-Identifier: GPL-3.0-only
//! What several modules' tests share: random numbers, simulations, and the promises of consistent hashing.

use crate::ring::{Ring, SLOTS};

pub(crate) const KEY: [u64; 2] = [0x0706050403020100, 0x0f0e0d0c0b0a0908];

type Build = fn([u64; 2], &[(&str, u32)]) -> Ring;

/// Random numbers (splitmix64), independent of those in the code under test.
pub(crate) struct Draws(pub(crate) u64);

impl Draws {
    pub(crate) fn whole(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e3779b97f4a7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58476d1ce4e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d049bb133111eb);
        z ^ z >> 31
    }

    pub(crate) fn half(&mut self) -> u32 {
        (self.whole() >> 32) as u32
    }
}

/// Balls into bins that nobody leaves. Returns each bin's count.
pub(crate) fn fill(weights: &[u16], balls: usize, seed: u64, pick: impl Fn(u64, &[u32]) -> usize) -> Vec<u32> {
    let mut loads = vec![0u32; weights.len()];
    let mut draws = Draws(seed);
    for _ in 0..balls {
        let picked = pick(draws.whole(), &loads);
        loads[picked] += 1;
    }
    loads
}

pub(crate) fn names(n: usize) -> Vec<String> {
    (0..n).map(|i| format!("10.0.{}.{}:80", i / 250, i % 250 + 1)).collect()
}

/// The key of a test's n-th repetition.
pub(crate) fn key(n: u64) -> [u64; 2] {
    let mut draws = Draws(n);
    [draws.whole(), draws.whole()]
}

/// How many slots each backend owns.
pub(crate) fn shares(ring: &Ring, backends: usize) -> Vec<usize> {
    let mut counts = vec![0; backends];
    ring.used().for_each(|(primary, _)| counts[primary] += 1);
    counts
}

/// Pools to change: alike, and of many weights.
fn pools() -> Vec<Vec<(String, u32)>> {
    [vec![1; 2], vec![1; 10], vec![100; 100], (0..25).map(|i| 1 + i * 7 % 13).collect::<Vec<u32>>()]
        .map(|weights| names(weights.len()).into_iter().zip(weights).collect())
        .to_vec()
}

fn named(pool: &[(String, u32)]) -> Vec<(&str, u32)> {
    pool.iter().map(|(name, weight)| (name.as_str(), *weight)).collect()
}

pub(crate) fn removing_moves_only_its_own_slots_to_their_alternates(build: Build) {
    for pool in pools() {
        let before = build(KEY, &named(&pool));
        for removed in [0, pool.len() / 2, pool.len() - 1] {
            let mut rest = named(&pool);
            rest[removed].1 = 0;
            let after = build(KEY, &rest);
            for slot in 0..SLOTS {
                let (primary, alternate) = before.at(slot);
                let expected = if primary == Some(removed) { alternate } else { primary };
                assert_eq!(after.at(slot).0, expected, "slot {slot} of {} backends", pool.len());
            }
        }
    }
}

pub(crate) fn adding_moves_slots_only_to_it(build: Build) {
    for pool in pools() {
        let mut more = named(&pool);
        more.push(("newcomer", 1));
        let (before, after) = (build(KEY, &named(&pool)), build(KEY, &more));
        let newcomer = Some(pool.len());
        let moved: Vec<_> = (0..SLOTS).filter(|slot| before.at(*slot).0 != after.at(*slot).0).collect();
        assert!(!moved.is_empty() && moved.iter().all(|slot| after.at(*slot).0 == newcomer));
    }
}

pub(crate) fn order_does_not_matter(build: Build) {
    let forward = [("a", 1), ("b", 2), ("c", 3)];
    let backward = [("c", 3), ("b", 2), ("a", 1)];
    let (f, b) = (build(KEY, &forward), build(KEY, &backward));
    for slot in 0..SLOTS {
        let of = |list: &[(&'static str, u32)], (primary, alternate): (Option<usize>, Option<usize>)| {
            [primary, alternate].map(|index| list[index.unwrap()].0)
        };
        assert_eq!(of(&forward, f.at(slot)), of(&backward, b.at(slot)));
    }
}

pub(crate) fn lone_and_empty(build: Build) {
    let alone = build(KEY, &[("a", 1), ("b", 0)]);
    assert!(alone.used().all(|slot| slot == (0, None)));
    assert_eq!((alone.period(), alone.pick(5, |_| true), alone.pick(5, |_| false)), (SLOTS, Some(0), None));
    for nobody in [build(KEY, &[]), build(KEY, &[("a", 0)])] {
        assert_eq!((nobody.period(), nobody.pick_any(5, |_| true)), (0, None));
    }
}

/// Of equal weights, under so many keys: no share is more than `bound` times the mean.
pub(crate) fn shares_are_within(build: Build, backends: usize, keys: u64, bound: f64) {
    let names = names(backends);
    let pool: Vec<_> = names.iter().map(|name| (name.as_str(), 1)).collect();
    for n in 0..keys {
        let most = shares(&build(key(n), &pool), backends).into_iter().max().unwrap();
        let ratio = most as f64 * backends as f64 / SLOTS as f64;
        assert!(ratio <= bound, "{ratio} times the mean of {backends}, key {n}");
    }
}

/// Under ten keys each share is that of its weight, and on average within a third of `margin`.
pub(crate) fn shares_follow_the_weights(build: Build, margin: f64) {
    let pool = [("a", 100), ("b", 100), ("c", 200), ("d", 0)];
    let mut sums = [0.0; 4];
    for n in 0..10 {
        let shares = shares(&build(key(n), &pool), 4);
        for ((share, sum), (_, weight)) in shares.iter().zip(&mut sums).zip(pool) {
            let exact = SLOTS as f64 * f64::from(weight) / 400.0;
            assert!((*share as f64 - exact).abs() <= margin * SLOTS as f64 / 4.0, "{shares:?}, key {n}");
            *sum += *share as f64 / exact / 10.0;
        }
    }
    assert!(sums[..3].iter().all(|mean| (mean - 1.0).abs() <= margin / 3.0), "{sums:?}");
}

/// Each other backend stands in for its part of a backend's slots, to within `margin` of that part.
pub(crate) fn heirs_are_in_proportion(build: Build, margin: f64) {
    let weights = [5u32, 1, 2, 4, 1, 3];
    let names = names(weights.len());
    let pool: Vec<_> = names.iter().map(String::as_str).zip(weights).collect();
    let ring = build(KEY, &pool);
    for failed in 0..weights.len() {
        let mut heirs = [0; 6];
        let failures = ring.used().filter(|(primary, _)| *primary == failed);
        failures.for_each(|(_, alternate)| heirs[alternate.unwrap()] += 1);
        let shared: i32 = heirs.iter().sum();
        let others = f64::from(weights.iter().sum::<u32>() - weights[failed]);
        for heir in (0..weights.len()).filter(|heir| *heir != failed) {
            let exact = f64::from(shared) * f64::from(weights[heir]) / others;
            assert!((f64::from(heirs[heir]) - exact).abs() <= margin * exact, "{failed} failed: {heirs:?}, {exact}");
        }
    }
}
