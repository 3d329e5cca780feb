// SPDX-License-Identifier: GPL-3.0-only
//! The few questions and requests that the datapath puts to rtnetlink, in its own words.
//!
//! `neigh` asks for routes and neighbours, `attach::vips` for addresses and local routes. One socket serves requests and
//! another delivers notifications; both are driven by tasks that end with their owner. It keeps no cache: what it
//! returns is what the kernel said just now.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt};
use rtnetlink::packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressProtocol, CacheInfo,
};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType};
use rtnetlink::packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourState};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteProtocol, RouteScope, RouteType, RouteVia,
};
use rtnetlink::packet_route::tc::TcMessage;
use rtnetlink::{Handle, IpVersion, MulticastGroup, RouteMessageBuilder};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::error::DatapathError;

/// Marks the routes (`RTA` protocol) and addresses (`IFA_PROTO`) that we made. Values above 4 are the administrator's
/// to hand out (linux/rtnetlink.h), and no routing daemon known to iproute2 uses this one.
pub(crate) const PROTOCOL: u8 = 233;

const RT_TABLE_LOCAL: u8 = 255;

/// `TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS)` of linux/pkt_sched.h.
const CLSACT_INGRESS: u32 = 0xffff_fff2;

/// A network interface.
#[derive(Clone, Debug)]
pub(crate) struct Interface {
    pub(crate) index: u32,
    pub(crate) name: String,
    /// Only Ethernet has one that we can write into a frame.
    pub(crate) mac: Option<[u8; 6]>,
    pub(crate) mtu: u32,
    /// Set up by the administrator, and with a link.
    pub(crate) up: bool,
    pub(crate) running: bool,
}

/// An address of an interface.
#[derive(Clone, Debug)]
pub(crate) struct Assigned {
    pub(crate) index: u32,
    pub(crate) address: IpAddr,
    pub(crate) prefix: u8,
    pub(crate) ours: bool,
}

/// The kernel's answer to "how would you send there".
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) local: bool,
    pub(crate) oif: u32,
    /// `None`: on the link.
    pub(crate) gateway: Option<IpAddr>,
    pub(crate) source: Option<IpAddr>,
    /// The route's own MTU, where one was set or learned.
    pub(crate) mtu: Option<u32>,
}

/// Requests to the kernel's routing tables; cheap to clone.
#[derive(Clone)]
pub(crate) struct Netlink {
    handle: Handle,
}

/// Tells that something about links, addresses, routes or neighbours has changed; what it was is to be asked.
pub(crate) struct Changes {
    changed: Arc<Notify>,
    tasks: [JoinHandle<()>; 2],
}

impl Changes {
    /// Waits until something relevant has changed since the last call; changes in between are one.
    pub(crate) async fn wait(&self) {
        self.changed.notified().await;
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Netlink {
    /// Opens the request socket in the current network namespace. Its driver ends when the last clone is dropped.
    pub(crate) fn open() -> Result<Netlink, DatapathError> {
        let (connection, handle, _) =
            rtnetlink::new_connection().map_err(DatapathError::system("open a netlink socket"))?;
        tokio::spawn(connection);
        Ok(Netlink { handle })
    }

    /// Subscribes to changes that can move a next hop.
    pub(crate) fn changes() -> Result<Changes, DatapathError> {
        let (connection, handle, messages) = rtnetlink::new_multicast_connection(&[
            MulticastGroup::Link,
            MulticastGroup::Neigh,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
        ])
        .map_err(DatapathError::system("subscribe to netlink notifications"))?;
        let changed = Arc::new(Notify::new());
        let driver = tokio::spawn(async move {
            // The connection ends when nobody can send requests on it any more: keep the handle as long as it runs.
            let _handle = handle;
            connection.await;
        });
        let told = Arc::clone(&changed);
        let filter = tokio::spawn(async move {
            let mut messages = messages;
            while let Some((message, _)) = messages.next().await {
                if matters(&message) {
                    told.notify_one();
                }
            }
        });
        Ok(Changes { changed, tasks: [driver, filter] })
    }

    pub(crate) async fn interfaces(&self) -> Result<Vec<Interface>, DatapathError> {
        let links: Vec<_> = self
            .handle
            .link()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(DatapathError::netlink("list interfaces"))?;
        Ok(links
            .into_iter()
            .map(|link| {
                let ethernet = link.header.link_layer_type == LinkLayerType::Ether;
                let flags = link.header.flags;
                let mut interface = Interface {
                    index: link.header.index,
                    name: String::new(),
                    mac: None,
                    mtu: 0,
                    up: flags.contains(LinkFlags::Up),
                    running: flags.contains(LinkFlags::LowerUp),
                };
                for attribute in link.attributes {
                    match attribute {
                        LinkAttribute::IfName(name) => interface.name = name,
                        LinkAttribute::Mtu(mtu) => interface.mtu = mtu,
                        LinkAttribute::Address(mac) if ethernet => interface.mac = <[u8; 6]>::try_from(mac).ok(),
                        _ => {}
                    }
                }
                interface
            })
            .collect())
    }

    /// Handle and priority of each filter that an ingress or clsact queueing discipline has at an interface's ingress.
    pub(crate) async fn ingress_filters(&self, index: u32) -> Result<Vec<(u32, u16)>, DatapathError> {
        let mut message = TcMessage::default();
        message.header.index = index.cast_signed();
        message.header.parent = CLSACT_INGRESS.into();
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::GetTrafficFilter(message));
        request.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        let fail = || DatapathError::netlink("list tc filters");
        let mut answers = self.handle.clone().request(request).map_err(fail())?;
        let mut filters = Vec::new();
        while let Some(answer) = answers.next().await {
            match answer.payload {
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewTrafficFilter(filter)) => {
                    let handle = u32::from(filter.header.handle);
                    // Each priority is announced by an entry without a handle.
                    if handle != 0 {
                        filters.push((handle, (filter.header.info >> 16) as u16));
                    }
                }
                NetlinkPayload::Error(error) => return Err(fail()(rtnetlink::Error::NetlinkError(error))),
                _ => {}
            }
        }
        Ok(filters)
    }

