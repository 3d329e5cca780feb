// SPDX-License-Identifier: GPL-3.0-only
//! Two CPUs at once: ports, promotions and evictions. Each thread runs the program on a CPU of its own, as a receive
//! queue would.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Mutex;

use eg_kernel_tests::packet::frame::{ACK, CLIENT_MAC, FIN, GATEWAY_MAC, SYN};
use eg_kernel_tests::packet::gateway::backend_mac;
use eg_kernel_tests::packet::random::Random;
use eg_kernel_tests::packet::service::{KEY, V4, at, serve};
use eg_kernel_tests::packet::{Frame, Gateway, L4, Outcome, Runner, Tunables, Verdict, judge};
use eg_kernel_tests::require;

/// Runs `work` on two CPUs (on one, if there is only one: then the races are not met).
fn on_two_cpus(gateway: &Gateway, work: impl Fn(u32, Runner) + Sync) {
    let this = nix::unistd::Pid::from_raw(0);
    let allowed = nix::sched::sched_getaffinity(this).unwrap();
    let cpus: Vec<usize> = (0..nix::sched::CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap()).collect();
    std::thread::scope(|scope| {
        for n in 0..2u32 {
            let (cpu, runner, work) = (cpus[n as usize % cpus.len()], gateway.runner(), &work);
            scope.spawn(move || {
                let mut one = nix::sched::CpuSet::new();
                one.set(cpu).unwrap();
                nix::sched::sched_setaffinity(this, &one).unwrap();
                work(n, runner);
            });
        }
    });
}

fn client(thread: u32, port: u16) -> SocketAddr {
    SocketAddr::from(([198, 51, 100, thread as u8 + 1], port))
}

/// A connection of one thread's.
struct Open {
    client: SocketAddr,
    source: SocketAddr,
    backend: SocketAddr,
    seq: u32,
    ack: u32,
}

impl Open {
    fn frame(&self, flags: u8, payload: &[u8]) -> Vec<u8> {
        Frame::between(self.client, at(V4.vip), L4::Tcp(flags)).payload(payload).seq(self.seq).ack(self.ack).build()
    }

    fn reply(&self, flags: u8, payload: &[u8]) -> Frame {
        Frame::between(self.backend, self.source, L4::Tcp(flags))
            .macs(backend_mac(1), GATEWAY_MAC)
            .payload(payload)
            .seq(self.ack)
            .ack(self.seq)
    }

    /// The backend's frame must reach this client.
    fn replies(&self, runner: &Runner, flags: u8, payload: &[u8]) {
        let reply = self.reply(flags, payload);
        let outcome = runner.receive(&reply.build());
        let expected = reply.rewritten(at(V4.vip), self.client, GATEWAY_MAC, CLIENT_MAC).build();
        assert_eq!(outcome, Outcome { verdict: Verdict::Tx, bytes: expected }, "to {}", self.client);
    }

    /// The client's frame must leave from this connection's port.
    fn sends(&self, runner: &Runner, flags: u8, payload: &[u8]) {
        let outcome = runner.receive(&self.frame(flags, payload));
        assert_eq!(outcome.verdict, Verdict::Tx, "from {}", self.client);
        let seen = judge::read(&outcome.bytes).unwrap();
        assert_eq!((seen.source, seen.destination), (self.source, self.backend), "from {}", self.client);
    }
}

#[test]
fn a_port_is_never_given_twice_while_flows_open_and_move() {
    if !require("xdp") {
        return;
    }
    // Seven ports, of which up to six are taken: newcomers meet others' claims at every moment of theirs. A closed flow's
    // port is free at once.
    let tunables = Tunables { ports: (20000, 20006), timeout_closing_s: 0, ..Tunables::default() };
    let gateway = Gateway::with(&tunables);
    serve(&gateway, &V4, true);
    gateway.pool(1, KEY, &[(1, V4.backends[0], 1)]);
    let owners: Mutex<HashMap<SocketAddr, SocketAddr>> = Mutex::default();
    let opened = Mutex::new(0);

    on_two_cpus(&gateway, |thread, runner| {
        let mut random = Random(0xface + u64::from(thread));
        let mut living: Vec<Open> = Vec::new();
        for _ in 0..15_000 {
            if living.len() == 3 {
                let old = living.remove(0);
                old.sends(&runner, ACK, b"data");
                old.replies(&runner, ACK, b"data");
                old.sends(&runner, FIN | ACK, b"");
                // Its last half closes with the next frame: from then on the port may be another's.
                assert_eq!(owners.lock().unwrap().remove(&old.source), Some(old.client));
                old.replies(&runner, FIN | ACK, b"");
            }
            let client = client(thread, 1 + random.below(16) as u16);
            if living.iter().any(|open| open.client == client) {
                continue;
            }
            let (seq, ack) = (random.draw() as u32, random.draw() as u32);
            let syn = Frame::between(client, at(V4.vip), L4::Tcp(SYN)).payload(b"").seq(seq);
            let outcome = runner.receive(&syn.build());
            if outcome.verdict == Verdict::Drop {
                continue; // no port free, or another was faster
            }
            let seen = judge::read(&outcome.bytes).unwrap();
            let mut open = Open { client, source: seen.source, backend: seen.destination, seq: syn.end(), ack };
            let other = owners.lock().unwrap().insert(open.source, client);
            assert_eq!(other, None, "{} was given to {client} too", open.source);
            open.replies(&runner, SYN | ACK, b"");
            open.ack = open.ack.wrapping_add(1);
            open.sends(&runner, ACK, b"");
            open.replies(&runner, ACK, b"hello");
            *opened.lock().unwrap() += 1;
            living.push(open);
        }
    });
    let opened = *opened.lock().unwrap();
    println!("{opened} connections opened on seven ports");
    assert!(opened > 5_000, "{opened}: hardly tried");
    let halves = gateway.maps().opening.entries().unwrap();
    assert!(halves.iter().all(|(key, _)| key.pad == [0; 3]), "no claim is left behind");
}

