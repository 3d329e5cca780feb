// SPDX-License-Identifier: GPL-3.0-only
//! `eg_xdp_ingress` or `eg_tc_ingress`, loaded with maps of its own, filled as the process would fill them.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use eg_abi::{
    ADDR_SOURCE, ADDR_VIP, Addr, BACKEND_ON_LINK, Backend, BackendState, Budget, CONF_RETURN_PATH, Conf, Count,
    Drop as Reason, Event, Flow, FlowKey, Forward, Guards, Latency, Miss, Plain, Pool, Slot, VIP_SNAT, Vip, VipKey,
};
use eg_balance::ring::SLOTS;
use eg_balance::{Ring, maglev};
use eg_skel::maps::NewRing;
use eg_skel::sock_lookup::LookupSkelBuilder;
use eg_skel::twin::Outcome as Explained;
use eg_skel::{Maps, features};
use libbpf_rs::skel::{OpenSkel, Skel, SkelBuilder};
use libbpf_rs::{MapCore as _, MapHandle, RingBufferBuilder};
use pnet::util::MacAddr;

use super::hook::{Writer, tell};
use super::judge;
use super::runner::{Outcome, Runner};
use super::twin::Beside;
use crate::verifier;

/// The loaded objects and the maps they share.
struct Loaded {
    skel: Writer,
    maps: Maps,
    /// Loaded when first asked: what never asks does not wait for it.
    twin: OnceCell<Beside>,
    tunables: Tunables,
    hz: u32,
    /// The highest id that a test gave to a VIP, a pool or a backend.
    highest: Cell<u32>,
}

// SAFETY: libbpf ties nothing of an object to the thread that loaded it, and the mutex below lets one thread at a time
// have it.
unsafe impl Send for Loaded {}

/// Those that were loaded, one for each set of tunables, emptied for each test: loading anew means verifying anew, seconds each
/// time. `None`: it did not load.
type Shared = HashMap<Tunables, Option<&'static Mutex<Loaded>>>;

static SHARED: Mutex<Option<Shared>> = Mutex::new(None);

/// The program with empty maps. When dropped it checks the accounting equation over everything it was given.
pub struct Gateway {
    loaded: MutexGuard<'static, Loaded>,
    given: Arc<Mutex<Count>>,
}

/// BPF_PROG_TEST_RUN lets packets come in by the loopback interface, which has this index.
pub const INGRESS: u32 = 1;

/// What is set before load; the defaults are those of the configuration, except for the size of the table.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tunables {
    /// The range of source ports.
    pub ports: (u32, u32),
    /// Idle seconds of established and of closing TCP flows.
    pub timeout_open_s: u32,
    pub timeout_closing_s: u32,
    /// ICMP errors of our own a second and CPU.
    pub icmp_rate: u32,
    /// Entries of the flow tables, established and half-open.
    pub flows: u32,
    pub opening: u32,
    /// Choices that are random are made by the flow's hash.
    pub hash_chooses: bool,
    /// Time is what [`Gateway::set_clock`] says.
    pub clock_stands: bool,
    /// Tells gateways apart that are alike otherwise, so that tests may use them side by side.
    pub number: usize,
}

impl Default for Tunables {
    fn default() -> Self {
        Tunables {
            ports: (10240, 32767),
            timeout_open_s: 7440,
            timeout_closing_s: 60,
            icmp_rate: 1000,
            flows: 16384,
            opening: 16384,
            hash_chooses: false,
            clock_stands: false,
            number: 0,
        }
    }
}

/// Ids that tests write without [`Gateway::backend`] and the like are below this.
const IDS: u32 = 8;

impl Gateway {
    /// A gateway with the default tunables.
    ///
    /// # Panics
    /// As [`Gateway::with`].
    pub fn new() -> Gateway {
        Gateway::with(&Tunables::default())
    }

    /// A gateway with this range of source ports.
    ///
    /// # Panics
    /// As [`Gateway::with`].
    pub fn with_ports(min: u32, max: u32) -> Gateway {
        Gateway::with(&Tunables { ports: (min, max), ..Tunables::default() })
    }

    /// A gateway with these tunables. Tests that have the same ones wait for each other, and no test has two.
    ///
    /// # Panics
    /// If an object does not load, with what the verifier said.
    pub fn with(tunables: &Tunables) -> Gateway {
        let loaded = Gateway::shared_by(tunables).expect("the objects load; the first test that tried says why");
        let loaded = loaded.lock().unwrap_or_else(PoisonError::into_inner);
        loaded.empty();
        Gateway { loaded, given: Arc::default() }
    }

