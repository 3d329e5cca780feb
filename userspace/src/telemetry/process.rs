// SPDX-License-Identifier: GPL-3.0-only
//! Figures of the process itself: version, phase, configuration, panics, memory, descriptors.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::SystemTime;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;

use super::write::Writer;
use crate::panic;
use crate::vitals::{Phase, Vitals};

pub(super) struct Process(pub(super) Arc<Vitals>);

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Process")
    }
}

impl Collector for Process {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (vitals, mut to) = (&self.0, Writer(encoder));
        let version = vec![(vec![("version", env!("CARGO_PKG_VERSION").to_owned())], 1)];
        to.gauges("expressgateway_build", "Always 1; the label says what is running.", version)?;
        let started = vitals.started_at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        to.gauge(
            "expressgateway_start_time_seconds",
            "When the process started, in seconds since the epoch.",
            started,
        )?;
        let ready = u64::from(vitals.phase() == Phase::Serving);
        to.gauge("expressgateway_ready", "1 while /readyz says 200.", ready)?;
        let generation = vitals.generation.load(Relaxed);
        to.gauge(
            "expressgateway_config_generation",
            "Configurations applied since the start, the first included.",
            generation,
        )?;
        let reloads = [("applied", &vitals.reloads_applied), ("failed", &vitals.reloads_failed)];
        let reloads = reloads.map(|(result, count)| (vec![("result", result.to_owned())], count.load(Relaxed)));
        to.counters("expressgateway_config_reloads", "Reloads by how they ended.", reloads.into())?;
        let waiting = vitals.news().restart_needed.len() as u64;
        to.gauge(
            "expressgateway_config_restart_needed",
            "Settings that differ from the file until a restart.",
            waiting,
        )?;
        let most = vitals.max_connections.load(Relaxed);
        to.gauge("expressgateway_max_connections", "Client connections at which accepting pauses.", most)?;
        let refused = vitals.admin_refused.load(Relaxed);
        to.counter("expressgateway_admin_refused", "Admin requests without the right token.", refused)?;
        to.counter("panic", "Panics, each of which ended one connection or less.", panic::total())?;
        if let Some(bytes) = resident() {
            to.gauge("process_resident_memory_bytes", "Memory in RAM.", bytes)?;
        }
        if let Ok(descriptors) = std::fs::read_dir("/proc/self/fd") {
            // One of them is the directory being read.
            let open = (descriptors.count() as u64).saturating_sub(1);
            to.gauge("process_open_fds", "Open descriptors.", open)?;
        }
        Ok(())
    }
}

/// proc_pid_statm(5): the second number is the resident set in pages.
fn resident() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split_whitespace().nth(1)?.parse().ok()?;
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok()??;
    Some(pages * u64::try_from(page).ok()?)
}
