// SPDX-License-Identifier: GPL-3.0-only
//! Captures: for a while the attached programs are replaced by twins that also say which packets they see.
//!
//! `control` is the caller, between signals: a reload never runs beside the start or the end of a capture, and ends one
//! that is under way. A capture ends by its deadline, its count, its client's leaving, a reload, or the process's stop;
//! then the programs themselves are put back, and nothing is left to pay for. Both swaps are one step for each interface,
//! and no packet sees a gap. Should the process die meanwhile, the twins forward on as any program does, record nothing
//! after their own deadline, and are replaced by the next start.

mod pcapng;
mod reader;
mod request;

use std::fmt;
use std::net::SocketAddr;
use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;
use eg_skel::abi::{PROTO_TCP, PROTO_UDP};
use eg_skel::features;
use tokio::sync::watch;
use tokio::time::Instant;

use super::attach::links::Links;
use super::attach::swap::{self, Hook};
use super::keeper::lock;
use super::load::{Sinks, Twins, Wanted};
use super::{Datapath, DatapathError};
use reader::End;

pub use request::{CaptureRequest, CaptureVerdict, Network as CaptureNetwork};

/// Longer than loading twins takes on a slow machine. The twins' own deadline is that much later than the process's.
const LOADING: Duration = Duration::from_secs(60);

/// How long the next capture waits for the last one's client to take what is left.
const LAST_WRITTEN: Duration = Duration::from_secs(2);

/// All verdicts there are.
const ANY_VERDICT: u32 = u32::MAX;

/// A pcapng file, as it grows; ends with the capture.
pub type Captured = tokio::sync::mpsc::Receiver<Bytes>;

/// Somebody wants one.
pub struct CaptureAsk {
    pub request: CaptureRequest,
    pub answer: tokio::sync::oneshot::Sender<Result<Captured, CaptureRefused>>,
}

/// Why there is none.
#[derive(Debug)]
pub enum CaptureRefused {
    /// No datapath runs.
    Off,
    /// One is under way, and ends then at the latest.
    Busy {
        within: Duration,
    },
    /// No L4 listener has this address and port.
    NoVip(SocketAddr),
    /// No interface runs a program of ours.
    NotAttached,
    Failed(DatapathError),
}

impl fmt::Display for CaptureRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CaptureRefused::Off => {
                f.write_str("the gateway runs without its kernel datapath: there are no packets to capture")
            }
            CaptureRefused::Busy { within } => {
                write!(f, "another capture is under way; it ends within {} s", within.as_secs() + 1)
            }
            CaptureRefused::NoVip(address) => write!(f, "no tcp or udp listener has the address {address}"),
            CaptureRefused::NotAttached => f.write_str("no interface runs a program of ours"),
            CaptureRefused::Failed(error) => f.write_str(&crate::app::causes(error)),
        }
    }
}

/// Why a capture ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    Deadline,
    Count,
    Client,
    Reload,
    Stop,
}

impl Why {
    fn text(self) -> &'static str {
        match self {
            Why::Deadline => "its time is over",
            Why::Count => "as many as were asked for",
            Why::Client => "its client has left",
            Why::Reload => "the configuration is reloaded",
            Why::Stop => "the gateway stops",
        }
    }
}

/// The capture that is under way.
pub(super) struct Running {
    until: Instant,
    twins: Twins,
    interfaces: Vec<u32>,
    end: mpsc::Sender<End>,
    /// Said by the reader.
    enough: watch::Receiver<Option<Why>>,
}

impl Running {
    async fn over(&self) -> Why {
        let mut enough = self.enough.clone();
        tokio::select! {
            () = tokio::time::sleep_until(self.until) => Why::Deadline,
            said = enough.wait_for(Option::is_some) => said.ok().and_then(|why| *why).unwrap_or(Why::Client),
        }
    }
}

impl Datapath {
    /// Begins a capture. The file grows until [`Datapath::capture_over`] says why it ends, and [`Datapath::end_capture`]
    /// has ended it.
    ///
    /// # Errors
    /// One is under way, or the twins cannot be had; then nothing has changed.
    pub async fn capture(&mut self, request: &CaptureRequest) -> Result<Captured, CaptureRefused> {
        if let Some(running) = &self.capture {
            return Err(CaptureRefused::Busy { within: running.until.saturating_duration_since(Instant::now()) });
        }
        if !self.last_is_written().await {
            return Err(CaptureRefused::Busy { within: LAST_WRITTEN });
        }
        let interfaces = self.attached().await.map_err(CaptureRefused::Failed)?;
        if interfaces.is_empty() {
            return Err(CaptureRefused::NotAttached);
        }
        let vips = request.vip.map_or(Ok([0; 2]), |vip| self.vip_numbers(vip))?;
        self.begin(request, vips, interfaces).await.map_err(CaptureRefused::Failed)
    }