    pub(crate) async fn addresses(&self) -> Result<Vec<Assigned>, DatapathError> {
        let messages: Vec<_> = self
            .handle
            .address()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(DatapathError::netlink("list addresses"))?;
        Ok(messages
            .into_iter()
            .filter_map(|message| {
                let (mut address, mut local, mut ours) = (None, None, false);
                for attribute in &message.attributes {
                    match attribute {
                        AddressAttribute::Address(ip) => address = Some(*ip),
                        // On a point-to-point link IFA_ADDRESS is the peer's and IFA_LOCAL is ours.
                        AddressAttribute::Local(ip) => local = Some(*ip),
                        AddressAttribute::Protocol(protocol) => ours = u8::from(*protocol) == PROTOCOL,
                        _ => {}
                    }
                }
                let address = local.or(address)?;
                Some(Assigned { index: message.header.index, address, prefix: message.header.prefix_len, ours })
            })
            .collect())
    }

    /// How the kernel would reach `address`; `None`: it would not.
    pub(crate) async fn route_to(&self, address: IpAddr) -> Result<Option<Route>, DatapathError> {
        let whole = if address.is_ipv4() { 32 } else { 128 };
        let query = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(address, whole)
            .map_err(|error| DatapathError::Plan { problem: format!("no route can lead to {address}: {error}") })?
            .build();
        let answer = self.handle.route().get(query).execute().try_next().await;
        match answer {
            Ok(message) => Ok(message.and_then(|message| parse_route(&message))),
            // ENETUNREACH, EHOSTUNREACH, EACCES (prohibit), EINVAL (blackhole): an answer, not a failure.
            Err(rtnetlink::Error::NetlinkError(_)) => Ok(None),
            Err(source) => Err(DatapathError::Netlink { doing: format!("ask for the route to {address}"), source }),
        }
    }

    /// Neighbours whose link-layer address is known, even if not confirmed lately.
    pub(crate) async fn neighbours(&self) -> Result<HashMap<(u32, IpAddr), [u8; 6]>, DatapathError> {
        let mut known = HashMap::new();
        for version in [IpVersion::V4, IpVersion::V6] {
            let messages: Vec<_> = self
                .handle
                .neighbours()
                .get()
                .set_family(version)
                .execute()
                .try_collect()
                .await
                .map_err(DatapathError::netlink("list neighbours"))?;
            for message in messages {
                if !usable(message.header.state) {
                    continue;
                }
                let (mut address, mut mac) = (None, None);
                for attribute in message.attributes {
                    match attribute {
                        NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => address = Some(IpAddr::V4(ip)),
                        NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => address = Some(IpAddr::V6(ip)),
                        NeighbourAttribute::LinkLayerAddress(bytes) => mac = <[u8; 6]>::try_from(bytes).ok(),
                        _ => {}
                    }
                }
                if let (Some(address), Some(mac)) = (address, mac) {
                    known.insert((message.header.ifindex, address), mac);
                }
            }
        }
        Ok(known)
    }

    /// Tells the kernel that the neighbour is in use: an unknown one is asked for, a stale one is confirmed again.
    pub(crate) async fn kick(&self, oif: u32, address: IpAddr) -> Result<(), DatapathError> {
        self.handle
            .neighbours()
            .add(oif, address)
            .state(NeighbourState::None)
            .flags(NeighbourFlags::Use)
            .replace()
            .execute()
            .await
            .map_err(DatapathError::netlink(format!("ask for the link-layer address of {address}")))
    }

