// SPDX-License-Identifier: GPL-3.0-only
//! Frames of a test's own making, put on the wire as they are.

use pnet::datalink::{self, Channel, DataLinkSender, NetworkInterface};
use pnet::util::MacAddr;

use super::Netns;

/// Sends by one interface. Made inside the interface's namespace, usable by any thread.
pub struct Wire {
    sender: Box<dyn DataLinkSender>,
    /// The interface's own address.
    pub mac: MacAddr,
}

impl Wire {
    /// Opens `interface` of the calling thread's namespace.
    ///
    /// # Panics
    /// If it is not there.
    pub fn open(interface: &str) -> Wire {
        let found = interfaces().into_iter().find(|it| it.name == interface).expect("the interface");
        let mac = found.mac.expect("a MAC");
        match datalink::channel(&found, datalink::Config::default()) {
            Ok(Channel::Ethernet(sender, _)) => Wire { sender, mac },
            Ok(_) => panic!("{interface} is no Ethernet"),
            Err(error) => panic!("{interface}: {error}"),
        }
    }

    /// Puts one frame on the wire.
    pub fn send(&mut self, frame: &[u8]) {
        self.sender.send_to(frame, None).expect("a channel that sends").expect("send a frame");
    }
}

fn interfaces() -> Vec<NetworkInterface> {
    datalink::interfaces()
}

/// The MAC of `interface` in `space`.
pub fn mac(space: &Netns, interface: &str) -> MacAddr {
    space.enter(|| interfaces().into_iter().find(|it| it.name == interface).and_then(|it| it.mac).expect("a MAC"))
}
