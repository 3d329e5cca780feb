// SPDX-License-Identifier: GPL-3.0-only
//! Holds fragments that came before their first, and lets them come in again when the programs know their datagram.
//!
//! The programs cannot wait, so they hand such a frame out by a perf buffer (`bpf/maps/frags.h`), and it counts nowhere
//! yet. Here it waits, bounded (`waiting`), until `eg_frags` has its datagram; then the attached program runs on it as
//! if the interface had just received it, and counts it. What waits in vain goes to `eg_xdp_give_up` in the same way,
//! which drops and counts it at a VIP's address, and leaves it to the stack elsewhere. Nothing is reassembled.
//!
//! A thread of its own, so that a flood of fragments takes time from nobody else; it sleeps until one comes. What it holds
//! when the process dies is lost uncounted, at most as many as `waiting` allows; from then on the programs find nobody to
//! hand to, and drop. Kernels before 5.18 have no way back in: there nothing is held.

mod waiting;

use std::cell::RefCell;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use eg_skel::abi::{FRAG_DONE, FRAG_PORTS, FRAG_TIMEOUT_MS, Frag, FragKey, Held, Plain};
use eg_skel::{Maps, live};
use libbpf_rs::{MapHandle, PerfBuffer, PerfBufferBuilder};
use nix::time::{ClockId, clock_gettime};

use super::error::DatapathError;
use waiting::{Frame, Waiting};

/// Pages of each CPU's perf buffer, 256 KiB: some 160 full frames, which is what one CPU hands out in a millisecond at
/// 160,000 early fragments a second. More are dropped and counted by the programs.
const PAGES: usize = 64;
/// How often the datagrams of held fragments are looked up. Their firsts are a few packets behind, so most are known at
/// the first look; each look costs a lookup for each datagram held.
const LOOK: Duration = Duration::from_millis(2);
/// How soon the thread sees that it is to end while nothing is held.
const IDLE: Duration = Duration::from_millis(250);
/// An entry of `eg_frags` that is about to end: what comes in again might miss it and be handed out once more.
const KNOWN_FOR: Duration = Duration::from_millis(FRAG_TIMEOUT_MS as u64 / 2);

/// What became of held fragments since the process began.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    resumed: AtomicU64,
    expired: AtomicU64,
    crowded: AtomicU64,
    failed: AtomicU64,
    now: AtomicU64,
}

/// One reading of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeldFragments {
    /// Their datagram became known, and they came in again.
    pub resumed: u64,
    /// Their first did not come in time.
    pub expired: u64,
    /// There was no room for them.
    pub crowded: u64,
    /// The kernel did not take them back.
    pub failed: u64,
    /// Waiting at this moment.
    pub now: u64,
}

impl Counters {
    pub(crate) fn read(&self) -> HeldFragments {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        HeldFragments {
            resumed: of(&self.resumed),
            expired: of(&self.expired),
            crowded: of(&self.crowded),
            failed: of(&self.failed),
            now: of(&self.now),
        }
    }
}

/// What of a loaded object it needs.
pub(crate) struct Parts {
    /// The perf event array.
    pub(crate) held: MapHandle,
    pub(crate) ingress: OwnedFd,
    pub(crate) give_up: OwnedFd,
}

/// The running thread; it ends soon after this is dropped.
pub(crate) struct Fragments {
    stop: Arc<AtomicBool>,
}

impl Drop for Fragments {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Fragments {
    /// Starts holding for one object; `None` where the kernel cannot take frames back.
    pub(crate) fn start(
        parts: Parts,
        maps: Arc<Maps>,
        counters: Arc<Counters>,
    ) -> Result<Option<Fragments>, DatapathError> {
        if !live::supported() {
            tracing::warn!("this kernel takes no frames back (5.18 does): fragments before their first are dropped");
            return Ok(None);
        }
        let stop = Arc::new(AtomicBool::new(false));
        let end = Arc::clone(&stop);
        let holder = Holder { parts, maps, counters, waiting: Waiting::default() };
        std::thread::Builder::new()
            .name("eg-fragments".into())
            .spawn(move || {
                if let Err(error) = holder.run(&end) {
                    tracing::error!(%error, "fragments before their first are dropped from now on");
                }
            })
            .map_err(DatapathError::system("start the thread that holds fragments"))?;
        Ok(Some(Fragments { stop }))
    }
}

struct Holder {
    parts: Parts,
    maps: Arc<Maps>,
    counters: Arc<Counters>,
    waiting: Waiting,
}

/// Filled by the perf buffer's callback, on the same thread.
type Inbox = Rc<RefCell<Vec<(FragKey, Frame)>>>;

impl Holder {
    fn run(mut self, stop: &AtomicBool) -> Result<(), libbpf_rs::Error> {
        let inbox = Inbox::default();
        let perf = open(&self.parts.held, Rc::clone(&inbox))?;
        while !stop.load(Ordering::Relaxed) {
            let timeout = if self.waiting.fragments() == 0 { IDLE } else { LOOK };
            if let Err(error) = perf.poll(timeout)
                && error.kind() != libbpf_rs::ErrorKind::Interrupted
            {
                return Err(error);
            }
            self.step(&inbox, Instant::now());
        }
        drop(perf);
        let rest = self.waiting.drain();
        self.give_up(&rest, &self.counters.expired);
        self.counters.now.store(0, Ordering::Relaxed);
        Ok(())
    }

