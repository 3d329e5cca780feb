// SPDX-License-Identifier: GPL-3.0-only
//! A program that runs already: what it was told before it was loaded, and whether it was compiled.
//!
//! `egctl` asks, for a program that another process loaded: what holds is in the kernel, not in a configuration file that
//! may have changed since. Nothing here changes anything.

use std::io;
use std::mem::offset_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

use libbpf_rs::{MapCore, MapFlags, MapHandle};

use crate::xdp_capture::types::rodata as twin;
use crate::xdp_ingress::types::rodata;

/// A capture's twin is told the same, and then what to capture.
const _: () = {
    assert!(offset_of!(twin, eg_snat_port_min) == offset_of!(rodata, eg_snat_port_min));
    assert!(offset_of!(twin, eg_xdp_frags) == offset_of!(rodata, eg_xdp_frags));
    assert!(offset_of!(twin, eg_capture_until) > offset_of!(twin, eg_xdp_frags));
};

/// Maps that a program of ours may name; the kernel tells no more than we have room for.
const MAPS_MAX: usize = 64;

/// What is known about a loaded program.
#[derive(Clone, Debug)]
pub struct LoadedProgram {
    /// Machine code, not interpreted.
    pub jited: bool,
    maps: Vec<u32>,
}

/// What `eg_xdp_ingress` was told: `bpf/lib/tunables.h`, in its units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tunables {
    pub snat_port_min: u32,
    pub snat_port_max: u32,
    pub timeout_open_s: u32,
    pub timeout_closing_s: u32,
    pub timeout_opening_s: u32,
    pub timeout_udp_s: u32,
    pub jiffies_hz: u32,
}

impl From<rodata> for Tunables {
    fn from(told: rodata) -> Tunables {
        Tunables {
            snat_port_min: told.eg_snat_port_min,
            snat_port_max: told.eg_snat_port_max,
            timeout_open_s: told.eg_timeout_open_s,
            timeout_closing_s: told.eg_timeout_closing_s,
            timeout_opening_s: told.eg_timeout_opening_s,
            timeout_udp_s: told.eg_timeout_udp_s,
            jiffies_hz: told.eg_jiffies_hz,
        }
    }
}

impl LoadedProgram {
    /// The program with this id. Needs CAP_SYS_ADMIN, as whatever goes by ids does.
    ///
    /// # Errors
    /// It is gone, or the caller may not see it.
    pub fn open(id: u32) -> io::Result<LoadedProgram> {
        // SAFETY: takes a number and gives a descriptor or an error.
        let fd = unsafe { libbpf_sys::bpf_prog_get_fd_by_id(id) };
        if fd < 0 {
            return Err(io::Error::from_raw_os_error(-fd));
        }
        // SAFETY: the kernel just gave us this descriptor, and nobody else has it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let mut maps = vec![0u32; MAPS_MAX];
        let mut info = libbpf_sys::bpf_prog_info {
            nr_map_ids: MAPS_MAX as u32,
            map_ids: maps.as_mut_ptr().addr() as u64,
            ..Default::default()
        };
        let mut size = size_of::<libbpf_sys::bpf_prog_info>() as u32;
        // SAFETY: `info` is as large as `size` says, `maps` has room for the ids that it announces; both outlive the call.
        let answer = unsafe { libbpf_sys::bpf_prog_get_info_by_fd(fd.as_raw_fd(), &mut info, &mut size) };
        if answer < 0 {
            return Err(io::Error::from_raw_os_error(-answer));
        }
        maps.truncate(info.nr_map_ids as usize);
        Ok(LoadedProgram { jited: info.jited_prog_len > 0, maps })
    }

    /// What of it we judge flows by; `None` if it is no `eg_xdp_ingress` of this version.
    ///
    /// # Errors
    /// A map of its could not be read.
    pub fn tunables(&self) -> io::Result<Option<Tunables>> {
        Ok(self.told()?.map(Tunables::from))
    }

    /// All that it was told; `None` if it is no `eg_xdp_ingress` of this version.
    ///
    /// # Errors
    /// A map of its could not be read.
    pub fn told(&self) -> io::Result<Option<rodata>> {
        for &id in &self.maps {
            let map = MapHandle::from_map_id(id).map_err(io::Error::other)?;
            // libbpf shortens the object's name, never the section's.
            if !map.name().to_string_lossy().ends_with(".rodata") {
                continue;
            }
            let bytes = map.lookup(&0u32.to_ne_bytes(), MapFlags::ANY).map_err(io::Error::other)?.unwrap_or_default();
            // The section ends behind its last variable, the type at its alignment.
            let is_twins = bytes.len().next_multiple_of(align_of::<twin>()) == size_of::<twin>();
            if !is_twins && bytes.len().next_multiple_of(align_of::<rodata>()) != size_of::<rodata>() {
                continue;
            }
            let mut padded = bytes;
            padded.resize(size_of::<rodata>(), 0);
            // SAFETY: as many bytes as the type has, which is integers alone: any bytes are a value of it.
            let told = unsafe { ptr::read_unaligned(padded.as_ptr().cast::<rodata>()) };
            return Ok(Some(told));
        }
        Ok(None)
    }
}
