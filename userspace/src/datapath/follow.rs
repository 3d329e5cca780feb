// SPDX-License-Identifier: GPL-3.0-only
//! Follows the configured interfaces by their names: one that vanished and came back gets its program again.
//!
//! A virtual function is reset, a bond is rebuilt, a container's veth is made anew: same name, another index, and without
//! our program nothing of it is forwarded. `control` waits for [`Datapath::interfaces_may_differ`] between signals and
//! then calls [`Datapath::follow_interfaces`], so that no reload is under way meanwhile. What was taken off a living
//! interface by hand is put back as well, at the next look.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::attach::look;
use super::keeper::lock;
use super::netlink::Interface;
use super::{Datapath, DatapathError, local_addresses};

/// What was seen at the last look.
#[derive(Default)]
pub(super) struct Seen {
    /// Configured interfaces, by index.
    indices: Vec<u32>,
    /// Addresses of theirs, which say how a VIP becomes local.
    addresses: Vec<(u32, IpAddr)>,
    /// Why an interface has no program of ours; said once.
    without: BTreeMap<String, String>,
}

impl Datapath {
    /// Waits until something about links may have changed, or it is time to look again.
    pub async fn interfaces_may_differ(&self) {
        self.links_changed.notified().await;
    }

    /// Attaches to configured interfaces that have no program of ours, and forgets those that are gone. Failures are logged,
    /// once each, and tried again at the next look.
    pub async fn follow_interfaces(&mut self) {
        if let Err(error) = self.look_again().await {
            tracing::warn!(error = crate::app::causes(&error), "cannot look after the interfaces");
        }
    }

    async fn look_again(&mut self) -> Result<(), DatapathError> {
        let known = self.netlink.interfaces().await?;
        let configured = |interface: &&Interface| self.plan.interfaces.contains(&interface.name);
        let present: Vec<Interface> = known.iter().filter(configured).cloned().collect();
        for name in &self.plan.interfaces {
            if !present.iter().any(|interface| interface.name == *name) {
                self.seen.without(name, "it is gone; it is attached again when it comes back".to_owned());
            }
        }
        for interface in &present {
            if look::runs(&self.links, interface.index) {
                self.seen.without.remove(&interface.name);
                continue;
            }
            match self.attach(interface, self.plan.xdp).await {
                Ok(()) => drop(self.seen.without.remove(&interface.name)),
                Err(error) => self.seen.without(&interface.name, crate::app::causes(&error)),
            }
        }
        let indices: Vec<u32> = present.iter().map(|interface| interface.index).collect();
        let assigned = self.netlink.addresses().await?;
        let theirs = assigned.iter().filter(|known| indices.contains(&known.index) && !known.ours);
        let addresses = theirs.map(|known| (known.index, known.address)).collect();
        if self.seen.indices != indices || self.seen.addresses != addresses {
            // An IPv6 VIP on a link is an address of its interface, and went with it.
            self.vips.add(&local_addresses(&self.plan), &indices).await?;
            self.links.keep_only(&indices)?;
            let pairs = lock(&self.tables).pairs(&self.plan);
            self.let_probes_through(&pairs, &indices);
            (self.seen.indices, self.seen.addresses) = (indices, addresses);
        }
        Ok(())
    }
}

impl Seen {
    fn without(&mut self, name: &str, why: String) {
        if self.without.get(name) != Some(&why) {
            tracing::warn!(interface = name, why, "not attached");
            self.without.insert(name.to_owned(), why);
        }
    }
}
