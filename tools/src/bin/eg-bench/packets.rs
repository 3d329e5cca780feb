// SPDX-License-Identifier: GPL-3.0-only
//! What a packet costs: each case by three methods, beside a yardstick measured in the same way, and what proves that the
//! packets took the path that the case is named for (the verdict, and the VIPs' own counters, which must have moved by exactly
//! as many packets).

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use eg_abi::Stats;
use libbpf_rs::Link;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use serde_json::{Map, Value, json};

use crate::Result;
use crate::cases::{Case, Guard, Kind};
use crate::compile::Workshop;
use crate::frame::answer;
use crate::live::{self, Wire};
use crate::world::{Drill, STRIDE, Target, World, of_flow};

const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;

/// The capacity of eg_opening: new flows are measured with the table full, when each insertion evicts.
const TABLE: u32 = 1 << 17;

/// Single runs of which the median is taken: a system call each.
const SINGLES: u32 = 4096;

/// How the time of a packet is taken.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Method {
    /// One system call of many runs; a program before restores the frame, and its cost is subtracted.
    Repeat,
    /// A system call for each packet, as cold as that leaves the caches; the median.
    Single,
    /// Frames that cross a veth pair; the kernel's figures of the attached program.
    Live,
}

const METHODS: [(Method, &str); 3] = [(Method::Repeat, "ns"), (Method::Single, "ns_single"), (Method::Live, "ns_live")];

/// A world whose programs are attached to the wire.
struct Bench {
    world: World,
    near: Link,
    _far: Link,
    wire: Wire,
}

impl Bench {
    fn new(world: World, wire: Wire) -> Result<Bench> {
        let far = world.with(Target::Drop, |program| live::attach(program, wire.far))??;
        let near = world.with(Target::Empty, |program| live::attach(program, wire.near))??;
        Ok(Bench { world, near, _far: far, wire })
    }

    /// Nanoseconds per packet, the method's own cost included, and the last verdict, where the method tells.
    fn time(
        &mut self,
        method: Method,
        target: Target,
        drill: &Drill<'_>,
        turn: u32,
        packets: u32,
    ) -> Result<(f64, Option<u32>)> {
        self.world.aim(drill, turn)?;
        match method {
            Method::Repeat => {
                self.world.call(target)?;
                let ran = self.world.run(Target::Each, drill.frame, packets)?;
                Ok((ran.nanoseconds, Some(ran.verdict)))
            }
            Method::Single => self.singly(target, drill, turn, packets),
            Method::Live => Ok((self.live(target, drill, packets)?, None)),
        }
    }

    fn singly(&self, target: Target, drill: &Drill<'_>, turn: u32, packets: u32) -> Result<(f64, Option<u32>)> {
        let mut times = Vec::new();
        let mut verdict = None;
        for turn in turn..turn + packets {
            let number = turn.wrapping_mul(STRIDE) & (drill.flows - 1);
            let ran = self.world.run(target, &of_flow(drill.frame, drill.at, number), 1)?;
            times.push(ran.nanoseconds);
            verdict = Some(ran.verdict);
        }
        times.sort_by(f64::total_cmp);
        Ok((times.get(times.len() / 2).copied().ok_or("no packets")?, verdict))
    }

