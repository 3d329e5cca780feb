// SPDX-License-Identifier: GPL-3.0-only
//! `eg_xdp_ingress`, loaded with maps of its own, filled as the process would fill them.

use std::cell::{Cell, RefCell};
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use eg_abi::{
    ADDR_SOURCE, ADDR_VIP, Addr, Backend, BackendState, CONF_RETURN_PATH, Conf, Count, Drop as Reason, Event, Flow,
    FlowKey, Miss, Plain, Pool, Slot, VIP_SNAT, Vip, VipKey,
};
use eg_balance::maglev;
use eg_skel::sock_lookup::LookupSkelBuilder;
use eg_skel::xdp_ingress::{IngressSkel, IngressSkelBuilder};
use eg_skel::{Maps, features};
use libbpf_rs::skel::{OpenSkel, Skel, SkelBuilder};
use libbpf_rs::{OpenObject, ProgramInput, ProgramMut, RingBufferBuilder};
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

/// The loaded objects and the maps they share.
struct Loaded {
    skel: IngressSkel<'static>,
    maps: Maps,
    hz: u32,
}

// SAFETY: libbpf ties nothing of an object to the thread that loaded it, and the mutex below lets one thread at a time
// have it.
unsafe impl Send for Loaded {}

/// The one most tests share, emptied for each: loading anew means verifying anew, a second each time.
static SHARED: OnceLock<Option<Mutex<Loaded>>> = OnceLock::new();

enum Holder {
    Shared(MutexGuard<'static, Loaded>),
    Own(Box<Loaded>),
}

/// The program with empty maps. When dropped it checks the accounting equation over everything it was given.
pub struct Gateway {
    holder: Holder,
    given: Cell<Count>,
}

/// BPF_PROG_TEST_RUN lets packets come in by the loopback interface, which has this index.
pub const INGRESS: u32 = 1;

/// Flows the table holds in tests.
const FLOWS: u32 = 16384;
/// VIPs, backends and pools that tests use: ids below this are emptied.
const IDS: u32 = 8;

impl Gateway {
    /// A gateway with the default tunables. Tests that have one wait for each other.
    ///
    /// # Panics
    /// If an object does not load, with what the verifier said.
    pub fn new() -> Gateway {
        // What failed to load once is not tried again for each test: an emulated kernel takes minutes to refuse it.
        let load = || std::panic::catch_unwind(|| Mutex::new(Loaded::new(10240, 32767))).ok();
        let shared = SHARED.get_or_init(load).as_ref().expect("the objects load; the first test that tried says why");
        let loaded = shared.lock().unwrap_or_else(PoisonError::into_inner);
        loaded.empty();
        Gateway { holder: Holder::Shared(loaded), given: Cell::default() }
    }

    /// A gateway of its own with this range of source ports.
    pub fn with_ports(min: u32, max: u32) -> Gateway {
        Gateway { holder: Holder::Own(Box::new(Loaded::new(min, max))), given: Cell::default() }
    }

    fn loaded(&self) -> &Loaded {
        match &self.holder {
            Holder::Shared(loaded) => loaded,
            Holder::Own(loaded) => loaded,
        }
    }

    /// Its maps.
    pub fn maps(&self) -> &Maps {
        &self.loaded().maps
    }

    pub(super) fn skel(&self) -> &IngressSkel<'static> {
        &self.loaded().skel
    }

    /// A frame that was given counts elsewhere, or later.
    pub(super) fn forget(&self, frame: &[u8]) {
        let Count { packets, bytes } = self.given.get();
        self.given.set(Count { packets: packets - 1, bytes: bytes - judge::l3_bytes(frame) });
    }

    /// Lets one frame come in.
    pub fn receive(&self, frame: &[u8]) -> Outcome {
        self.run(&self.loaded().skel.progs.eg_xdp_ingress, frame)
    }

    pub(super) fn run(&self, program: &ProgramMut<'_>, frame: &[u8]) -> Outcome {
        let mut out = vec![0; frame.len() + 256];
        let input = ProgramInput { data_in: Some(frame), data_out: Some(&mut out), ..Default::default() };
        let output = program.test_run(input).expect("run the program");
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
        self.maps().drops.sum(reason.code()).expect("the drops").packets
    }

