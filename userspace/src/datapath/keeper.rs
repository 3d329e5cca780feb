// SPDX-License-Identifier: GPL-3.0-only
//! The datapath's one background task: keeps next hops true, frees drained backends, reads events, shows signs of life.
//!
//! `Datapath` starts it on the control runtime and ends it. It waits for whatever comes first: a notification of the
//! kernel's about links, routes or neighbours, an event of the programs', or its timer.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use eg_skel::Maps;
use nix::time::{ClockId, clock_gettime};
use tokio::time::MissedTickBehavior;

use super::error::DatapathError;
use super::events::Events;
use super::loads::Walks;
use super::neigh::Neigh;
use super::netlink::Changes;
use super::sync::Tables;
use crate::config::plan::Timeouts;

/// A second: what `egctl` takes for alive, and how soon an unanswered question for a neighbour is put again.
const BEAT: Duration = Duration::from_secs(1);
/// Neighbours in use are confirmed this often. The kernel calls an entry stale after 15 to 45 s without confirmation
/// (base_reachable_time_ms is 30,000), so a changed MAC is noticed within about a minute even if nobody announces it.
const REFRESH: Duration = Duration::from_secs(10);
/// Notifications come in bursts: what follows within this time is handled together.
const SETTLE: Duration = Duration::from_millis(5);

pub(crate) struct Keeper {
    pub(crate) maps: Arc<Maps>,
    pub(crate) tables: Arc<Mutex<Tables>>,
    pub(crate) neigh: Neigh,
    pub(crate) changes: Changes,
    pub(crate) events: Events,
    /// Told by `Datapath` after a plan was applied.
    pub(crate) applied: Arc<tokio::sync::Notify>,
    /// Where the maps are pinned.
    pub(crate) folder: PathBuf,
    pub(crate) timeouts: Timeouts,
    /// Told when links may have changed, and from time to time.
    pub(crate) links_changed: Arc<tokio::sync::Notify>,
}

impl Keeper {
    /// Runs until its task is aborted.
    pub(crate) async fn run(mut self) {
        let mut beat = tokio::time::interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut refreshed = Instant::now();
        let (maps, tables) = (Arc::clone(&self.maps), Arc::clone(&self.tables));
        let mut walks = Walks::new(maps, tables, self.folder.clone(), self.timeouts);
        loop {
            let look = tokio::select! {
                () = self.changes.wait() => {
                    tokio::time::sleep(SETTLE).await;
                    self.links_changed.notify_one();
                    true
                }
                () = self.applied.notified() => true,
                told = self.events.next() => {
                    let mut tables = lock(&self.tables);
                    told.mtus.iter().fold(told.next_hop, |look, (address, mtu)| tables.learn_mtu(*address, *mtu) || look)
                }
                _ = beat.tick() => {
                    let refresh = refreshed.elapsed() >= REFRESH;
                    if refresh {
                        refreshed = Instant::now();
                        self.neigh.refresh().await;
                        self.links_changed.notify_one();
                    }
                    report(self.beat());
                    report(walks.go_on().await);
                    refresh || lock(&self.tables).unresolved() > 0
                }
            };
            if look {
                report(resolve(&mut self.neigh, &self.tables).await);
            }
        }
    }

    fn beat(&self) -> Result<(), DatapathError> {
        heartbeat(&self.maps)?;
        lock(&self.tables).expire(Instant::now())
    }
}

/// One look at the kernel's tables, applied to ours. Rings follow what became reachable or unreachable.
pub(crate) async fn resolve(neigh: &mut Neigh, tables: &Mutex<Tables>) -> Result<(), DatapathError> {
    let addresses = lock(tables).addresses();
    let found = neigh.resolve(&addresses).await?;
    let mut tables = lock(tables);
    tables.next_hops(&found)?;
    tables.rings()
}

/// The time of the process's last sign of life, for whoever reads the maps without asking the process.
pub(crate) fn heartbeat(maps: &Maps) -> Result<(), DatapathError> {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME)
        .map_err(|error| DatapathError::System { doing: "read the clock".into(), source: error.into() })?;
    let mut meta = maps.meta.get(0)?;
    meta.alive = now.tv_sec().unsigned_abs() * 1_000_000_000 + now.tv_nsec().unsigned_abs();
    Ok(maps.meta.set(0, &meta)?)
}

pub(crate) fn lock(tables: &Mutex<Tables>) -> std::sync::MutexGuard<'_, Tables> {
    tables.lock().unwrap_or_else(PoisonError::into_inner)
}

fn report(result: Result<(), DatapathError>) {
    if let Err(error) = result {
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        tracing::error!(%error, cause, "datapath upkeep failed, it is tried again");
    }
}
