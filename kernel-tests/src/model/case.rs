// SPDX-License-Identifier: GPL-3.0-only
//! A configuration, drawn by a seed, and what happens to it. Printed so that it can be put into a test as it is.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::{Arc, OnceLock};

use eg_abi::{
    ADDR_PASS, ADDR_RESET, ADDR_SOURCE, ADDR_VIP, Addr, Algorithm, BACKEND_ON_LINK, Backend, BackendState,
    CONF_RETURN_PATH, Conf, Forward, Pool, Slot, VIP_REPICK, VIP_RESET, VIP_SNAT, VIP_STABLE, Vip,
};
use eg_balance::maglev;
use eg_balance::ring::SLOTS;

use super::Config;
use super::parse::{TCP, UDP};
use crate::packet::Tunables;
use crate::packet::frame::GATEWAY_MAC;
use crate::packet::gateway::{INGRESS, backend_mac};
use crate::packet::random::Random;
use crate::packet::service::{BOTH, Family, GUE_PORT, KEY, V4, V6, at};

/// What happens next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A frame comes in. `base`: what it was made of, to simplify towards.
    Frame { bytes: Vec<u8>, base: Vec<u8> },
    /// Jiffies pass.
    Wait(u32),
    /// A backend's state changes,
    State(u32, BackendState),
    /// another takes its slot,
    Replace(u32),
    /// its way has this MTU,
    Mtu(u32, u16),
    /// its next hop is not known, or known again.
    Resolved(u32, bool),
    /// A VIP forwards otherwise.
    Epoch(u32),
    /// A VIP's flags become these.
    Flags(u32, u32),
}

/// What a test replays.
#[derive(Clone, Debug)]
pub struct Case {
    pub seed: u64,
    pub steps: Vec<Step>,
}

impl Case {
    /// A case from what [`Case::print`] printed.
    pub fn of(seed: u64, steps: &[Step]) -> Case {
        Case { seed, steps: steps.to_vec() }
    }

    /// Rust source that makes this case.
    pub fn print(&self) -> String {
        let mut text = format!("Case::of({:#x}, &[\n", self.seed);
        for step in &self.steps {
            let line = match step {
                Step::Frame { bytes, .. } => {
                    let hex = bytes.iter().fold(String::new(), |mut hex, byte| {
                        let _ = write!(hex, "{byte:02x}");
                        hex
                    });
                    format!("Step::frame(\"{hex}\")")
                }
                Step::State(id, state) => format!("Step::State({id}, BackendState::{state:?})"),
                other => format!("Step::{other:?}"),
            };
            let _ = writeln!(text, "    {line},");
        }
        text + "])"
    }
}

impl Step {
    /// A frame from its bytes in hexadecimal.
    pub fn frame(hex: &str) -> Step {
        let byte = |i: usize| u8::from_str_radix(&hex[i..i + 2], 16).expect("hexadecimal");
        let bytes: Vec<u8> = (0..hex.len()).step_by(2).map(byte).collect();
        Step::Frame { base: bytes.clone(), bytes }
    }
}

/// VIPs: TCP and UDP of each family, in the order of [`BOTH`]. Backends: 1 to 3 IPv4, 4 to 6 IPv6. Pools: by family.
pub const VIPS: [u32; 4] = [1, 2, 3, 4];
pub const BACKENDS: [u32; 6] = [1, 2, 3, 4, 5, 6];
pub const POOLS: [u32; 2] = [1, 2];

/// So few that flows meet, and that there are none left at times.
pub const PORTS: (u32, u32) = (20000, 20004);

/// What the `number`th program under test is loaded with.
pub fn tunables(number: usize) -> Tunables {
    Tunables {
        ports: PORTS,
        timeout_open_s: 40,
        timeout_closing_s: 4,
        hash_chooses: true,
        clock_stands: true,
        number,
        ..Tunables::default()
    }
}

