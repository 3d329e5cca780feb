// SPDX-License-Identifier: GPL-3.0-only
//! What the process knows about itself at this moment: phase, generation, plan, reloads. Written by the control thread,
//! read by the admin server and by telemetry at a scrape.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use arc_swap::{ArcSwap, ArcSwapOption};
use eg_l7::{Counters, Transport};

use crate::config::plan::Plan;
use crate::datapath::{FiguresReader, SamplesReader};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Starting,
    Serving,
    Draining,
}

impl Phase {
    pub fn word(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Serving => "serving",
            Self::Draining => "draining",
        }
    }
}

/// Shared by reference counting; every part can be read at any time.
pub struct Vitals {
    pub started: Instant,
    pub started_at: SystemTime,
    /// The plan in force: after a reload, with the old values of what needs a restart.
    pub plan: ArcSwap<Plan>,
    phase: AtomicU8,
    /// 1 for the first plan, one more for each that was applied.
    pub generation: AtomicU64,
    pub reloads_applied: AtomicU64,
    pub reloads_failed: AtomicU64,
    /// Client connections that the descriptors allow.
    pub max_connections: AtomicU64,
    /// Requests to the admin server without the right token.
    pub admin_refused: AtomicU64,
    /// One per worker, once they run.
    pub counters: ArcSwapOption<Vec<Arc<Counters>>>,
    pub figures: ArcSwapOption<FiguresReader>,
    /// Refused packets, while the datapath is on.
    pub samples: ArcSwapOption<SamplesReader>,
    news: Mutex<News>,
}

/// What changes seldom and is read whole. The lock is held for a copy, never across an await or a system call.
#[derive(Clone, Default)]
pub struct News {
    pub addresses: Vec<(String, SocketAddr, Transport)>,
    pub admin: Option<SocketAddr>,
    pub last_reload: Option<Reload>,
    pub restart_needed: Vec<String>,
}

/// How the last reload ended.
#[derive(Clone, Debug)]
pub struct Reload {
    pub at: SystemTime,
    pub applied: bool,
    pub message: String,
}

impl Vitals {
    pub fn new(plan: Plan) -> Self {
        Self {
            started: Instant::now(),
            started_at: SystemTime::now(),
            plan: ArcSwap::from_pointee(plan),
            phase: AtomicU8::new(0),
            generation: AtomicU64::new(1),
            reloads_applied: AtomicU64::new(0),
            reloads_failed: AtomicU64::new(0),
            max_connections: AtomicU64::new(0),
            admin_refused: AtomicU64::new(0),
            counters: ArcSwapOption::empty(),
            figures: ArcSwapOption::empty(),
            samples: ArcSwapOption::empty(),
            news: Mutex::default(),
        }
    }

    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Starting,
            1 => Phase::Serving,
            _ => Phase::Draining,
        }
    }

    pub fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Release);
    }

    pub fn news(&self) -> MutexGuard<'_, News> {
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
