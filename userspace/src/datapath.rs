// SPDX-License-Identifier: GPL-3.0-only
//! The kernel datapath as the process sees it: started from a plan, changed by a plan, read by telemetry.
//!
//! `app` is the caller. In the order of a start: `probe` what the kernel can do, `load` the programs over pinned maps,
//! `sync` the plan into the maps with next hops from `neigh`, `attach` programs and addresses, then keep it true
//! (`keeper`). What is attached and pinned goes on forwarding when the process is dead; the next start takes it over
//! with every flow. Everything runs on the control thread's runtime, nothing here is on the path of a packet.
//!
//! It deliberately knows no HTTP and no configuration syntax, and decides no health.

mod attach;
mod capture;
mod detach;
mod error;
pub mod ethtool;
mod events;
mod figures;
mod follow;
mod fragments;
mod inspect;
mod keeper;
mod load;
mod loads;
mod names;
mod neigh;
mod netlink;
mod owner;
mod probe;
mod probes;
mod resize;
mod samples;
mod steering;
mod sync;

use std::collections::HashSet;
use std::fs::File;
use std::io::Read;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use eg_skel::abi;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::config::plan::{DatapathPlan, XdpMode};
use attach::ladder::{self, Place};
use attach::links::Links;
use attach::vips::Vips;
use events::Events;
use keeper::{Keeper, lock};
use load::Loaded;
use names::Names;
use neigh::Neigh;
use netlink::{Interface, Netlink};
use probes::Probes;
use samples::Samples;
use steering::SocketLookup;
use sync::Tables;

pub use attach::look::{Attached, attached, running};
pub use attach::xdp::Mode;
pub use capture::{CaptureAsk, CaptureNetwork, CaptureRefused, CaptureRequest, CaptureVerdict, Captured, Why};
pub use detach::{Detached, detach};
pub use error::DatapathError;
pub use figures::{BackendFigures, Figures, FiguresReader, VipFigures};
pub use fragments::HeldFragments;
pub use inspect::{Host, Link, Way, inspect};
pub use load::other_versions;
pub use names::{Kind, Named, names};
pub use owner::Owner;
pub use probe::Capabilities;
pub use samples::{DropSample, KEPT as SAMPLES_KEPT, SamplesReader, end, protocol};

/// The folder of pinned links below that of the maps.
const LINKS: &str = "links";

/// How long a start or reload waits for new backends' next hops. Two seconds are two questions to a neighbour, and what
/// answers later enters its ring later.
const RESOLVE_WITHIN: Duration = Duration::from_secs(2);
const RESOLVE_AGAIN: Duration = Duration::from_millis(20);

/// The running datapath. Dropping it ends the upkeep and leaves forwarding as it is; `stop` says what else ends.
pub struct Datapath {
    loaded: Loaded,
    held: Arc<fragments::Counters>,
    tables: Arc<Mutex<Tables>>,
    samples: Arc<Samples>,
    links: Links,
    probes: Probes,
    netlink: Netlink,
    vips: Vips,
    neigh: Neigh,
    steering: Arc<SocketLookup>,
    applied: Arc<Notify>,
    /// Told by the keeper.
    links_changed: Arc<Notify>,
    seen: follow::Seen,
    keeper: JoinHandle<()>,
    workers: usize,
    /// Under way.
    capture: Option<capture::Running>,
    /// What the last capture's reader says is sent here.
    writing: Option<tokio::sync::mpsc::WeakSender<bytes::Bytes>>,
    /// Applied last.
    plan: DatapathPlan,
    /// Let go last.
    _owner: Owner,
}

impl Drop for Datapath {
    fn drop(&mut self) {
        self.end_capture(Why::Stop);
        self.keeper.abort();
    }
}

impl Datapath {
    /// What this kernel and this process can do.
    pub fn capabilities() -> Capabilities {
        Capabilities::probe()
    }