/// The configuration that a seed draws.
pub fn config(seed: u64, hz: u32) -> Config {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    (0..8).for_each(|_| _ = random.draw());
    let mut config = Config {
        hz,
        tunables: tunables(0),
        conf: Conf::default(),
        vips: HashMap::new(),
        uses: HashMap::new(),
        backends: HashMap::new(),
        pools: HashMap::new(),
        rings: POOLS.iter().map(|id| (*id, ring(*id))).collect(),
    };
    let one_in = |random: &mut Random, n: usize| random.below(n) == 0;
    if one_in(&mut random, 3) {
        (config.conf.outer4, config.conf.outer4_bits) = (Addr::from(at("192.0.2.128:0").ip()), 6);
        (config.conf.outer6, config.conf.outer6_bits) = (Addr::from(at("[2001:db8:e::]:0").ip()), 32);
    }
    for (i, family) in BOTH.into_iter().enumerate() {
        for (j, backend) in family.backends.iter().enumerate() {
            let id = (3 * i + j) as u32 + 1;
            config.backends.insert(id, self::backend(&mut random, id, family, backend));
        }
        let source = Addr::from(family.source.parse::<std::net::IpAddr>().expect("an address"));
        config.uses.insert(source, ADDR_SOURCE);
        let algorithm = [Algorithm::Maglev, Algorithm::Maglev, Algorithm::RingHash, Algorithm::Random];
        let algorithm = algorithm[random.below(4)].code() as u8;
        let pool = Pool { hash_key: KEY, backends: 3, period: SLOTS as u32, algorithm, ..Pool::default() };
        config.pools.insert(POOLS[i], pool);
        let unused = [0, 0, ADDR_PASS, ADDR_RESET][random.below(4)];
        config.uses.insert(Addr::from(at(family.vip).ip()), ADDR_VIP | unused);
        for (j, proto) in [TCP, UDP].into_iter().enumerate() {
            let vip = self::vip(&mut random, family, proto, i);
            if vip.forward == 0 && vip.flags & VIP_SNAT == 0 {
                config.conf.flags = CONF_RETURN_PATH;
            }
            config.vips.insert(VIPS[2 * i + j], vip);
        }
    }
    config
}

fn vip(random: &mut Random, family: &Family, proto: u8, i: usize) -> Vip {
    let modes = [Forward::Nat, Forward::Nat, Forward::Nat, Forward::Ipip, Forward::Gue, Forward::L2];
    let mode = modes[random.below(modes.len())];
    let mut flags = [0, VIP_REPICK, VIP_RESET][random.below(3)];
    if mode == Forward::Nat && random.below(3) != 0 {
        flags |= VIP_SNAT;
    }
    if random.below(4) == 0 {
        flags |= VIP_STABLE;
    }
    // A tunnel may lead to the other family; what cannot has nobody to take it.
    let pool = if random.below(6) == 0 { POOLS[1 - i] } else { POOLS[i] };
    let to = at(family.vip);
    Vip {
        addr: to.ip().into(),
        port: to.port().into(),
        proto,
        forward: mode.code() as u8,
        epoch: 1,
        pool,
        flags,
        gue_port: GUE_PORT.into(),
        ..Vip::default()
    }
}

fn backend(random: &mut Random, id: u32, family: &Family, to: &str) -> Backend {
    let to = at(to);
    Backend {
        addr: to.ip().into(),
        source: family.source.parse::<std::net::IpAddr>().expect("an address").into(),
        port: to.port().into(),
        state: BackendState::Up.code() as u8,
        flags: if random.below(8) == 0 { 0 } else { BACKEND_ON_LINK },
        generation: 1,
        // Another interface than the frame's is a redirect.
        ifindex: if random.below(4) == 0 { INGRESS + 1 } else { INGRESS },
        dmac: backend_mac(id).octets(),
        smac: GATEWAY_MAC.octets(),
        mtu: [0, 0, 1500, 1300, 576][random.below(5)],
        ..Backend::default()
    }
}

/// The ring of a pool, the same in all cases.
pub fn ring(pool: u32) -> Arc<Vec<Slot>> {
    static RINGS: OnceLock<[Arc<Vec<Slot>>; 2]> = OnceLock::new();
    let of = |family: &Family, first: u32| {
        let [a, b, c] = family.backends;
        let ring = maglev::ring(KEY, &[(a, 1), (b, 1), (c, 1)]);
        let id = |index: Option<usize>| index.map_or(0, |index| first + index as u32);
        let slot = |(primary, alternate)| Slot { primary: id(primary), alternate: id(alternate) };
        Arc::new((0..SLOTS).map(|i| slot(ring.at(i))).collect())
    };
    let rings = RINGS.get_or_init(|| [of(&V4, 1), of(&V6, 4)]);
    Arc::clone(&rings[pool as usize - 1])
}

/// Applies what is no frame; false for one.
pub fn apply(step: &Step, config: &mut Config) -> bool {
    let mut backend = |id: u32, change: &dyn Fn(&mut Backend)| config.backends.get_mut(&id).map(change);
    match *step {
        Step::Frame { .. } => return false,
        Step::Wait(_) => {}
        Step::State(id, state) => _ = backend(id, &|b| b.state = state.code() as u8),
        Step::Replace(id) => {
            _ = backend(id, &|b| (b.generation, b.state) = (b.generation + 1, BackendState::Up.code() as u8));
        }
        Step::Mtu(id, mtu) => _ = backend(id, &|b| b.mtu = mtu),
        Step::Resolved(id, is) => _ = backend(id, &|b| b.ifindex = if is { INGRESS } else { 0 }),
        Step::Epoch(id) => _ = config.vips.get_mut(&id).map(|vip| vip.epoch += 1),
        Step::Flags(id, flags) => _ = config.vips.get_mut(&id).map(|vip| vip.flags = flags),
    }
    true
}
