// SPDX-License-Identifier: GPL-3.0-only
//! Peak EWMA: of two backends drawn by weight, the one whose recent latency and outstanding work promise the earlier
//! answer. An exponentially weighted moving average that rises at once and falls slowly, as Finagle introduced it; drawing
//! two as in [`crate::p2c`], so that the fastest is not run over by everybody at once.
//!
//! All of it is unsigned 64-bit arithmetic without overflow, for `bpf/lib/pick.h` to mirror. Times are nanoseconds; a
//! latency is cut to 2^40 - 1, a half-life h to 2^39 - 1; differences of times that would be negative are 0.
//!
//! ```text
//! what is left of the past after t, in 1/2^24:
//!     n = t / h;  f = ((t % h) << 24) / h                      h = 0, n > 24: nothing
//!     past = (2^24 - (f * (2^23 + ((2^24 - f) * 3240472 >> 24)) >> 24)) >> n
//! v moved towards x by t:
//!     v >= x:  x + ((v - x) * past >> 24)                      else x - ((x - v) * past >> 24)
//! a sample s, t after the last one:
//!     at a backend, s >= v, and the first one anywhere:        v = s
//!     t < h / 1024:                                            skipped, the last sample stays the last one
//!     else:                                                    v moved towards s by t
//! what a backend is expected to take, t after its last sample: v moved towards the pool's v by t
//! what it costs, o of its requests being outstanding:
//!     (min(expected >> 10, 2^24 - 1) + 1) * (4096 + min(o, 65535) * price)
//! the second of two, b, instead of the first, a:               b < a - (a >> 2)
//! ```
//!
//! Read so, a backend that nobody asks, because it was slow, comes to count as average after some half-lives and is tried
//! again; if it is still slow, the first sample says so at once. What an average flow of the pool meets is the mean that
//! matters here: a slow backend that gets no flows does not raise it.

use crate::p2c;
use crate::ring::Ring;

pub use crate::p2c::ring;

/// Of [`past`]: nothing has faded.
pub const ALL: u64 = 1 << 24;

/// Latencies are cut to 18 minutes (40 bits), so that a product with [`ALL`] fits.
pub const LATENCY_MAX: u64 = (1 << 40) - 1;

/// Half-lives are cut to 9 minutes (39 bits), so that a remainder fits shifted by 24. A second is a good one: shorter than
/// what an operator notices, longer than the noise of single flows.
pub const HALF_LIFE_MAX: u64 = (1 << 39) - 1;

/// Samples that are no peak and follow another one within a 1024th of the half-life are skipped: they would move the value
/// by less than is kept of it, and would have all cores write to one cache line for each flow.
pub const SAMPLES_PER_HALF_LIFE: u32 = 1024;

/// Of [`price`]: a backend of the pool's mean weight.
pub const PRICE_ONE: u64 = 4096;

/// A moving average: of a backend, or of a pool. Zero until the first sample.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Latency {
    /// The average, ns.
    pub value: u64,
    /// When it last changed, ns of the caller's clock; 0: never.
    pub seen: u64,
}

impl Latency {
    /// A backend answered after `sample`, or failed, for which the caller sets what that shall cost. A peak counts at
    /// once, less by the time that has passed.
    pub fn observe_peak(&mut self, sample: u64, now: u64, half_life: u64) {
        if sample >= self.value {
            *self = Latency { value: sample.min(LATENCY_MAX), seen: now };
        } else {
            self.observe(sample, now, half_life);
        }
    }

    /// Some backend of the pool answered after `sample`.
    pub fn observe(&mut self, sample: u64, now: u64, half_life: u64) {
        let sample = sample.min(LATENCY_MAX);
        let elapsed = now.saturating_sub(self.seen);
        if self.seen == 0 {
            *self = Latency { value: sample, seen: now };
        } else if elapsed >= half_life.min(HALF_LIFE_MAX) / u64::from(SAMPLES_PER_HALF_LIFE) {
            *self = Latency { value: moved(self.value, sample, past(elapsed, half_life)), seen: now };
        }
    }

    /// What to expect now: the average, or the longer ago it was the pool's.
    pub fn expect(&self, pool: u64, now: u64, half_life: u64) -> u64 {
        if self.seen == 0 {
            return pool;
        }
        moved(self.value, pool, past(now.saturating_sub(self.seen), half_life))
    }
}