    fn shared_by(tunables: &Tunables) -> Option<&'static Mutex<Loaded>> {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        // What failed to load once is not tried again for each test: an emulated kernel takes minutes to refuse it.
        // Leaked: the process ends with its tests.
        let load = || {
            let load = || Box::leak(Box::new(Mutex::new(Loaded::new(tunables))));
            std::panic::catch_unwind(load).ok().map(|loaded| &*loaded)
        };
        *shared.get_or_insert_default().entry(tunables.clone()).or_insert_with(load)
    }

    fn loaded(&self) -> &Loaded {
        &self.loaded
    }

    /// The accounting equation.
    fn check(&self) {
        let totals = self.maps().totals().expect("the totals");
        assert_eq!(
            totals.received(),
            *self.given.lock().expect("the count"),
            "received = forwarded + passed + dropped + answered: {totals:?}"
        );
    }

    /// Remembers an id, to be emptied.
    fn uses(&self, id: u32) {
        self.loaded.highest.set(self.loaded.highest.get().max(id));
    }

    /// Its maps.
    pub fn maps(&self) -> &Maps {
        &self.loaded().maps
    }

    pub(super) fn writer(&self) -> &Writer {
        &self.loaded().skel
    }

    /// A frame that was given counts elsewhere, or later.
    pub(super) fn forget(&self, frame: &[u8]) {
        let mut given = self.given.lock().expect("the count");
        *given = Count { packets: given.packets - 1, bytes: given.bytes - judge::l3_bytes(frame) };
    }

    /// Lets one frame come in, of which the program's twin must have said before what becomes of it.
    pub fn receive(&self, frame: &[u8]) -> Outcome {
        let runner = self.runner();
        runner.prepare();
        self.loaded().twin().agrees(frame, |reason| self.drops(reason), || runner.receive(frame))
    }

    /// What the twin says of this frame.
    ///
    /// # Panics
    /// If the kernel does not run it.
    pub fn explain(&self, frame: &[u8]) -> Explained {
        self.loaded().twin().explain(frame).expect("run the twin")
    }

    /// Every map that the programs share, as it is pinned for a real gateway.
    pub fn shared(&self) -> Vec<MapHandle> {
        let shared = self.loaded().skel.object().maps().filter(|map| map.name().to_string_lossy().starts_with("eg_"));
        shared.map(|map| MapHandle::try_from(&map).expect("another handle")).collect()
    }

    /// What lets frames come in, to give to another thread.
    pub fn runner(&self) -> Runner {
        self.runner_of(self.loaded().skel.entry())
    }

    pub(super) fn runner_of(&self, program: BorrowedFd<'_>) -> Runner {
        let ways = (1..=self.loaded.highest.get().max(IDS))
            .filter_map(|id| self.maps().backends.get(id).ok())
            .map(|b| (b.dmac.to_vec(), b.ifindex));
        Runner::new(program.try_clone_to_owned().expect("another descriptor"), ways.collect(), Arc::clone(&self.given))
    }

    /// Instructions that the verifier walked for each program, by name.
    pub fn verified(&self) -> Vec<(String, u32)> {
        verifier::walked(self.loaded().skel.object())
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
            flags: BACKEND_ON_LINK,
            generation: 1,
            ifindex: INGRESS,
            dmac: octets(backend_mac(id)),
            smac: octets(super::frame::GATEWAY_MAC),
            ..Backend::default()
        };
        self.uses(id);
        self.maps().backends.set(id, &backend).expect("write a backend");
        self.maps().vip_ids.set(&VipKey::any_port(backend.source), &ADDR_SOURCE).expect("mark a source");
        backend
    }

    /// Makes a pool of backends (id, name, weight) and returns its ring, whose indexes are those of the list.
    pub fn pool(&self, id: u32, key: [u64; 2], backends: &[(u32, &str, u32)]) -> Ring {
        let weights: Vec<(&str, u32)> = backends.iter().map(|(_, name, weight)| (*name, *weight)).collect();
        let ring = maglev::ring(key, &weights);
        let backend = |index: Option<usize>| index.map_or(0, |index| backends[index].0);
        let slots: Vec<Slot> = (0..SLOTS)
            .map(|slot| ring.at(slot))
            .map(|(primary, alternate)| Slot { primary: backend(primary), alternate: backend(alternate) })
            .collect();
        self.uses(id);
        self.maps().rings.set(id, &NewRing::new(&slots).expect("a ring")).expect("write a ring");
        let period = ring.period() as u32;
        let pool = Pool { hash_key: key, backends: backends.len() as u32, period, ..Pool::default() };
        self.maps().pools.set(id, &pool).expect("write a pool");
        ring
    }

    /// Makes a VIP with epoch 1, by nat.
    pub fn vip(&self, id: u32, at: SocketAddr, proto: u8, pool: u32, snat: bool) {
        self.set_vip(id, proto, at, Vip { pool, flags: if snat { VIP_SNAT } else { 0 }, ..Vip::default() });
        if !snat {
            self.maps().conf.set(0, &Conf { flags: CONF_RETURN_PATH, ..Conf::default() }).expect("write the conf");
        }
    }

    /// Sets flags of a VIP without ending its flows.
    pub fn vip_flags(&self, id: u32, flags: u32) {
        let vip = self.maps().vips.get(id).expect("read a vip");
        self.maps().vips.set(id, &Vip { flags: vip.flags | flags, ..vip }).expect("write a vip");
    }

    /// Says what time it is, in jiffies, to a gateway whose clock stands.
    pub fn set_clock(&mut self, jiffies: u64) {
        self.loaded.skel.set_clock(jiffies);
    }

    /// Jiffies in a second.
    pub fn hz(&self) -> u32 {
        self.loaded().hz
    }

    /// Makes a VIP with epoch 1, by any mode (nat: with SNAT).
    pub fn vip_by(&self, id: u32, at: SocketAddr, proto: u8, pool: u32, mode: Forward, gue_port: u16) {
        let flags = if mode == Forward::Nat { VIP_SNAT } else { 0 };
        let forward = mode.code() as u8;
        self.set_vip(id, proto, at, Vip { pool, flags, forward, gue_port: gue_port.into(), ..Vip::default() });
    }

    fn set_vip(&self, id: u32, proto: u8, at: SocketAddr, vip: Vip) {
        let vip = Vip { addr: Addr::from(at.ip()), port: at.port().into(), proto, epoch: 1, ..vip };
        self.uses(id);
        self.maps().vips.set(id, &vip).expect("write a vip");
        self.maps().vip_ids.set(&VipKey::new(at, proto), &id).expect("write a vip's id");
        self.maps().vip_ids.set(&VipKey::any_port(vip.addr), &ADDR_VIP).expect("mark a vip's address");
    }

    /// Changes backend `id`.
    pub fn change_backend(&self, id: u32, change: impl FnOnce(&mut Backend)) {
        let mut backend = self.maps().backends.get(id).expect("a backend");
        change(&mut backend);
        self.maps().backends.set(id, &backend).expect("write a backend");
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
            self.check();
        }
    }
}