    /// The last capture's buffers are its reader's until its client has all of it, or is gone.
    async fn last_is_written(&self) -> bool {
        let deadline = Instant::now() + LAST_WRITTEN;
        while self.writing.as_ref().is_some_and(|writing| writing.strong_count() > 0) {
            if Instant::now() >= deadline {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        true
    }

    /// Configured interfaces that run a program of ours, and by which hook.
    async fn attached(&self) -> Result<Vec<(u32, String, Hook)>, DatapathError> {
        let known = self.netlink.interfaces().await?;
        let configured = known.into_iter().filter(|interface| self.plan.interfaces.contains(&interface.name));
        let hooks = configured.map(|interface| {
            let hook = swap::hook(&self.links, interface.index)?;
            Ok(hook.map(|hook| (interface.index, interface.name, hook)))
        });
        hooks.filter_map(Result::transpose).collect()
    }

    fn vip_numbers(&self, vip: SocketAddr) -> Result<[u32; 2], CaptureRefused> {
        let tables = lock(&self.tables);
        let number = |proto| tables.vips.get(&(vip, proto)).map(|entry| entry.id);
        match (number(PROTO_TCP), number(PROTO_UDP)) {
            (Some(tcp), Some(udp)) => Ok([tcp, udp]),
            (Some(one), None) | (None, Some(one)) => Ok([one; 2]),
            (None, None) => Err(CaptureRefused::NoVip(vip)),
        }
    }

    async fn begin(
        &mut self,
        request: &CaptureRequest,
        vips: [u32; 2],
        interfaces: Vec<(u32, String, Hook)>,
    ) -> Result<Captured, DatapathError> {
        let wanted = wanted(request, vips)?;
        let by_xdp = interfaces.iter().any(|(_, _, hook)| *hook == Hook::Xdp);
        let by_tc = interfaces.iter().any(|(_, _, hook)| *hook != Hook::Xdp);
        let loading = self.loaded.twins(by_xdp, by_tc)?;
        let began = Instant::now();
        let load = move || {
            let sinks = Sinks::new()?;
            Ok::<_, DatapathError>((loading.load(&wanted, &sinks)?, sinks))
        };
        let loaded = tokio::task::spawn_blocking(load).await;
        let (mut twins, sinks) =
            loaded.map_err(|error| DatapathError::system("load twins")(std::io::Error::other(error)))??;
        if began.elapsed() > LOADING {
            return Err(DatapathError::Plan { problem: "loading the programs' twins took too long".into() });
        }
        let (out, captured) = tokio::sync::mpsc::channel(reader::CHUNKS);
        self.writing = Some(out.downgrade());
        let (end, ended) = mpsc::channel();
        let (said, enough) = watch::channel(None);
        let indices: Vec<u32> = interfaces.iter().map(|(index, ..)| *index).collect();
        reader::start(reader::Start {
            sinks,
            tables: self.tables.clone(),
            snap: request.snap,
            count: request.count,
            interfaces: interfaces.into_iter().map(|(index, name, _)| (index, name)).collect(),
            out,
            enough: said,
            end: ended,
        })?;
        let swapped = indices.iter().try_for_each(|index| swap::swap(&self.links, *index, &mut twins).map(drop));
        let until = Instant::now() + request.duration;
        self.capture = Some(Running { until, twins, interfaces: indices, end, enough });
        if let Err(error) = swapped {
            self.end_capture(Why::Stop);
            return Err(error);
        }
        tracing::info!(seconds = request.duration.as_secs(), query = request.query(), "capture began");
        Ok(captured)
    }

    /// Waits until the capture that is under way should end, and says why. Never, while none is.
    pub async fn capture_over(&self) -> Why {
        match &self.capture {
            Some(running) => running.over().await,
            None => std::future::pending().await,
        }
    }

    /// Puts the programs themselves back, if a capture is under way. What of its packets was not read yet follows, then
    /// its end.
    pub fn end_capture(&mut self, why: Why) {
        let Some(Running { twins, interfaces, end, .. }) = self.capture.take() else { return };
        if let Err(error) = put_back(&self.links, &interfaces, &mut self.loaded) {
            // Attached still: its table of programs must stay, and nobody reads it.
            tracing::error!(error = crate::app::causes(&error), "cannot end a capture; a reload tries again");
            std::mem::forget(twins);
            return;
        }
        // The reader is there as long as nobody told it, unless it has panicked.
        let _ = end.send(End { why, twins });
    }
}

/// At every interface, whatever fails at one.
fn put_back(links: &Links, interfaces: &[u32], programs: &mut super::Loaded) -> Result<(), DatapathError> {
    let mut result = Ok(());
    for index in interfaces {
        if let Err(error) = swap::swap(links, *index, programs) {
            result = Err(error);
        }
    }
    result
}

fn wanted(request: &CaptureRequest, vips: [u32; 2]) -> Result<Wanted, DatapathError> {
    let asked = || DatapathError::system("ask for the kernel's time");
    let hz = u64::from(features::jiffies_hz().map_err(asked())?);
    let seconds = (request.duration + LOADING).as_secs();
    let until = features::jiffies64().map_err(asked())?.saturating_add(seconds.saturating_mul(hz));
    let (verdicts, reason) = request.verdict.map_or((ANY_VERDICT, 0), CaptureVerdict::codes);
    let (client, mask) = request.client.map_or(([0; 4], [0; 4]), CaptureNetwork::words);
    Ok(Wanted { until, snap: request.snap, verdicts, reason, vips, client, mask })
}
