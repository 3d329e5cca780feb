// SPDX-License-Identifier: GPL-3.0-only
//! One loaded copy of the XDP program with maps of its own, filled with the VIPs and backends of the cases; and the harness
//! program that feeds it.

mod fill;

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};

use eg_abi::{Plain, Stats};
use eg_skel::features::{self, XDP_HAS_FRAGS};
use eg_skel::xdp_ingress::{IngressSkel, IngressSkelBuilder};
use libbpf_rs::skel::{OpenSkel, Skel, SkelBuilder};
use libbpf_rs::{Map, MapCore, MapFlags, Object, ProgramInput, ProgramMut};
use libbpf_sys::xdp_md;

use crate::Result;
use crate::cases::Service;
use crate::compile::Workshop;
use crate::frame::LENGTH;

/// Of the flow table: a million flows of two halves, the gateway's default.
const FLOW_ENTRIES: u32 = 2_000_000;
/// A frame may grow by this: an outer IPv6 header, UDP and GUE.
const ROOM_MAX: usize = 64;
/// `BPF_F_TEST_XDP_LIVE_FRAMES`
const LIVE_FRAMES: u32 = 1 << 1;

pub(crate) struct World {
    program: Program,
    harness: Object,
    /// Where packets come from. The backends are behind the same interface, which makes the verdict XDP_TX.
    near: u32,
}

enum Program {
    /// As the gateway loads it: the same object, the same probes.
    Product(Box<IngressSkel<'static>>),
    /// Compiled anew, with counters before each lookup and change of a map.
    Counted(Object),
}

impl World {
    /// The program that is timed.
    pub(crate) fn product(workshop: &Workshop, near: u32) -> Result<World> {
        // A few hundred bytes a case, for as long as this short-lived process runs.
        let storage = Box::leak(Box::new(MaybeUninit::uninit()));
        let mut open = IngressSkelBuilder::default().open(storage)?;
        let frags = features::xdp_frags();
        let rodata = open.maps.rodata_data.as_deref_mut().ok_or("the program has no rodata")?;
        rodata.eg_jiffies_hz = features::jiffies_hz()?;
        rodata.eg_xdp_frags = u8::from(frags);
        open.maps.eg_flows.set_max_entries(FLOW_ENTRIES)?;
        if frags {
            for mut program in open.open_object_mut().progs_mut() {
                program.set_flags(XDP_HAS_FRAGS);
            }
        }
        World::new(Program::Product(Box::new(open.load()?)), workshop, near, frags)
    }

    /// The copy that counts.
    pub(crate) fn counted(workshop: &Workshop, near: u32) -> Result<World> {
        let mut open = workshop.open("bpf/xdp/ingress.bpf.c", &Workshop::counters())?;
        let flows = open.maps_mut().find(|map| map.name() == "eg_flows");
        flows.ok_or("no map eg_flows")?.set_max_entries(FLOW_ENTRIES)?;
        World::new(Program::Counted(open.load()?), workshop, near, false)
    }

    /// The kernel lets programs tail-call each other only if they agree on `frags`.
    fn new(program: Program, workshop: &Workshop, near: u32, frags: bool) -> Result<World> {
        let mut open = workshop.open("tools/bench/bpf/bench.bpf.c", &[])?;
        for mut program in open.progs_mut() {
            let wanted = program.name() != "bench_syscall";
            program.set_autoload(wanted);
            if frags && wanted {
                program.set_flags(XDP_HAS_FRAGS);
            }
        }
        let world = World { program, harness: open.load()?, near };
        world.fill()?;
        Ok(world)
    }

    /// Keys for the yardstick: `flows` of them, told apart as the harness tells flows apart.
    pub(crate) fn keys(&self, frame: &[u8], flows: u32, at: usize) -> Result<()> {
        let table = find(&self.harness, "bench_keys")?;
        for flow in 0..flows {
            table.update(&of_flow(frame, at, flow)[26..66], &1u64.to_ne_bytes(), MapFlags::ANY)?;
        }
        Ok(())
    }

    /// What the harness's programs do from here on.
    pub(crate) fn aim(&self, drill: &Drill<'_>, turn: u32) -> Result<()> {
        let mut state = drill.frame.get(..LENGTH).ok_or("a frame is too short")?.to_vec();
        let words = [drill.flows - 1, drill.at as u32, turn, STRIDE, drill.frame.len() as u32, drill.room];
        for word in words {
            state.extend_from_slice(&word.to_ne_bytes());
        }
        let bss = self.harness.maps().find(|m| m.name().to_string_lossy().ends_with(".bss")).ok_or("no .bss")?;
        Ok(bss.update(&0u32.to_ne_bytes(), &state, MapFlags::ANY)?)
    }

    /// Which program `bench_each` calls.
    pub(crate) fn call(&self, target: Target) -> Result<()> {
        let fd = self.with(target, |program| program.as_fd().as_raw_fd())?;
        Ok(find(&self.harness, "bench_target")?.update(&0u32.to_ne_bytes(), &fd.to_ne_bytes(), MapFlags::ANY)?)
    }

