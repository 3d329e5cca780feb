// SPDX-License-Identifier: GPL-3.0-only
//! Cases by the dozen: a few clients whose connections live, close, are forgotten and are attacked. The model alone says
//! what is known at each moment, so that most frames are about something.

use std::net::SocketAddr;

use eg_abi::{Addr, BackendState, Be16, Flow, FlowKey, FlowState, VIP_REPICK, VIP_RESET};
use pnet::util::MacAddr;

use super::case::{BACKENDS, Case, Step, VIPS, apply, config};
use super::decide::is_forward;
use super::mutate::mutate;
use super::parse::TCP;
use super::{Model, run};
use crate::packet::frame::{ACK, BACKEND_ISN, CLIENT_ISN, CLIENT_MAC, FIN, GATEWAY_MAC, RST, SYN, TAG_AD, TAG_Q};
use crate::packet::gateway::backend_mac;
use crate::packet::icmp::Icmp;
use crate::packet::random::Random;
use crate::packet::service::{BOTH, V6, at};
use crate::packet::{Frame, L4};

/// Flows that are talked about at a time.
const LIVE: usize = 24;
/// Another router of the clients'.
const ROUTER_MAC: MacAddr = MacAddr(0x02, 0, 0, 0, 0, 0xd);

/// The case that a seed draws, of so many steps.
pub fn case(seed: u64, steps: usize, hz: u32) -> Case {
    let mut traffic = Traffic {
        random: Random(seed.wrapping_add(1).wrapping_mul(0xd134_2543_de82_ef95) | 1),
        model: Model::new(config(seed, hz)),
        keys: Vec::new(),
        now: run::start(seed),
        hz,
    };
    (0..8).for_each(|_| _ = traffic.random.draw());
    let steps = (0..steps).map(|_| traffic.step()).collect();
    Case { seed, steps }
}

struct Traffic {
    random: Random,
    model: Model,
    /// The last keys that were of interest.
    keys: Vec<FlowKey>,
    now: u32,
    hz: u32,
}

impl Traffic {
    fn step(&mut self) -> Step {
        let step = match self.random.below(100) {
            0..8 => self.wait(),
            8..11 => self.change(),
            _ => self.frame(),
        };
        if let Step::Wait(jiffies) = step {
            self.now = self.now.wrapping_add(jiffies);
        }
        if let Step::Frame { bytes, .. } = &step {
            if self.model.receive(bytes, self.now).is_some() {
                let state = &self.model.state;
                let known = |key: &&FlowKey| state.flows.contains_key(key) || state.opening.contains_key(key);
                for key in self.model.touched.iter().filter(known) {
                    if !self.keys.contains(key) {
                        self.keys.push(*key);
                    }
                }
                let old = self.keys.len().saturating_sub(LIVE);
                self.keys.drain(..old);
            }
        } else {
            apply(&step, &mut self.model.config);
        }
        step
    }

