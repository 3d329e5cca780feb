// SPDX-License-Identifier: GPL-3.0-only
//! SYNs from sources that nobody has, at a paced rate.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::Topology;
use super::wire::{self, Wire};
use crate::packet::frame::SYN;
use crate::packet::{Frame, L4};

/// Forged SYNs a second: far beyond any rate here, and no more than a cable and a busy machine carry.
const RATE: u128 = 2000;

/// SYNs to the VIP, each from a source of its own, until this is dropped.
pub struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Flood {
    /// From the client's interface to the gateway's interface `towards`.
    pub fn start(topology: &Topology, towards: &str, vip: SocketAddr) -> Flood {
        let (stop, sent): (Arc<AtomicBool>, Arc<AtomicU64>) = Default::default();
        let (end, count) = (Arc::clone(&stop), Arc::clone(&sent));
        let gateway = wire::mac(&topology.gateway, towards);
        let thread = topology.client.spawn(move || {
            let mut wire = Wire::open("eth0");
            let (mut number, began) = (0u32, Instant::now());
            while !end.load(Ordering::SeqCst) {
                // However late the thread wakes up, it keeps the rate.
                while u128::from(number) < began.elapsed().as_millis() * RATE / 1000 {
                    let source = forged(vip.is_ipv6(), number);
                    let frame = Frame::between(source, vip, L4::Tcp(SYN)).payload(b"").macs(wire.mac, gateway);
                    wire.send(&frame.build());
                    count.fetch_add(1, Ordering::SeqCst);
                    number += 1;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        Flood { stop, sent, thread: Some(thread) }
    }

    /// How many have left.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::SeqCst)
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Of networks that nobody here has: no answer finds its way back.
fn forged(v6: bool, number: u32) -> SocketAddr {
    let v4 = Ipv4Addr::from(0xc612_0000 + (number & 0x1_ffff));
    let [a, b, c, d] = v4.octets().map(u16::from);
    let ip = if v6 { IpAddr::from([0x2001, 0xdb8, 0xbad, 0, a, b, c, d]) } else { v4.into() };
    SocketAddr::new(ip, 1024 + (number % 60_000) as u16)
}
