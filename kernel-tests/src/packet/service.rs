// SPDX-License-Identifier: GPL-3.0-only
//! The service that packet tests talk to, the same in each family, and what they claim about single frames.

use std::net::SocketAddr;

use eg_abi::{Addr, Drop as Reason, Forward, PROTO_TCP, PROTO_UDP};

use super::frame::{ACK, BACKEND_ISN, CLIENT_ISN, CLIENT_MAC, GATEWAY_MAC, SYN};
use super::gateway::backend_mac;
use super::{Frame, Gateway, L4, Outcome, Verdict, judge};

/// The hash key of [`serve`]'s pool.
pub const KEY: [u64; 2] = [0x1122334455667788, 0x99aabbccddeeff00];

/// A VIP, the gateway's address, three backends.
pub struct Family {
    pub client: &'static str,
    pub vip: &'static str,
    pub other_port: &'static str,
    pub foreign: &'static str,
    pub source: &'static str,
    pub backends: [&'static str; 3],
}

pub const V4: Family = Family {
    client: "198.51.100.9:40000",
    vip: "203.0.113.7:443",
    other_port: "203.0.113.7:9",
    foreign: "203.0.113.8:443",
    source: "10.0.0.1",
    backends: ["10.0.0.11:8443", "10.0.0.12:8443", "10.0.0.13:8443"],
};

pub const V6: Family = Family {
    client: "[2001:db8:c::9]:40000",
    vip: "[2001:db8:f::7]:443",
    other_port: "[2001:db8:f::7]:9",
    foreign: "[2001:db8:f::8]:443",
    source: "fd00::1",
    backends: ["[fd00::11]:8443", "[fd00::12]:8443", "[fd00::13]:8443"],
};

pub const BOTH: [&Family; 2] = [&V4, &V6];

impl Family {
    pub fn is_v6(&self) -> bool {
        self.client.starts_with('[')
    }
}

/// Parses a constant of a test.
pub fn at(text: &str) -> SocketAddr {
    text.parse().expect("an address and port")
}

/// VIPs 1 (TCP) and 2 (UDP) of `family` by nat, pool 1, backends 1 to 3.
pub fn serve(gateway: &Gateway, family: &Family, snat: bool) -> eg_balance::Ring {
    let table = serve_by(gateway, family, family, Forward::Nat);
    gateway.vip(1, at(family.vip), PROTO_TCP, 1, snat);
    gateway.vip(2, at(family.vip), PROTO_UDP, 1, snat);
    table
}

/// The UDP port of GUE that [`serve_by`] uses: not the default, so that it is seen to be read.
pub const GUE_PORT: u16 = 6090;

/// The VIPs of `front`, forwarded by `mode` to the backends of `back`.
pub fn serve_by(gateway: &Gateway, front: &Family, back: &Family, mode: Forward) -> eg_balance::Ring {
    for (i, backend) in back.backends.iter().enumerate() {
        gateway.backend(i as u32 + 1, at(backend), back.source.parse().expect("an address"));
    }
    let [a, b, c] = back.backends;
    let table = gateway.pool(1, KEY, &[(1, a, 1), (2, b, 1), (3, c, 1)]);
    gateway.vip_by(1, at(front.vip), PROTO_TCP, 1, mode, GUE_PORT);
    gateway.vip_by(2, at(front.vip), PROTO_UDP, 1, mode, GUE_PORT);
    table
}

/// The first frame of a connection.
pub fn syn(family: &Family) -> Frame {
    Frame::new(family.client, family.vip, L4::Tcp(SYN)).payload(b"")
}

/// A client's frame that must be forwarded by nat; gives the frame as it left and the backend that it went to.
pub fn forwarded(gateway: &Gateway, frame: &Frame) -> (judge::Seen, u32) {
    let Outcome { verdict, bytes } = gateway.receive(&frame.build());
    assert_eq!(verdict, Verdict::Tx, "{frame:?}");
    let seen = judge::read(&bytes).expect("a TCP or UDP frame");
    let backend = (1..=3).find(|id| {
        let backend = gateway.maps().backends.get(*id).expect("a backend");
        backend.addr == Addr::from(seen.destination.ip()) && u16::from(backend.port) == seen.destination.port()
    });
    let backend = backend.unwrap_or_else(|| panic!("{} is no backend", seen.destination));
    let expected = frame.rewritten(seen.source, seen.destination, GATEWAY_MAC, backend_mac(backend));
    assert_eq!(bytes, expected.build(), "the frame to backend {backend}");
    assert!(judge::checksums_hold(&bytes));
    (seen, backend)
}

/// A backend's answer to what `forwarded` saw, and the frame that the client must get.
pub fn answer(seen: &judge::Seen, backend: u32, l4: L4) -> (Frame, impl Fn(&Family) -> Vec<u8> + use<>) {
    let mut reply = Frame::between(seen.destination, seen.source, l4).macs(backend_mac(backend), GATEWAY_MAC);
    reply.seq = BACKEND_ISN.wrapping_add(u32::from(!l4.has(SYN)));
    reply.ack = CLIENT_ISN.wrapping_add(1);
    let expected = reply.clone();
    let client =
        move |family: &Family| expected.rewritten(at(family.vip), at(family.client), GATEWAY_MAC, CLIENT_MAC).build();
    (reply, client)
}

/// The stack must get this frame as it is.
pub fn passes_untouched(gateway: &Gateway, frame: &[u8], name: &str) {
    let outcome = gateway.receive(frame);
    assert_eq!(outcome.verdict, Verdict::Pass, "{name}");
    assert_eq!(outcome.bytes, frame, "{name}: bytes changed");
}

/// This frame must be refused, and the reason counted.
pub fn drops_for(gateway: &Gateway, frame: &[u8], reason: Reason, name: &str) {
    let before = gateway.drops(reason);
    let outcome = gateway.receive(frame);
    assert_eq!(outcome.verdict, Verdict::Drop, "{name}");
    assert_eq!(outcome.bytes, frame, "{name}: bytes changed");
    assert_eq!(gateway.drops(reason), before + 1, "{name}: counted as {}", reason.label());
}

/// A TCP connection through the gateway by nat: both ends' numbers, and every frame checked on its way.
pub struct Connection<'a> {
    gateway: &'a Gateway,
    pub client: SocketAddr,
    pub vip: SocketAddr,
    /// As the backend sees the client.
    pub seen: judge::Seen,
    pub backend: u32,
    /// What comes next from the client, and from the backend.
    pub seq: u32,
    pub ack: u32,
}