    /// What the program told since the last call.
    pub fn events(&self) -> Vec<Event> {
        let told = RefCell::new(Vec::new());
        let mut builder = RingBufferBuilder::new();
        let take = |record: &[u8]| {
            told.borrow_mut().push(Event::from_bytes(record).expect("an event"));
            0
        };
        builder.add(&self.maps().events, take).expect("the ring buffer");
        builder.build().expect("the ring buffer").consume().expect("the events");
        told.into_inner()
    }

    /// Flows found that did not count, for this reason.
    pub fn misses(&self, miss: Miss) -> u64 {
        self.maps().misses.sum(miss.code()).expect("the misses")
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
        self.maps().backends.set(id, &backend).expect("write a backend");
        self.maps().vip_ids.set(&VipKey::any_port(backend.source), &ADDR_SOURCE).expect("mark a source");
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
        self.maps().rings.set(id, &slots).expect("write a ring");
        let period = maglev::SLOTS as u32;
        let pool = Pool { hash_key: key, backends: backends.len() as u32, period, ..Pool::default() };
        self.maps().pools.set(id, &pool).expect("write a pool");
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
        self.maps().vips.set(id, &vip).expect("write a vip");
        self.maps().vip_ids.set(&VipKey::new(at, proto), &id).expect("write a vip's id");
        self.maps().vip_ids.set(&VipKey::any_port(vip.addr), &ADDR_VIP).expect("mark a vip's address");
        if !snat {
            self.maps().conf.set(0, &Conf { flags: CONF_RETURN_PATH, ..Conf::default() }).expect("write the conf");
        }
    }

    /// The entry under this key, established or half-open.
    pub fn flow(&self, source: SocketAddr, destination: SocketAddr, proto: u8) -> Option<Flow> {
        let key = FlowKey::new(source, destination, proto);
        let established = self.maps().flows.get(&key).expect("read a flow");
        established.or_else(|| self.maps().opening.get(&key).expect("read a half-open flow"))
    }

    /// Lets `seconds` pass for one entry, without waiting for them.
    pub fn age(&self, source: SocketAddr, destination: SocketAddr, proto: u8, seconds: u32) {
        let key = FlowKey::new(source, destination, proto);
        let tables = [&self.maps().flows, &self.maps().opening];
        let found = tables.into_iter().find_map(|table| Some((table, table.get(&key).expect("read a flow")?)));
        let (table, mut flow) = found.expect("a flow to age");
        flow.seen = flow.seen.wrapping_sub(seconds * self.loaded().hz);
        table.set(&key, &flow).expect("write a flow");
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
            let totals = self.maps().totals().expect("the totals");
            assert_eq!(totals.received(), self.given.get(), "received = forwarded + passed + dropped: {totals:?}");
        }
    }
}

impl Loaded {
    fn new(min: u32, max: u32) -> Loaded {
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
        Loaded { skel, maps, hz }
    }

    fn empty(&self) {
        let maps = &self.maps;
        for (key, _) in maps.flows.entries().expect("the flows") {
            maps.flows.delete(&key).expect("delete a flow");
        }
        for (key, _) in maps.opening.entries().expect("the half-open flows") {
            maps.opening.delete(&key).expect("delete a half-open flow");
        }
        for (key, _) in maps.frags.entries().expect("the fragments") {
            maps.frags.delete(&key).expect("delete a datagram");
        }
        maps.conf.set(0, &Conf::default()).expect("clear the conf");
        for (key, _) in maps.vip_ids.entries().expect("the vips") {
            maps.vip_ids.delete(&key).expect("delete a vip");
        }
        for id in 0..IDS {
            maps.vips.set(id, &Vip::default()).expect("clear a vip");
            maps.backends.set(id, &Backend::default()).expect("clear a backend");
            maps.pools.set(id, &Pool::default()).expect("clear a pool");
            maps.rings.delete(id).expect("delete a ring");
            maps.vip_stats.clear(id).expect("clear figures");
            maps.backend_stats.clear(id).expect("clear figures");
            maps.loads.clear(id);
        }
        (0..maps.verdicts.capacity()).for_each(|i| maps.verdicts.clear(i).expect("clear the totals"));
        (0..maps.drops.capacity()).for_each(|i| maps.drops.clear(i).expect("clear the drops"));
        (0..maps.misses.capacity()).for_each(|i| maps.misses.clear(i).expect("clear the misses"));
        maps.events_lost.clear(0).expect("clear the lost events");
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
