// SPDX-License-Identifier: GPL-3.0-only
//! BPF_PROG_TEST_RUN of one program, from any thread.

use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::{Arc, Mutex};

use eg_abi::Count;

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
    pub(super) fn prepare(&self) {
        self.hook.prepare_thread();
    }

    /// Lets one frame come in.
    ///
    /// # Panics
    /// If the kernel does not run the program, or it returns no verdict of its hook's.
    pub fn receive(&self, frame: &[u8]) -> Outcome {
        self.hook.prepare_thread();
        let mut bytes = vec![0; frame.len() + 256];
        let mut options = libbpf_sys::bpf_test_run_opts {
            sz: size_of::<libbpf_sys::bpf_test_run_opts>() as libbpf_sys::size_t,
            data_in: frame.as_ptr().cast(),
            data_size_in: frame.len() as u32,
            data_out: bytes.as_mut_ptr().cast(),
            data_size_out: bytes.len() as u32,
            ..Default::default()
        };
        // SAFETY: the pointers are to live buffers of the lengths given with them, and the descriptor is open.
        let code = unsafe { libbpf_sys::bpf_prog_test_run_opts(self.program.as_raw_fd(), &raw mut options) };
        if self.hook.is_no_skb(code, frame) {
            return Outcome { verdict: Verdict::Pass, bytes: frame.to_vec() };
        }
        assert_eq!(code, 0, "run the program on {} bytes", frame.len());
        bytes.truncate(options.data_size_out as usize);
        let verdict = self.hook.verdict(options.retval, &bytes, &self.ways);
        *self.given.lock().expect("the count") += Count { packets: 1, bytes: judge::l3_bytes(frame) };
        Outcome { verdict, bytes }
    }
}
