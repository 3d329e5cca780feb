// SPDX-License-Identifier: GPL-3.0-only
//! Programs of a few instructions, loaded without an object, and any program run on a frame of the caller's.
//!
//! [`features`](crate::features) asks the kernel with them, [`twin`](crate::twin) explains, [`live`](crate::live) lets frames
//! come in again; tests put them where a stranger's program would be. Both calls need CAP_BPF, and for packet programs
//! CAP_NET_ADMIN.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use libbpf_sys::bpf_insn;

/// Room that a frame may grow by: an outer header, or the headers of an ICMP error.
const GROWTH: usize = 256;

/// `exit`
pub const EXIT: bpf_insn = instruction(0x95, 0);

/// `rREGISTER = VALUE`
pub fn set(register: u8, value: i32) -> bpf_insn {
    let mut set = instruction(0xb7, value);
    set.set_dst_reg(register);
    set
}

/// `r0 = HELPER(r1, …)`, a number of `enum bpf_func_id`.
pub fn call(helper: u32) -> bpf_insn {
    instruction(0x85, helper.cast_signed())
}

const fn instruction(code: u8, imm: i32) -> bpf_insn {
    bpf_insn { code, _bitfield_align_1: [], _bitfield_1: libbpf_sys::__BindgenBitfieldUnit::new([0]), off: 0, imm }
}

/// Loads instructions as a program of `kind` (`BPF_PROG_TYPE_…`) with `flags` (`BPF_F_…`).
///
/// # Errors
/// The kernel refuses it.
pub fn load(kind: u32, name: &CStr, instructions: &[bpf_insn], flags: u32) -> io::Result<OwnedFd> {
    let mut options = libbpf_sys::bpf_prog_load_opts {
        sz: size_of::<libbpf_sys::bpf_prog_load_opts>() as libbpf_sys::size_t,
        prog_flags: flags,
        ..Default::default()
    };
    // SAFETY: the strings are NUL-terminated, instructions and options outlive the call, and the counts are theirs.
    let descriptor = unsafe {
        libbpf_sys::bpf_prog_load(
            kind,
            name.as_ptr(),
            c"GPL".as_ptr(),
            instructions.as_ptr(),
            instructions.len() as libbpf_sys::size_t,
            &raw mut options,
        )
    };
    if descriptor < 0 {
        return Err(io::Error::from_raw_os_error(-descriptor));
    }
    // SAFETY: the kernel just gave us this descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Loads a program that does nothing and returns `verdict`.
///
/// # Errors
/// The kernel refuses it.
pub fn returning(kind: u32, name: &CStr, verdict: i32) -> io::Result<OwnedFd> {
    load(kind, name, &[set(0, verdict), EXIT], 0)
}

/// What a run gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    /// The program's return value.
    pub answer: u32,
    /// The frame as the program left it; empty for live frames, which go where the answer says.
    pub bytes: Vec<u8>,
}

/// Runs a program once on a copy of `frame` (BPF_PROG_TEST_RUN).
///
/// `ifindex`: the interface by which an XDP program's frame comes in, of the calling thread's network namespace (Linux 5.15);
/// 0 is loopback, on any kernel and for any kind of program. `flags`: `BPF_F_TEST_…`.
///
/// # Errors
/// What the kernel says: EINVAL also for a frame of which it makes no packet.
pub fn run(program: BorrowedFd<'_>, frame: &[u8], ifindex: u32, flags: u32) -> io::Result<Ran> {
    let length = u32::try_from(frame.len()).map_err(io::Error::other)?;
    let context = libbpf_sys::xdp_md { data_end: length, ingress_ifindex: ifindex, ..Default::default() };
    let mut bytes = if flags == 0 { vec![0; frame.len() + GROWTH] } else { Vec::new() };
    let mut options = libbpf_sys::bpf_test_run_opts {
        sz: size_of::<libbpf_sys::bpf_test_run_opts>() as libbpf_sys::size_t,
        data_in: frame.as_ptr().cast(),
        data_size_in: length,
        repeat: 1,
        flags,
        ..Default::default()
    };
    if !bytes.is_empty() {
        options.data_out = bytes.as_mut_ptr().cast();
        options.data_size_out = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    }
    if ifindex != 0 {
        options.ctx_in = (&raw const context).cast();
        options.ctx_size_in = size_of_val(&context) as u32;
    }
    // SAFETY: the pointers are to live buffers and a context of the lengths given with them, and the descriptor is open.
    match unsafe { libbpf_sys::bpf_prog_test_run_opts(program.as_raw_fd(), &raw mut options) } {
        0 => {
            bytes.truncate(options.data_size_out as usize);
            Ok(Ran { answer: options.retval, bytes })
        }
        code => Err(io::Error::from_raw_os_error(-code)),
    }
}
