// SPDX-License-Identifier: GPL-3.0-only
//! Makes VIPs addresses of this host, and takes back exactly what it made.
//!
//! A VIP that lies in a prefix of one of our links must answer ARP or neighbour solicitations; any other only has to be
//! delivered here. An IPv4 address needs no more than a route in the local table for both: the kernel answers ARP for
//! whatever it would deliver to itself. For IPv6 it answers solicitations only for addresses that an interface has, so
//! an on-link one is added to that interface, deprecated and without duplicate address detection.
//!
//! What is ours is marked in the kernel (the routes' protocol, the addresses' IFA_PROTO), not remembered here: that is
//! how a restart finds what a killed process left. Linux before 5.18 has no IFA_PROTO: there an on-link IPv6 VIP
//! outlives the process that made it. An address the host already has is never touched. One process per network
//! namespace may own VIPs: two would take away each other's.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::super::error::DatapathError;
use super::super::netlink::{Assigned, Netlink};

/// The VIPs of this host that are ours.
pub(crate) struct Vips {
    netlink: Netlink,
    /// What this process added, for kernels that cannot mark it.
    added: BTreeSet<(u32, IpAddr)>,
}

impl Vips {
    pub(crate) fn new(netlink: Netlink) -> Vips {
        Vips { netlink, added: BTreeSet::new() }
    }

    /// Makes `wanted` local, on which traffic by `interfaces` (indices) relies. Removes nothing.
    pub(crate) async fn add(&mut self, wanted: &[IpAddr], interfaces: &[u32]) -> Result<(), DatapathError> {
        let assigned = self.netlink.addresses().await?;
        let routed = self.netlink.our_local_routes().await?;
        let loopback = loopback(&self.netlink).await?;
        for &address in wanted {
            if assigned.iter().any(|known| known.address == address) {
                continue;
            }
            match on_link(address, &assigned, interfaces) {
                Some(index) if address.is_ipv6() => {
                    self.netlink.add_address(index, address).await?;
                    self.added.insert((index, address));
                    if routed.contains(&address) {
                        // From when the link was not there, or had no address in this prefix.
                        self.netlink.remove_local_route(address, loopback).await?;
                    }
                }
                _ if routed.contains(&address) => continue,
                _ => self.netlink.add_local_route(address, loopback).await?,
            }
            tracing::info!(%address, "vip made local");
        }
        Ok(())
    }

    /// Removes what is ours and not in `wanted`.
    pub(crate) async fn keep_only(&mut self, wanted: &[IpAddr]) -> Result<(), DatapathError> {
        let loopback = loopback(&self.netlink).await?;
        for address in self.netlink.our_local_routes().await? {
            if !wanted.contains(&address) {
                self.netlink.remove_local_route(address, loopback).await?;
                tracing::info!(%address, "vip no longer local");
            }
        }
        for known in self.netlink.addresses().await? {
            let ours = known.ours || self.added.contains(&(known.index, known.address));
            if ours && !wanted.contains(&known.address) {
                self.netlink.remove_address(known.index, known.address).await?;
                self.added.remove(&(known.index, known.address));
                tracing::info!(address = %known.address, "vip no longer local");
            }
        }
        Ok(())
    }
}

/// The interface among `interfaces` on whose link `address` lies.
fn on_link(address: IpAddr, assigned: &[Assigned], interfaces: &[u32]) -> Option<u32> {
    assigned
        .iter()
        .find(|known| interfaces.contains(&known.index) && within(address, known.address, known.prefix))
        .map(|known| known.index)
}

fn within(address: IpAddr, network: IpAddr, prefix: u8) -> bool {
    match (address, network) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            prefix < 32 && (u32::from(a) ^ u32::from(b)).checked_shr(32 - u32::from(prefix)).unwrap_or(0) == 0
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            prefix < 128 && (u128::from(a) ^ u128::from(b)).checked_shr(128 - u32::from(prefix)).unwrap_or(0) == 0
        }
        _ => false,
    }
}

async fn loopback(netlink: &Netlink) -> Result<u32, DatapathError> {
    let interfaces = netlink.interfaces().await?;
    let found = interfaces.iter().find(|interface| interface.name == "lo").map(|interface| interface.index);
    found.ok_or_else(|| DatapathError::NoInterface { name: "lo".into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assigned(index: u32, address: &str, prefix: u8) -> Assigned {
        Assigned { index, address: address.parse().unwrap(), prefix, ours: false }
    }

    #[test]
    fn an_address_is_on_the_link_whose_prefix_covers_it() {
        let known = [assigned(2, "192.0.2.1", 24), assigned(3, "2001:db8::1", 64), assigned(4, "198.51.100.1", 32)];
        let find = |address: &str| on_link(address.parse().unwrap(), &known, &[2, 3, 4]);
        assert_eq!(find("192.0.2.250"), Some(2));
        assert_eq!(find("192.0.3.1"), None);
        assert_eq!(find("2001:db8::ffff"), Some(3));
        assert_eq!(find("2001:db8:0:1::1"), None);
        assert_eq!(find("198.51.100.1"), None, "a whole-length prefix is no link");
    }

    #[test]
    fn only_the_given_interfaces_count() {
        let known = [assigned(2, "192.0.2.1", 24)];
        assert_eq!(on_link("192.0.2.9".parse().unwrap(), &known, &[7]), None);
    }
}