impl Loaded {
    fn new(tunables: &Tunables) -> Loaded {
        let hz = features::jiffies_hz().expect("the tick");
        let skel = Writer::load(tunables, hz);
        // Leaked: a skeleton borrows its object, and the process ends with its tests.
        let object = Box::leak(Box::new(MaybeUninit::uninit()));
        let sock =
            LookupSkelBuilder::default().open(object).expect("open sock/lookup").load().expect("load sock/lookup");
        let maps = Maps::of_objects(&[skel.object(), sock.object()]).expect("the maps");
        Loaded { skel, maps, twin: OnceCell::new(), tunables: tunables.clone(), hz, highest: Cell::new(IDS) }
    }

    fn twin(&self) -> &Beside {
        let (tunables, hz) = (&self.tunables, self.hz);
        self.twin
            .get_or_init(|| Beside::load(self.skel.object(), tunables.clock_stands, |told| tell!(told, tunables, hz)))
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
        for (key, _) in maps.cookies.entries().expect("the cookies") {
            maps.cookies.delete(&key).expect("delete a cookie's bucket");
        }
        (0..maps.cookie_stats.capacity()).for_each(|i| maps.cookie_stats.clear(i).expect("clear figures"));
        maps.conf.set(0, &Conf::default()).expect("clear the conf");
        for (key, _) in maps.vip_ids.entries().expect("the vips") {
            maps.vip_ids.delete(&key).expect("delete a vip");
        }
        for id in 0..=self.highest.replace(IDS) {
            maps.vips.set(id, &Vip::default()).expect("clear a vip");
            maps.backends.set(id, &Backend::default()).expect("clear a backend");
            maps.pools.set(id, &Pool::default()).expect("clear a pool");
            maps.rings.delete(id).expect("delete a ring");
            maps.vip_stats.clear(id).expect("clear figures");
            maps.budgets.set(id, &Budget::default()).expect("clear a budget");
            maps.stateless.clear(id).expect("clear figures");
            maps.backend_stats.clear(id).expect("clear figures");
            maps.loads.clear(id);
            maps.latencies.set(id, &Latency::default()).expect("clear a latency");
            maps.cursors.clear(id).expect("clear a cursor");
        }
        for (key, _) in maps.affinities.entries().expect("the affinities") {
            maps.affinities.delete(&key).expect("delete an affinity");
        }
        maps.prefixes.clear().expect("clear the prefix lists");
        maps.guard_conf.set(0, &Guards::default()).expect("clear the limits");
        for (source, _) in maps.sources.entries().expect("the sources") {
            maps.sources.delete(&source).expect("delete a source");
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
