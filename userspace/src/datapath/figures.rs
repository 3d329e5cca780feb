// SPDX-License-Identifier: GPL-3.0-only
//! What the kernel counted, under the operator's names.
//!
//! Telemetry holds a `FiguresReader` and reads at each scrape; nothing is sampled in between. Numbers come from the
//! per-CPU maps, names from the tables, so a VIP that a reload removed is gone from the next reading.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use eg_skel::abi::{BackendState, Cookie, Count, Drop as DropReason, Load, Meta, Miss, Probed, Stats};
use eg_skel::maps::Totals;
use eg_skel::{Maps, ProbeMaps};

use super::attach::look;
use super::error::DatapathError;
use super::fragments::{Counters, HeldFragments};
use super::sync::Tables;
use crate::config::plan::Proto;

/// One reading.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    pub vips: Vec<VipFigures>,
    pub backends: Vec<BackendFigures>,
    /// received = forwarded + passed + dropped + answered
    pub totals: Totals,
    pub drops: Vec<(DropReason, Count)>,
    pub misses: Vec<(Miss, u64)>,
    /// SYNs beyond what the stack is to answer.
    pub cookies: Vec<(Cookie, u64)>,
    /// Packets of probes that went the traffic's own way.
    pub probed: Vec<(Probed, u64)>,
    /// Events that the kernel side did not send: over the rate, or nobody read them.
    pub events_lost: u64,
    /// Fragments that came before their first.
    pub held: HeldFragments,
    /// Interfaces at which a program of ours runs.
    pub interfaces: u64,
    /// Of the configuration applied last.
    pub generation: u64,
}

/// A VIP's share.
#[derive(Clone, Debug)]
pub struct VipFigures {
    pub listener: String,
    pub address: SocketAddr,
    pub proto: Proto,
    pub pool: String,
    pub stats: Stats,
    /// Packets forwarded over the budget of new flows.
    pub stateless: u64,
}

/// A backend's share, draining ones included.
#[derive(Clone, Debug)]
pub struct BackendFigures {
    pub pool: String,
    pub name: String,
    pub address: SocketAddr,
    pub state: BackendState,
    /// Whether its next hop is known.
    pub resolved: bool,
    pub load: Load,
    pub stats: Stats,
}

/// Reads the figures; cheap to clone, outlives the datapath without harm.
#[derive(Clone)]
pub struct FiguresReader {
    maps: Arc<Maps>,
    /// Where they are pinned.
    folder: PathBuf,
    tables: Arc<Mutex<Tables>>,
    held: Arc<Counters>,
}

impl FiguresReader {
    pub(crate) fn new(
        maps: Arc<Maps>,
        folder: PathBuf,
        tables: Arc<Mutex<Tables>>,
        held: Arc<Counters>,
    ) -> FiguresReader {
        FiguresReader { maps, folder, tables, held }
    }

    /// Some thousand small system calls, a few milliseconds.
    ///
    /// # Errors
    /// The map that could not be read.
    pub fn read(&self) -> Result<Figures, DatapathError> {
        let (mut vips, mut backends) = (Vec::new(), Vec::new());
        {
            let tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
            for (key, entry) in &tables.vips {
                vips.push(VipFigures {
                    listener: entry.listener.clone(),
                    address: key.0,
                    proto: if key.1 == eg_skel::abi::PROTO_UDP { Proto::Udp } else { Proto::Tcp },
                    pool: entry.pool.clone(),
                    stats: self.maps.vip_stats.sum(entry.id)?,
                    stateless: self.maps.stateless.sum(entry.id)?,
                });
            }
            for (key, entry) in &tables.backends {
                backends.push(BackendFigures {
                    pool: key.pool.clone(),
                    name: key.name.clone(),
                    address: key.address,
                    state: BackendState::from_code(entry.value.state.into()).unwrap_or(BackendState::None),
                    resolved: entry.value.ifindex != 0,
                    load: self.maps.loads.get(entry.id),
                    stats: self.maps.backend_stats.sum(entry.id)?,
                });
            }
        }
        let drops = DropReason::ALL.iter().map(|reason| Ok((*reason, self.maps.drops.sum(reason.code())?)));
        let misses = Miss::ALL.iter().map(|miss| Ok((*miss, self.maps.misses.sum(miss.code())?)));
        let cookies = Cookie::ALL.iter().map(|became| Ok((*became, self.maps.cookie_stats.sum(became.code())?)));
        let probes = ProbeMaps::open(&self.folder)?;
        let probed = Probed::ALL.iter().map(|result| {
            let count = probes.as_ref().map(|maps| maps.probed.sum(result.code())).transpose()?;
            Ok((*result, count.unwrap_or_default().packets))
        });
        let Meta { generation, .. } = self.maps.meta.get(0)?;
        Ok(Figures {
            vips,
            backends,
            totals: self.maps.totals()?,
            drops: drops.collect::<Result<_, DatapathError>>()?,
            misses: misses.collect::<Result<_, DatapathError>>()?,
            cookies: cookies.collect::<Result<_, DatapathError>>()?,
            probed: probed.collect::<Result<_, DatapathError>>()?,
            events_lost: self.maps.events_lost.sum(0)?,
            held: self.held.read(),
            interfaces: look::count(&self.folder)? as u64,
            generation,
        })
    }
}