    fn step(&mut self, inbox: &Inbox, now: Instant) {
        let arrived = std::mem::take(&mut *inbox.borrow_mut());
        for (key, frame) in arrived {
            let crowded = self.waiting.hold(key, frame, now);
            self.give_up(&crowded, &self.counters.crowded);
        }
        let clock = monotonic();
        let maps = &self.maps;
        let ready = self.waiting.ready(|key| {
            // A map that cannot be read now is read at the next look, or the fragment's time ends.
            maps.frags.get(key).ok().flatten().is_some_and(|entry| is_known(&entry, clock))
        });
        for frame in &ready {
            match live::receive(self.parts.ingress.as_fd(), &frame.bytes, frame.ifindex) {
                Ok(()) => add(&self.counters.resumed),
                Err(error) => self.fail(frame, &error),
            }
        }
        let expired = self.waiting.expired(now);
        self.give_up(&expired, &self.counters.expired);
        self.counters.now.store(self.waiting.fragments() as u64, Ordering::Relaxed);
    }

    fn give_up(&self, frames: &[Frame], counter: &AtomicU64) {
        for frame in frames {
            match live::receive(self.parts.give_up.as_fd(), &frame.bytes, frame.ifindex) {
                Ok(()) => add(counter),
                Err(error) => self.fail(frame, &error),
            }
        }
    }

    /// The interface is gone, for one. The frame is lost, but counted.
    fn fail(&self, frame: &Frame, error: &std::io::Error) {
        add(&self.counters.failed);
        tracing::debug!(%error, ifindex = frame.ifindex, "a held fragment cannot come in again");
        if let Err(error) = live::count(self.parts.give_up.as_fd(), &frame.bytes) {
            tracing::debug!(%error, "a held fragment is lost uncounted");
        }
    }
}

fn open(map: &MapHandle, inbox: Inbox) -> Result<PerfBuffer<'static>, libbpf_rs::Error> {
    let take = move |_cpu: i32, record: &[u8]| {
        let Some((head, rest)) = record.split_at_checked(size_of::<Held>()) else { return };
        let Some(held) = Held::from_bytes(head) else { return };
        // The kernel pads a record to eight bytes.
        let Some(bytes) = rest.get(..held.length as usize) else { return };
        inbox.borrow_mut().push((held.key, Frame { ifindex: held.ifindex, bytes: bytes.to_vec() }));
    };
    PerfBufferBuilder::new(map).pages(PAGES).sample_cb(take).build()
}

/// Will the program find the first fragment's ports if the rest comes in again now?
fn is_known(entry: &Frag, clock: Duration) -> bool {
    let age = clock.saturating_sub(Duration::from_nanos(entry.born));
    entry.flags & FRAG_PORTS != 0 && entry.flags & FRAG_DONE == 0 && age < KNOWN_FOR
}

/// The programs' clock.
fn monotonic() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from)
}

fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_is_known_while_its_entry_has_ports_and_is_neither_complete_nor_about_to_end() {
        let born = Duration::from_secs(100);
        let entry = Frag { born: born.as_nanos() as u64, flags: FRAG_PORTS, ..Frag::default() };
        assert!(is_known(&entry, born));
        assert!(is_known(&entry, born + KNOWN_FOR / 2));
        assert!(!is_known(&entry, born + KNOWN_FOR));
        assert!(!is_known(&Frag { flags: 0, ..entry }, born));
        assert!(!is_known(&Frag { flags: FRAG_PORTS | FRAG_DONE, ..entry }, born));
    }
}
