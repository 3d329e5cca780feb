// SPDX-License-Identifier: GPL-3.0-only
//! Numbered datagrams while the process dies, restarts and changes: counted by BPF at both ends, not one may be missing.
//! Needs root, XDP and network namespaces.
//!
//! The sender waits for each burst to arrive before the next, so no queue on the way can overflow, however busy the
//! machine is; what is lost for good shows at the end as a difference of the two counts.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use eg_kernel_tests::topology::config::{SERVICE, Service};
use eg_kernel_tests::topology::echo::{Echo, Flow};
use eg_kernel_tests::topology::gateway::Gateway;
use eg_kernel_tests::topology::tally::{self, Count, Tally};
use eg_kernel_tests::topology::{Arms, Topology};
use eg_kernel_tests::{full, require};
use nix::sys::signal::Signal;

/// Fits the smallest queue on the way, a veth's ring of 256, with room for what else is sent.
const BURST: u64 = 64;
/// A flow that begins anew each so many bursts.
const ANEW: u64 = 50;
/// Longer than a burst takes; what has not arrived by then is not waited for again before the end.
const PATIENCE: Duration = Duration::from_millis(200);

fn can_run() -> bool {
    ["root", "netns", "bpffs", "xdp", "ethtool", "tc"].iter().all(|feature| require(feature))
}

/// Datagrams at the least.
fn packets() -> u64 {
    if full() { 10_000_000 } else { 1_000_000 }
}

struct Ends {
    leaving: Tally,
    arriving: Vec<Tally>,
}

impl Ends {
    fn arrived(&self) -> Count {
        self.arriving.iter().map(Tally::count).sum()
    }

    fn arrive(&self, sent: u64, patience: Duration) {
        let deadline = Instant::now() + patience;
        while self.arrived().packets < sent && Instant::now() < deadline {
            thread::yield_now();
        }
    }
}

/// Established flows on both VIPs, each of which has been answered.
fn flows(topology: &Topology, each: usize) -> Vec<UdpSocket> {
    let vips = [false, true].map(|v6| SocketAddr::new(topology.vip(v6), SERVICE));
    topology.client.enter(|| {
        let open = |vip| {
            let flow = Flow::open(vip).expect("a socket");
            flow.exchange(b"first").expect("an answer");
            flow.socket
        };
        vips.iter().flat_map(|vip| (0..each).map(move |_| open(*vip))).collect()
    })
}

/// Sends until `enough` and the work is over; how many were sent.
fn stream(topology: &Topology, ends: &Ends, sockets: &[UdpSocket], enough: u64, over: &AtomicBool) -> u64 {
    let vips = [false, true].map(|v6| SocketAddr::new(topology.vip(v6), SERVICE));
    topology.client.enter(|| {
        let (mut sent, mut bursts) = (0, 0);
        while sent < enough || !over.load(Ordering::SeqCst) {
            let anew = (bursts % ANEW == 0).then(|| Flow::open(vips[(bursts / ANEW % 2) as usize]).expect("a socket"));
            for _ in 0..BURST {
                let socket = match &anew {
                    Some(flow) => &flow.socket,
                    None => &sockets[sent as usize % sockets.len()],
                };
                tally::send(socket, sent as u32).expect("send");
                sent += 1;
            }
            bursts += 1;
            ends.arrive(sent, PATIENCE);
        }
        ends.arrive(sent, Duration::from_secs(5));
        sent
    })
}

/// Runs `work` beside the stream and compares the ends.
fn survive(packets: u64, work: impl FnOnce(&mut Gateway<'_>, &dyn Fn(&[usize]) -> String) + Send) {
    let mut topology = Topology::new(Arms::Two, 3);
    let _echoes: Vec<Echo> =
        topology.backends.iter().enumerate().map(|(number, space)| Echo::start(space, number as u8)).collect();
    let arriving = topology.count_arrivals();
    let ends = Ends { leaving: Tally::leaving(&topology.client, "eth0"), arriving };
    let configuration = |backends: &[usize]| Service::of(backends).toml(&topology);
    let mut gateway = Gateway::start(&topology, &configuration(&[0, 1]));
    let sockets = flows(&topology, 4);
    let over = AtomicBool::new(false);
    let sent = thread::scope(|scope| {
        let stream = scope.spawn(|| stream(&topology, &ends, &sockets, packets, &over));
        let worked = scope.spawn(|| {
            let _end = End(&over);
            work(&mut gateway, &configuration);
        });
        worked.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        stream.join().expect("the stream")
    });
    let (left, arrived) = (ends.leaving.count(), ends.arrived());
    assert_eq!(left.packets, sent, "the client's own end counts what was sent");
    assert!(sent >= packets);
    assert_eq!(arrived, left, "{} of {sent} were lost", left.packets - arrived.packets);
    println!("{sent} datagrams, none lost");
}

/// Ends the stream also when the work panics.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn the_control_run_loses_nothing() {
    if !can_run() {
        return;
    }
    survive(packets(), |_, _| ());
}

#[test]
fn kills_restarts_and_changes_lose_not_one_of_a_million_datagrams() {
    if !can_run() {
        return;
    }
    survive(packets(), |gateway, configuration| {
        let same = configuration(&[0, 1]);
        gateway.end(Signal::SIGKILL);
        thread::sleep(Duration::from_millis(300));
        gateway.launch();
        gateway.end(Signal::SIGTERM);
        gateway.configure(&configuration(&[0, 1, 2]));
        gateway.launch();
        gateway.reload(&same);
        gateway.end(Signal::SIGKILL);
        gateway.configure(&same.replace("flows = 65536", "flows = 131072"));
        gateway.launch();
        gateway.reload(&same);
        gateway.end(Signal::SIGTERM);
        gateway.launch();
    });
}
