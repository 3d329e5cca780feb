// SPDX-License-Identifier: GPL-3.0-only
//! `eg_tc_backend`, loaded with maps of its own.

use std::cell::Cell;
use std::mem::MaybeUninit;
use std::net::IpAddr;

use eg_abi::Count;
use eg_abi::backend::{DecAddr, DecPrefix, Decap};
use eg_skel::BackendMaps;
use eg_skel::tc_backend::{BackendSkel, BackendSkelBuilder};
use libbpf_rs::skel::{OpenSkel, Skel, SkelBuilder};
use libbpf_rs::{OpenObject, ProgramInput};

use super::tunnel::GUE_PORT;

/// What the program returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// On to the next program, then to the stack.
    Next,
    Drop,
}

/// What became of one packet.
#[derive(Clone, Debug)]
pub struct Ended {
    pub action: Action,
    pub bytes: Vec<u8>,
    /// The one result that was counted.
    pub result: Decap,
}

/// The program. When dropped it checks that everything it was given was counted, once.
pub struct Backend {
    pub skel: BackendSkel<'static>,
    pub maps: BackendMaps,
    given: Cell<Count>,
}

/// BPF_PROG_TEST_RUN lets packets come in by the loopback interface, which has this index.
pub const INGRESS: u32 = 1;

/// Offsets in `struct __sk_buff` (linux/bpf.h), and what of it we give.
const GSO_SEGS: usize = 164;
const GSO_SIZE: usize = 176;
const CONTEXT: usize = 180;

impl Backend {
    /// `flags`: as the rodata constant `eg_decap_flags`.
    ///
    /// # Panics
    /// If the object does not load.
    pub fn new(flags: bool) -> Backend {
        // Leaked: a skeleton borrows its object, and the process ends with its tests.
        let object: &'static mut MaybeUninit<OpenObject> = Box::leak(Box::new(MaybeUninit::uninit()));
        let mut open = BackendSkelBuilder::default().open(object).expect("open tc/backend");
        let rodata = open.maps.rodata_data.as_deref_mut().expect("rodata");
        rodata.eg_decap_flags = u8::from(flags);
        rodata.eg_gue_port = GUE_PORT;
        let skel = open.load().expect("load tc/backend");
        let maps = BackendMaps::of_object(skel.object()).expect("the maps");
        Backend { skel, maps, given: Cell::default() }
    }

    /// Decapsulates at `ifindex` for these VIPs what comes from one of `from`, sent to one of `to`.
    pub fn allow(&self, ifindex: u32, vips: &[IpAddr], from: &[(IpAddr, u8)], to: &[IpAddr]) {
        for vip in vips {
            self.maps.vips.set(&DecAddr::new(ifindex, *vip), &1).expect("write a vip");
        }
        for (address, length) in from {
            self.maps.from.set(&DecPrefix::new(ifindex, *address, *length), &1).expect("write a prefix");
        }
        for address in to {
            self.maps.to.set(&DecAddr::new(ifindex, *address), &1).expect("write an address");
        }
    }

    /// Lets one frame come in.
    pub fn receive(&self, frame: &[u8]) -> Ended {
        self.receive_merged(frame, 0, 0).expect("run the program")
    }

    /// Lets one frame come in that receive offload made of `segments`, each with `size` bytes of payload; zero: of one.
    /// The error is the kernel's, which runs nothing on a frame that it finds too short.
    pub fn receive_merged(&self, frame: &[u8], segments: u32, size: u32) -> libbpf_rs::Result<Ended> {
        let before = self.results();
        let mut context = [0; CONTEXT];
        context[GSO_SEGS..GSO_SEGS + 4].copy_from_slice(&segments.to_ne_bytes());
        context[GSO_SIZE..GSO_SIZE + 4].copy_from_slice(&size.to_ne_bytes());
        let mut out = vec![0; frame.len() + 256];
        let input = ProgramInput {
            data_in: Some(frame),
            data_out: Some(&mut out),
            context_in: Some(&mut context),
            ..Default::default()
        };
        let output = self.skel.progs.eg_tc_backend.test_run(input)?;
        let action = match output.return_value.cast_signed() {
            -1 => Action::Next,
            2 => Action::Drop,
            other => panic!("the program returned {other}"),
        };
        let bytes = output.data.map(|data| data.to_vec()).unwrap_or_default();
        let after = self.results();
        let mut counted =
            Decap::ALL.iter().zip(before.iter().zip(&after)).filter(|(_, (before, after))| before != after);
        let (result, (before, after)) = counted.next().expect("a result is counted");
        assert_eq!(counted.next(), None, "one result is counted");

        let one = Count { packets: u64::from(segments.max(1)), bytes: frame.len() as u64 - 14 };
        assert_eq!(after.packets - before.packets, one.packets, "{result:?}");
        assert_eq!(after.bytes - before.bytes, one.bytes, "{result:?}: L3 bytes as they came in");
        let mut given = self.given.get();
        given += one;
        self.given.set(given);
        Ok(Ended { action, bytes, result: *result })
    }

    fn results(&self) -> Vec<Count> {
        Decap::ALL.iter().map(|result| self.maps.results.sum(result.code()).expect("the results")).collect()
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let mut sum = Count::default();
            self.results().into_iter().for_each(|count| sum += count);
            assert_eq!(sum, self.given.get(), "every packet counts once");
        }
    }
}
