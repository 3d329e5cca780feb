// SPDX-License-Identifier: GPL-3.0-only
//! Next hops: by which interface, from which address and to which MAC a backend is reached.
//!
//! XDP forwards frames without the kernel's help, so somebody must ask for link-layer addresses and keep them fresh:
//! traffic that XDP carries never confirms a neighbour entry. The keeper (`keeper.rs`) calls `resolve` when anything
//! that matters has changed, and `refresh` on a timer. Nothing here writes to a map; `tables` applies what is found.
//!
//! A neighbour that stops answering keeps its last MAC: whether a backend is alive is for health checks to say, and a
//! switch that ages an entry out must not take a service down.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use super::error::DatapathError;
use super::netlink::{Interface, Netlink};

/// How a frame reaches a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NextHop {
    pub(crate) ifindex: u32,
    pub(crate) dmac: [u8; 6],
    pub(crate) smac: [u8; 6],
    /// Our address towards the backend, which source NAT writes.
    pub(crate) source: IpAddr,
    /// L3 bytes of the largest packet that goes this way.
    pub(crate) mtu: u16,
    /// The neighbour is the backend itself.
    pub(crate) on_link: bool,
}

/// What is known about the way to a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Resolution {
    Found(NextHop),
    /// The kernel has been told to ask for the neighbour's MAC.
    Asking {
        neighbour: IpAddr,
    },
    /// No way there; the words say why.
    Nowhere(String),
}

/// The resolver's eyes on the kernel.
pub(crate) struct Neigh {
    netlink: Netlink,
    /// Neighbours that answers depend on, kept fresh by `refresh`.
    in_use: HashSet<(u32, IpAddr)>,
}

impl Neigh {
    pub(crate) fn new(netlink: Netlink) -> Neigh {
        Neigh { netlink, in_use: HashSet::new() }
    }

    /// Looks up the way to each address, and asks the kernel to find the neighbours that it does not know.
    pub(crate) async fn resolve(&mut self, addresses: &[IpAddr]) -> Result<HashMap<IpAddr, Resolution>, DatapathError> {
        let interfaces: HashMap<u32, Interface> =
            self.netlink.interfaces().await?.into_iter().map(|interface| (interface.index, interface)).collect();
        let neighbours = self.netlink.neighbours().await?;
        let mut answers = HashMap::with_capacity(addresses.len());
        self.in_use.clear();
        for &address in addresses {
            if answers.contains_key(&address) {
                continue;
            }
            let answer = self.one(address, &interfaces, &neighbours).await?;
            answers.insert(address, answer);
        }
        Ok(answers)
    }

    async fn one(
        &mut self,
        address: IpAddr,
        interfaces: &HashMap<u32, Interface>,
        neighbours: &HashMap<(u32, IpAddr), [u8; 6]>,
    ) -> Result<Resolution, DatapathError> {
        let Some(route) = self.netlink.route_to(address).await? else {
            return Ok(Resolution::Nowhere(format!("no route to {address}")));
        };
        if route.local {
            return Ok(Resolution::Nowhere(format!(
                "{address} is this host: XDP cannot deliver to its own host's stack"
            )));
        }
        let Some(interface) = interfaces.get(&route.oif) else {
            return Ok(Resolution::Nowhere(format!("the route to {address} leaves by an interface that is gone")));
        };
        let Some(smac) = interface.mac else {
            return Ok(Resolution::Nowhere(format!(
                "the route to {address} leaves by {}, which is not Ethernet",
                interface.name
            )));
        };
        let Some(source) = route.source.filter(|source| source.is_ipv4() == address.is_ipv4()) else {
            return Ok(Resolution::Nowhere(format!("{} has no address to reach {address} from", interface.name)));
        };
        let neighbour = route.gateway.unwrap_or(address);
        self.in_use.insert((route.oif, neighbour));
        match neighbours.get(&(route.oif, neighbour)) {
            Some(&dmac) => {
                let mtu = route.mtu.unwrap_or(interface.mtu).min(interface.mtu);
                let mtu = u16::try_from(mtu).unwrap_or(u16::MAX);
                let on_link = route.gateway.is_none();
                Ok(Resolution::Found(NextHop { ifindex: route.oif, dmac, smac, source, mtu, on_link }))
            }
            None => {
                self.ask(route.oif, neighbour).await;
                Ok(Resolution::Asking { neighbour })
            }
        }
    }

    /// Has the kernel confirm every neighbour in use, if it has not lately: that is how a changed MAC is noticed when
    /// its owner does not announce it.
    pub(crate) async fn refresh(&self) {
        for &(ifindex, neighbour) in &self.in_use {
            self.ask(ifindex, neighbour).await;
        }
    }

    async fn ask(&self, ifindex: u32, neighbour: IpAddr) {
        // The interface may have gone since the route was read; the next pass will see that.
        if let Err(error) = self.netlink.kick(ifindex, neighbour).await {
            tracing::debug!(%neighbour, ifindex, %error, "cannot ask for a neighbour");
        }
    }
}