    /// Runs a program `repeat` times on a frame that came in by the wire's near end. Returns its last verdict, what it made of the
    /// frame, and nanoseconds per run.
    pub(crate) fn run(&self, target: Target, frame: &[u8], repeat: u32) -> Result<Ran> {
        let context = xdp_md { data_end: frame.len() as u32, ingress_ifindex: self.near, ..Default::default() };
        // SAFETY: plain integers, copied.
        let mut context: [u8; size_of::<xdp_md>()] = unsafe { std::mem::transmute(context) };
        let mut bytes = vec![0u8; frame.len() + ROOM_MAX];
        let output = self.with(target, |program| {
            program.test_run(ProgramInput {
                context_in: Some(&mut context),
                data_in: Some(frame),
                data_out: Some(&mut bytes),
                repeat,
                ..Default::default()
            })
        })??;
        Ok(Ran { verdict: output.return_value, nanoseconds: output.duration.as_nanos() as f64, bytes })
    }

    /// Sends `packets` of the drill out of the wire's far end.
    pub(crate) fn send_live(&self, frame: &[u8], far: u32, packets: u32) -> Result<()> {
        let context = xdp_md { data_end: frame.len() as u32, ingress_ifindex: far, ..Default::default() };
        // SAFETY: plain integers, copied.
        let mut context: [u8; size_of::<xdp_md>()] = unsafe { std::mem::transmute(context) };
        self.with(Target::Sender, |program| {
            program.test_run(ProgramInput {
                context_in: Some(&mut context),
                data_in: Some(frame),
                repeat: packets,
                flags: LIVE_FRAMES,
                ..Default::default()
            })
        })??;
        Ok(())
    }

    /// The figures of all VIPs together.
    pub(crate) fn stats(&self) -> Result<Stats> {
        let mut all = Stats::default();
        let map = self.map("eg_vip_stats")?;
        for id in 1..=Service::all()?.len() as u32 {
            for cpu in map.lookup_percpu(&id.to_ne_bytes(), MapFlags::ANY)?.unwrap_or_default() {
                all += cpu.get(..size_of::<Stats>()).and_then(Stats::from_bytes).ok_or("eg_vip_stats: short value")?;
            }
        }
        Ok(all)
    }

    /// (lookups, updates and deletes) so far, of a `counted` world.
    pub(crate) fn tally(&self) -> Result<(u64, u64)> {
        let map = self
            .object(Target::Product)
            .maps()
            .find(|m| m.name().to_string_lossy().ends_with(".bss.bench"))
            .ok_or("no .bss.bench")?;
        let value = map.lookup(&0u32.to_ne_bytes(), MapFlags::ANY)?.ok_or(".bss.bench is empty")?;
        let word = |at: usize| value.get(at..at + 8).and_then(|b| b.try_into().ok()).map(u64::from_ne_bytes);
        Ok((word(0).ok_or("short .bss.bench")?, word(8).ok_or("short .bss.bench")?))
    }

    fn object(&self, target: Target) -> &Object {
        match (target, &self.program) {
            (Target::Product, Program::Product(skeleton)) => skeleton.object(),
            (Target::Product, Program::Counted(object)) => object,
            _ => &self.harness,
        }
    }

    /// Does something with one of the programs.
    pub(crate) fn with<T>(&self, target: Target, act: impl FnOnce(&ProgramMut<'_>) -> T) -> Result<T> {
        let name = target.name();
        let program = self.object(target).progs_mut().find(|p| p.name() == name);
        Ok(act(&program.ok_or_else(|| format!("no program {name}"))?))
    }

    fn map(&self, name: &str) -> Result<Map<'_>> {
        find(self.object(Target::Product), name)
    }
}

/// What a turn's number is multiplied by to get its flow's, modulo a power of two. Odd, so that turns visit every flow once;
/// large, so that no prefetcher foresees the order: visiting flows as they were made would read their entries in a row.
pub(crate) const STRIDE: u32 = 2_654_435_761;

/// Packets to be sent: a frame, and how its packets differ.
pub(crate) struct Drill<'a> {
    pub(crate) frame: &'a [u8],
    /// How many flows, a power of two.
    pub(crate) flows: u32,
    /// Where in the frame the four bytes lie that tell them apart.
    pub(crate) at: usize,
    /// Of the outer header that `Target::Grow` makes.
    pub(crate) room: u32,
}

pub(crate) struct Ran {
    pub(crate) verdict: u32,
    pub(crate) nanoseconds: f64,
    pub(crate) bytes: Vec<u8>,
}

/// A program: the one under test, and those of the harness.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    Product,
    /// The yardstick.
    Lookup,
    Empty,
    Grow,
    /// Restores the frame and calls what [`World::call`] said.
    Each,
    /// Restores the frame and sends it.
    Sender,
    /// Takes what comes back.
    Drop,
}

impl Target {
    fn name(self) -> &'static str {
        match self {
            Target::Product => "eg_xdp_ingress",
            Target::Lookup => "bench_lookup",
            Target::Empty => "bench_empty",
            Target::Grow => "bench_grow",
            Target::Each => "bench_each",
            Target::Sender => "bench_live",
            Target::Drop => "bench_drop",
        }
    }
}

/// The frame of flow `number`, as bench.bpf.c makes it.
pub(crate) fn of_flow(frame: &[u8], at: usize, number: u32) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame.iter_mut().skip(at).zip(number.to_be_bytes()).for_each(|(byte, bits)| *byte ^= bits);
    frame
}

fn find<'a>(object: &'a Object, name: &str) -> Result<Map<'a>> {
    object.maps().find(|m| m.name() == name).ok_or_else(|| format!("no map {name}").into())
}
