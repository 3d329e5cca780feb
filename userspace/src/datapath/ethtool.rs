// SPDX-License-Identifier: GPL-3.0-only
//! What a network card does to packets before XDP sees them, or leaves undone after: asked by SIOCETHTOOL.
//!
//! `egctl doctor` reads it. Three questions of the old interface (linux/ethtool.h) are enough and work on every kernel.
//! Nothing here changes a setting.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// linux/ethtool.h
const ETHTOOL_GDRVINFO: u32 = 0x03;
const ETHTOOL_GTXCSUM: u32 = 0x16;
const ETHTOOL_GFLAGS: u32 = 0x25;
const ETH_FLAG_RXVLAN: u32 = 1 << 8;
const ETH_FLAG_LRO: u32 = 1 << 15;

/// An interface's driver and the offloads that matter to XDP.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offloads {
    pub driver: String,
    /// VLAN tags are taken off before XDP sees the frame.
    pub rx_vlan: bool,
    /// Packets are merged before XDP sees them.
    pub lro: bool,
    /// Checksums of what the host's stack sends are left to the card.
    pub tx_checksum: bool,
}

/// `struct ethtool_value`
#[repr(C)]
#[derive(Default)]
struct Number {
    command: u32,
    data: u32,
}

/// `struct ethtool_drvinfo`
#[repr(C)]
struct DriverInfo {
    command: u32,
    driver: [u8; 32],
    rest: [u8; 160],
}

/// Asks for an interface of the current network namespace. A driver that does not know a question answers "off".
///
/// # Errors
/// There is no such interface, or no socket to ask by.
pub fn offloads(interface: &str) -> io::Result<Offloads> {
    nix::net::if_::if_nametoindex(interface)?;
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let mut info = DriverInfo { command: ETHTOOL_GDRVINFO, driver: [0; 32], rest: [0; 160] };
    let driver = match ask(&socket, interface, &mut info) {
        Ok(()) => String::from_utf8_lossy(&info.driver).trim_end_matches('\0').to_owned(),
        Err(_) => String::new(),
    };
    let number = |command| {
        let mut number = Number { command, data: 0 };
        ask(&socket, interface, &mut number).map_or(0, |()| number.data)
    };
    let flags = number(ETHTOOL_GFLAGS);
    Ok(Offloads {
        driver,
        rx_vlan: flags & ETH_FLAG_RXVLAN != 0,
        lro: flags & ETH_FLAG_LRO != 0,
        tx_checksum: number(ETHTOOL_GTXCSUM) != 0,
    })
}

/// Puts one question. `T` is one of the structures above, which begin with the command that says which one it is.
fn ask<T>(socket: &OwnedFd, interface: &str, question: &mut T) -> io::Result<()> {
    // SAFETY: integers, bytes and a pointer, for all of which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if interface.len() >= request.ifr_name.len() {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = std::ptr::from_mut(question).cast();
    // SAFETY: the name ends in a NUL (it is shorter than its array); the data is a live structure of the size that its
    // command says, which the kernel reads and writes during the call only.
    let answer = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as _, &mut request) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_are_as_large_as_the_kernels() {
        assert_eq!((size_of::<Number>(), size_of::<DriverInfo>()), (8, 196));
    }

    #[test]
    fn loopback_answers_and_an_unknown_interface_does_not() {
        assert!(!offloads("lo").expect("loopback").lro);
        assert!(offloads("no-such-if").is_err());
    }
}
