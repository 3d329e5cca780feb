// SPDX-License-Identifier: GPL-3.0-only
//! What separates the plan that is served from one that was just read, and which part of it can be applied now.
//!
//! `reload` is the caller. The rule: everything that can change without touching a connection is applied, every setting
//! that cannot keeps its old value and is named, so that no setting is ever half one and half the other. One change is
//! refused whole: the kernel datapath appearing or disappearing, since every listener's sockets depend on it.

use std::fmt;

use super::plan::{DatapathPlan, GuardsPlan, Plan};

/// One setting or one named thing that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub path: String,
    pub what: String,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.what)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diff {
    /// The new plan, with the old values of everything in `cold`: what to apply now.
    pub plan: Plan,
    pub hot: Vec<Change>,
    pub cold: Vec<Change>,
}

/// The kernel datapath would have to appear or disappear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DatapathToggled {
    pub on: bool,
}

impl fmt::Display for DatapathToggled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = if self.on { "on" } else { "off" };
        write!(f, "datapath: turning the kernel datapath {verb} needs a restart; nothing of this file was applied")
    }
}

impl std::error::Error for DatapathToggled {}

pub fn diff(old: &Plan, new: &Plan) -> Result<Diff, DatapathToggled> {
    if old.datapath.is_some() != new.datapath.is_some() {
        return Err(DatapathToggled { on: new.datapath.is_some() });
    }
    let mut diff = Diff { plan: new.clone(), hot: Vec::new(), cold: Vec::new() };
    let Diff { plan, hot, cold } = &mut diff;

    keep(&old.runtime.workers, &mut plan.runtime.workers, "runtime.workers", cold);
    keep(&old.runtime.max_connections, &mut plan.runtime.max_connections, "runtime.max_connections", cold);
    let (bind, format) = (&mut plan.observability.metrics_bind, &mut plan.observability.log_format);
    keep(&old.observability.metrics_bind, bind, "observability.metrics_bind", cold);
    keep(&old.observability.log_format, format, "observability.log_format", cold);
    if new.admin.token_sha256.is_none() && !old.observability.metrics_bind.ip().to_canonical().is_loopback() {
        // The admin server stays where it is until the restart, so it stays guarded as well.
        keep(&old.admin, &mut plan.admin, "admin.api_token_hash", cold);
    }
    if let (Some(old), Some(new)) = (&old.datapath, &mut plan.datapath) {
        datapath(old, new, hot, cold);
    }

    if old.unused_datapath != new.unused_datapath {
        hot.push(Change { path: "datapath".to_owned(), what: "settings of what is off".to_owned() });
    }
    note(&old.runtime.drain_timeout, &new.runtime.drain_timeout, "runtime.drain_timeout_ms", hot);
    note(&old.runtime.drain_settle, &new.runtime.drain_settle, "runtime.drain_settle_ms", hot);
    note(&old.observability.log, &new.observability.log, "observability.log", hot);
    note(&old.tls.tls13_only, &new.tls.tls13_only, "tls.tls13_only", hot);
    if old.admin != plan.admin {
        hot.push(secret("admin.api_token_hash"));
    }
    named("listener", &old.edge.listeners, &plan.edge.listeners, |listener| &listener.name, hot);
    named("pool", &old.edge.pools, &plan.edge.pools, |pool| &pool.name, hot);
    Ok(diff)
}

fn datapath(old: &DatapathPlan, new: &mut DatapathPlan, hot: &mut Vec<Change>, cold: &mut Vec<Change>) {
    keep(&old.xdp, &mut new.xdp, "datapath.xdp", cold);
    keep(&old.pin_root, &mut new.pin_root, "datapath.pin_root", cold);
    note(&old.flows, &new.flows, "datapath.flows", hot);
    keep(&old.snat_ports, &mut new.snat_ports, "datapath.snat_ports", cold);
    if old.hash_seed != new.hash_seed {
        cold.push(secret("datapath.hash_seed"));
        new.hash_seed = old.hash_seed;
    }
    keep(&old.timeouts, &mut new.timeouts, "datapath.timeout_*", cold);
    note(&old.tunnel_sources, &new.tunnel_sources, "datapath.tunnel_sources", hot);
    keep(&old.guards.sources, &mut new.guards.sources, "datapath.guards.sources", cold);
    guards(&old.guards, &new.guards, hot);
    note(&old.interfaces, &new.interfaces, "datapath.interfaces", hot);
    note(&old.detach_on_exit, &new.detach_on_exit, "datapath.detach_on_exit", hot);
    let vip = |vip: &super::plan::VipPlan| format!("{}/{:?}", vip.address, vip.proto).to_lowercase();
    named_by("vip", &old.vips, &new.vips, vip, hot);
    named_by("l4 pool", &old.pools, &new.pools, |pool| pool.name.clone(), hot);
}