#[test]
fn two_cpus_that_promote_one_flow_count_it_once() {
    if !require("xdp") {
        return;
    }
    let gateway = Gateway::with(&Tunables::default());
    serve(&gateway, &V4, true);
    gateway.pool(1, KEY, &[(1, V4.backends[0], 1)]);
    let (rounds, barrier) = (1000u16, std::sync::Barrier::new(2));
    let half_open: Vec<Open> = {
        let runner = gateway.runner();
        let begin = |port| {
            let client = client(0, port);
            let syn = Frame::between(client, at(V4.vip), L4::Tcp(SYN)).payload(b"");
            let seen = judge::read(&runner.receive(&syn.build()).bytes).unwrap();
            let mut open =
                Open { client, source: seen.source, backend: seen.destination, seq: syn.end(), ack: 7_000_000 };
            open.replies(&runner, SYN | ACK, b"");
            open.ack += 1;
            open
        };
        (1..=rounds).map(begin).collect()
    };
    // Nothing is claimed between the barriers: a thread that panics there would leave the other waiting.
    let verdicts: Mutex<HashMap<SocketAddr, Vec<Verdict>>> = Mutex::default();
    on_two_cpus(&gateway, |thread, runner| {
        for open in &half_open {
            // The last ACK of the handshake and the first data come by two queues.
            let frame = open.frame(ACK, if thread == 0 { b"" } else { b"data" });
            barrier.wait();
            let verdict = runner.receive(&frame).verdict;
            verdicts.lock().unwrap().entry(open.client).or_default().push(verdict);
        }
    });
    // The slower one may meet the flow between the tables, and is then lost as on a wire: its sender has it sent again.
    for (client, verdicts) in verdicts.into_inner().unwrap() {
        assert!(verdicts.len() == 2 && verdicts.contains(&Verdict::Tx), "{client}: {verdicts:?}");
    }
    let load = gateway.maps().loads.get(1);
    assert_eq!((load.flows, load.outstanding), (i64::from(rounds), i64::from(rounds)));
    assert_eq!(gateway.maps().opening.entries().unwrap(), []);
    assert_eq!(gateway.maps().flows.entries().unwrap().len(), 2 * usize::from(rounds));
    let runner = gateway.runner();
    for open in &half_open {
        open.sends(&runner, ACK, b"data");
        open.replies(&runner, ACK, b"data");
    }
}

#[test]
fn a_full_table_in_churn_never_gives_a_flow_anothers_addresses() {
    if !require("xdp") {
        return;
    }
    // Without SNAT a flow's addresses are its client's own, so that any other is wrong whenever it is seen. Both tables are
    // full all the time: every new flow takes an entry from an old one.
    let gateway = Gateway::with(&Tunables { flows: 512, opening: 512, ..Tunables::default() });
    serve(&gateway, &V4, false);
    gateway.pool(1, KEY, &[(1, V4.backends[0], 1)]);
    let forwarded = Mutex::new((0, 0));
    on_two_cpus(&gateway, |thread, runner| {
        let mut random = Random(0xbead + u64::from(thread));
        let (mut out, mut back) = (0, 0);
        for _ in 0..40_000 {
            // Both threads carry packets of all clients.
            let client = client(0, 1 + random.below(3000) as u16);
            let question = Frame::between(client, at(V4.vip), L4::Udp);
            let outcome = runner.receive(&question.build());
            if outcome.verdict == Verdict::Tx {
                let expected = question.rewritten(client, at(V4.backends[0]), GATEWAY_MAC, backend_mac(1));
                assert_eq!(outcome.bytes, expected.build(), "from {client}");
                out += 1;
            }
            let reply = Frame::between(at(V4.backends[0]), client, L4::Udp).macs(backend_mac(1), GATEWAY_MAC);
            let outcome = runner.receive(&reply.build());
            if outcome.verdict == Verdict::Tx {
                let expected = reply.rewritten(at(V4.vip), client, GATEWAY_MAC, CLIENT_MAC);
                assert_eq!(outcome.bytes, expected.build(), "to {client}");
                back += 1;
            }
        }
        let mut all = forwarded.lock().unwrap();
        *all = (all.0 + out, all.1 + back);
    });
    let (out, back) = *forwarded.lock().unwrap();
    println!("{out} of 80000 forwarded, {back} answered");
    assert!(out > 40_000 && back > 40_000, "{out} forwarded, {back} answered: hardly tried");
    let entries = gateway.maps().flows.entries().unwrap();
    assert!(entries.len() > 200, "{} entries", entries.len());
    for (key, flow) in entries {
        assert_eq!(flow.tag, key.tag(), "each entry says whose it is");
    }
}
