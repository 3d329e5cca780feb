// SPDX-License-Identifier: GPL-3.0-only
//! The program and the model of it decide the same frames, and must agree in every bit.
//!
//! `EG_MODEL_FRAMES` says how many (100,000 otherwise), `EG_MODEL_SEED` where to begin (0 otherwise). What they disagree
//! on is shrunk and printed as a case for [`cases_that_once_parted_them`].

use std::time::Instant;

use eg_abi::{Drop as Reason, Miss};
use eg_kernel_tests::model::{Bench, Case, Step, run::Ran, shrink, traffic};
use eg_kernel_tests::require;

/// Steps of a case: enough for flows to open, meet, close and be forgotten.
const STEPS: usize = 400;

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.replace('_', "").parse().expect("a number"))
}

/// Runs a case; fails with the shortest that still parts them.
fn agree(bench: &mut Bench, case: &Case) -> Ran {
    match bench.run(case) {
        Ok(ran) => ran,
        Err(found) => {
            let short = shrink(case, |case| bench.run(case).is_err());
            let what = bench.run(&short).expect_err("it fails still").what;
            panic!(
                "seed {:#x}, step {}: {}\nshrunk to {} steps: {what}\n{}",
                case.seed,
                found.step,
                found.what,
                short.steps.len(),
                short.print()
            );
        }
    }
}

#[test]
fn the_program_and_the_model_decide_alike() {
    if !require("xdp") {
        return;
    }
    let (frames, seed) = (number("EG_MODEL_FRAMES", 100_000), number("EG_MODEL_SEED", 0));
    let mut bench = Bench::new();
    let (mut all, began) = (Ran::default(), Instant::now());
    for seed in seed.. {
        if all.frames >= frames {
            break;
        }
        let case = traffic::case(seed, STEPS, bench.hz());
        all.add(agree(&mut bench, &case));
    }
    println!("{all:?} in {:.1} s", began.elapsed().as_secs_f64());
    // Outside of the model are fragments and ICMP errors; were it more, nothing would be proven.
    assert!(all.skipped * 20 <= all.frames, "{} of {} frames were skipped", all.skipped, all.frames);
    assert!(all.forwarded * 5 >= all.frames, "{} of {} frames were forwarded", all.forwarded, all.frames);
    if frames < 100_000 {
        return;
    }
    for reason in [
        Reason::Malformed,
        Reason::NoFlow,
        Reason::NoBackend,
        Reason::NoPort,
        Reason::NoNextHop,
        Reason::StaleReply,
        Reason::Ttl,
        Reason::UnusedPort,
        Reason::Handshake,
        Reason::TooBig,
        Reason::BackendDown,
        Reason::BadSource,
        Reason::BadFlags,
        Reason::PortZero,
    ] {
        assert!(all.reasons.contains_key(&reason.code()), "no frame was refused as {}", reason.label());
    }
    for miss in Miss::ALL {
        assert!(all.misses.contains_key(&miss.code()), "no flow missed as {}", miss.label());
    }
    assert!(all.established > 0 && all.answered > 0 && all.passed > 0);
}

/// Each once parted program and model, or shows where they could part.
#[test]
fn cases_that_once_parted_them() {
    if !require("xdp") {
        return;
    }
    let cases: [Case; 0] = [];
    let mut bench = Bench::new();
    for case in &cases {
        agree(&mut bench, case);
    }
    let _ = Step::frame;
}
