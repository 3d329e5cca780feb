// SPDX-License-Identifier: GPL-3.0-only
//! The two writers of the same decisions, `bpf/xdp/ingress` and `bpf/tc/ingress`, behind one face.
//!
//! The packet table is written once, in `tests/packets*.rs`, and runs on XDP. `tests/packets_tc.rs` contains the same files
//! once more: what a test binary's name ends in says which program its gateways load.

use std::cell::Cell;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::process::Command;

use eg_skel::{tc_ingress, xdp_ingress};
use libbpf_rs::OpenObject;
use libbpf_rs::skel::{OpenSkel as _, Skel as _, SkelBuilder as _};
use nix::sched::{CloneFlags, unshare};

use super::frame::GATEWAY_MAC;
use super::runner::Verdict;
use super::{Tunables, gateway};

/// Where a gateway's program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    Xdp,
    Tc,
}

impl Hook {
    /// What this test binary is about.
    pub fn current() -> Hook {
        let path = std::env::current_exe().expect("the test has a path");
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if name.starts_with("packets_tc") { Hook::Tc } else { Hook::Xdp }
    }

    /// What the program's number means. tc says no more than "redirect": whether that is to where the frame came from can
    /// be told only from the frame. It has no "aborted" either.
    pub(super) fn verdict(self, number: u32, frame: &[u8], ways: &[(Vec<u8>, u32)]) -> Verdict {
        const UNSPEC: u32 = u32::MAX;
        let known = |number| match (self, number) {
            (Hook::Xdp, 0) => Some(Verdict::Aborted),
            (Hook::Xdp, 1) | (Hook::Tc, 2) => Some(Verdict::Drop),
            (Hook::Xdp, 2) | (Hook::Tc, UNSPEC) => Some(Verdict::Pass),
            (Hook::Xdp, 3) => Some(Verdict::Tx),
            (Hook::Xdp, 4) => Some(Verdict::Redirect),
            (Hook::Tc, 7) => {
                let elsewhere =
                    ways.iter().any(|(mac, ifindex)| frame.starts_with(mac) && *ifindex != gateway::INGRESS);
                Some(if elsewhere { Verdict::Redirect } else { Verdict::Tx })
            }
            _ => None,
        };
        known(number).unwrap_or_else(|| panic!("the program returned {number}"))
    }

    /// A test run makes no skb of a frame that ends within the IP header which its EtherType promises.
    pub(super) fn is_no_skb(self, ran: &std::io::Result<eg_skel::program::Ran>, frame: &[u8]) -> bool {
        let shortest = if frame.get(12..14) == Some(&[0x86, 0xdd]) { 14 + 40 } else { 14 + 20 };
        let refused = ran.as_ref().is_err_and(|error| error.raw_os_error() == Some(nix::libc::EINVAL));
        self == Hook::Tc && refused && frame.len() < shortest
    }

    /// Makes frames to the gateway's MAC look like frames to this host: a test run of an skb has them come in by the
    /// loopback interface of the thread's namespace, whose own MAC is all zeros. So each thread gets one of its own.
    pub(super) fn prepare_thread(self) {
        thread_local!(static PREPARED: Cell<bool> = const { Cell::new(false) });
        if self == Hook::Xdp || PREPARED.replace(true) {
            return;
        }
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
        let mac = GATEWAY_MAC.to_string();
        let done = Command::new("ip").args(["link", "set", "lo", "address", &mac, "up"]).status();
        assert!(done.is_ok_and(|status| status.success()), "give lo the gateway's MAC");
    }
}

/// A loaded object.
pub(super) enum Writer {
    Xdp(xdp_ingress::IngressSkel<'static>),
    Tc(tc_ingress::IngressSkel<'static>),
}

/// What a gateway's program, or its twin, is told before it is loaded.
macro_rules! tell {
    ($rodata:expr, $tunables:expr, $hz:expr) => {{
        let rodata = $rodata;
        (rodata.eg_snat_port_min, rodata.eg_snat_port_max) = $tunables.ports;
        rodata.eg_timeout_open_s = $tunables.timeout_open_s;
        rodata.eg_timeout_closing_s = $tunables.timeout_closing_s;
        rodata.eg_icmp_rate = $tunables.icmp_rate;
        rodata.eg_jiffies_hz = $hz;
        rodata.eg_flow_entries = $tunables.flows;
        rodata.eg_test = u8::from($tunables.hash_chooses);
        rodata.eg_test_clock = u8::from($tunables.clock_stands);
    }};
}
pub(super) use tell;

/// The skeletons are alike but of different types.
macro_rules! load {
    ($skeleton:ident, $tunables:expr, $hz:expr) => {{
        // Leaked: a skeleton borrows its object, and the process ends with its tests.
        let object: &'static mut MaybeUninit<OpenObject> = Box::leak(Box::new(MaybeUninit::uninit()));
        let mut open = $skeleton::IngressSkelBuilder::default().open(object).expect("open the object");
        let rodata = open.maps.rodata_data.as_deref_mut().expect("rodata");
        tell!(rodata, $tunables, $hz);
        open.maps.eg_flows.set_max_entries($tunables.flows).expect("the size of the flow table");
        open.maps.eg_opening.set_max_entries($tunables.opening).expect("the size of the half-open table");
        open.load().expect("load the object")
    }};
}

impl Writer {
    pub(super) fn load(tunables: &Tunables, hz: u32) -> Writer {
        match Hook::current() {
            Hook::Xdp => Writer::Xdp(load!(xdp_ingress, tunables, hz)),
            Hook::Tc => Writer::Tc(load!(tc_ingress, tunables, hz)),
        }
    }

    /// What a program without a clock of its own is told that the time is.
    pub(super) fn set_clock(&mut self, jiffies: u64) {
        let bss = match self {
            Writer::Xdp(skel) => skel.maps.bss_data.as_deref_mut().map(|bss| &mut bss.eg_test_now),
            Writer::Tc(skel) => skel.maps.bss_data.as_deref_mut().map(|bss| &mut bss.eg_test_now),
        };
        *bss.expect("bss") = jiffies;
    }

    pub(super) fn object(&self) -> &libbpf_rs::Object {
        match self {
            Writer::Xdp(skel) => skel.object(),
            Writer::Tc(skel) => skel.object(),
        }
    }

    /// The program that is attached.
    pub(super) fn entry(&self) -> BorrowedFd<'_> {
        match self {
            Writer::Xdp(skel) => skel.progs.eg_xdp_ingress.as_fd(),
            Writer::Tc(skel) => skel.progs.eg_tc_ingress.as_fd(),
        }
    }
}
