// SPDX-License-Identifier: GPL-3.0-only
//! What this kernel and this process can do, asked once and said by name.
//!
//! `--version` prints it, `app` decides by it whether L7 goes through socket lookup, and `load` refuses by it before
//! anything is touched. It asks by trying (a program of two instructions, a map of one page) and leaves nothing behind.

use std::fmt;
use std::fs;

use eg_skel::features;
use libbpf_rs::{MapType, ProgramType};

use super::attach::tc::tcx_programs;
use super::error::DatapathError;

/// Bits of the capability set, linux/capability.h.
const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

/// Every network namespace has this interface.
const LOOPBACK: u32 = 1;

/// Each fact is one line of `Display`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Capabilities that the process would need and lacks; without them the rest cannot be probed.
    pub missing: Vec<&'static str>,
    pub xdp: bool,
    pub tc: bool,
    /// Links for tc programs; without them a clsact filter.
    pub tcx: bool,
    /// Under tc: whether trains of IPv6 packets can be sent in IPv4.
    pub six_in_four: bool,
    pub sk_lookup: bool,
    pub ring_buffer: bool,
    pub lru_hash: bool,
    pub btf: bool,
    pub jit: bool,
}

impl Capabilities {
    /// Asks the running kernel.
    pub fn probe() -> Capabilities {
        let missing = missing_privileges();
        let may = missing.is_empty();
        Capabilities {
            xdp: may && ProgramType::Xdp.is_supported().unwrap_or(false),
            tc: may && ProgramType::SchedCls.is_supported().unwrap_or(false),
            tcx: may && tcx_programs(LOOPBACK, false).is_some(),
            six_in_four: may && features::skb_six_in_four(),
            sk_lookup: may && ProgramType::SkLookup.is_supported().unwrap_or(false),
            ring_buffer: may && MapType::RingBuf.is_supported().unwrap_or(false),
            lru_hash: may && MapType::LruHash.is_supported().unwrap_or(false),
            btf: fs::metadata("/sys/kernel/btf/vmlinux").is_ok(),
            // Unreadable without privilege on some kernels; an interpreter-only kernel says 0.
            jit: fs::read_to_string("/proc/sys/net/core/bpf_jit_enable").map_or(true, |value| value.trim() != "0"),
            missing,
        }
    }

    /// Whether L4 listeners can be carried.
    pub fn l4(&self) -> bool {
        self.missing.is_empty() && (self.xdp || self.tc) && self.ring_buffer && self.lru_hash
    }

    /// Whether L7 listeners can be reached without binding their addresses.
    pub fn steering(&self) -> bool {
        self.missing.is_empty() && self.sk_lookup
    }

    /// What the datapath cannot do without, as an error that names it.
    pub(crate) fn require(&self) -> Result<(), DatapathError> {
        if !self.missing.is_empty() {
            return Err(DatapathError::Privilege { missing: self.missing.clone() });
        }
        let needed = [
            (self.xdp || self.tc, "both XDP and tc programs"),
            (self.sk_lookup, "sk_lookup (Linux 5.9)"),
            (self.ring_buffer, "BPF ring buffers (Linux 5.8)"),
        ];
        match needed.iter().find(|(present, _)| !present) {
            Some((_, what)) => Err(DatapathError::Plan { problem: format!("this kernel lacks {what}") }),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.missing.is_empty() {
            return write!(
                f,
                "kernel datapath: not available, the process lacks {}\nbtf: {}",
                self.missing.join(" and "),
                yes(self.btf)
            );
        }
        writeln!(f, "xdp: {}", yes(self.xdp))?;
        writeln!(
            f,
            "tc: {}",
            if self.tc && self.tcx {
                "yes, by tcx"
            } else if self.tc {
                "yes, by clsact"
            } else {
                "no"
            }
        )?;
        writeln!(f, "sk_lookup: {}", yes(self.sk_lookup))?;
        writeln!(f, "ring buffer: {}", yes(self.ring_buffer))?;
        writeln!(f, "lru hash: {}", yes(self.lru_hash))?;
        writeln!(f, "btf: {}", yes(self.btf))?;
        write!(f, "jit: {}", if self.jit { "yes" } else { "no (packets are interpreted, slowly)" })
    }
}

fn yes(present: bool) -> &'static str {
    if present { "yes" } else { "no" }
}

/// CAP_SYS_ADMIN stands for CAP_BPF and CAP_PERFMON, which Linux 5.8 split from it (capabilities(7)).
fn missing_privileges() -> Vec<&'static str> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = effective(&status);
    let has = |bit: u32| effective & (1 << bit) != 0;
    let all = has(CAP_SYS_ADMIN);
    let mut missing = Vec::new();
    if !has(CAP_BPF) && !all {
        missing.push("CAP_BPF");
    }
    if !has(CAP_PERFMON) && !all {
        missing.push("CAP_PERFMON");
    }
    if !has(CAP_NET_ADMIN) {
        missing.push("CAP_NET_ADMIN");
    }
    missing
}

/// The effective set from the text of `/proc/self/status`; an unreadable one counts as empty.
fn effective(status: &str) -> u64 {
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_effective_set_is_read_from_its_line() {
        assert_eq!(
            effective("Name:\tx\nCapPrm:\tffff\nCapEff:\t0000008000001000\n"),
            1 << CAP_BPF | 1 << CAP_NET_ADMIN
        );
        assert_eq!(effective("Name:\tx\n"), 0);
        assert_eq!(effective("CapEff:\tnonsense\n"), 0);
    }

    #[test]
    fn lacking_privileges_are_named_and_nothing_else_is_claimed() {
        let none = Capabilities {
            missing: vec!["CAP_BPF", "CAP_NET_ADMIN"],
            xdp: false,
            tc: false,
            tcx: false,
            six_in_four: false,
            sk_lookup: false,
            ring_buffer: false,
            lru_hash: false,
            btf: true,
            jit: true,
        };
        assert_eq!(
            none.to_string(),
            "kernel datapath: not available, the process lacks CAP_BPF and CAP_NET_ADMIN\nbtf: yes"
        );
        assert!(!none.l4() && !none.steering());
        assert!(matches!(none.require(), Err(DatapathError::Privilege { .. })));
    }
}
