// SPDX-License-Identifier: GPL-3.0-only
//! Listeners that the process terminates, their routes and certificates; and who claims which address.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::path::Path;

use super::{File, Host, Names, cookies, flag, of_kind, pools};
use crate::config::error::{At, Place, Problems};
use crate::config::pem;
use crate::config::plan::{Certificate, EdgePlan, ListenerPlan, Pem, Proto, RoutePlan, SchemePlan};
use crate::config::schema::{Listener, ListenerTls, Protocol, Route};

pub(super) fn edge(file: &File, names: &Names<'_>, host: &Host<'_>, problems: &Problems) -> EdgePlan {
    let mut routes = routes(file, names, problems);
    let mut listeners = Vec::new();
    for (listener, protocol) in of_kind(file, |protocol| !protocol.is_l4()) {
        misplaced(listener, protocol, problems);
        let name = listener.name.as_ref().map(|name| name.value.clone()).unwrap_or_default();
        let own = routes.remove(name.as_str()).unwrap_or_default();
        let meant = file.routes.iter().any(|route| route.listener.as_ref().is_some_and(|at| at.value == name));
        if own.is_empty() && !meant && !name.is_empty() {
            problems.error(
                &listener.place,
                format!("no route leads on from here: add [[routes]] with listener = {name:?}"),
            );
        }
        let scheme = match protocol {
            Protocol::Https => SchemePlan::Https {
                certificate: listener
                    .tls
                    .as_ref()
                    .map_or(Certificate::SelfSigned, |tls| certificate(tls, host, problems)),
                http3: flag(&listener.http3, false),
            },
            _ => SchemePlan::Http,
        };
        let addresses = listener.addresses.iter().map(|address| address.value).collect();
        let (syn_cookies, syn_cookie_rate) = cookies::chosen(listener);
        listeners.push(ListenerPlan { name, addresses, scheme, syn_cookies, syn_cookie_rate, routes: own });
    }
    let l4: BTreeSet<&str> = of_kind(file, Protocol::is_l4)
        .filter_map(|(listener, _)| listener.pool.as_ref())
        .map(|pool| pool.value.as_str())
        .collect();
    let l7: BTreeSet<&str> =
        listeners.iter().flat_map(|listener| &listener.routes).map(|route| route.pool.as_str()).collect();
    pools::check(file, &l4, &l7, problems);
    let used = l7.iter().filter_map(|name| names.pools.get(name));
    let pools = used.map(|pool| pools::edge(pool, l4.contains(pool.name.value.as_str()))).collect();
    EdgePlan { listeners, pools }
}

/// Routes by listener, in the file's order.
fn routes<'f>(file: &'f File, names: &Names<'f>, problems: &Problems) -> HashMap<&'f str, Vec<RoutePlan>> {
    let mut found: HashMap<&str, Vec<RoutePlan>> = HashMap::new();
    let mut seen: HashMap<(&str, String), &Route> = HashMap::new();
    for route in &file.routes {
        let pool = route.pool.as_ref().and_then(|pool| names.pool(pool));
        let Some(to) = &route.listener else { continue };
        let Some(listener) = names.listener(to) else { continue };
        if let Some(protocol) = listener.protocol.as_ref().map(|at| at.value).filter(|protocol| protocol.is_l4()) {
            let message = format!(
                "{:?} is {}: it has a pool of its own, routes are for http and https",
                to.value,
                protocol.word()
            );
            problems.error(&to.place, message);
            continue;
        }
        let Some(path) = route.path.as_ref().map_or(Some("/"), |path| path.value.as_deref()) else { continue };
        let path = path.to_owned();
        if let Some(earlier) = seen.insert((&to.value, path.clone()), route) {
            let place = route.path.as_ref().map_or(&route.place, |path| &path.place);
            problems.error(
                place,
                format!("is never reached: {} has {path:?} on {:?} already", earlier.place.path, to.value),
            );
        }
        if let Some(pool) = pool {
            found.entry(&to.value).or_default().push(RoutePlan { path, pool: pool.name.value.clone() });
        }
    }
    found
}

/// Keys that this protocol would ignore.
fn misplaced(listener: &Listener, protocol: Protocol, problems: &Problems) {
    let word = protocol.word();
    let kernel =
        |place: &Place| problems.error(place, format!("is for tcp and udp listeners; {word} goes by [[routes]]"));
    listener.pool.iter().for_each(|at| kernel(&at.place));
    listener.forward.iter().for_each(|at| kernel(&at.place));
    listener.snat.iter().for_each(|at| kernel(&at.place));
    listener.gue_port.iter().for_each(|at| kernel(&at.place));
    listener.unused_ports.iter().for_each(|at| kernel(&at.place));
    listener.fragments.iter().for_each(|at| kernel(&at.place));
    listener.guards.iter().for_each(|at| kernel(&at.place));
    listener.flow_budget.iter().for_each(|at| kernel(&at.place));
    if protocol == Protocol::Http {
        listener
            .http3
            .iter()
            .for_each(|at| problems.error(&at.place, "is for https listeners: HTTP/3 is always encrypted"));
        listener.tls.iter().for_each(|tls| problems.error(&tls.place, "is for https listeners"));
    }
}

fn certificate(tls: &ListenerTls, host: &Host<'_>, problems: &Problems) -> Certificate {
    let read = |file: &Option<At<String>>, read: fn(&Path) -> Result<Pem, String>| {
        let file = file.as_ref()?;
        let path = host.directory.join(&file.value);
        match read(&path) {
            Ok(pem) => Some((path, pem)),
            Err(why) => {
                problems.error(&file.place, why);
                None
            }
        }
    };
    let (cert, key) = (read(&tls.cert, pem::certificate), read(&tls.key, pem::key));
    let (Some((cert, cert_pem)), Some((key, key_pem))) = (cert, key) else { return Certificate::SelfSigned };
    if let Err(why) = pem::fit(&cert, &key, &cert_pem, &key_pem) {
        problems.error(&tls.place, why);
    }
    Certificate::Files { cert, key, cert_pem, key_pem }
}

/// No two listeners, and no listener and the admin server, on one address, port and transport.
pub(super) fn claims(file: &File, admin: SocketAddr, problems: &Problems) {
    let mut claimed: HashMap<(SocketAddr, Proto), String> = HashMap::new();
    if admin.port() != 0 {
        claimed.insert((admin, Proto::Tcp), "observability.metrics_bind".to_owned());
    }
    for (listener, protocol) in of_kind(file, |_| true) {
        let http3 = protocol == Protocol::Https && flag(&listener.http3, false);
        let protos: &[Proto] = match protocol {
            Protocol::Udp => &[Proto::Udp],
            _ if http3 => &[Proto::Tcp, Proto::Udp],
            _ => &[Proto::Tcp],
        };
        for address in listener.addresses.iter().filter(|address| address.value.port() != 0) {
            for proto in protos {
                if let Some(holder) = claimed.get(&(address.value, *proto)) {
                    let word = if *proto == Proto::Tcp { "tcp" } else { "udp" };
                    let message = format!("{}/{word} is taken by {holder} already", address.value);
                    problems.error(&address.place, message);
                    // One address, one message: https with http3 would say it twice.
                    break;
                }
                claimed.insert((address.value, *proto), address.place.path.clone());
            }
        }
    }
}