/// How much the past still counts after `elapsed`, in 1/[`ALL`]: `2^(-elapsed / half_life)` to within a hundredth, the part
/// below one half-life by the parabola from 1 to 1/2 that begins as steeply (3240472 is `(ln 2 - 1/2) * 2^24`): many small
/// steps add up to the right one. A half-life of 0 forgets all.
pub fn past(elapsed: u64, half_life: u64) -> u64 {
    let half_life = half_life.min(HALF_LIFE_MAX);
    let (Some(halvings), Some(rest)) = (elapsed.checked_div(half_life), elapsed.checked_rem(half_life)) else {
        return 0;
    };
    if halvings > 24 {
        return 0;
    }
    let part = (rest << 24) / half_life;
    let slope = (ALL >> 1) + (((ALL - part) * 3240472) >> 24);
    (ALL - ((part * slope) >> 24)) >> halvings
}

/// `value` moved towards `target` until `past` of the distance is left.
pub fn moved(value: u64, target: u64, past: u64) -> u64 {
    let (value, target) = (value.min(LATENCY_MAX), target.min(LATENCY_MAX));
    if value >= target {
        target + (((value - target) * past) >> 24)
    } else {
        target - (((target - value) * past) >> 24)
    }
}

/// What an outstanding request of this backend weighs, in 1/[`PRICE_ONE`]: the pool's mean weight over its own, at most
/// 1023. The control plane computes it with the ring, so that a pick needs no division. 0 only for weight 0.
pub fn price(weight: u32, weights: &[u32]) -> u32 {
    let some = weights.iter().filter(|weight| **weight > 0);
    let (sum, count) = some.fold((0u64, 0u64), |(sum, count), weight| (sum + u64::from(*weight), count + 1));
    let own = u64::from(weight).saturating_mul(count);
    let price = u128::from(sum) * u128::from(PRICE_ONE) / u128::from(own.max(1));
    if weight == 0 { 0 } else { price.clamp(1, (1 << 22) - 1) as u32 }
}

/// How long a new request would take: the expected latency (in units of 1024 ns, at most 17 s), times one and what is
/// outstanding for the weight. An idle backend costs its latency, whatever its weight: the draw has honoured that.
pub fn cost(latency: u64, outstanding: u32, price: u32) -> u64 {
    let units = (latency >> 10).min((1 << 24) - 1) + 1;
    units * (PRICE_ONE + u64::from(outstanding.min(65535)) * u64::from(price))
}