    fn any<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.random.below(of.len())]
    }

    fn wait(&mut self) -> Step {
        let hz = self.hz;
        let waits = if self.random.below(10) == 0 {
            [5 * hz, 20 * hz, 39 * hz, 40 * hz, 70 * hz, 300 * hz]
        } else {
            [1, hz / 4, hz - 1, hz, 2 * hz, 4 * hz]
        };
        Step::Wait(self.any(&waits))
    }

    fn change(&mut self) -> Step {
        let (backend, vip) = (self.any(&BACKENDS), self.any(&VIPS));
        let states =
            [BackendState::Up, BackendState::Up, BackendState::Draining, BackendState::Down, BackendState::None];
        match self.random.below(12) {
            0..5 => Step::State(backend, self.any(&states)),
            5 => Step::Replace(backend),
            6 => Step::Mtu(backend, self.any(&[0, 1500, 1400, 1300, 576])),
            7 => Step::Resolved(backend, false),
            8 => Step::Resolved(backend, true),
            9 => Step::Epoch(vip),
            _ => {
                let flags = self.model.config.vips[&vip].flags & !(VIP_REPICK | VIP_RESET);
                Step::Flags(vip, flags | self.any(&[0, VIP_REPICK, VIP_RESET]))
            }
        }
    }

    fn frame(&mut self) -> Step {
        let mut frame = match self.random.below(100) {
            0..4 if !self.keys.is_empty() => return self.complaint(),
            0..25 => self.client(),
            25..90 if !self.keys.is_empty() => self.known(),
            _ => self.stranger(),
        };
        self.shape(&mut frame);
        self.damaged(frame.build())
    }

    /// A third of them.
    fn damaged(&mut self, base: Vec<u8>) -> Step {
        let bytes = if self.random.below(3) == 0 { mutate(&mut self.random, &base) } else { base.clone() };
        Step::Frame { bytes, base }
    }

    /// An ICMP error about what a flow's other end sent.
    fn complaint(&mut self) -> Step {
        let key = self.keys[self.random.below(self.keys.len())];
        let l4 = if key.proto == TCP { L4::Tcp(ACK) } else { L4::Udp };
        let (from, to) = (end(key.daddr, key.dport), end(key.saddr, key.sport));
        let quote = Frame::between(from, to, l4).build().split_off(14);
        let v4 = from.is_ipv4();
        let router = if v4 { "192.0.2.1" } else { "2001:db8:e::1" }.parse().expect("an address");
        let source = if self.random.below(2) == 0 { to.ip() } else { router };
        let kinds =
            if v4 { [(3, 4), (3, 1), (11, 0), (12, 0), (8, 0)] } else { [(2, 0), (1, 4), (3, 0), (4, 1), (128, 0)] };
        let (kind, code) = self.any(&kinds);
        let word = self.any(&[0, 1400, 1280, 0xffff_ffff]);
        let mut icmp = Icmp::new(source, from.ip(), kind, code, word, &quote);
        match self.random.below(8) {
            0 => icmp.tags = vec![TAG_Q],
            1 => icmp.quote.truncate(self.random.below(quote.len() + 1)),
            2 => icmp.ttl = self.any(&[0, 1, 2]),
            // About an IPv4 packet, by IPv6, in the form that means IPv4 inside.
            3 if v4 => {
                icmp = Icmp::new(at("[2001:db8:e::1]:0").ip(), at(V6.vip).ip(), 1, 4, 0, &by_ip6(&key, &quote[20..]));
            }
            _ => {}
        }
        self.damaged(icmp.build())
    }

    /// A client that begins, or claims to go on.
    fn client(&mut self) -> Frame {
        let family = self.any(&BOTH);
        let mut client = at(family.client);
        client.set_port(40000 + self.random.below(24) as u16);
        let l4 = match self.random.below(10) {
            0..6 => L4::Tcp(SYN),
            6 => L4::Tcp(self.flags()),
            7 => L4::UdpNoChecksum,
            _ => L4::Udp,
        };
        Frame::between(client, at(family.vip), l4)
    }

    /// Other ports, other addresses, sources that cannot be.
    fn stranger(&mut self) -> Frame {
        let family = self.any(&BOTH);
        let sources = if family.is_v6() {
            ["[::1]:9", "[ff02::1]:9", "[fe80::1]:9", "[2001:db8:f::7]:443", "[2001:db8:c::9]:0", "[fd00::11]:8443"]
        } else {
            ["127.0.0.1:9", "224.0.0.1:9", "169.254.0.1:9", "203.0.113.7:443", "198.51.100.9:0", "10.0.0.11:8443"]
        };
        let mut to = at(self.any(&[family.vip, family.other_port, family.foreign]));
        match self.random.below(6) {
            0 => to.set_port(0),
            1 => to.set_ip(family.source.parse().expect("an address")),
            _ => {}
        }
        let from = at(if self.random.below(2) == 0 { self.any(&sources) } else { family.client });
        let l4 = if self.random.below(2) == 0 { L4::Tcp(self.flags()) } else { L4::Udp };
        Frame::between(from, to, l4)
    }

    fn flags(&mut self) -> u8 {
        let often = [SYN, ACK, ACK, SYN | ACK, RST, RST | ACK, FIN | ACK, FIN, 0, SYN | RST, SYN | FIN, 0x18, 0x3f];
        self.any(&often)
    }

    /// The next packet of a flow that is known, or nearly that.
    fn known(&mut self) -> Frame {
        let key = self.keys[self.random.below(self.keys.len())];
        let state = &self.model.state;
        let tables =
            if self.random.below(4) == 0 { [&state.flows, &state.opening] } else { [&state.opening, &state.flows] };
        let Some(flow) = tables.into_iter().find_map(|table| table.get(&key)).copied() else {
            return self.client();
        };
        let other_key = self.model.other_key(&flow, key.proto);
        let other = tables.into_iter().find_map(|table| table.get(&other_key)).copied();
        let l4 = if key.proto == TCP { L4::Tcp(self.flags_of(&flow, other.as_ref())) } else { L4::Udp };
        let mut frame = Frame::between(end(key.saddr, key.sport), end(key.daddr, key.dport), l4);
        frame.seq = if l4.has(SYN) && self.random.below(3) != 0 {
            self.any(&[CLIENT_ISN, BACKEND_ISN, u32::MAX, flow.next])
        } else {
            self.near(flow.next)
        };
        frame.ack = self.near(other.map_or(0, |other| other.next));
        if !is_forward(&flow) {
            frame.smac = backend_mac(flow.backend);
        } else if self.random.below(10) == 0 {
            frame.smac = ROUTER_MAC;
        }
        frame
    }

    /// What would come next, mostly.
    fn flags_of(&mut self, flow: &Flow, other: Option<&Flow>) -> u8 {
        if self.random.below(4) == 0 {
            return self.flags();
        }
        let state = FlowState::from_code(flow.state.into());
        let answered = other.is_some_and(|other| u32::from(other.state) == FlowState::Answered.code());
        match (is_forward(flow), state) {
            (false, Some(FlowState::Opening)) => SYN | ACK,
            (true, Some(FlowState::Opening)) if !answered => self.any(&[SYN, ACK]),
            (true, Some(FlowState::Closing)) => self.any(&[SYN, ACK, FIN | ACK]),
            _ => self.any(&[ACK, ACK, ACK, ACK, FIN | ACK, RST]),
        }
    }

    /// Numbers at the edges of windows.
    fn near(&mut self, number: u32) -> u32 {
        let edges =
            [0, 0, 0, 0, 0, 0, 0, 1, u32::MAX, 65535, 65536, 65537, 65536u32.wrapping_neg(), 65537u32.wrapping_neg()];
        number.wrapping_add(match self.random.below(20) {
            0 => self.random.draw() as u32,
            _ => self.any(&edges),
        })
    }

    /// All that a packet may carry along.
    fn shape(&mut self, frame: &mut Frame) {
        let size = match self.random.below(10) {
            0..4 => 0,
            4..8 => self.random.below(64),
            _ => 480 + self.random.below(920),
        };
        let fill = self.random.draw() as u8;
        frame.payload = vec![fill; size];
        frame.ttl = match self.random.below(20) {
            0 => self.any(&[0, 1]),
            1 => self.any(&[2, 255]),
            _ => 64,
        };
        frame.tos = self.any(&[0, 40, 0xff, 3]);
        match self.random.below(16) {
            0 => frame.tags = vec![TAG_Q],
            1 => frame.tags = vec![TAG_AD, TAG_Q],
            2 => frame.tags = vec![TAG_AD, TAG_Q, TAG_Q],
            3 => frame.padding = vec![0xee; 1 + self.random.below(40)],
            4 | 5 => self.extend(frame),
            6 if frame.l4.proto() == TCP => frame.tcp_options = vec![1; 4 * (1 + self.random.below(10))],
            7 => frame.fragment = 0x4000,
            8 => frame.dmac = self.any(&[MacAddr::broadcast(), MacAddr(1, 0, 0x5e, 0, 0, 1), GATEWAY_MAC]),
            9 => frame.smac = CLIENT_MAC,
            _ => {}
        }
    }

    /// IPv4 options or IPv6 extension headers.
    fn extend(&mut self, frame: &mut Frame) {
        if frame.source.is_ipv4() {
            frame.extra = vec![1; 4 * (1 + self.random.below(10))];
            return;
        }
        let kinds: Vec<u8> = (0..1 + self.random.below(8)).map(|_| self.any(&[0, 43, 44, 60, 60])).collect();
        frame.first_extension = kinds[0];
        for (i, kind) in kinds.iter().enumerate() {
            let next = kinds.get(i + 1).copied().unwrap_or(frame.l4.proto());
            let units = if *kind == 44 { 0 } else { self.any(&[0, 0, 1, 3]) };
            let mut header = vec![0; 8 + 8 * usize::from(units)];
            (header[0], header[1]) = (next, units);
            frame.extra.extend(header);
        }
    }
}

/// A quoted IPv6 packet with the ends of an IPv4 flow, mapped.
fn by_ip6(key: &FlowKey, l4: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x60, 0, 0, 0, 0, l4.len() as u8, key.proto, 64];
    bytes.extend(key.daddr.b);
    bytes.extend(key.saddr.b);
    bytes.extend(l4);
    bytes
}

fn end(addr: Addr, port: Be16) -> SocketAddr {
    SocketAddr::new(addr.into(), port.into())
}
