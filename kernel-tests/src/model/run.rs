// SPDX-License-Identifier: GPL-3.0-only
//! Both at once: the program on the kernel's maps, the model on its own, compared after each packet.

use std::collections::HashMap;

use eg_abi::{Count, Drop as Reason, Flow, FlowKey, Miss, Stats, VIP_STABLE, Verdict as Total, VipKey};
use eg_skel::Maps;
use eg_skel::maps::NewRing;
use nix::sched::{CloneFlags, unshare};

use super::case::{self, BACKENDS, Case, POOLS, Step, VIPS, apply};
use super::{Config, Counts, Model};
use crate::packet::{Gateway, Runner};

/// Frames after which everything is compared, not only what the frame was about.
const WHOLE: usize = 100;

/// The program, and the model beside it.
pub struct Bench {
    gateway: Gateway,
    runner: Runner,
    runs: u64,
}

/// Where they part.
#[derive(Clone, Debug)]
pub struct Divergence {
    /// Which step of the case.
    pub step: usize,
    pub what: String,
}

/// What a run was worth.
#[derive(Clone, Debug, Default)]
pub struct Ran {
    pub frames: u64,
    /// Outside of the model, and not given to the program.
    pub skipped: u64,
    pub forwarded: u64,
    pub answered: u64,
    pub passed: u64,
    /// Refused, by [`Reason`]'s code.
    pub reasons: HashMap<u32, u64>,
    /// Did not count, by [`Miss`]'s code.
    pub misses: HashMap<u32, u64>,
    /// Flows that were established.
    pub established: u64,
}

impl Bench {
    /// Loads the `number`th program, in a network namespace of this thread's own: no socket of the host's wants a packet there.
    /// Benches of different numbers run side by side.
    ///
    /// # Panics
    /// If it does not load.
    pub fn new(number: usize) -> Bench {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
        let gateway = Gateway::with(&case::tunables(number));
        for pool in POOLS {
            gateway.maps().rings.set(pool, &NewRing::new(&case::ring(pool)).expect("a ring")).expect("write a ring");
        }
        let runner = gateway.runner();
        Bench { gateway, runner, runs: 0 }
    }

    /// Jiffies in a second.
    pub fn hz(&self) -> u32 {
        self.gateway.hz()
    }

    /// Replays a case.
    ///
    /// # Errors
    /// Where program and model part.
    pub fn run(&mut self, case: &Case) -> Result<Ran, Divergence> {
        self.runs += 1;
        // The low half is the case's own; by the high one no second of a limit's is one of an earlier run.
        let mut clock = self.runs << 36 | u64::from(start(case.seed));
        let mut model = Model::new(case::config(case.seed, self.hz()));
        self.empty();
        self.write(&model.config);
        let before = self.counts();
        let mut ran = Ran::default();
        for (i, step) in case.steps.iter().enumerate() {
            let wrong = |what| Divergence { step: i, what };
            if let Step::Wait(jiffies) = step {
                clock += u64::from(*jiffies);
            }
            if apply(step, &mut model.config) {
                if !matches!(step, Step::Wait(_)) {
                    self.write(&model.config);
                }
                continue;
            }
            let Step::Frame { bytes, .. } = step else {
                continue;
            };
            self.gateway.set_clock(clock);
            self.frame(&mut model, bytes, clock as u32, &before, &mut ran).map_err(wrong)?;
            if i % WHOLE == WHOLE - 1 {
                self.compare_all(&model, &before).map_err(wrong)?;
            }
        }
        self.compare_all(&model, &before).map_err(|what| Divergence { step: case.steps.len(), what })?;
        ran.misses = model.counts.misses;
        ran.established = model.counts.loads.values().map(|(flows, _)| flows.unsigned_abs()).sum();
        Ok(ran)
    }

    fn frame(&self, model: &mut Model, frame: &[u8], now: u32, before: &Counts, ran: &mut Ran) -> Result<(), String> {
        let Some(told) = model.receive(frame, now) else {
            ran.skipped += 1;
            return Ok(());
        };
        let outcome = self.runner.receive(frame);
        if outcome != told.outcome {
            return Err(format!("the program: {outcome:02x?}\nthe model:   {:02x?}, {:?}", told.outcome, told.reason));
        }
        ran.note(&told);
        let maps = self.gateway.maps();
        let total = maps.verdicts.sum(Total::Dropped.code()).expect("the totals");
        equal("packets dropped", difference(total, before.dropped), model.counts.dropped)?;
        if let Some(reason) = told.reason {
            let code = reason.code();
            let was = before.reasons.get(&code).copied().unwrap_or_default();
            let is = maps.drops.sum(code).expect("the drops");
            equal(reason.label(), difference(is, was), model.counts.reasons[&code]).map_err(|what| {
                let now = self.counts().reasons;
                let others = now.iter().filter(|(code, count)| before.reasons.get(code) != Some(count));
                format!("{what}\nall that the program counted: {:?}", others.collect::<HashMap<_, _>>())
            })?;
        }
        for key in &model.touched {
            let name = |table| format!("{table} at {key:?}");
            equal(&name("eg_flows"), maps.flows.get(key).expect("a flow"), model.state.flows.get(key).copied())?;
            equal(&name("eg_opening"), maps.opening.get(key).expect("a flow"), model.state.opening.get(key).copied())?;
        }
        Ok(())
    }