/// Picks by a [`ring`] of the two that [`p2c::two`] draws: the second if it costs less than three quarters of the first,
/// `b < a - (a >> 2)`, else the first. Latencies differ by noise all the time; as long as they differ by no more, the draw
/// stands, and with it the weights. `cost` tells a backend's [`cost`] now, `None` if it takes nothing.
pub fn pick(ring: &Ring, random: u64, cost: impl Fn(usize) -> Option<u64>) -> Option<usize> {
    let [first, second] = p2c::two(ring, random, |index| cost(index).is_some());
    let of = |index: Option<usize>| index.and_then(&cost);
    match (of(first), of(second)) {
        (Some(a), Some(b)) if b < a - (a >> 2) => second,
        (Some(_), _) => first,
        (None, _) => second,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Draws;
    use proptest::prelude::*;
    use std::cmp::Reverse;
    use std::collections::BinaryHeap;

    const US: u64 = 1_000;
    const MS: u64 = 1_000_000;
    const S: u64 = 1_000_000_000;

    #[test]
    fn the_past_fades_by_half_lives() {
        for (half_life, step) in [(S, MS), (HALF_LIFE_MAX, HALF_LIFE_MAX / 977), (1000, 7)] {
            let mut last = ALL;
            for elapsed in (0..30_000u64).map(|i| i * step) {
                let exact = (-(elapsed as f64) / half_life as f64).exp2();
                let ours = past(elapsed, half_life) as f64 / ALL as f64;
                assert!((ours - exact).abs() <= exact / 100.0 + 1e-7, "{elapsed} of {half_life}: {ours}, not {exact}");
                assert!(past(elapsed, half_life) <= last);
                last = past(elapsed, half_life);
            }
        }
        assert_eq!((past(0, S), past(S, S), past(2 * S, S)), (ALL, ALL / 2, ALL / 4));
        assert_eq!((past(u64::MAX, S), past(u64::MAX, u64::MAX), past(5, 0)), (0, 0, 0));
    }

    proptest! {
        /// Debug builds check for overflow.
        #[test]
        fn nothing_overflows_and_values_stay_between(
            value: u64, target: u64, elapsed: u64, half_life: u64, outstanding: u32, weight in 1u32..10_001,
        ) {
            let (low, high) = (value.min(target).min(LATENCY_MAX), value.max(target).min(LATENCY_MAX));
            let moved = moved(value, target, past(elapsed, half_life));
            prop_assert!((low..=high).contains(&moved));
            let price = price(weight, &[weight, 1, 10_000]);
            prop_assert!(cost(value, outstanding, price) >= cost(value, outstanding / 2, price));
            let mut latency = Latency { value: moved, seen: 1 };
            latency.observe_peak(value, elapsed, half_life);
            prop_assert!(latency.expect(target, u64::MAX, half_life) <= LATENCY_MAX);
        }
    }

    #[test]
    fn a_peak_counts_at_once_and_less_by_half_lives() {
        let mut latency = Latency::default();
        latency.observe_peak(MS, S, S);
        assert_eq!(latency.value, MS);
        latency.observe_peak(500 * MS, S + 1, S);
        assert_eq!(latency.value, 500 * MS);
        latency.observe_peak(0, 2 * S + 1, S);
        assert_eq!(latency.value, 250 * MS);
        latency.observe_peak(250 * MS, 3 * S, S);
        assert_eq!(latency, Latency { value: 250 * MS, seen: 3 * S });
    }

    #[test]
    fn an_average_does_not_depend_on_the_rate_of_samples() {
        for interval in [US, 10 * US, MS, 100 * MS] {
            let mut latency = Latency { value: 100 * MS, seen: S };
            (1..=2 * S / interval).for_each(|i| latency.observe_peak(MS, S + i * interval, S));
            // Two half-lives of 99 ms are 24.75 ms.
            let exact = 25_750 * US;
            assert!(latency.value.abs_diff(exact) < exact / 100, "every {interval} ns: {}", latency.value);
        }
    }

    #[test]
    fn samples_in_quick_succession_are_skipped_unless_they_are_peaks() {
        let step = S / u64::from(SAMPLES_PER_HALF_LIFE);
        let before = Latency { value: 100 * MS, seen: S };
        let after = |sample, wait| {
            let mut latency = before;
            latency.observe_peak(sample, S + wait, S);
            latency
        };
        assert_eq!(after(MS, step - 1), before);
        assert!(after(MS, step).value < 100 * MS);
        assert_eq!(after(101 * MS, 1), Latency { value: 101 * MS, seen: S + 1 });
    }

    #[test]
    fn the_pools_average_rises_as_it_falls() {
        let (mut up, mut down) = (Latency { value: 0, seen: S }, Latency { value: 100 * MS, seen: S });
        up.observe(100 * MS, 2 * S, S);
        down.observe(0, 2 * S, S);
        assert_eq!((up.value, down.value), (50 * MS, 50 * MS));
    }

    #[test]
    fn who_is_not_asked_comes_to_be_average() {
        let slow = Latency { value: 1024 * MS, seen: S };
        let at = |halvings: u64| slow.expect(0, S + halvings * S, S);
        assert_eq!([0, 1, 2, 10, 30].map(at), [1024 * MS, 512 * MS, 256 * MS, MS, 0]);
        assert_eq!(Latency { value: 0, seen: S }.expect(8 * MS, 2 * S, S), 4 * MS);
        assert_eq!(Latency::default().expect(8 * MS, 5, S), 8 * MS, "a newcomer is average");
        assert_eq!(slow.expect(0, 0, S), 1024 * MS, "a clock that is behind");
    }

    #[test]
    fn outstanding_work_weighs_by_the_mean_weight() {
        let prices = [100, 100, 200].map(|weight| price(weight, &[100, 100, 200]));
        assert_eq!(prices, [5461, 5461, 2730]);
        assert_eq!(price(1, &[1, 1, 0, 2]), price(100, &[100, 100, 0, 200]));
        assert_eq!((price(7, &[7]), price(0, &[0, 7]), price(1, &[u32::MAX; 3])), (4096, 0, (1 << 22) - 1));
        assert_eq!(cost(1024 * 9, 0, prices[0]), 10 * 4096);
        assert_eq!(cost(1024 * 9, 0, prices[2]), 10 * 4096);
        assert!(
            cost(MS, 1, prices[0]) == cost(MS, 2, prices[2]) + 977 || cost(MS, 1, prices[0]) > cost(MS, 1, prices[2])
        );
        assert_eq!(cost(0, 3, 4096), 4 * 4096, "with latencies too small to tell, outstanding work decides");
    }

    /// Requests arrive one after the other and are answered after their backend's latency.
    struct Pool {
        weights: Vec<u32>,
        ring: Ring,
        latencies: Vec<Latency>,
        mean: Latency,
        outstanding: Vec<u32>,
        answers: BinaryHeap<Reverse<(u64, usize, u64)>>,
        draws: Draws,
        now: u64,
    }

    impl Pool {
        fn new(weights: &[u32]) -> Pool {
            Pool {
                weights: weights.to_vec(),
                ring: ring(weights),
                latencies: vec![Latency::default(); weights.len()],
                mean: Latency::default(),
                outstanding: vec![0; weights.len()],
                answers: BinaryHeap::new(),
                draws: Draws(9),
                now: S,
            }
        }

        /// Who got how many in so many requests. An answer takes between 0.9 and 1.1 times what `latency` says.
        fn run(&mut self, requests: u64, interval: u64, latency: impl Fn(usize) -> u64) -> Vec<u32> {
            let mut served = vec![0; self.weights.len()];
            for _ in 0..requests {
                self.now += interval;
                while self.answers.peek().is_some_and(|Reverse((at, ..))| *at <= self.now) {
                    let Reverse((at, index, took)) = self.answers.pop().unwrap();
                    self.outstanding[index] -= 1;
                    self.latencies[index].observe_peak(took, at, S);
                    self.mean.observe(took, at, S);
                }
                let cost = |index: usize| {
                    let expected = self.latencies[index].expect(self.mean.value, self.now, S);
                    Some(cost(expected, self.outstanding[index], price(self.weights[index], &self.weights)))
                };
                let picked = pick(&self.ring, self.draws.whole(), cost).unwrap();
                served[picked] += 1;
                self.outstanding[picked] += 1;
                let took = latency(picked) * (900 + self.draws.whole() % 200) / 1000;
                self.answers.push(Reverse((self.now + took, picked, took)));
            }
            served
        }
    }

    /// Ten backends answer after a millisecond, of which one turns to half a second and recovers a minute later.
    #[test]
    fn a_slow_backend_is_left_alone_and_tried_again_until_it_has_recovered() {
        let mut pool = Pool::new(&[1; 10]);
        let healthy = pool.run(20_000, 500 * US, |_| MS);
        assert!(healthy.iter().all(|n| (1400..2600).contains(n)), "{healthy:?}");
        // Before the first slow answer arrives, outstanding work keeps the damage small: 120,000 requests are 12,000 each.
        let slow = pool.run(120_000, 500 * US, |index| if index == 3 { 500 * MS } else { MS });
        assert!((3..200).contains(&slow[3]), "{slow:?}");
        // What it is remembered by fades within some ten half-lives; after that it is as good as any.
        pool.run(24_000, 500 * US, |_| MS);
        let recovered = pool.run(20_000, 500 * US, |_| MS);
        assert!((1400..2600).contains(&recovered[3]), "{recovered:?}");
    }

    #[test]
    fn one_peak_is_enough_to_be_avoided() {
        let mut pool = Pool::new(&[1; 4]);
        pool.run(4_000, 500 * US, |_| MS);
        pool.latencies[2].observe_peak(200 * MS, pool.now, S);
        let after = pool.run(1_000, 500 * US, |_| MS);
        assert_eq!(after[2], 0, "{after:?}");
    }

    #[test]
    fn weights_are_honoured_idle_and_loaded() {
        for (interval, what) in [(20 * MS, "idle"), (20 * US, "loaded")] {
            let served = Pool::new(&[100, 100, 200]).run(40_000, interval, |_| MS);
            for (count, mean) in served.iter().zip([10_000u32, 10_000, 20_000]) {
                assert!(count.abs_diff(mean) <= 1_000, "{what}: {served:?}");
            }
        }
    }

    #[test]
    fn who_takes_nothing_is_passed_over() {
        let ring = ring(&[1, 1, 1]);
        for random in (0..1000u64).map(|i| i.wrapping_mul(0x9e3779b97f4a7c15)) {
            assert!(pick(&ring, random, |index| (index == 2).then_some(9)).is_none_or(|index| index == 2));
            assert!(matches!(pick(&ring, random, |index| (index != 1).then_some(index as u64)), Some(0 | 2)));
        }
        assert_eq!(pick(&ring, 5, |_| None), None);
    }
}
