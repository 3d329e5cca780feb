// SPDX-License-Identifier: GPL-3.0-only
//! A task's deadline, and its way to hear that the worker drains.
//!
//! Deadlines here are seconds long and nearly always moved before they pass, so a timer wheel would only cost: setting one
//! is a store, and the worker's tick (every 50 ms) looks through all of them. A hundred thousand watches make that pass
//! under a millisecond.

use super::Worker;
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

#[derive(Default)]
struct Slot {
    deadline: Option<Instant>,
    waker: Option<Waker>,
}

/// The watches of one worker.
#[derive(Default)]
pub(super) struct Watches {
    slots: Vec<Slot>,
    free: Vec<usize>,
}

impl Watches {
    pub(super) fn wake_expired(&mut self, now: Instant) {
        for slot in &mut self.slots {
            if slot.deadline.is_some_and(|deadline| deadline <= now)
                && let Some(waker) = slot.waker.take()
            {
                waker.wake();
            }
        }
    }

    pub(super) fn wake_all(&mut self) {
        for waker in self.slots.iter_mut().filter_map(|slot| slot.waker.take()) {
            waker.wake();
        }
    }

    fn insert(&mut self) -> usize {
        match self.free.pop() {
            Some(key) => key,
            None => {
                self.slots.push(Slot::default());
                self.slots.len() - 1
            }
        }
    }
}

/// One task's entry. Its task is woken when its deadline passes and when the worker's phase or snapshot changes.
pub struct Watch {
    worker: Rc<Worker>,
    key: usize,
}

impl Watch {
    /// A watch without a deadline.
    pub fn new(worker: &Rc<Worker>) -> Watch {
        let key = worker.watches.borrow_mut().insert();
        Watch { worker: Rc::clone(worker), key }
    }

    /// Sets the deadline to `after` from now, in place of any other.
    pub fn arm(&self, after: Duration) {
        self.set(self.worker.now().checked_add(after));
    }

    /// Takes the deadline away.
    pub fn disarm(&self) {
        self.set(None);
    }

    /// Registers the current task to be woken, and says whether the deadline has passed.
    pub fn expired(&self, cx: &Context<'_>) -> bool {
        let now = self.worker.now();
        let mut watches = self.worker.watches.borrow_mut();
        let Some(slot) = watches.slots.get_mut(self.key) else { return false };
        if !slot.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            slot.waker = Some(cx.waker().clone());
        }
        slot.deadline.is_some_and(|deadline| deadline <= now)
    }

    /// The worker that this watch belongs to.
    pub fn worker(&self) -> &Rc<Worker> {
        &self.worker
    }

    fn set(&self, deadline: Option<Instant>) {
        if let Some(slot) = self.worker.watches.borrow_mut().slots.get_mut(self.key) {
            slot.deadline = deadline;
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut watches = self.worker.watches.borrow_mut();
        let waker = watches.slots.get_mut(self.key).and_then(|slot| std::mem::take(slot).waker);
        watches.free.push(self.key);
        drop(watches);
        // A waker's drop may run a task's drop, which may hold another watch: only after our borrow has ended.
        drop(waker);
    }
}