    fn compare_all(&self, model: &Model, before: &Counts) -> Result<(), String> {
        let maps = self.gateway.maps();
        for (name, there, here) in
            [("eg_flows", &maps.flows, &model.state.flows), ("eg_opening", &maps.opening, &model.state.opening)]
        {
            let there: HashMap<FlowKey, Flow> = there.entries().expect("the flows").into_iter().collect();
            let keys = there.keys().chain(here.keys());
            for key in keys {
                equal(&format!("{name} at {key:?}"), there.get(key), here.get(key))?;
            }
        }
        let (now, counts) = (self.counts(), &model.counts);
        equal("passed", difference(now.passed, before.passed), counts.passed)?;
        for reason in Reason::ALL.iter().map(|reason| reason.code()) {
            let of = |counts: &Counts| counts.reasons.get(&reason).copied().unwrap_or_default();
            equal(&format!("reason {reason}"), difference(of(&now), of(before)), of(counts))?;
        }
        for miss in Miss::ALL.iter().map(|miss| miss.code()) {
            let of = |counts: &Counts| counts.misses.get(&miss).copied().unwrap_or_default();
            equal(&format!("miss {miss}"), of(&now) - of(before), of(counts))?;
        }
        for (name, now, before, here) in [
            ("VIP", &now.vips, &before.vips, &counts.vips),
            ("backend", &now.backends, &before.backends, &counts.backends),
        ] {
            for (id, stats) in now {
                let mut expected = here.get(id).copied().unwrap_or_default();
                expected += before.get(id).copied().unwrap_or_default();
                equal(&format!("figures of {name} {id}"), *stats, expected)?;
            }
        }
        for id in BACKENDS {
            let of = |counts: &Counts| counts.loads.get(&id).copied().unwrap_or_default();
            equal(&format!("load of backend {id}"), of(&now), of(counts))?;
        }
        Ok(())
    }

    /// Forgets all flows; what was counted stays.
    fn empty(&self) {
        let maps = self.gateway.maps();
        for table in [&maps.flows, &maps.opening] {
            for (key, _) in table.entries().expect("the flows") {
                table.delete(&key).expect("delete a flow");
            }
        }
        BACKENDS.iter().for_each(|id| maps.loads.clear(*id));
    }

    /// As the process would.
    fn write(&self, config: &Config) {
        let maps = self.gateway.maps();
        maps.conf.set(0, &config.conf).expect("write the conf");
        for (addr, uses) in &config.uses {
            maps.vip_ids.set(&VipKey::any_port(*addr), uses).expect("write an address");
        }
        for (id, vip) in &config.vips {
            maps.vips.set(*id, vip).expect("write a vip");
            let key = VipKey { addr: vip.addr, port: vip.port, proto: vip.proto, pad: 0 };
            maps.vip_ids.set(&key, id).expect("write a vip's id");
            let fragments = VipKey { port: 0.into(), ..key };
            if vip.flags & VIP_STABLE != 0 {
                maps.vip_ids.set(&fragments, id).expect("write whose fragments");
            } else {
                maps.vip_ids.delete(&fragments).expect("delete whose fragments");
            }
        }
        config.backends.iter().for_each(|(id, backend)| maps.backends.set(*id, backend).expect("write a backend"));
        config.pools.iter().for_each(|(id, pool)| maps.pools.set(*id, pool).expect("write a pool"));
    }

    /// What the program has counted so far.
    fn counts(&self) -> Counts {
        counts(self.gateway.maps())
    }
}

fn counts(maps: &Maps) -> Counts {
    let load = |id: u32| maps.loads.get(id);
    let figures = |ids: &[u32], of: &eg_skel::maps::PerCpu<Stats>| {
        ids.iter().map(|id| (*id, of.sum(*id).expect("figures"))).collect()
    };
    Counts {
        passed: maps.verdicts.sum(Total::Passed.code()).expect("the totals"),
        dropped: maps.verdicts.sum(Total::Dropped.code()).expect("the totals"),
        reasons: Reason::ALL.iter().map(|r| (r.code(), maps.drops.sum(r.code()).expect("the drops"))).collect(),
        misses: Miss::ALL.iter().map(|m| (m.code(), maps.misses.sum(m.code()).expect("the misses"))).collect(),
        vips: figures(&VIPS, &maps.vip_stats),
        backends: figures(&BACKENDS, &maps.backend_stats),
        loads: BACKENDS.iter().map(|id| (*id, (load(*id).flows, load(*id).outstanding))).collect(),
    }
}

/// Where the clock of a seed's cases begins: shortly before the low half wraps, for every other one.
pub fn start(seed: u64) -> u32 {
    if seed & 1 == 0 { 1 << 20 } else { 0u32.wrapping_sub(60 * 250) }
}

fn difference(now: Count, before: Count) -> Count {
    Count { packets: now.packets - before.packets, bytes: now.bytes - before.bytes }
}

fn equal<T: PartialEq + std::fmt::Debug>(what: &str, program: T, model: T) -> Result<(), String> {
    if program == model {
        return Ok(());
    }
    Err(format!("{what}:\nthe program: {program:?}\nthe model:   {model:?}"))
}

impl Ran {
    fn note(&mut self, told: &super::Told) {
        use crate::packet::Verdict::{Pass, Redirect, Tx};
        self.frames += 1;
        match (told.outcome.verdict, told.reason) {
            (Tx | Redirect, None) => self.forwarded += 1,
            (Tx, Some(_)) => self.answered += 1,
            (Pass, _) => self.passed += 1,
            _ => {}
        }
        if let Some(reason) = told.reason {
            *self.reasons.entry(reason.code()).or_default() += 1;
        }
    }

    /// Adds another run.
    pub fn add(&mut self, other: Ran) {
        self.frames += other.frames;
        self.skipped += other.skipped;
        self.forwarded += other.forwarded;
        self.answered += other.answered;
        self.passed += other.passed;
        self.established += other.established;
        for (sum, more) in [(&mut self.reasons, other.reasons), (&mut self.misses, other.misses)] {
            more.into_iter().for_each(|(code, n)| *sum.entry(code).or_default() += n);
        }
    }
}