    fn live(&mut self, target: Target, drill: &Drill<'_>, packets: u32) -> Result<f64> {
        let (world, near) = (&self.world, &mut self.near);
        world.with(target, |program| near.update_prog(program))??;
        let figures = || world.with(target, |program| live::figures(program.as_fd()))?;
        let _on = live::figures_on()?;
        let before = figures()?;
        world.send_live(drill.frame, self.wire.far, packets)?;
        // What the last batch left to the kernel's own threads.
        let patience = Instant::now() + Duration::from_secs(5);
        loop {
            let after = figures()?;
            let runs = after.0 - before.0;
            if runs == u64::from(packets) {
                return Ok((after.1 - before.1) as f64 / f64::from(packets));
            }
            if runs > u64::from(packets) || Instant::now() > patience {
                return Err(format!("{runs} of {packets} live frames arrived").into());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// A case in its world.
struct Course<'a> {
    case: &'a Case,
    frame: Vec<u8>,
    /// New flows go on where the last measurement ended.
    turn: u32,
}

impl<'a> Course<'a> {
    /// Opens the flows and makes the frame to measure.
    fn prepare(case: &'a Case, world: &World) -> Result<Course<'a>> {
        let mut course = Course { case, frame: case.frame(), turn: 0 };
        match case.kind {
            Kind::Hit => world.establish(case)?,
            Kind::Reply => {
                // A datagram and its answer: from then on the flow is established, and replies of it are hits.
                let forwarded = world.run(Target::Product, &course.frame, 1)?.bytes;
                course.frame = answer(&forwarded);
                world.run(Target::Product, &course.frame, 1)?;
            }
            Kind::New => {
                world.aim(&course.drill(), 0)?;
                world.call(Target::Product)?;
                world.run(Target::Each, &course.frame, TABLE)?;
                course.turn = TABLE;
            }
            Kind::Foreign => {}
        }
        Ok(course)
    }

    fn drill(&self) -> Drill<'_> {
        Drill { frame: &self.frame, flows: self.case.flows, at: self.case.at(), room: self.case.room }
    }

    /// The yardstick has one key where the case's flows are all new: many would say nothing about one lookup.
    fn keys(&self) -> u32 {
        if self.case.kind == Kind::New { 1 } else { self.case.flows }
    }

    /// That exactly these packets took the case's path, by the verdict and by how the VIPs' counters moved.
    fn prove(&self, (before, after): (Stats, Stats), verdict: Option<u32>, packets: u32) -> Result<()> {
        let moved = [
            after.packets.wrapping_sub(before.packets),
            after.reply_packets.wrapping_sub(before.reply_packets),
            after.flows.wrapping_sub(before.flows),
            after.drops.wrapping_sub(before.drops),
        ];
        let n = u64::from(packets);
        let (wanted, wanted_verdict) = match self.case.kind {
            Kind::Hit => ([n, 0, 0, 0], XDP_TX),
            Kind::Reply => ([0, n, 0, 0], XDP_TX),
            Kind::New => ([n, 0, n, 0], XDP_TX),
            Kind::Foreign => ([0, 0, 0, 0], XDP_PASS),
        };
        if moved == wanted && verdict.is_none_or(|verdict| verdict == wanted_verdict) {
            return Ok(());
        }
        Err(format!(
            "{}: verdict {verdict:?}, packets, replies, flows and drops moved by {moved:?}; expected {wanted_verdict}, {wanted:?}",
            self.case.name
        )
        .into())
    }

    /// The program, the yardstick and the floor, each once.
    fn round(&mut self, bench: &mut Bench, method: Method, packets: u32) -> Result<Value> {
        let packets = match (method, self.case.kind) {
            (Method::Single, _) => SINGLES,
            // Each costs several times a hit, and their addresses must suffice.
            (_, Kind::New) => packets / 4,
            _ => packets,
        };
        let (keys, turn) = (self.keys(), self.turn);
        let drill = self.drill();
        let yardstick = Drill { flows: keys, ..self.drill() };
        let (mut floor, _) = bench.time(method, Target::Empty, &drill, turn, packets)?;
        if method == Method::Repeat && self.case.room != 0 {
            let (grow, _) = bench.time(method, Target::Grow, &drill, turn, packets)?;
            floor += (grow - floor) / 2.0;
        }
        let (floor_of_keys, _) = bench.time(method, Target::Empty, &yardstick, 0, packets)?;
        let (lookup, verdict) = bench.time(method, Target::Lookup, &yardstick, 0, packets)?;
        if verdict.is_some_and(|verdict| verdict != XDP_TX) {
            return Err(format!("{}: the yardstick did not find its key", self.case.name).into());
        }
        let mut ours = self.product(bench, method, self.case.guard, packets)?;
        if self.case.guard.is_some() {
            ours -= self.product(bench, method, None, packets)?;
        } else {
            ours -= floor;
        }
        Ok(json!({ "ours": ours, "lookup": lookup - floor_of_keys }))
    }

    /// The program, with this guard: nanoseconds per packet, the method's own included.
    fn product(&mut self, bench: &mut Bench, method: Method, guard: Option<Guard>, packets: u32) -> Result<f64> {
        self.guard(&bench.world, guard)?;
        let before = bench.world.stats()?;
        let (taken, verdict) = bench.time(method, Target::Product, &self.drill(), self.turn, packets)?;
        self.prove((before, bench.world.stats()?), verdict, packets)?;
        if self.case.kind == Kind::New {
            self.turn += packets;
        }
        Ok(taken)
    }

    fn guard(&self, world: &World, guard: Option<Guard>) -> Result<()> {
        self.case.service.map_or(Ok(()), |service| world.guard(service, guard))
    }
}

/// The case's rounds by every method: `{method: [{ours, lookup}, …]}`.
fn measure(case: &Case, bench: &mut Bench, rounds: u32, packets: u32) -> Result<Map<String, Value>> {
    let mut course = Course::prepare(case, &bench.world)?;
    bench.world.keys(&course.frame, course.keys(), case.at())?;
    let mut methods = Map::new();
    for (method, name) in METHODS {
        let samples = (0..rounds).map(|_| course.round(bench, method, packets)).collect::<Result<Vec<_>>>()?;
        methods.insert(name.to_owned(), samples.into());
    }
    Ok(methods)
}

/// Map lookups, and updates and deletes, per packet: mean over packets of a copy that counts them; of a guard, what it adds.
fn count(case: &Case, world: &World) -> Result<(f64, f64)> {
    let mut course = Course::prepare(case, world)?;
    let (lookups, changes) = count_with(&mut course, world, case.guard)?;
    if case.guard.is_none() {
        return Ok((lookups, changes));
    }
    let without = count_with(&mut course, world, None)?;
    Ok((lookups - without.0, changes - without.1))
}

fn count_with(course: &mut Course<'_>, world: &World, guard: Option<Guard>) -> Result<(f64, f64)> {
    let packets = 1 << 12;
    course.guard(world, guard)?;
    let (before, stats) = (world.tally()?, world.stats()?);
    world.aim(&course.drill(), course.turn)?;
    world.call(Target::Product)?;
    let ran = world.run(Target::Each, &course.frame, packets)?;
    course.prove((stats, world.stats()?), Some(ran.verdict), packets)?;
    course.turn += packets;
    let after = world.tally()?;
    let mean = |after: u64, before: u64| (after - before) as f64 / f64::from(packets);
    Ok((mean(after.0, before.0), mean(after.1, before.1)))
}

/// Measures the cases whose name contains `only`, and prints them as JSON.
pub(crate) fn run(rounds: u32, packets: u32, core: usize, only: &str) -> Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(core)?;
    sched_setaffinity(Pid::from_raw(0), &cpus)?;
    let wire = Wire::new()?;
    let workshop = Workshop::new()?;
    let mut cases = Case::all()?;
    cases.retain(|case| case.name.contains(only));
    let mut results = Vec::new();
    let mut shared = None;
    // One at a time is attached: those in a world of their own come last.
    cases.sort_by_key(Case::wants_its_own_world);
    for case in &cases {
        if case.wants_its_own_world() {
            shared = None;
        }
        let mut bench = match shared.take() {
            Some(bench) => bench,
            None => Bench::new(World::product(&workshop, wire.near)?, wire)?,
        };
        results.push(measure(case, &mut bench, rounds, packets)?);
        shared = (!case.wants_its_own_world()).then_some(bench);
    }
    drop(shared);
    // The counters make the program larger: where the verifier refuses the copy, the times still stand.
    let counting =
        World::counted(&workshop, wire.near).map_err(|error| eprintln!("eg-bench: not counted: {error}")).ok();
    let mut rows = Vec::new();
    for (case, methods) in cases.iter().zip(results) {
        let counts = counting.as_ref().map(|world| count(case, world)).transpose()?;
        let (lookups, changes) = counts.unzip();
        rows.push(json!({ "case": case.name, "methods": methods, "lookups": lookups, "changes": changes }));
    }
    println!("{}", serde_json::to_string(&rows)?);
    Ok(())
}
