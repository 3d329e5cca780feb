// SPDX-License-Identifier: GPL-3.0-only
//! A flood of SYNs from many forged sources against a VIP's budget of new flows: what is remembered stays within it, a
//! connection from before goes on, and an honest client beside the flood is served. Needs root, XDP and namespaces.

use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use eg_abi::{Drop as Reason, PROTO_TCP, VipKey};
use eg_kernel_tests::require;
use eg_kernel_tests::topology::config::{SERVICE, Service};
use eg_kernel_tests::topology::direct::{self, Direct};
use eg_kernel_tests::topology::echo::{Connection, Echo};
use eg_kernel_tests::topology::egctl;
use eg_kernel_tests::topology::flood::Flood;
use eg_kernel_tests::topology::gateway::{Gateway, maps};
use eg_kernel_tests::topology::{Arms, Topology};
use eg_skel::Maps;

fn can_run() -> bool {
    ["root", "netns", "bpffs", "xdp", "tc", "ethtool", "sysctl"].iter().all(|feature| require(feature))
}

/// Waits until `reached`, for longer than any busy machine takes.
fn wait(what: &str, reached: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !reached() {
        assert!(Instant::now() < deadline, "waited for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn id(maps: &Maps, vip: SocketAddr) -> u32 {
    maps.vip_ids.get(&VipKey::new(vip, PROTO_TCP)).expect("eg_vip_ids").expect("the vip has an id")
}

/// What a bucket of a second's worth has given, with the connection from before `began`; two CPUs that look at the same
/// instant may overdraw it by one each.
fn allowed(budget: u64, began: Instant) -> u64 {
    budget + (budget as f64 * began.elapsed().as_secs_f64()).ceil() as u64 + 3
}

#[test]
fn a_flood_of_syns_goes_by_the_ring_and_every_honest_connection_beside_it_completes() {
    if !can_run() {
        return;
    }
    const BUDGET: u64 = 50;
    const CONNECTIONS: usize = 60;
    for direct in
        [Direct { forward: "ipip", vip6: false, backend6: false }, Direct { forward: "l2", vip6: true, backend6: true }]
    {
        let (topology, _echoes) = direct::start(false);
        topology.widen(1600);
        let budget = format!("protocol = \"tcp\"\nflow_budget = {BUDGET}\n");
        let toml = direct.toml(&topology, "native").replace("protocol = \"tcp\"\n", &budget);
        let gateway = Gateway::start(&topology, &toml);
        let (vip, pool) = (direct.vip(&topology), direct.pool());
        let maps = maps(&topology).expect("pinned maps");
        let id = id(&maps, vip);
        let mut before = topology.client.enter(|| Connection::open(vip).expect("a connection"));
        let began = Instant::now();
        let flood = Flood::start(&topology, "eth0", vip);
        let stateless = || maps.stateless.sum(id).expect("figures");
        wait("the budget to be spent", || stateless() > 1000);

        let mut kept = Vec::new();
        topology.client.enter(|| {
            for number in 0..CONNECTIONS {
                let mut connection =
                    Connection::open(vip).unwrap_or_else(|error| panic!("{direct:?}: connection {number}: {error}"));
                let client = connection.stream.local_addr().expect("a local address");
                assert_eq!(usize::from(connection.backend), pool.pick(client, vip, PROTO_TCP), "{direct:?} {client}");
                connection.exchange(b"an honest question").expect("an honest answer");
                kept.push(connection);
            }
        });
        before.exchange(b"during the flood").expect("a connection from before goes on");
        let sent = flood.sent();
        drop(flood);
        // After the flood they are joined one after another, or still go by the ring: either way they go on.
        for connection in kept.iter_mut().chain([&mut before]) {
            connection.exchange(b"after the flood").expect("an honest answer");
        }
        let (figures, most) = (maps.vip_stats.sum(id).expect("figures"), allowed(BUDGET, began));
        let half_open = maps.opening.entries().expect("the half-open flows").len() as u64;
        println!("{direct:?}: {sent} sent, {} by the ring, {} flows, at most {most} may", stateless(), figures.flows);
        assert!(figures.flows <= most && half_open <= most, "{} flows, {half_open} half-open", figures.flows);
        assert!(stateless() > sent / 2, "{} of {sent} by the ring", stateless());
        assert_eq!(figures.drops, 0, "nobody was refused");
        let rows = egctl::rows(&topology, "vips");
        assert!(rows.iter().any(|row| row["stateless"] == stateless()), "{rows:?}");
        let metrics = gateway.get("/metrics").expect("the metrics");
        let line = format!("address=\"{vip}\",protocol=\"tcp\"}} {}", stateless());
        let told = |text: &str| text.starts_with("expressgateway_vip_stateless_total") && text.ends_with(&line);
        assert!(metrics.lines().any(told), "{metrics}");
    }
}

#[test]
fn under_nat_a_flood_of_syns_is_cut_established_flows_go_on_and_a_client_that_asks_again_gets_in() {
    if !can_run() {
        return;
    }
    const BUDGET: u64 = 200;
    for v6 in [false, true] {
        let topology = Topology::new(Arms::Two, 1);
        let _echo = Echo::start(&topology.backends[0], 0);
        let budget = format!("protocol = \"tcp\"\nflow_budget = {BUDGET}\n");
        let toml = Service::of(&[0]).toml(&topology).replace("protocol = \"tcp\"\n", &budget);
        let _gateway = Gateway::start(&topology, &toml);
        let vip = SocketAddr::new(topology.vip(v6), SERVICE);
        let maps = maps(&topology).expect("pinned maps");
        let mut before = topology.client.enter(|| Connection::open(vip).expect("a connection"));
        let began = Instant::now();
        let flood = Flood::start(&topology, "c0", vip);
        let refused = || maps.drops.sum(Reason::FlowBudget.code()).expect("the drops").packets;
        wait("the budget to be spent", || refused() > 1000);

        // Its SYNs compete with the flood's for what the budget lets in; a browser that is told nothing tries again, too.
        let tries = topology
            .client
            .enter(|| (1..=500).find(|_| TcpStream::connect_timeout(&vip, Duration::from_millis(200)).is_ok()));
        for number in 0..50 {
            before.exchange(b"during the flood").unwrap_or_else(|error| panic!("exchange {number}: {error}"));
        }
        let sent = flood.sent();
        drop(flood);
        let (most, figures) = (allowed(BUDGET, began), maps.vip_stats.sum(id(&maps, vip)).expect("figures"));
        println!(
            "{vip}: {sent} sent, {} refused, {} flows, at most {most} may; {tries:?} tries",
            refused(),
            figures.flows
        );
        assert!(tries.is_some(), "the honest client never got in");
        assert!(figures.flows <= most, "{} flows, at most {most} may", figures.flows);
        assert!(figures.flows >= BUDGET, "{} flows, a second's worth is allowed", figures.flows);
        assert_eq!(figures.drops, refused(), "nothing else was refused");
        wait("room in the bucket", || topology.client.enter(|| Connection::open(vip).is_ok()));
    }
}