    /// Addresses that a local route of ours covers.
    pub(crate) async fn our_local_routes(&self) -> Result<Vec<IpAddr>, DatapathError> {
        let mut found = Vec::new();
        for unspecified in [IpAddr::from([0u8; 4]), IpAddr::from([0u8; 16])] {
            let query = if unspecified.is_ipv4() {
                RouteMessageBuilder::<Ipv4Addr>::new().build()
            } else {
                RouteMessageBuilder::<Ipv6Addr>::new().build()
            };
            let routes: Vec<_> = self
                .handle
                .route()
                .get(query)
                .execute()
                .try_collect()
                .await
                .map_err(DatapathError::netlink("list routes"))?;
            for route in routes {
                if route.header.table == RT_TABLE_LOCAL && u8::from(route.header.protocol) == PROTOCOL {
                    found.extend(route.attributes.iter().find_map(|attribute| match attribute {
                        RouteAttribute::Destination(address) => plain(address),
                        _ => None,
                    }));
                }
            }
        }
        Ok(found)
    }

    /// Makes `address` local without giving it to an interface.
    pub(crate) async fn add_local_route(&self, address: IpAddr, loopback: u32) -> Result<(), DatapathError> {
        self.handle
            .route()
            .add(local_route(address, loopback)?)
            .replace()
            .execute()
            .await
            .map_err(DatapathError::netlink(format!("add a local route for {address}")))
    }

    pub(crate) async fn remove_local_route(&self, address: IpAddr, loopback: u32) -> Result<(), DatapathError> {
        self.handle
            .route()
            .del(local_route(address, loopback)?)
            .execute()
            .await
            .map_err(DatapathError::netlink(format!("remove the local route for {address}")))
    }

    /// Gives `address` to an interface, as one that the host answers for but never sends from of its own accord.
    pub(crate) async fn add_address(&self, index: u32, address: IpAddr) -> Result<(), DatapathError> {
        let whole = if address.is_ipv4() { 32 } else { 128 };
        let mut request = self.handle.address().add(index, address, whole);
        let message = request.message_mut();
        // No duplicate address detection: several nodes may answer for one address on purpose (anycast, failover).
        message.header.flags = AddressHeaderFlags::Nodad;
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad | AddressFlags::Noprefixroute));
        message.attributes.push(AddressAttribute::Protocol(AddressProtocol::Other(PROTOCOL)));
        // Deprecated at once (RFC 4862 section 5.5.4), so that source address selection prefers any other.
        let mut lifetimes = CacheInfo::default();
        lifetimes.ifa_valid = u32::MAX;
        message.attributes.push(AddressAttribute::CacheInfo(lifetimes));
        request.execute().await.map_err(DatapathError::netlink(format!("add address {address}")))
    }

    pub(crate) async fn remove_address(&self, index: u32, address: IpAddr) -> Result<(), DatapathError> {
        let whole = if address.is_ipv4() { 32 } else { 128 };
        let mut request = self.handle.address().add(index, address, whole);
        let message = request.message_mut().clone();
        self.handle
            .address()
            .del(message)
            .execute()
            .await
            .map_err(DatapathError::netlink(format!("remove address {address}")))
    }
}

/// Whether a notification can change where a frame goes. New neighbours that are merely being asked for cannot.
fn matters(message: &NetlinkMessage<RouteNetlinkMessage>) -> bool {
    match &message.payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNeighbour(neighbour)) => usable(neighbour.header.state),
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelNeighbour(_)) => false,
        NetlinkPayload::InnerMessage(_) => true,
        // Overrun: notifications were lost, so anything may have changed.
        NetlinkPayload::Overrun(_) | NetlinkPayload::Error(_) => true,
        _ => false,
    }
}

fn usable(state: NeighbourState) -> bool {
    use NeighbourState::{Delay, Noarp, Permanent, Probe, Reachable, Stale};
    matches!(state, Reachable | Stale | Delay | Probe | Permanent | Noarp)
}

fn parse_route(message: &RouteMessage) -> Option<Route> {
    let local = match message.header.kind {
        RouteType::Unicast => false,
        RouteType::Local => true,
        _ => return None,
    };
    let mut route = Route { local, oif: 0, gateway: None, source: None, mtu: None };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => route.oif = *index,
            RouteAttribute::Gateway(address) => route.gateway = plain(address),
            // IPv4 by an IPv6 next hop (RFC 8950).
            RouteAttribute::Via(RouteVia::Inet6(address)) => route.gateway = Some(IpAddr::V6(*address)),
            RouteAttribute::PrefSource(address) => route.source = plain(address),
            RouteAttribute::Metrics(metrics) => {
                route.mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) if *mtu > 0 => Some(*mtu),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    (route.oif != 0).then_some(route)
}

fn plain(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some(IpAddr::V4(*ip)),
        RouteAddress::Inet6(ip) => Some(IpAddr::V6(*ip)),
        _ => None,
    }
}

fn local_route(address: IpAddr, loopback: u32) -> Result<RouteMessage, DatapathError> {
    let whole = if address.is_ipv4() { 32 } else { 128 };
    Ok(RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(address, whole)
        .map_err(|error| DatapathError::Plan { problem: format!("{address} cannot be made local: {error}") })?
        .output_interface(loopback)
        .table_id(u32::from(RT_TABLE_LOCAL))
        .protocol(RouteProtocol::Other(PROTOCOL))
        .scope(RouteScope::Host)
        .kind(RouteType::Local)
        .build())
}