    /// Loads, fills, attaches; takes over what an earlier process left under the same pin root. Must run inside a tokio
    /// runtime with I/O and time. `workers` is the edge's.
    ///
    /// # Errors
    /// Whatever stands in the way: what can be known beforehand, before anything that runs already is changed.
    pub async fn start(plan: &DatapathPlan, workers: usize) -> Result<Datapath, DatapathError> {
        Capabilities::probe().require()?;
        let netlink = Netlink::open()?;
        interfaces(&netlink, plan).await?;
        let owner = Owner::take(&plan.pin_root)?;
        let held = Arc::default();
        let loaded = load::load(plan, &held)?;
        let names = Names::open(&loaded.folder)?;
        let tables = Tables::open(Arc::clone(&loaded.maps), names, seed(plan)?)?;
        let tables = Arc::new(Mutex::new(tables));
        let links = Links::open(loaded.folder.join(LINKS))?;
        let applied = Arc::new(Notify::new());
        let links_changed = Arc::new(Notify::new());
        let samples = Arc::new(Samples::default());
        let keeper = Keeper {
            maps: Arc::clone(&loaded.maps),
            tables: Arc::clone(&tables),
            // A socket of its own: the kernel refuses a second dump on one that has a dump under way.
            neigh: Neigh::new(Netlink::open()?),
            changes: Netlink::changes()?,
            events: Events::open(&loaded.maps.events, Arc::clone(&samples))?,
            applied: Arc::clone(&applied),
            folder: loaded.folder.clone(),
            timeouts: plan.timeouts,
            links_changed: Arc::clone(&links_changed),
        };
        let mut datapath = Datapath {
            held,
            tables,
            samples,
            links,
            probes: Probes::default(),
            vips: Vips::new(netlink.clone()),
            neigh: Neigh::new(netlink.clone()),
            netlink,
            steering: Arc::new(SocketLookup::new(Arc::clone(&loaded.maps))?),
            applied,
            links_changed,
            seen: follow::Seen::default(),
            keeper: tokio::spawn(keeper.run()),
            workers,
            capture: None,
            writing: None,
            plan: plan.clone(),
            loaded,
            _owner: owner,
        };
        datapath.apply(plan).await?;
        datapath.links.sk_lookup(datapath.loaded.sk_lookup.as_fd())?;
        Ok(datapath)
    }

    /// Makes the kernel do what `plan` says, without touching an established flow that the plan still has a place for.
    /// Can change interfaces, VIPs, pools and backends; the rest (`needs_restart`) stays as it was at start.
    ///
    /// # Errors
    /// Stops at the first failure; what was applied until then stays, and nothing of the old plan is gone before the
    /// last step.
    pub async fn apply(&mut self, plan: &DatapathPlan) -> Result<(), DatapathError> {
        lock(&self.tables).check(plan)?;
        let interfaces = interfaces(&self.netlink, plan).await?;
        self.end_capture(Why::Reload);
        if plan.flows != self.plan.flows {
            self.loaded = load::load(plan, &self.held)?;
        }
        let indices: Vec<u32> = interfaces.iter().map(|interface| interface.index).collect();
        self.fill(plan).await?;
        for interface in &interfaces {
            self.attach(interface, plan.xdp).await?;
        }
        let local = local_addresses(plan);
        self.vips.add(&local, &indices).await?;
        lock(&self.tables).retire(plan, Instant::now())?;
        self.vips.keep_only(&local).await?;
        self.links.keep_only(&indices)?;
        let pairs = lock(&self.tables).pairs(plan);
        self.let_probes_through(&pairs, &indices);
        self.loaded.finish()?;
        self.write_meta()?;
        sync::cookies::say(plan);
        self.plan = plan.clone();
        self.applied.notify_one();
        Ok(())
    }

    async fn attach(&mut self, interface: &Interface, wanted: XdpMode) -> Result<(), DatapathError> {
        let filters = self.netlink.ingress_filters(interface.index).await?;
        let place = Place { name: &interface.name, index: interface.index, mtu: interface.mtu, filters };
        let (rung, why) = ladder::climb(&self.links, &place, wanted, &mut self.loaded)?;
        match why {
            Some(why) => {
                tracing::warn!(interface = interface.name, by = rung.name(), why, "attached, not by the best way")
            }
            None => tracing::info!(interface = interface.name, by = rung.name(), "attached"),
        }
        Ok(())
    }