fn guards(old: &GuardsPlan, new: &GuardsPlan, hot: &mut Vec<Change>) {
    let mut note = |old: &dyn fmt::Debug, new: &dyn fmt::Debug, same: bool, key: &str| {
        if !same {
            let what = format!("{old:?} -> {new:?}");
            hot.push(Change { path: format!("datapath.guards.{key}"), what });
        }
    };
    // By contents: a list that came from another file, or moved into one, is the same list.
    note(&old.allow, &new.allow, old.allow.all == new.allow.all, "allow");
    note(&old.deny, &new.deny, old.deny.all == new.deny.all, "deny");
    let limits = [
        ("source_pps", old.source_packets, new.source_packets),
        ("source_flows_per_s", old.source_flows, new.source_flows),
        ("udp_pps", old.udp_packets, new.udp_packets),
    ];
    for (key, old, new) in limits {
        note(&old, &new, old == new, key);
    }
    let (factor, bits) = (new.udp_amplification, (new.source_prefix_v4, new.source_prefix_v6));
    note(&old.udp_amplification, &factor, old.udp_amplification == factor, "udp_amplification");
    note(&old.source_prefix_v4, &bits.0, old.source_prefix_v4 == bits.0, "source_prefix_v4");
    note(&old.source_prefix_v6, &bits.1, old.source_prefix_v6 == bits.1, "source_prefix_v6");
}

/// Puts the old value back and says so.
fn keep<T: PartialEq + Clone + fmt::Debug>(old: &T, new: &mut T, path: &str, cold: &mut Vec<Change>) {
    note(old, new, path, cold);
    *new = old.clone();
}

fn note<T: PartialEq + fmt::Debug>(old: &T, new: &T, path: &str, changes: &mut Vec<Change>) {
    if old != new {
        changes.push(Change { path: path.to_owned(), what: format!("{old:?} -> {new:?}") });
    }
}

fn secret(path: &str) -> Change {
    Change { path: path.to_owned(), what: "changed".to_owned() }
}

fn named<T: PartialEq>(noun: &str, old: &[T], new: &[T], name: impl Fn(&T) -> &str, changes: &mut Vec<Change>) {
    named_by(noun, old, new, |item| name(item).to_owned(), changes);
}

fn named_by<T: PartialEq>(noun: &str, old: &[T], new: &[T], name: impl Fn(&T) -> String, changes: &mut Vec<Change>) {
    let mut push = |item: &T, what: &str| {
        changes.push(Change { path: format!("{noun} {}", name(item)), what: what.to_owned() });
    };
    for item in new {
        match old.iter().find(|earlier| name(earlier) == name(item)) {
            None => push(item, "added"),
            Some(earlier) if earlier != item => push(item, "changed"),
            Some(_) => {}
        }
    }
    for item in old.iter().filter(|item| !new.iter().any(|later| name(later) == name(item))) {
        push(item, "removed");
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::from_text;

    const BASE: &str = r#"
        [[listeners]]
        name = "web"
        address = "127.0.0.1:8080"
        protocol = "http"
        [[routes]]
        listener = "web"
        pool = "app"
        [[pools.app.backends]]
        address = "127.0.0.1:3000"
    "#;

    fn plan(head: &str) -> Plan {
        from_text("t", Path::new("/"), &format!("{head}\n{BASE}")).unwrap().plan
    }

    fn paths(changes: &[Change]) -> Vec<&str> {
        changes.iter().map(|change| change.path.as_str()).collect()
    }

    #[test]
    fn equal_plans_differ_in_nothing() {
        let diff = diff(&plan(""), &plan("")).unwrap();
        assert_eq!((diff.hot, diff.cold, diff.plan), (vec![], vec![], plan("")));
    }

    #[test]
    fn what_needs_a_restart_keeps_its_old_value_and_the_rest_is_taken() {
        let new = plan("[runtime]\nworkers = 3\ndrain_timeout_ms = 5");
        let diff = diff(&plan(""), &new).unwrap();
        assert_eq!(paths(&diff.cold), ["runtime.workers"]);
        assert_eq!(diff.cold[0].what, "0 -> 3");
        assert_eq!(paths(&diff.hot), ["runtime.drain_timeout_ms"]);
        assert_eq!(diff.plan.runtime.workers, 0);
        assert_eq!(diff.plan.runtime.drain_timeout, new.runtime.drain_timeout);
    }

    #[test]
    fn an_exposed_admin_server_keeps_its_token_until_it_moves() {
        let exposed = plan(&format!(
            "[observability]\nmetrics_bind = \"192.0.2.1:9090\"\n[admin]\napi_token_hash = \"sha256:{}\"",
            "ab".repeat(32)
        ));
        let diff = diff(&exposed, &plan("")).unwrap();
        assert_eq!(diff.plan.admin, exposed.admin);
        assert_eq!(paths(&diff.cold), ["observability.metrics_bind", "admin.api_token_hash"]);
    }

    #[test]
    fn the_datapath_does_not_come_or_go_while_running() {
        let on = plan("[datapath]\ninterfaces = [\"eth0\"]");
        assert_eq!(diff(&plan(""), &on), Err(DatapathToggled { on: true }));
        assert_eq!(diff(&on, &plan("")), Err(DatapathToggled { on: false }));
    }
}
