// SPDX-License-Identifier: GPL-3.0-only
//! `/status`: what runs, as JSON for `egctl` and for people. `docs/metrics.md` documents the shape.

use std::sync::atomic::Ordering::Relaxed;
use std::time::SystemTime;

use serde_json::{Value, json};

use crate::config::plan::{EdgeAlgorithm, ForwardPlan, ListenerPlan, Plan, Proto, SchemePlan, Target};
use crate::vitals::{News, Vitals};

pub(super) fn status(vitals: &Vitals) -> Value {
    let plan = vitals.plan.load();
    let news = vitals.news().clone();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "pid": std::process::id(),
        "phase": vitals.phase().word(),
        "uptime_seconds": vitals.started.elapsed().as_secs(),
        "generation": vitals.generation.load(Relaxed),
        "reload": {
            "applied": vitals.reloads_applied.load(Relaxed),
            "failed": vitals.reloads_failed.load(Relaxed),
            "last": news.last_reload.as_ref().map(|last| json!({
                "at": seconds(last.at), "applied": last.applied, "message": last.message,
            })),
            "restart_needed": news.restart_needed,
        },
        "workers": vitals.counters.load().as_ref().map_or(0, |workers| workers.len()),
        "admin": news.admin,
        "datapath": plan.datapath.as_ref().filter(|_| vitals.figures.load().is_some()).map(|datapath| json!({
            "interfaces": datapath.interfaces, "pin_root": datapath.pin_root,
        })),
        "listeners": listeners(&plan, &news),
        "pools": pools(&plan),
    })
}

fn seconds(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn listeners(plan: &Plan, news: &News) -> Vec<Value> {
    let terminated = plan.edge.listeners.iter().map(|listener| {
        let protocol = match listener.scheme {
            SchemePlan::Http => "http",
            SchemePlan::Https { .. } => "https",
        };
        let routes = listener.routes.iter().map(|route| json!({ "path": route.path, "pool": route.pool }));
        json!({
            "name": listener.name, "layer": 7, "protocol": protocol,
            "http3": matches!(listener.scheme, SchemePlan::Https { http3: true, .. }),
            "addresses": addresses(listener, news), "routes": routes.collect::<Vec<_>>(),
        })
    });
    let vips = plan.datapath.iter().flat_map(|datapath| &datapath.vips).map(|vip| {
        let protocol = match vip.proto {
            Proto::Tcp => "tcp",
            Proto::Udp => "udp",
        };
        json!({
            "name": vip.listener, "layer": 4, "protocol": protocol, "pool": vip.pool,
            "forward": vip.forward.word(), "snat": vip.forward == ForwardPlan::Nat { snat: true },
            "addresses": [{ "address": vip.address, "transport": protocol }],
        })
    });
    terminated.chain(vips).collect()
}

/// Where the sockets are, which is where clients connect: real ports where the plan says 0.
fn addresses(listener: &ListenerPlan, news: &News) -> Vec<Value> {
    let own = news.addresses.iter().filter(|(name, _, _)| *name == listener.name);
    own.map(|(_, address, transport)| json!({ "address": address, "transport": transport.to_string() })).collect()
}

fn pools(plan: &Plan) -> Vec<Value> {
    let edge = plan.edge.pools.iter().map(|pool| {
        let algorithm = match pool.algorithm {
            EdgeAlgorithm::RoundRobin => "round-robin",
            EdgeAlgorithm::Maglev => "maglev",
        };
        let backends = pool.backends.iter().map(|backend| match backend.target {
            Target::Address(address) => json!({ "name": backend.name, "address": address, "weight": backend.weight }),
            Target::Welcome => json!({ "name": backend.name, "builtin": "welcome", "weight": backend.weight }),
        });
        json!({ "name": pool.name, "layer": 7, "algorithm": algorithm, "backends": backends.collect::<Vec<_>>() })
    });
    let kernel = plan.datapath.iter().flat_map(|datapath| &datapath.pools).map(|pool| {
        let backends = pool.backends.iter();
        let backends = backends.map(|to| json!({ "name": to.name, "address": to.address, "weight": to.weight }));
        json!({ "name": pool.name, "layer": 4, "algorithm": "maglev", "backends": backends.collect::<Vec<_>>() })
    });
    edge.chain(kernel).collect()
}
