// SPDX-License-Identifier: GPL-3.0-only
//! The program and the model of it decide the same frames, and must agree in every bit.
//!
//! `EG_MODEL_FRAMES` says how many (100,000 otherwise), `EG_MODEL_SEED` where to begin (0 otherwise). What they disagree
//! on is shrunk and printed as a case for [`cases_that_once_parted_them`].

use std::time::Instant;

use eg_abi::{BackendState, Drop as Reason, Miss};
use eg_kernel_tests::model::{Bench, Case, Step, run::Ran, shrink, traffic};
use eg_kernel_tests::require;

/// Steps of a case: enough for flows to open, meet, close and be forgotten.
const STEPS: usize = 400;

/// Up to so many frames one core is enough.
const ALONE: u64 = 1_000_000;

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

/// At least so many frames, from every `step`th seed.
fn feed(frames: u64, seed: u64, step: usize, number: usize) -> Ran {
    let mut bench = Bench::new(number);
    let mut all = Ran::default();
    for seed in (seed..).step_by(step) {
        if all.frames >= frames {
            break;
        }
        let case = traffic::case(seed, STEPS, bench.hz());
        all.add(agree(&mut bench, &case));
    }
    all
}

/// The same by all cores, each with a program of its own.
fn feed_by_all(frames: u64, seed: u64) -> Ran {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let part = frames.div_ceil(cores as u64);
    let mut all = Ran::default();
    std::thread::scope(|scope| {
        let parts: Vec<_> = (0..cores).map(|i| scope.spawn(move || feed(part, seed + i as u64, cores, i))).collect();
        parts.into_iter().for_each(|part| all.add(part.join().expect("a part; what it found is above")));
    });
    all
}

#[test]
fn the_program_and_the_model_decide_alike() {
    if !require("xdp") {
        return;
    }
    let (frames, seed) = (number("EG_MODEL_FRAMES", 100_000), number("EG_MODEL_SEED", 0));
    let began = Instant::now();
    let all = if frames <= ALONE { feed(frames, seed, 1, 0) } else { feed_by_all(frames, seed) };
    println!("{all:?} in {:.1} s", began.elapsed().as_secs_f64());
    // Outside of the model are fragments; were it more, nothing would be proven.
    assert!(all.skipped * 50 <= all.frames, "{} of {} frames were skipped", all.skipped, all.frames);
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
    // UDP to port 0 of an address whose fragments are picked without ports: it was taken for the VIP's.
    let to_port_0 = Step::frame(
        "02000000000902000000000c86dd6000000000081140000000000000000000000000000000000120010db8000f0000000000000000000700\
         0900000008d24c",
    );
    // An ICMPv6 error that quotes the ends of an IPv4 flow in their mapped form: it went to the IPv4 client, as IPv6.
    let syn = Step::frame(
        "02000000000902000000000c080045030031432100004006d15ec6336409cb0071079c4c01bb01020304000000005002faf0a7920000010101\
         0101010101",
    );
    let mapped = Step::frame(
        "02000000000902000000000c86dd6c000000005c3a3c20010db8000e0000000000000000000120010db8000f0000000000000000000701043c\
         940000000060000000002c064000000000000000000000ffffc633640900000000000000000000ffff0a00000c9c4c20fb01020305a1a2a3a5\
         5010faf0ce9300007477656e74792d666f7572206279746573206f662069742e",
    );
    let cases = [Case::of(0x1, &[to_port_0]), Case::of(0x0, &[Step::State(3, BackendState::None), syn, mapped])];
    let mut bench = Bench::new(0);
    for case in &cases {
        agree(&mut bench, case);
    }
}
