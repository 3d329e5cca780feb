// SPDX-License-Identifier: GPL-3.0-only
//! BPF_PROG_TEST_RUN of one program, from any thread.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Arc, Mutex};

use eg_abi::Count;
use eg_skel::program::{self, Ran};

use super::hook::Hook;
use super::judge;

/// What the program returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Aborted,
    Drop,
    Pass,
    Tx,
    Redirect,
}

/// What became of one packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub verdict: Verdict,
    pub bytes: Vec<u8>,
}

/// A program and the count of what it was given.
pub struct Runner {
    program: OwnedFd,
    hook: Hook,
    /// MACs that frames go to, and by which interface.
    ways: Vec<(Vec<u8>, u32)>,
    given: Arc<Mutex<Count>>,
}

impl Runner {
    pub(super) fn new(program: OwnedFd, ways: Vec<(Vec<u8>, u32)>, given: Arc<Mutex<Count>>) -> Runner {
        Runner { program, hook: Hook::current(), ways, given }
    }

    /// Makes this thread's network namespace the one that frames come in by.
    pub fn prepare(&self) {
        self.hook.prepare_thread();
    }

    /// Lets one frame come in.
    ///
    /// # Panics
    /// If the kernel does not run the program, or it returns no verdict of its hook's.
    pub fn receive(&self, frame: &[u8]) -> Outcome {
        self.hook.prepare_thread();
        let ran = program::run(self.program.as_fd(), frame, 0, 0);
        if self.hook.is_no_skb(&ran, frame) {
            return Outcome { verdict: Verdict::Pass, bytes: frame.to_vec() };
        }
        let Ran { answer, bytes } = ran.unwrap_or_else(|error| panic!("run on {} bytes: {error}", frame.len()));
        let verdict = self.hook.verdict(answer, &bytes, &self.ways);
        *self.given.lock().expect("the count") += Count { packets: 1, bytes: judge::l3_bytes(frame) };
        Outcome { verdict, bytes }
    }
}
