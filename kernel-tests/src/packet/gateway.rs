// SPDX-License-Identifier: GPL-3.0-only
//! `eg_xdp_ingress`, loaded with maps of its own, filled as the process would fill them.

use std::cell::{Cell, RefCell};
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};

use eg_abi::{
    Addr, Backend, BackendState, Count, Drop as Reason, Event, Flow, FlowKey, Miss, Plain, Pool, Slot, VIP_SNAT, Vip,
    VipKey,
};
use eg_balance::maglev;
use eg_skel::sock_lookup::LookupSkelBuilder;
use eg_skel::xdp_ingress::{IngressSkel, IngressSkelBuilder};
use eg_skel::{Maps, features};
use libbpf_rs::skel::{OpenSkel, Skel, SkelBuilder};
use libbpf_rs::{OpenObject, ProgramInput, RingBufferBuilder};
use pnet::util::MacAddr;

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
#[derive(Clone, Debug)]
pub struct Outcome {
    pub verdict: Verdict,
    pub bytes: Vec<u8>,
}

/// The program and its maps. When dropped it checks the accounting equation over everything it was given.
pub struct Gateway {
    skel: IngressSkel<'static>,
    pub maps: Maps,
    pub hz: u32,
    given: Cell<Count>,
}

/// BPF_PROG_TEST_RUN lets packets come in by the loopback interface, which has this index.
pub const INGRESS: u32 = 1;

/// Flows the table holds in tests.
const FLOWS: u32 = 16384;

impl Gateway {
    /// Loads the objects with the default tunables.
    ///
    /// # Panics
    /// If an object does not load, with what the verifier said.
    pub fn new() -> Gateway {
        Gateway::with_ports(10240, 32767)
    }

    /// Loads the objects with this range of source ports.
    pub fn with_ports(min: u32, max: u32) -> Gateway {
        // Leaked: a skeleton borrows its object, and the process ends with its tests.
        let object: &'static mut MaybeUninit<OpenObject> = Box::leak(Box::new(MaybeUninit::uninit()));
        let hz = features::jiffies_hz().expect("the tick");
        let mut open = IngressSkelBuilder::default().open(object).expect("open xdp/ingress");
        let rodata = open.maps.rodata_data.as_deref_mut().expect("rodata");
        rodata.eg_snat_port_min = min;
        rodata.eg_snat_port_max = max;
        rodata.eg_jiffies_hz = hz;
        open.maps.eg_flows.set_max_entries(FLOWS).expect("the size of the flow table");
        let skel = open.load().expect("load xdp/ingress");

        let object = Box::leak(Box::new(MaybeUninit::uninit()));
        let sock =
            LookupSkelBuilder::default().open(object).expect("open sock/lookup").load().expect("load sock/lookup");
        let maps = Maps::of_objects(&[skel.object(), sock.object()]).expect("the maps");
        Gateway { skel, maps, hz, given: Cell::default() }
    }

    /// Lets one frame come in.
    pub fn receive(&self, frame: &[u8]) -> Outcome {
        let mut out = vec![0; frame.len() + 256];
        let input = ProgramInput { data_in: Some(frame), data_out: Some(&mut out), ..Default::default() };
        let output = self.skel.progs.eg_xdp_ingress.test_run(input).expect("run the program");
        let verdict = match output.return_value {
            0 => Verdict::Aborted,
            1 => Verdict::Drop,
            2 => Verdict::Pass,
            3 => Verdict::Tx,
            4 => Verdict::Redirect,
            other => panic!("the program returned {other}"),
        };
        let bytes = output.data.map(|data| data.to_vec()).unwrap_or_default();
        let mut given = self.given.get();
        given += Count { packets: 1, bytes: judge::l3_bytes(frame) };
        self.given.set(given);
        Outcome { verdict, bytes }
    }

    /// Packets refused for this reason so far.
    pub fn drops(&self, reason: Reason) -> u64 {
        self.maps.drops.sum(reason.code()).expect("the drops").packets
    }

