// SPDX-License-Identifier: GPL-3.0-only
//! What the L7 workers counted, summed over workers.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use eg_l7::Counters;
use eg_l7::error::Cause;
use eg_l7::observe::{Count, ListenerCounters, Protocol};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;

use super::write::{Label, Writer};
use crate::vitals::Vitals;

pub(super) struct Edge(pub(super) Arc<Vitals>);

impl fmt::Debug for Edge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Edge")
    }
}

impl Collector for Edge {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Some(workers) = self.0.counters.load_full() else { return Ok(()) };
        let mut to = Writer(encoder);
        requests(&mut to, &workers)?;
        failures(&mut to, &workers)?;
        listeners(&mut to, &workers)?;
        for (name, help, which) in TOTALS {
            to.counter(name, help, workers.iter().map(|worker| which(worker).get()).sum())?;
        }
        Ok(())
    }
}

type Total = (&'static str, &'static str, fn(&Counters) -> &Count);

const TOTALS: [Total; 20] = [
    ("expressgateway_upstream_connects", "Connections made to backends.", |c| &c.upstream_connects),
    ("expressgateway_upstream_connect_failures", "Attempts to connect to backends that failed.", |c| {
        &c.upstream_connect_failures
    }),
    ("expressgateway_upstream_reuses", "Requests sent on a kept connection.", |c| &c.upstream_reuses),
    ("expressgateway_upstream_replays", "Requests sent again because a kept connection had died.", |c| {
        &c.upstream_replays
    }),
    ("expressgateway_accept_pauses", "Times that accepting paused.", |c| &c.accept_pauses),
    ("shutdown_aborted_connections", "Connections that a drain cut because its time was over.", |c| {
        &c.shutdown_aborted_connections
    }),
    ("expressgateway_quic_handshakes", "QUIC handshakes that were completed.", |c| &c.quic.handshakes),
    ("expressgateway_quic_received_datagrams", "QUIC datagrams that came in.", |c| &c.quic.received_datagrams),
    ("expressgateway_quic_received_bytes", "Bytes of QUIC datagrams that came in.", |c| &c.quic.received_bytes),
    ("expressgateway_quic_receive_calls", "System calls that received QUIC datagrams.", |c| &c.quic.receive_calls),
    ("expressgateway_quic_sent_datagrams", "QUIC datagrams that went out.", |c| &c.quic.sent_datagrams),
    ("expressgateway_quic_sent_bytes", "Bytes of QUIC datagrams that went out.", |c| &c.quic.sent_bytes),
    ("expressgateway_quic_send_calls", "System calls that sent QUIC datagrams.", |c| &c.quic.send_calls),
    ("expressgateway_quic_send_waits", "Times that the kernel's buffer for QUIC datagrams was full.", |c| {
        &c.quic.send_waits
    }),
    ("expressgateway_quic_send_failures", "Bursts of QUIC datagrams that the kernel refused.", |c| {
        &c.quic.send_failures
    }),
    ("expressgateway_quic_version_negotiations", "Clients that were told which QUIC versions are spoken.", |c| {
        &c.quic.version_negotiations
    }),
    ("expressgateway_quic_refused", "QUIC clients that were turned away.", |c| &c.quic.refused),
    (
        "expressgateway_quic_dropped_foreign_destination",
        "QUIC datagrams dropped: not for an address of the listener.",
        |c| &c.quic.foreign_destination,
    ),
    ("expressgateway_quic_dropped_malformed", "QUIC datagrams dropped: malformed, or not authentic.", |c| {
        &c.quic.malformed
    }),
    ("expressgateway_quic_dropped_unknown_connection", "QUIC datagrams dropped: of no known connection.", |c| {
        &c.quic.unknown_connection
    }),
];

fn requests(to: &mut Writer<'_>, workers: &[Arc<Counters>]) -> fmt::Result {
    let mut sums: BTreeMap<(String, &str, u16), u64> = BTreeMap::new();
    for listener in workers.iter().flat_map(|worker| worker.listeners()) {
        for (protocol, status, count) in listener.requests() {
            *sums.entry((listener.name.to_string(), protocol.label(), status)).or_default() += count;
        }
    }
    let families = sums.into_iter().map(|((listener, protocol, status), count)| {
        let labels = vec![("listener", listener), ("protocol", protocol.to_owned()), ("status", status.to_string())];
        (labels, count)
    });
    to.counters("expressgateway_requests", "Requests by the status that the client got.", families.collect())
}

fn failures(to: &mut Writer<'_>, workers: &[Arc<Counters>]) -> fmt::Result {
    let each = Cause::ALL.map(|cause| {
        let sum = workers.iter().map(|worker| worker.upstream_failures(cause)).sum();
        (vec![("cause", cause.label().to_owned())], sum)
    });
    to.counters("expressgateway_upstream_failures", "Times that a backend failed, by how.", each.into())
}

type PerListener = (&'static str, &'static str, fn(&ListenerCounters) -> &Count);

const PER_LISTENER: [PerListener; 5] = [
    ("expressgateway_received_body_bytes", "Bytes of request bodies taken from clients.", |l| &l.received_body_bytes),
    ("expressgateway_sent_body_bytes", "Bytes of response bodies handed to clients.", |l| &l.sent_body_bytes),
    ("expressgateway_aborted_responses", "Responses cut because they could not be completed.", |l| {
        &l.aborted_responses
    }),
    ("expressgateway_cancelled_requests", "Requests whose client left before the response was complete.", |l| {
        &l.cancelled_requests
    }),
    ("expressgateway_handshake_failures", "TLS or QUIC handshakes that failed.", |l| &l.handshake_failures),
];

fn listeners(to: &mut Writer<'_>, workers: &[Arc<Counters>]) -> fmt::Result {
    let mut by_name: BTreeMap<String, Vec<Arc<ListenerCounters>>> = BTreeMap::new();
    for listener in workers.iter().flat_map(|worker| worker.listeners()) {
        by_name.entry(listener.name.to_string()).or_default().push(listener);
    }
    for (name, help, which) in PER_LISTENER {
        let sums = by_name.iter().map(|(listener, all)| {
            let sum = all.iter().map(|counters| which(counters).get()).sum();
            (vec![("listener", listener.clone())], sum)
        });
        to.counters(name, help, sums.collect())?;
    }
    let per_protocol = |which: fn(&ListenerCounters, Option<Protocol>) -> u64| {
        let mut sums: Vec<(Vec<Label>, u64)> = Vec::new();
        for (listener, all) in &by_name {
            for protocol in Protocol::ALL.map(Some).into_iter().chain([None]) {
                let sum = all.iter().map(|counters| which(counters, protocol)).sum();
                let protocol = protocol.map_or("none", Protocol::label).to_owned();
                sums.push((vec![("listener", listener.clone()), ("protocol", protocol)], sum));
            }
        }
        sums
    };
    let accepted = per_protocol(|counters, protocol| counters.connections(protocol).accepted.get());
    to.counters("expressgateway_connections", "Connections accepted, by the protocol they spoke.", accepted)?;
    let active = per_protocol(|counters, protocol| counters.connections(protocol).active.get());
    to.gauges("expressgateway_connections_active", "Connections open now.", active)
}
