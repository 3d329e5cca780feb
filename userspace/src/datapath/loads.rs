// SPDX-License-Identifier: GPL-3.0-only
//! How busy backends are: the programs count as flows open and close, and this corrects what they cannot see, flows that
//! expired or were evicted.
//!
//! The keeper has it run now and then on a thread of its own: a walk of both tables, some 150 ns an entry. What the walk
//! finds to live is the truth at about that moment; the difference to what was counted is added, so that what the programs
//! count meanwhile stays. A flow that opens during the walk may be counted twice, until the next one.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use eg_skel::abi::{BackendState, FLOW_CLAIM, Flow, FlowDir, FlowKey, FlowState, MAX_BACKENDS, PROTO_UDP};
use eg_skel::{Maps, features};

use tokio::task::JoinHandle;

use super::error::DatapathError;
use super::keeper::lock;
use super::sync::Tables;
use crate::config::plan::Timeouts;

/// Between walks while some pool chooses by these counts, and while they are only shown.
const SOON: Duration = Duration::from_secs(10);
const SHOWN: Duration = Duration::from_secs(60);
/// ... but never more than a twentieth of a core's time.
const SHARE: u32 = 20;

/// When a walk is due, and the one that is under way.
pub(super) struct Walks {
    maps: Arc<Maps>,
    tables: Arc<Mutex<Tables>>,
    folder: PathBuf,
    timeouts: Timeouts,
    next: Instant,
    running: Option<JoinHandle<Result<Duration, DatapathError>>>,
}

impl Walks {
    /// The first walk is due at once: what is pinned may have been counted by a process that died.
    pub(super) fn new(maps: Arc<Maps>, tables: Arc<Mutex<Tables>>, folder: PathBuf, timeouts: Timeouts) -> Walks {
        Walks { maps, tables, folder, timeouts, next: Instant::now(), running: None }
    }

    /// Called every second or so: takes up what a walk has found, begins the next when it is time.
    pub(super) async fn go_on(&mut self) -> Result<(), DatapathError> {
        if let Some(walk) = self.running.take_if(|walk| walk.is_finished()) {
            let took = walk
                .await
                .map_err(|error| DatapathError::system("count the flows")(std::io::Error::other(error)))??;
            let every = if lock(&self.tables).chooses_by_load() { SOON } else { SHOWN };
            self.next = Instant::now() + (took * SHARE).max(every);
        }
        if self.running.is_none() && Instant::now() >= self.next {
            let (maps, folder, timeouts) = (Arc::clone(&self.maps), self.folder.clone(), self.timeouts);
            self.running = Some(tokio::task::spawn_blocking(move || correct(&maps, &folder, timeouts)));
        }
        Ok(())
    }
}

/// Walks the tables pinned in `folder` and corrects `maps`' loads. Blocks for as long as it takes, and says how long.
fn correct(maps: &Maps, folder: &Path, timeouts: Timeouts) -> Result<Duration, DatapathError> {
    let began = Instant::now();
    let counted: Vec<_> =
        (1..MAX_BACKENDS).map(|id| maps.loads.get(id)).map(|load| (load.flows, load.outstanding)).collect();
    let hz = features::jiffies_hz().map_err(DatapathError::system("ask for the kernel's tick"))?;
    let now = features::jiffies().map_err(DatapathError::system("ask for the kernel's jiffies"))?;
    let mut judge = Judge { maps, now, hz, timeouts, epochs: HashMap::new(), backends: HashMap::new() };
    let mut lives: HashMap<u32, (i64, i64)> = HashMap::new();
    let mut failed = None;
    // A reload may have replaced the table that `maps` holds: the pinned one is in use.
    let established = Maps::open_flows(folder)?;
    for (table, open) in [(&established, 1), (&maps.opening, 0)] {
        table.walk(|key, flow| {
            match judge.lives(&key, &flow) {
                Ok(true) => {
                    let (flows, outstanding) = lives.entry(flow.backend).or_default();
                    *flows += open;
                    *outstanding += 1;
                }
                Ok(false) => {}
                Err(error) => {
                    failed = Some(error);
                    return ControlFlow::Break(());
                }
            }
            ControlFlow::Continue(())
        })?;
    }
    if let Some(error) = failed {
        return Err(error);
    }
    for (id, (flows, outstanding)) in (1..).zip(counted) {
        let (true_flows, true_outstanding) = lives.get(&id).copied().unwrap_or_default();
        if (true_flows, true_outstanding) != (flows, outstanding) {
            maps.loads.add(id, true_flows - flows, true_outstanding - outstanding);
        }
    }
    Ok(began.elapsed())
}

/// Tells which entries stand for a flow that lives.
struct Judge<'m> {
    maps: &'m Maps,
    now: u32,
    hz: u32,
    timeouts: Timeouts,
    epochs: HashMap<u32, u32>,
    backends: HashMap<u32, (u32, u8)>,
}

impl Judge<'_> {
    /// A forward half in time, whose VIP and backend are still those it began with, and that is not closing.
    fn lives(&mut self, key: &FlowKey, flow: &Flow) -> Result<bool, DatapathError> {
        let forward = u32::from(flow.dir) == FlowDir::Forward.code() && key.pad[0] != FLOW_CLAIM;
        let closing = u32::from(flow.state) == FlowState::Closing.code();
        if !forward || closing || self.idle(flow) >= self.timeout(key, flow) {
            return Ok(false);
        }
        let epoch = match self.epochs.get(&flow.vip) {
            Some(epoch) => *epoch,
            None => *self.epochs.entry(flow.vip).or_insert(self.maps.vips.get(flow.vip)?.epoch),
        };
        let (generation, state) = match self.backends.get(&flow.backend) {
            Some(backend) => *backend,
            None => {
                let backend = self.maps.backends.get(flow.backend)?;
                *self.backends.entry(flow.backend).or_insert((backend.generation, backend.state))
            }
        };
        let stands = u32::from(state) != BackendState::None.code();
        Ok(epoch == flow.epoch && generation == flow.generation && stands)
    }

    fn idle(&self, flow: &Flow) -> Duration {
        // Refreshed at this moment, it may be ahead of us.
        let jiffies = self.now.wrapping_sub(flow.seen).cast_signed().max(0).unsigned_abs();
        Duration::from_secs(u64::from(jiffies / self.hz.max(1)))
    }

    fn timeout(&self, key: &FlowKey, flow: &Flow) -> Duration {
        match FlowState::from_code(flow.state.into()) {
            _ if key.proto == PROTO_UDP => self.timeouts.udp,
            Some(FlowState::Open) => self.timeouts.open,
            Some(FlowState::Closing) => self.timeouts.closing,
            _ => self.timeouts.opening,
        }
    }
}
