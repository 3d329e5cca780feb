// SPDX-License-Identifier: GPL-3.0-only
//! The host as rtnetlink and `/proc/sys/net` show it: interfaces, addresses, the sysctls that matter.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;

use futures_util::TryStreamExt;
use rtnetlink::Handle;
use rtnetlink::packet_route::address::{AddressAttribute, CacheInfo};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType};

use super::error::BackendError;

/// An interface.
#[derive(Clone, Debug)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) ethernet: bool,
    pub(super) loopback: bool,
    pub(super) mtu: u32,
}

/// What this network namespace has, read once.
pub(super) struct Host {
    handle: Handle,
    pub(super) links: Vec<Link>,
    /// With the index of the interface.
    pub(super) addresses: Vec<(u32, IpAddr)>,
}

impl Host {
    pub(super) async fn read() -> Result<Host, BackendError> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(netlink("open a netlink socket"))?;
        tokio::spawn(connection);
        let links = links(&handle).await?;
        let addresses = addresses(&handle).await?;
        Ok(Host { handle, links, addresses })
    }

    /// Addresses of an interface that another host could send to.
    pub(super) fn addresses_of(&self, index: u32) -> Vec<IpAddr> {
        self.addresses.iter().filter(|(of, ip)| *of == index && reachable(*ip)).map(|(_, ip)| *ip).collect()
    }

    pub(super) fn loopback(&self) -> Option<u32> {
        self.links.iter().find(|link| link.loopback).map(|link| link.index)
    }

    /// Gives `lo` those of `vips` that no interface has, and says which. An IPv6 one is deprecated at once (RFC 4862
    /// section 5.5.4), so that the host does not begin connections of its own from it.
    pub(super) async fn add_missing(&mut self, vips: &[IpAddr]) -> Result<Vec<IpAddr>, BackendError> {
        let known: BTreeSet<IpAddr> = self.addresses.iter().map(|(_, ip)| *ip).collect();
        let missing: Vec<IpAddr> = vips.iter().copied().filter(|vip| !known.contains(vip)).collect();
        let loopback = self.loopback().ok_or_else(|| {
            netlink("find the loopback interface")(std::io::Error::from(std::io::ErrorKind::NotFound))
        })?;
        for vip in &missing {
            let whole = if vip.is_ipv4() { 32 } else { 128 };
            let mut request = self.handle.address().add(loopback, *vip, whole);
            if vip.is_ipv6() {
                let mut lifetimes = CacheInfo::default();
                lifetimes.ifa_valid = u32::MAX;
                request.message_mut().attributes.push(AddressAttribute::CacheInfo(lifetimes));
            }
            request.execute().await.map_err(netlink(format!("add {vip}/{whole} to lo")))?;
            self.addresses.push((loopback, *vip));
        }
        Ok(missing)
    }
}

/// `net.ipv4.conf`'s value for an interface, where the larger of `all` and its own counts (Documentation/networking/
/// ip-sysctl.rst); 0 if there is none.
pub(super) fn ipv4_conf(interface: &str, key: &str) -> u32 {
    let read = |of: &str| {
        let text = fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{of}/{key}")).unwrap_or_default();
        text.trim().parse::<u32>().unwrap_or(0)
    };
    read("all").max(read(interface))
}

async fn links(handle: &Handle) -> Result<Vec<Link>, BackendError> {
    let messages: Vec<_> = handle.link().get().execute().try_collect().await.map_err(netlink("list the interfaces"))?;
    let read = |message: rtnetlink::packet_route::link::LinkMessage| {
        let mut link = Link {
            index: message.header.index,
            name: String::new(),
            ethernet: message.header.link_layer_type == LinkLayerType::Ether,
            loopback: message.header.flags.contains(LinkFlags::Loopback),
            mtu: 0,
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                _ => {}
            }
        }
        link
    };
    Ok(messages.into_iter().map(read).collect())
}

async fn addresses(handle: &Handle) -> Result<Vec<(u32, IpAddr)>, BackendError> {
    let messages: Vec<_> =
        handle.address().get().execute().try_collect().await.map_err(netlink("list the addresses"))?;
    let read = |message: rtnetlink::packet_route::address::AddressMessage| {
        let (mut address, mut local) = (None, None);
        for attribute in &message.attributes {
            match attribute {
                AddressAttribute::Address(ip) => address = Some(*ip),
                // On a point-to-point link IFA_ADDRESS is the peer's and IFA_LOCAL is ours.
                AddressAttribute::Local(ip) => local = Some(*ip),
                _ => {}
            }
        }
        Some((message.header.index, local.or(address)?))
    };
    Ok(messages.into_iter().filter_map(read).collect())
}

/// Neither loopback nor for one link only.
fn reachable(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_unspecified(),
        IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unspecified() && !v6.is_unicast_link_local(),
    }
}

fn netlink<E: std::error::Error + Send + Sync + 'static>(doing: impl Into<String>) -> impl FnOnce(E) -> BackendError {
    let doing = doing.into();
    move |source| BackendError::Netlink { doing, source: Box::new(source) }
}
