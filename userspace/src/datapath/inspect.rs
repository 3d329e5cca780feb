// SPDX-License-Identifier: GPL-3.0-only
//! How the host looks from where the datapath stands: links, addresses, and the way to each address of interest.
//!
//! `egctl doctor` judges by it; the datapath itself asks as it goes (`neigh`, `attach`). One reading, taken with the same
//! questions that the datapath puts, so that both see the same host. It changes nothing, and asks no neighbour.

use std::collections::HashMap;
use std::net::IpAddr;

use super::error::DatapathError;
use super::netlink::{Interface, Netlink};

/// One reading.
#[derive(Clone, Debug, Default)]
pub struct Host {
    pub links: Vec<Link>,
    /// Interface index, address, prefix length.
    pub addresses: Vec<(u32, IpAddr, u8)>,
    /// By the addresses that were asked for.
    pub ways: HashMap<IpAddr, Way>,
}

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    pub mtu: u32,
    /// By the administrator's will.
    pub up: bool,
    /// There is somebody at the other end of the cable.
    pub running: bool,
}

/// Where the kernel would send a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// Nowhere.
    None,
    /// To itself.
    Local,
    Out {
        ifindex: u32,
        /// The gateway, or the address itself.
        neighbour: IpAddr,
        /// The neighbour's MAC is known.
        resolved: bool,
    },
}

impl Host {
    pub fn link(&self, index: u32) -> Option<&Link> {
        self.links.iter().find(|link| link.index == index)
    }

    pub fn named(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }
}

/// Reads the current network namespace. Must run inside a tokio runtime with I/O.
///
/// # Errors
/// Netlink refused.
pub async fn inspect(addresses: &[IpAddr]) -> Result<Host, DatapathError> {
    let netlink = Netlink::open()?;
    let neighbours = netlink.neighbours().await?;
    let mut host = Host {
        links: netlink.interfaces().await?.into_iter().map(link).collect(),
        addresses: netlink.addresses().await?.iter().map(|known| (known.index, known.address, known.prefix)).collect(),
        ways: HashMap::new(),
    };
    for &address in addresses {
        let way = match netlink.route_to(address).await? {
            None => Way::None,
            Some(route) if route.local => Way::Local,
            Some(route) => {
                let neighbour = route.gateway.unwrap_or(address);
                let resolved = neighbours.contains_key(&(route.oif, neighbour));
                Way::Out { ifindex: route.oif, neighbour, resolved }
            }
        };
        host.ways.insert(address, way);
    }
    Ok(host)
}

fn link(interface: Interface) -> Link {
    let Interface { index, name, mtu, up, running, .. } = interface;
    Link { index, name, mtu, up, running }
}
