// SPDX-License-Identifier: GPL-3.0-only
//! Loopback ports that nobody else in this test run uses.
//!
//! The gateway binds with SO_REUSEPORT, so a port taken twice would not fail but share: each port is therefore held by a
//! file lock for as long as its `Port` lives, across test processes. They lie below the kernel's ephemeral range.

use std::fs::{self, File};
use std::net::{TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};

use nix::fcntl::{Flock, FlockArg};

const FIRST: u16 = 20_000;
const COUNT: u16 = 10_000;

/// One TCP and UDP port on 127.0.0.1 and [::1], ours until dropped.
#[derive(Debug)]
pub(crate) struct Port {
    pub(crate) number: u16,
    _lock: Flock<File>,
}

impl Port {
    pub(crate) fn take() -> Port {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let folder = std::env::temp_dir().join("expressgateway-test-ports");
        fs::create_dir_all(&folder).expect("make the folder of port locks");
        let start = (std::process::id() % u32::from(COUNT)) as u16;
        for _ in 0..COUNT {
            let step = NEXT.fetch_add(1, Ordering::Relaxed);
            let number = FIRST + (start.wrapping_add(step)) % COUNT;
            let file = File::create(folder.join(number.to_string())).expect("open a port's lock");
            let Ok(lock) = Flock::lock(file, FlockArg::LockExclusiveNonblock) else { continue };
            let free =
                TcpListener::bind(("127.0.0.1", number)).is_ok() && UdpSocket::bind(("127.0.0.1", number)).is_ok();
            if free {
                return Port { number, _lock: lock };
            }
        }
        panic!("no free port from {FIRST} to {}", FIRST + COUNT);
    }
}
