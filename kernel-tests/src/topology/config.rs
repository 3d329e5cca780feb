// SPDX-License-Identifier: GPL-3.0-only
//! Configurations for a topology: an L4 service for TCP and UDP on both VIPs, in front of its echo backends.

use super::Topology;
use super::echo::PORT;
use super::expect::Pool;

/// The seed of every test's rings.
pub const SEED: [u8; 16] = *b"topology testing";

/// The service's port on the VIPs.
pub const SERVICE: u16 = 80;

/// What a test varies.
#[derive(Clone, Debug)]
pub struct Service {
    /// Numbers of the backends in the pools.
    pub backends: Vec<usize>,
    pub snat: bool,
    pub drain_timeout: &'static str,
    /// More TOML.
    pub more: String,
}

impl Service {
    pub fn of(backends: &[usize]) -> Service {
        Service { backends: backends.to_vec(), snat: true, drain_timeout: "60s", more: String::new() }
    }

    /// The configuration file.
    pub fn toml(&self, topology: &Topology) -> String {
        let seed: String = SEED.iter().map(|byte| format!("{byte:02x}")).collect();
        let Service { snat, drain_timeout, more, .. } = self;
        let mut text = format!(
            "[runtime]\nworkers = 2\n\n[datapath]\ninterfaces = {:?}\nxdp = \"native\"\npin_root = {:?}\nflows = 65536\nhash_seed = \"{seed}\"\n",
            topology.interfaces, topology.pin_root
        );
        for v6 in [false, true] {
            let family = if v6 { 6 } else { 4 };
            let vip = std::net::SocketAddr::new(topology.vip(v6), SERVICE);
            for proto in ["tcp", "udp"] {
                text += &format!(
                    "\n[[listeners]]\nname = \"{proto}{family}\"\naddress = \"{vip}\"\nprotocol = \"{proto}\"\npool = \"echo{family}\"\nsnat = {snat}\n"
                );
            }
            text += &format!("\n[pools.echo{family}]\nalgorithm = \"maglev\"\ndrain_timeout = \"{drain_timeout}\"\n");
            for number in &self.backends {
                let address = topology.backend_address(*number, v6, PORT);
                text += &format!("\n[[pools.echo{family}.backends]]\nname = \"b{number}\"\naddress = \"{address}\"\n");
            }
        }
        text + more
    }

    /// The judge of where the service's flows go.
    pub fn pool(&self, v6: bool) -> Pool {
        let names: Vec<String> = self.backends.iter().map(|number| format!("b{number}")).collect();
        let members: Vec<(&str, u32)> = names.iter().map(|name| (name.as_str(), 1)).collect();
        Pool::new(SEED, if v6 { "echo6" } else { "echo4" }, &members)
    }
}
