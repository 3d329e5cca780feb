// SPDX-License-Identifier: GPL-3.0-only
//! The program behind `egctl explain`, beside the one that it explains: before each frame that a [`super::Gateway`]
//! receives, the twin is asked what will become of it, over the same maps, and the two must agree. So the whole packet
//! table is the twin's test, on XDP and on tc.
//!
//! What is compared: verdict, reason of a drop (by the live program's own counter) and every byte that comes out. What may
//! differ, and why:
//! - a fragment that waits for its first: whether somebody holds it is not the program's to know;
//! - a choice by chance: another draw, so only verdict and reason are compared;
//! - the source port of a new flow: the search begins at a port of the tick's;
//! - the identification of a datagram, which the first of its fragments draws.

use std::cell::{Cell, RefCell};
use std::mem::MaybeUninit;

use eg_abi::Drop as Reason;
use eg_skel::twin::{Action, Outcome as Said, Told, Twin};
use libbpf_rs::{MapCore as _, MapHandle, Object};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use super::hook::Hook;
use super::judge;
use super::runner::{Outcome, Verdict};

/// The twin of one gateway.
pub(super) struct Beside {
    twin: RefCell<Twin<'static>>,
    /// The live program's clock is the test's; the twin has its own.
    clock_stands: bool,
    /// Frames so far.
    frames: Cell<u32>,
}

/// Beyond these many frames of one gateway only each [`SELDOM`]th is asked about: what sends so many sends alike ones.
const MANY: u32 = 2_000;
const SELDOM: u32 = 16;

impl Beside {
    /// Over the maps of `live`.
    pub(super) fn load(live: &Object, clock_stands: bool, tell: impl FnOnce(&mut Told)) -> Beside {
        // Leaked, as the gateway's own object.
        let storage = Box::leak(Box::new(MaybeUninit::uninit()));
        let find = |name: &str| {
            let map = live.maps().find(|map| map.name() == name).expect("the live program has the twin's maps");
            MapHandle::try_from(&map)
        };
        let twin = Twin::load(storage, tell, find).unwrap_or_else(|error| panic!("{error}: {error:?}"));
        Beside { twin: RefCell::new(twin), clock_stands, frames: Cell::new(0) }
    }

    pub(super) fn explain(&self, frame: &[u8]) -> std::io::Result<Said> {
        self.twin.borrow_mut().run(frame, 0)
    }

    /// Runs the live program by `receive`, after the twin and on the same CPU: what is counted for each CPU is the same.
    pub(super) fn agrees(
        &self,
        frame: &[u8],
        drops: impl Fn(Reason) -> u64,
        receive: impl FnOnce() -> Outcome,
    ) -> Outcome {
        let so_far = self.frames.get();
        self.frames.set(so_far.wrapping_add(1));
        let seldom = so_far > MANY && !so_far.is_multiple_of(SELDOM);
        if self.clock_stands || seldom || out_of_sight(frame) {
            return receive();
        }
        let _still = Still::stand();
        let said = self.explain(frame).expect("run the twin");
        let before = said.noted.reason.map(&drops);
        let outcome = receive();
        let told = Hook::Xdp.verdict(number(said.action), &said.bytes, &[]);
        if said.noted.held && outcome.verdict == Verdict::Drop {
            return outcome;
        }
        assert_eq!(told, outcome.verdict, "the twin says {:?} of {frame:02x?}", said.noted);
        if let (Some(reason), Some(before)) = (said.noted.reason, before) {
            assert_eq!(drops(reason), before + 1, "the twin says {}: {:?}", reason.label(), said.noted);
        }
        let came_out = matches!(told, Verdict::Tx | Verdict::Redirect | Verdict::Pass);
        let moved = said.noted.fresh && port_moved(&said.bytes, &outcome.bytes);
        if came_out && !said.noted.random && !moved {
            let same = |bytes: &[u8]| without_identification(frame, bytes);
            assert_eq!(same(&said.bytes), same(&outcome.bytes), "the twin's frame, of {:?}", said.noted);
        }
        outcome
    }
}

/// tc is told by the kernel what XDP cannot see: that a frame was for another host. And its test run takes frames that
/// end within a header, of which it makes no packet.
fn out_of_sight(frame: &[u8]) -> bool {
    let gateway = super::frame::GATEWAY_MAC.octets();
    Hook::current() == Hook::Tc && (!frame.starts_with(&gateway) || frame.len() < 14 + 40)
}

fn number(action: Action) -> u32 {
    match action {
        Action::Aborted => 0,
        Action::Drop => 1,
        Action::Pass => 2,
        Action::Tx => 3,
        Action::Redirect => 4,
    }
}

/// Are the frames' ends and lengths the same but for the source port?
fn port_moved(said: &[u8], live: &[u8]) -> bool {
    let (Some(a), Some(b)) = (judge::read(said), judge::read(live)) else { return false };
    a.source.port() != b.source.port()
        && (a.source.ip(), a.destination, a.l4_length) == (b.source.ip(), b.destination, b.l4_length)
}

/// A rewritten fragment without its identification, and the checksum that covers it.
fn without_identification(frame: &[u8], bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let (Some(part), true) = (judge::fragment(frame), bytes.len() == frame.len()) else { return bytes };
    let check = (part.id.len() == 2).then_some(part.id.start + 6..part.id.start + 8);
    for place in [Some(part.id), check].into_iter().flatten() {
        if let Some(place) = bytes.get_mut(place) {
            place.fill(0);
        }
    }
    bytes
}

/// This thread stays on its CPU until this is dropped.
struct Still(Option<CpuSet>);

impl Still {
    fn stand() -> Still {
        let this = Pid::from_raw(0);
        let all = sched_getaffinity(this).ok();
        let mut one = CpuSet::new();
        let cpu = nix::sched::sched_getcpu().expect("a CPU");
        one.set(cpu).expect("a CPU of the set's");
        Still(all.filter(|_| sched_setaffinity(this, &one).is_ok()))
    }
}

impl Drop for Still {
    fn drop(&mut self) {
        if let Some(all) = &self.0 {
            let _ = sched_setaffinity(Pid::from_raw(0), all);
        }
    }
}
