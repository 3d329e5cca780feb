// SPDX-License-Identifier: GPL-3.0-only
//! Direct server return to two backends that take tunnels apart and answer by themselves: every mode and family.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};

use super::config::SEED;
use super::echo::{Connection, Echo, PATIENCE, PORT};
use super::expect::Pool;
use super::{Arms, Topology};

/// Backends of [`start`].
pub const BACKENDS: usize = 2;

/// One service of both transports.
#[derive(Clone, Copy, Debug)]
pub struct Direct {
    pub forward: &'static str,
    pub vip6: bool,
    pub backend6: bool,
}

impl Direct {
    /// Every mode with every pair of families that it can join.
    pub fn all() -> Vec<Direct> {
        let mut all = Vec::new();
        for vip6 in [false, true] {
            for backend6 in [false, true] {
                all.extend(["ipip", "gue"].map(|forward| Direct { forward, vip6, backend6 }));
            }
            all.push(Direct { forward: "l2", vip6, backend6: vip6 });
        }
        all
    }

    pub fn vip(&self, topology: &Topology) -> SocketAddr {
        SocketAddr::new(topology.vip(self.vip6), PORT)
    }

    /// The configuration, with `xdp` as the way to attach.
    pub fn toml(&self, topology: &Topology, xdp: &str) -> String {
        let seed: String = SEED.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut text = format!(
            "[datapath]\ninterfaces = {:?}\nxdp = \"{xdp}\"\npin_root = {:?}\nflows = 65536\nhash_seed = \"{seed}\"\n",
            topology.interfaces, topology.pin_root
        );
        for proto in ["tcp", "udp"] {
            text += &format!(
                "\n[[listeners]]\nname = \"{proto}\"\naddress = \"{}\"\nprotocol = \"{proto}\"\npool = \"echo\"\nforward = \"{}\"\n",
                self.vip(topology),
                self.forward
            );
        }
        text += "\n[pools.echo]\n";
        for number in 0..BACKENDS {
            let address = topology.backend_address(number, self.backend6, PORT);
            text += &format!("\n[[pools.echo.backends]]\nname = \"b{number}\"\naddress = \"{address}\"\n");
        }
        text
    }

    pub fn pool(&self) -> Pool {
        Pool::new(SEED, "echo", &[("b0", 1), ("b1", 1)])
    }
}

/// Backends on a switch with client and gateway; `offloads` as in [`Topology::with_offloads`].
pub fn start(offloads: bool) -> (Topology, Vec<Echo>) {
    let topology =
        if offloads { Topology::with_offloads(Arms::One, BACKENDS) } else { Topology::new(Arms::One, BACKENDS) };
    topology.serve_directly();
    let vips: [IpAddr; 2] = [topology.vip(false), topology.vip(true)];
    let echoes = (0..BACKENDS).map(|number| Echo::start_on(&topology.backends[number], number as u8, &vips)).collect();
    (topology, echoes)
}

/// Bytes to the backend and back; the write and the read at once, so that neither waits for the other's buffers.
pub fn moves(connection: &mut Connection, length: usize) {
    let bytes: Vec<u8> = (0..length).map(|at| (at * 31 + at / 251) as u8).collect();
    let mut writing = connection.stream.try_clone().expect("a descriptor");
    writing.set_write_timeout(Some(PATIENCE)).expect("a timeout");
    let sent = bytes.clone();
    let writer = std::thread::spawn(move || writing.write_all(&sent));
    let mut back = vec![0; length];
    connection.stream.read_exact(&mut back).expect("the bytes come back");
    writer.join().expect("the writer").expect("write");
    assert!(back == bytes, "other bytes came back");
}