impl<'a> Connection<'a> {
    /// The whole handshake between `family`'s client and VIP.
    pub fn open(gateway: &'a Gateway, family: &Family) -> Connection<'a> {
        Connection::between(gateway, at(family.client), at(family.vip), CLIENT_ISN, BACKEND_ISN)
    }

    /// The whole handshake, with these initial numbers.
    pub fn between(gateway: &'a Gateway, client: SocketAddr, vip: SocketAddr, seq: u32, ack: u32) -> Connection<'a> {
        let mut connection = Connection::begin(gateway, client, vip, seq, ack);
        connection.reply(SYN | ACK, b"");
        connection.send(ACK, b"");
        connection
    }

    /// The SYN alone.
    pub fn begin(gateway: &'a Gateway, client: SocketAddr, vip: SocketAddr, seq: u32, ack: u32) -> Connection<'a> {
        let first = Frame::between(client, vip, L4::Tcp(SYN)).payload(b"").seq(seq);
        let (seen, backend) = forwarded(gateway, &first);
        Connection { gateway, client, vip, seen, backend, seq: first.end(), ack }
    }

    /// The client's next frame.
    pub fn frame(&self, flags: u8, payload: &[u8]) -> Frame {
        let ack = if flags & ACK != 0 { self.ack } else { 0 };
        Frame::between(self.client, self.vip, L4::Tcp(flags)).payload(payload).seq(self.seq).ack(ack)
    }

    /// The backend's next frame.
    pub fn reply_frame(&self, flags: u8, payload: &[u8]) -> Frame {
        Frame::between(self.seen.destination, self.seen.source, L4::Tcp(flags))
            .macs(backend_mac(self.backend), GATEWAY_MAC)
            .payload(payload)
            .seq(self.ack)
            .ack(self.seq)
    }

    /// The client's next frame goes to the flow's backend.
    pub fn send(&mut self, flags: u8, payload: &[u8]) {
        let frame = self.frame(flags, payload);
        self.sends(&frame);
        self.seq = frame.end();
    }

    /// This frame of the client's goes to the flow's backend, from the flow's source.
    pub fn sends(&self, frame: &Frame) {
        let (seen, backend) = forwarded(self.gateway, frame);
        assert_eq!((seen.source, backend), (self.seen.source, self.backend), "one flow, one port, one backend");
    }

    /// The backend's next frame goes to the client.
    pub fn reply(&mut self, flags: u8, payload: &[u8]) {
        let frame = self.reply_frame(flags, payload);
        self.replies(&frame);
        self.ack = frame.end();
    }

    /// This frame of the backend's goes to the client.
    pub fn replies(&self, frame: &Frame) {
        let outcome = self.gateway.receive(&frame.build());
        assert_eq!(outcome.verdict, Verdict::Tx, "{frame:?}");
        let expected = frame.rewritten(self.vip, self.client, GATEWAY_MAC, CLIENT_MAC).build();
        assert_eq!(outcome.bytes, expected, "the frame to the client");
        assert!(judge::checksums_hold(&outcome.bytes));
    }

    /// The state of the client's half, and of the backend's.
    pub fn states(&self) -> (u32, u32) {
        let half = |a, b| self.gateway.flow(a, b, PROTO_TCP).expect("half of the flow").state;
        (half(self.client, self.vip).into(), half(self.seen.destination, self.seen.source).into())
    }
}
