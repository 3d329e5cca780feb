// SPDX-License-Identifier: GPL-3.0-only
//! Reads what the programs tell: sampled drops for the log, and next hops that somebody must resolve.
//!
//! The keeper polls it on the control runtime. The kernel side bounds the rate of events, this side the rate of log
//! lines: one for each reason every ten seconds, with how many it stands for. The exact numbers are in the counters.

use std::collections::HashMap;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use eg_skel::abi::{Drop as DropReason, Event, EventKind, Plain};
use libbpf_rs::{MapHandle, RingBuffer, RingBufferBuilder};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::error::DatapathError;
use super::samples::{Samples, end, protocol, socket};

const LOG_EVERY: Duration = Duration::from_secs(10);

/// The ring buffer, ready to be awaited.
pub(crate) struct Events {
    ring: AsyncFd<Ring>,
    /// Filled by the ring's callback, emptied by `next`; never held across an await.
    inbox: Arc<Mutex<Vec<Event>>>,
    logged: HashMap<u32, Logged>,
    /// What the admin server shows.
    samples: Arc<Samples>,
}

/// What events ask for.
#[derive(Default)]
pub(crate) struct Told {
    /// Somebody must look for a next hop.
    pub(crate) next_hop: bool,
    /// Path MTUs by address.
    pub(crate) mtus: Vec<(IpAddr, u16)>,
}

struct Logged {
    at: Instant,
    since: u64,
}

struct Ring(RingBuffer<'static>);

impl AsRawFd for Ring {
    fn as_raw_fd(&self) -> RawFd {
        self.0.epoll_fd()
    }
}

impl Events {
    pub(crate) fn open(map: &MapHandle, samples: Arc<Samples>) -> Result<Events, DatapathError> {
        let inbox = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&inbox);
        let mut builder = RingBufferBuilder::new();
        builder
            .add(map, move |bytes: &[u8]| {
                if let Some(event) = Event::from_bytes(bytes) {
                    sink.lock().unwrap_or_else(PoisonError::into_inner).push(event);
                }
                0
            })
            .map_err(DatapathError::map("open the ring buffer eg_events"))?;
        let ring = Ring(builder.build().map_err(DatapathError::map("open the ring buffer eg_events"))?);
        // SAFETY: the descriptor is the ring buffer's own, which `AsyncFd` owns and nobody replaces or closes before.
        let ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }
            .map_err(|error| DatapathError::system("watch the ring buffer eg_events")(error.into()))?;
        Ok(Events { ring, inbox, logged: HashMap::new(), samples })
    }

    /// Waits for events, logs what is to be logged, and says what somebody must do. Cancel-safe: events that a cancelled
    /// call consumed stay in the inbox.
    pub(crate) async fn next(&mut self) -> Told {
        match self.ring.readable_mut().await {
            Ok(mut ready) => {
                if let Err(error) = ready.get_inner().0.consume() {
                    tracing::warn!(%error, "cannot read datapath events");
                }
                ready.clear_ready();
            }
            Err(error) => {
                tracing::error!(%error, "datapath events are lost from now on");
                return std::future::pending().await;
            }
        }
        let events = std::mem::take(&mut *self.inbox.lock().unwrap_or_else(PoisonError::into_inner));
        let now = Instant::now();
        let mut told = Told::default();
        for event in events {
            match EventKind::from_code(event.kind) {
                Some(EventKind::NextHop) => {
                    told.next_hop = true;
                    self.samples.keep(&event, SystemTime::now());
                }
                Some(EventKind::Mtu) => {
                    told.mtus.push((event.key.daddr.into(), u16::try_from(event.code).unwrap_or(u16::MAX)));
                }
                Some(EventKind::Drop) => {
                    self.log_drop(&event, now);
                    self.samples.keep(&event, SystemTime::now());
                }
                None => tracing::debug!(kind = event.kind, "unknown datapath event"),
            }
        }
        told
    }

    fn log_drop(&mut self, event: &Event, now: Instant) {
        let logged = self.logged.entry(event.code).or_insert(Logged { at: now - LOG_EVERY, since: 0 });
        logged.since += 1;
        if now.duration_since(logged.at) < LOG_EVERY {
            return;
        }
        let reason = DropReason::from_code(event.code).map_or("unknown", DropReason::label);
        let (source, destination) =
            (socket(event.key.saddr, event.key.sport), socket(event.key.daddr, event.key.dport));
        tracing::warn!(
            reason,
            source = end(source, destination),
            destination = end(destination, source),
            protocol = protocol(event.key.proto),
            bytes = event.length,
            sampled = logged.since,
            "packets dropped"
        );
        *logged = Logged { at: now, since: 0 };
    }
}
