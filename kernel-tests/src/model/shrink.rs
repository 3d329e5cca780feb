// SPDX-License-Identifier: GPL-3.0-only
//! From a long case that fails to a short one.

use super::{Case, Step};

/// The shortest case that `fails` still, found by leaving steps out and taking mutations back. It fails itself.
pub fn shrink(case: &Case, mut fails: impl FnMut(&Case) -> bool) -> Case {
    let mut best = case.clone();
    loop {
        let before = best.clone();
        leave_out(&mut best, &mut fails);
        for i in 0..best.steps.len() {
            simplify(&mut best, i, &mut fails);
        }
        if best.steps == before.steps {
            return best;
        }
    }
}

/// Halves first, then ever smaller parts, single steps last.
fn leave_out(best: &mut Case, fails: &mut impl FnMut(&Case) -> bool) {
    let mut size = best.steps.len().div_ceil(2);
    while size > 0 {
        let mut at = 0;
        while at < best.steps.len() {
            let mut shorter = best.clone();
            shorter.steps.drain(at..(at + size).min(best.steps.len()));
            if fails(&shorter) {
                *best = shorter;
            } else {
                at += size;
            }
        }
        size /= 2;
    }
}

/// Takes back what was done to a frame: all, then byte by byte; shortens a wait.
fn simplify(best: &mut Case, i: usize, fails: &mut impl FnMut(&Case) -> bool) {
    let mut attempt = |best: &mut Case, step: Step| {
        let mut simpler = best.clone();
        simpler.steps[i] = step;
        if simpler.steps[i] != best.steps[i] && fails(&simpler) {
            *best = simpler;
        }
    };
    match best.steps[i].clone() {
        Step::Wait(jiffies) => attempt(best, Step::Wait(jiffies / 2)),
        Step::Frame { bytes, base } => {
            attempt(best, Step::Frame { bytes: base.clone(), base: base.clone() });
            for at in 0..bytes.len().min(base.len()) {
                if let Step::Frame { bytes: now, .. } = &best.steps[i]
                    && now.get(at).is_some_and(|byte| *byte != base[at])
                {
                    let mut bytes = now.clone();
                    bytes[at] = base[at];
                    attempt(best, Step::Frame { bytes, base: base.clone() });
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(bytes: &[u8], base: &[u8]) -> Step {
        Step::Frame { bytes: bytes.to_vec(), base: base.to_vec() }
    }

    #[test]
    fn what_a_failure_does_not_need_is_left_out() {
        let steps = (0..100u8).map(|i| frame(&[i, 7, 9], &[i, 0, 0]));
        let case = Case { seed: 1, steps: steps.chain([Step::Wait(64)]).collect() };
        // Fails by the second byte of frame 42 after frame 17, and no wait below 5.
        let fails = |case: &Case| {
            let at = |n: u8| {
                let is =
                    |s: &Step| matches!(s, Step::Frame { bytes, .. } if bytes[0] == n && (n != 42 || bytes[1] == 7));
                case.steps.iter().position(is)
            };
            let waits = case.steps.iter().any(|s| matches!(s, Step::Wait(5..)));
            waits && at(17).zip(at(42)).is_some_and(|(a, b)| a < b)
        };
        assert!(fails(&case));
        let short = shrink(&case, fails);
        let expected = [frame(&[17, 0, 0], &[17, 0, 0]), frame(&[42, 7, 0], &[42, 0, 0]), Step::Wait(8)];
        assert_eq!(short.steps, expected);
    }
}
