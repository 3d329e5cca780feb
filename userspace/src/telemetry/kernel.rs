// SPDX-License-Identifier: GPL-3.0-only
//! What the BPF programs counted, read from their per-CPU maps at each scrape.
//!
//! The maps outlive the process, so these counters do not start at 0 with it.

use std::fmt;
use std::sync::Arc;

use eg_skel::abi::Stats;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;

use super::write::{Label, Writer};
use crate::config::plan::Proto;
use crate::datapath::{BackendFigures, Figures, HeldFragments, VipFigures};
use crate::vitals::Vitals;

pub(super) struct Kernel(pub(super) Arc<Vitals>);

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Kernel")
    }
}

impl Collector for Kernel {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Some(reader) = self.0.figures.load_full() else { return Ok(()) };
        let mut to = Writer(encoder);
        let figures = reader.read();
        // A scrape without these figures must be told from one where they are 0.
        to.gauge("expressgateway_l4_readable", "1 if the BPF maps could be read.", u64::from(figures.is_ok()))?;
        match figures {
            Ok(figures) => {
                totals(&mut to, &figures)?;
                vips(&mut to, &figures.vips)?;
                backends(&mut to, &figures.backends)
            }
            Err(error) => {
                tracing::warn!(%error, "cannot read the datapath's figures");
                Ok(())
            }
        }
    }
}

fn totals(to: &mut Writer<'_>, figures: &Figures) -> fmt::Result {
    let totals = &figures.totals;
    let verdicts = [
        ("forwarded", &totals.forwarded),
        ("passed", &totals.passed),
        ("dropped", &totals.dropped),
        ("answered", &totals.answered),
    ];
    let packets = verdicts.map(|(verdict, count)| (label("verdict", verdict), count.packets));
    to.counters("expressgateway_l4_packets", "Packets that XDP saw, by verdict.", packets.into())?;
    let bytes = verdicts.map(|(verdict, count)| (label("verdict", verdict), count.bytes));
    to.counters("expressgateway_l4_bytes", "Layer 3 bytes that XDP saw, by verdict.", bytes.into())?;
    let drops = figures.drops.iter().map(|(reason, count)| (label("reason", reason.label()), count.packets));
    to.counters("expressgateway_l4_drops", "Packets refused, by reason.", drops.collect())?;
    let misses = figures.misses.iter().map(|(miss, count)| (label("reason", miss.label()), *count));
    to.counters("expressgateway_l4_flow_misses", "Packets of no valid flow, by reason.", misses.collect())?;
    let cookies = figures.cookies.iter().map(|(became, count)| (label("outcome", became.label()), *count));
    let help = "SYNs to http and https listeners beyond what the stack is to answer, by outcome.";
    to.counters("expressgateway_l4_syn_cookies", help, cookies.collect())?;
    let help = "Interfaces at which a program of ours runs.";
    to.gauge("expressgateway_l4_interfaces_attached", help, figures.interfaces)?;
    let probed = figures.probed.iter().map(|(result, packets)| (label("result", result.label()), *packets));
    let help = "Packets of probes by the traffic's own way, by result.";
    to.counters("expressgateway_l4_probe_packets", help, probed.collect())?;
    fragments(to, &figures.held)?;
    to.counter("expressgateway_l4_events_lost", "Sampled events that nobody saw.", figures.events_lost)
}

fn fragments(to: &mut Writer<'_>, held: &HeldFragments) -> fmt::Result {
    let outcomes =
        [("resumed", held.resumed), ("expired", held.expired), ("crowded", held.crowded), ("failed", held.failed)];
    let counts = outcomes.map(|(outcome, count)| (label("outcome", outcome), count));
    to.counters(
        "expressgateway_l4_fragments_held",
        "Fragments held until their first came, by outcome.",
        counts.into(),
    )?;
    to.gauge("expressgateway_l4_fragments_waiting", "Fragments held at this moment.", held.now)
}

fn label(name: &'static str, value: &str) -> Vec<Label> {
    vec![(name, value.to_owned())]
}

type Figure<T> = (&'static str, &'static str, fn(&T) -> u64);

const VIP: [Figure<VipFigures>; 7] = [
    ("expressgateway_vip_packets", "Packets from clients.", |v| v.stats.packets),
    ("expressgateway_vip_bytes", "Layer 3 bytes from clients.", |v| v.stats.bytes),
    ("expressgateway_vip_reply_packets", "Packets to clients.", |v| v.stats.reply_packets),
    ("expressgateway_vip_reply_bytes", "Layer 3 bytes to clients.", |v| v.stats.reply_bytes),
    ("expressgateway_vip_flows", "Flows begun.", |v| v.stats.flows),
    ("expressgateway_vip_drops", "Packets to this VIP that were refused.", |v| v.stats.drops),
    ("expressgateway_vip_stateless", "Packets from clients over flow_budget, by the ring alone.", |v| v.stateless),
];

fn vips(to: &mut Writer<'_>, vips: &[VipFigures]) -> fmt::Result {
    for (name, help, figure) in VIP {
        let values = vips.iter().map(|vip| {
            let protocol = match vip.proto {
                Proto::Tcp => "tcp",
                Proto::Udp => "udp",
            };
            let labels = vec![
                ("listener", vip.listener.clone()),
                ("address", vip.address.to_string()),
                ("protocol", protocol.to_owned()),
            ];
            (labels, figure(vip))
        });
        to.counters(name, help, values.collect())?;
    }
    Ok(())
}

const BACKEND: [Figure<Stats>; 5] = [
    ("expressgateway_backend_packets", "Packets to this backend.", |s| s.packets),
    ("expressgateway_backend_bytes", "Layer 3 bytes to this backend.", |s| s.bytes),
    ("expressgateway_backend_reply_packets", "Packets from this backend.", |s| s.reply_packets),
    ("expressgateway_backend_reply_bytes", "Layer 3 bytes from this backend.", |s| s.reply_bytes),
    ("expressgateway_backend_flows", "Flows given to this backend.", |s| s.flows),
];

/// A count that may be a little below zero until it is corrected.
fn live(count: i64) -> u64 {
    u64::try_from(count).unwrap_or(0)
}

fn backends(to: &mut Writer<'_>, backends: &[BackendFigures]) -> fmt::Result {
    let labels = |backend: &BackendFigures| {
        vec![
            ("pool", backend.pool.clone()),
            ("backend", backend.name.clone()),
            ("address", backend.address.to_string()),
        ]
    };
    for (name, help, figure) in BACKEND {
        let values = backends.iter().map(|backend| (labels(backend), figure(&backend.stats)));
        to.counters(name, help, values.collect())?;
    }
    let open = backends.iter().map(|backend| (labels(backend), live(backend.load.flows)));
    to.gauges("expressgateway_backend_open_flows", "Flows established with this backend.", open.collect())?;
    let outstanding = backends.iter().map(|backend| (labels(backend), live(backend.load.outstanding)));
    let help = "Flows established with this backend or half-open.";
    to.gauges("expressgateway_backend_outstanding_flows", help, outstanding.collect())?;
    let resolved = backends.iter().map(|backend| (labels(backend), u64::from(backend.resolved)));
    to.gauges("expressgateway_backend_next_hop", "1 while the backend's next hop is known.", resolved.collect())?;
    let states = backends.iter().map(|backend| {
        let mut labels = labels(backend);
        labels.push(("state", backend.state.label().to_owned()));
        (labels, 1)
    });
    to.gauges("expressgateway_backend_state", "Always 1; the label says the backend's state.", states.collect())
}
