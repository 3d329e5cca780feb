// SPDX-License-Identifier: GPL-3.0-only
//! Pools that choose by how busy their backends are, with real sockets, and counts that evictions made wrong. Needs root,
//! XDP and network namespaces.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use eg_abi::{FlowDir, FlowState};
use eg_kernel_tests::require;
use eg_kernel_tests::topology::config::{SERVICE, Service};
use eg_kernel_tests::topology::echo::{Connection, Echo, Flow};
use eg_kernel_tests::topology::gateway::{Gateway, maps};
use eg_kernel_tests::topology::{Arms, Topology};

fn can_run() -> bool {
    ["root", "netns", "bpffs", "xdp", "ethtool"].iter().all(|feature| require(feature))
}

fn start_echoes(topology: &Topology) -> Vec<Echo> {
    topology.backends.iter().enumerate().map(|(number, space)| Echo::start(space, number as u8)).collect()
}

#[test]
fn least_connections_levels_what_is_open_and_fills_up_whoever_lost_some() {
    if !can_run() {
        return;
    }
    let topology = Topology::new(Arms::Two, 3);
    let _echoes = start_echoes(&topology);
    let toml = Service::of(&[0, 1, 2]).toml(&topology).replace("\"maglev\"", "\"least-connections\"");
    let _gateway = Gateway::start(&topology, &toml);
    let vip = SocketAddr::new(topology.vip(false), SERVICE);
    topology.client.enter(|| {
        let open = || Connection::open(vip).expect("a connection");
        let count = |connections: &[Connection]| {
            let mut counts = [0; 3];
            connections.iter().for_each(|connection| counts[usize::from(connection.backend)] += 1);
            counts
        };
        let mut connections: Vec<Connection> = (0..30).map(|_| open()).collect();
        // One after the other: each found all earlier ones counted.
        assert_eq!(count(&connections), [10, 10, 10]);
        connections.retain(|connection| connection.backend != 1);
        // The client's FIN has passed when the next SYN comes: it was sent before, and takes the same way.
        connections.extend((0..10).map(|_| open()));
        assert_eq!(count(&connections), [10, 10, 10], "the ones that left were replaced where they were");
    });
}

/// Forward halves that live, by backend: the truth.
fn lives(topology: &Topology) -> HashMap<u32, i64> {
    let mut lives = HashMap::new();
    for (_, flow) in maps(topology).expect("pinned maps").flows.entries().expect("the flows") {
        let forward = u32::from(flow.dir) == FlowDir::Forward.code();
        if forward && u32::from(flow.state) == FlowState::Open.code() {
            *lives.entry(flow.backend).or_default() += 1;
        }
    }
    lives
}

#[test]
fn counts_are_right_again_after_a_flood_that_evicted_everything() {
    if !can_run() {
        return;
    }
    let topology = Topology::new(Arms::Two, 2);
    let _echoes = start_echoes(&topology);
    let toml = Service::of(&[0, 1]).toml(&topology);
    let toml = toml.replace("\"maglev\"", "\"least-connections\"").replace("flows = 65536", "flows = 1024");
    let _gateway = Gateway::start(&topology, &toml);
    let maps = maps(&topology).expect("pinned maps");
    let counted = |id| maps.loads.get(id).flows;

    // Answered UDP flows are established: four times as many as the table holds. Each has a port of its own: a port used
    // again within the second may find one half of its old flow evicted and the other not yet looked at again.
    const FLOWS: u16 = 4096;
    topology.client.enter(|| {
        let vip = SocketAddr::new(topology.vip(false), SERVICE);
        for number in 0..FLOWS {
            let flow = Flow::open_from(vip, 10_000 + number).expect("a socket");
            flow.exchange(b"flood").unwrap_or_else(|error| panic!("flow {number}: {error}"));
        }
    });
    let ended = Instant::now();
    let total = |ids: &[u32]| ids.iter().map(|id| counted(*id)).sum::<i64>();
    let ids: Vec<u32> = (1..16).collect();
    assert!(ids.iter().all(|id| counted(*id) >= 0));
    loop {
        let truth = lives(&topology);
        let right = ids.iter().all(|id| {
            let truth = truth.get(id).copied().unwrap_or(0);
            (counted(*id) - truth).abs() * 100 <= truth
        });
        if right {
            break;
        }
        assert!(ended.elapsed() < Duration::from_secs(30), "counted {}, in the table {truth:?}", total(&ids));
        std::thread::sleep(Duration::from_millis(200));
    }
    assert!(total(&ids) > 0 && total(&ids) <= 2048, "what was evicted is counted no more: {}", total(&ids));
}
