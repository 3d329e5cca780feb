// SPDX-License-Identifier: GPL-3.0-only
//! Slow start: a backend that has joined, or recovered, gets its share step by step while its caches fill.

use std::time::Duration;

/// From the first tenth to the whole. Each step rebuilds a ring (tens of milliseconds) and moves some new flows, so there
/// are few of them.
pub const STEPS: u32 = 10;

/// A backend's weight `age` after it joined, in [`STEPS`]ths: `weight` times one, two, … [`STEPS`], a step in each tenth
/// of the `window`. All weights of a pool are to be scaled so, those that joined long ago to [`STEPS`] times theirs; rings
/// that divide by the common divisor are then what they were. A window of zero is no slow start.
pub fn weight(weight: u32, age: Duration, window: Duration) -> u32 {
    let passed = (age.as_millis() * u128::from(STEPS)).checked_div(window.as_millis()).unwrap_or(u128::MAX);
    weight.saturating_mul(passed.saturating_add(1).min(u128::from(STEPS)) as u32)
}

/// How long from `age` until the weight next changes; `None` if it is whole.
pub fn next_step(age: Duration, window: Duration) -> Option<Duration> {
    let now = weight(1, age, window);
    let at = (window * now).div_f64(f64::from(STEPS));
    (now < STEPS).then(|| at.saturating_sub(age))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(60);

    #[test]
    fn a_newcomer_gets_a_tenth_and_after_the_window_all() {
        let at = |seconds| weight(7, Duration::from_secs(seconds), WINDOW);
        assert_eq!([0, 5, 6, 29, 30, 53, 54, 60, 6000].map(at), [7, 7, 14, 35, 42, 63, 70, 70, 70]);
    }

    #[test]
    fn each_step_is_announced_and_there_are_nine() {
        let mut age = Duration::ZERO;
        let mut steps = 0;
        while let Some(wait) = next_step(age, WINDOW) {
            let before = weight(1, age, WINDOW);
            assert_eq!(weight(1, age + wait - Duration::from_millis(1), WINDOW), before);
            age += wait;
            assert_eq!(weight(1, age, WINDOW), before + 1);
            steps += 1;
        }
        assert_eq!((steps, age), (9, WINDOW.mul_f64(0.9)));
    }

    #[test]
    fn no_window_is_no_slow_start() {
        assert_eq!(weight(3, Duration::ZERO, Duration::ZERO), 30);
        assert_eq!(next_step(Duration::ZERO, Duration::ZERO), None);
        assert_eq!(weight(u32::MAX, Duration::MAX, Duration::MAX), u32::MAX);
    }
}