    /// What the program told since the last call.
    pub fn events(&self) -> Vec<Event> {
        let told = RefCell::new(Vec::new());
        let mut builder = RingBufferBuilder::new();
        let take = |record: &[u8]| {
            told.borrow_mut().push(Event::from_bytes(record).expect("an event"));
            0
        };
        builder.add(&self.maps.events, take).expect("the ring buffer");
        builder.build().expect("the ring buffer").consume().expect("the events");
        told.into_inner()
    }

    /// Flows found that did not count, for this reason.
    pub fn misses(&self, miss: Miss) -> u64 {
        self.maps.misses.sum(miss.code()).expect("the misses")
    }

    /// Writes backend `id`: a gateway's own address `source` towards it, next hop by interface and MAC.
    pub fn backend(&self, id: u32, at: SocketAddr, source: IpAddr) -> Backend {
        let backend = Backend {
            addr: Addr::from(at.ip()),
            source: Addr::from(source),
            port: at.port().into(),
            state: BackendState::Up.code() as u8,
            generation: 1,
            ifindex: INGRESS,
            dmac: octets(backend_mac(id)),
            smac: octets(super::frame::GATEWAY_MAC),
            ..Backend::default()
        };
        self.maps.backends.set(id, &backend).expect("write a backend");
        backend
    }

    /// Makes a pool of backends (id, name, weight) and returns its table, whose indexes are those of the list.
    pub fn pool(&self, id: u32, key: [u64; 2], backends: &[(u32, &str, u32)]) -> maglev::Table {
        let weights: Vec<(&str, u32)> = backends.iter().map(|(_, name, weight)| (*name, *weight)).collect();
        let table = maglev::Table::new(key, &weights);
        let backend = |index: Option<usize>| index.map_or(0, |index| backends[index].0);
        let slots: Vec<Slot> = (0..maglev::SLOTS)
            .map(|slot| table.at(slot))
            .map(|(primary, alternate)| Slot { primary: backend(primary), alternate: backend(alternate) })
            .collect();
        self.maps.rings.set(id, &slots).expect("write a ring");
        let pool = Pool { hash_key: key, backends: backends.len() as u32, pad: 0 };
        self.maps.pools.set(id, &pool).expect("write a pool");
        table
    }

    /// Makes a VIP with epoch 1.
    pub fn vip(&self, id: u32, at: SocketAddr, proto: u8, pool: u32, snat: bool) {
        let vip = Vip {
            addr: Addr::from(at.ip()),
            port: at.port().into(),
            proto,
            epoch: 1,
            pool,
            flags: if snat { VIP_SNAT } else { 0 },
            ..Vip::default()
        };
        self.maps.vips.set(id, &vip).expect("write a vip");
        self.maps.vip_ids.set(&VipKey::new(at, proto), &id).expect("write a vip's id");
        self.maps.vip_ids.set(&VipKey::any_port(vip.addr), &0).expect("mark a vip's address");
    }

    /// The entry under this key.
    pub fn flow(&self, source: SocketAddr, destination: SocketAddr, proto: u8) -> Option<Flow> {
        self.maps.flows.get(&FlowKey::new(source, destination, proto)).expect("read a flow")
    }

    /// Lets `seconds` pass for one entry, without waiting for them.
    pub fn age(&self, source: SocketAddr, destination: SocketAddr, proto: u8, seconds: u32) {
        let key = FlowKey::new(source, destination, proto);
        let mut flow = self.maps.flows.get(&key).expect("read a flow").expect("a flow to age");
        flow.seen = flow.seen.wrapping_sub(seconds * self.hz);
        self.maps.flows.set(&key, &flow).expect("write a flow");
    }
}

impl Default for Gateway {
    fn default() -> Self {
        Gateway::new()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let totals = self.maps.totals().expect("the totals");
            assert_eq!(totals.received(), self.given.get(), "received = forwarded + passed + dropped: {totals:?}");
        }
    }
}

/// The MAC that backend `id` is reached by.
pub fn backend_mac(id: u32) -> MacAddr {
    let [.., a, b] = id.to_be_bytes();
    MacAddr(0x02, 0xbb, 0, 0, a, b)
}

fn octets(mac: MacAddr) -> [u8; 6] {
    mac.octets()
}