    /// Backends, next hops, rings, VIPs, in this order.
    async fn fill(&mut self, plan: &DatapathPlan) -> Result<(), DatapathError> {
        lock(&self.tables).add_backends(plan)?;
        let deadline = Instant::now() + RESOLVE_WITHIN;
        loop {
            keeper::resolve(&mut self.neigh, &self.tables).await?;
            let unresolved = lock(&self.tables).unresolved();
            if unresolved == 0 {
                break;
            }
            if Instant::now() >= deadline {
                tracing::warn!(backends = unresolved, "no next hop yet: they take flows as soon as there is one");
                break;
            }
            tokio::time::sleep(RESOLVE_AGAIN).await;
        }
        let trie = sync::guards::make_trie(&self.tables, &plan.guards).await?;
        let mut tables = lock(&self.tables);
        tables.drain_ahead(Instant::now())?;
        tables.commit_members()?;
        tables.apply_guards(plan, trie)?;
        tables.apply_cookies(plan)?;
        tables.add_vips(plan)
    }

    /// That backends cannot be probed as they are served is no reason not to serve.
    fn let_probes_through(&mut self, pairs: &HashSet<abi::Probe>, interfaces: &[u32]) {
        if let Err(error) = self.probes.follow(&self.loaded.folder, &self.links, interfaces, pairs) {
            tracing::warn!(error = crate::app::causes(&error), "probes cannot go the traffic's own way");
        }
    }

    fn write_meta(&self) -> Result<(), DatapathError> {
        let mut meta = self.loaded.maps.meta.get(0)?;
        meta.abi = abi::ABI;
        meta.workers = u32::try_from(self.workers).unwrap_or(u32::MAX);
        meta.generation = meta.generation.wrapping_add(1);
        self.loaded.maps.meta.set(0, &meta)?;
        keeper::heartbeat(&self.loaded.maps)
    }

    /// How the edge publishes its sockets. `None` never happens while sk_lookup is required to start; callers still
    /// have to do without it where the datapath is off.
    pub fn steering(&self) -> Option<Arc<dyn eg_l7::Steering>> {
        Some(Arc::clone(&self.steering) as Arc<dyn eg_l7::Steering>)
    }

    /// A handle for telemetry.
    pub fn figures(&self) -> FiguresReader {
        let (maps, folder) = (Arc::clone(&self.loaded.maps), self.loaded.folder.clone());
        FiguresReader::new(maps, folder, Arc::clone(&self.tables), Arc::clone(&self.held))
    }

    /// A handle for the admin server.
    pub fn samples(&self) -> SamplesReader {
        SamplesReader::new(Arc::clone(&self.samples), Arc::clone(&self.tables))
    }

    /// Ends the upkeep. With `detach_on_exit` everything goes; otherwise the kernel goes on forwarding and the next
    /// start takes over.
    ///
    /// # Errors
    /// What could not be removed.
    pub async fn stop(mut self) -> Result<(), DatapathError> {
        self.end_capture(Why::Stop);
        self.keeper.abort();
        if self.plan.detach_on_exit {
            let detached = detach(&self.plan.pin_root).await?;
            tracing::info!(%detached, "datapath detached");
        } else {
            tracing::info!("datapath goes on forwarding; `egctl detach` ends it");
        }
        Ok(())
    }
}

/// The configured interfaces.
async fn interfaces(netlink: &Netlink, plan: &DatapathPlan) -> Result<Vec<Interface>, DatapathError> {
    let known = netlink.interfaces().await?;
    let find = |name: &String| {
        let found = known.iter().find(|interface| &interface.name == name).cloned();
        found.ok_or_else(|| DatapathError::NoInterface { name: name.clone() })
    };
    plan.interfaces.iter().map(find).collect()
}

/// Every address that must reach this host: L4 VIPs, for ARP and for what XDP passes up, and L7 listeners'.
fn local_addresses(plan: &DatapathPlan) -> Vec<IpAddr> {
    let mut all: Vec<IpAddr> =
        plan.vips.iter().map(|vip| vip.address.ip()).chain(plan.local_vips.iter().copied()).collect();
    all.retain(|address| !address.is_unspecified() && !address.is_loopback());
    all.sort_unstable();
    all.dedup();
    all
}

/// The plan's seed, or a random one for pools that have no key yet.
fn seed(plan: &DatapathPlan) -> Result<[u8; 16], DatapathError> {
    if let Some(seed) = plan.hash_seed {
        return Ok(seed);
    }
    let mut seed = [0; 16];
    File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut seed))
        .map_err(DatapathError::system("draw a random hash seed"))?;
    Ok(seed)
}
