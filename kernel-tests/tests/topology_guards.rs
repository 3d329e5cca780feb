// SPDX-License-Identifier: GPL-3.0-only
//! Guards under real traffic: one source floods, or is on a list, while an honest client beside it is served without a
//! single loss. Needs root, XDP and namespaces. `EG_FULL=1` makes the lists a million prefixes long.

use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use eg_abi::{Addr, Drop as Reason, PROTO_TCP, PROTO_UDP, Prefix, PrefixVerdict, Stats, VIP_GUARD_PREFIX, VipKey};
use eg_kernel_tests::topology::config::{SERVICE, Service};
use eg_kernel_tests::topology::echo::{Connection, Echo, Flow, PATIENCE};
use eg_kernel_tests::topology::gateway::{Gateway, maps};
use eg_kernel_tests::topology::{Arms, Topology};
use eg_kernel_tests::{full, require};

/// The attacker's addresses, on the client's link.
const ATTACKER: [&str; 2] = ["10.10.0.66", "fd10:0:0:66::66"];

fn can_run() -> bool {
    ["root", "netns", "bpffs", "xdp", "ethtool"].iter().all(|feature| require(feature))
}

fn network() -> (Topology, Echo) {
    let topology = Topology::new(Arms::Two, 1);
    let echo = Echo::start(&topology.backends[0], 0);
    topology.client.ip(&format!("addr add {}/24 dev eth0", ATTACKER[0]));
    topology.client.ip(&format!("addr add {}/64 dev eth0 nodad", ATTACKER[1]));
    topology.gateway.ip(&format!("route add {}/64 dev c0", ATTACKER[1]));
    (topology, echo)
}

fn configuration(topology: &Topology, guards: &str) -> String {
    Service { more: format!("\n[datapath.guards]\n{guards}\n"), ..Service::of(&[0]) }.toml(topology)
}

fn vip(topology: &Topology, v6: bool) -> SocketAddr {
    SocketAddr::new(topology.vip(v6), SERVICE)
}

fn stats(topology: &Topology, at: SocketAddr, proto: u8) -> Stats {
    let maps = maps(topology).expect("pinned maps");
    let id = maps.vip_ids.get(&VipKey::new(at, proto)).expect("read an id").expect("a vip");
    maps.vip_stats.sum(id).expect("figures")
}

fn drops(topology: &Topology, reason: Reason) -> u64 {
    maps(topology).expect("pinned maps").drops.sum(reason.code()).expect("the drops").packets
}

/// Sends to the VIPs from the attacker's addresses until it is dropped, so many packets a millisecond: a rate that the
/// cable carries, so that what the honest client loses it loses to us.
struct Attack {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    answered: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Attack {
    /// With `new_flows` each packet is from a port of its own.
    fn start(topology: &Topology, each_millisecond: usize, new_flows: bool) -> Attack {
        let mut attack = Attack { stop: Arc::default(), sent: Arc::default(), answered: Arc::default(), thread: None };
        let (stop, sent, answered) = (Arc::clone(&attack.stop), Arc::clone(&attack.sent), Arc::clone(&attack.answered));
        let vips = [false, true].map(|v6| vip(topology, v6));
        attack.thread = Some(topology.client.spawn(move || {
            let socket = |family: usize| {
                let ip: IpAddr = ATTACKER[family].parse().expect("an address");
                let socket = UdpSocket::bind((ip, 0)).expect("bind");
                socket.set_nonblocking(true).expect("nonblocking");
                socket
            };
            let mut sockets = [socket(0), socket(1)];
            let mut buffer = [0; 64];
            while !stop.load(Ordering::SeqCst) {
                for number in 0..each_millisecond {
                    let family = number % 2;
                    if new_flows {
                        sockets[family] = socket(family);
                    }
                    if sockets[family].send_to(b"flood", vips[family]).is_ok() {
                        sent.fetch_add(1, Ordering::SeqCst);
                    }
                    while sockets[family].recv_from(&mut buffer).is_ok() {
                        answered.fetch_add(1, Ordering::SeqCst);
                    }
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        }));
        attack
    }

    fn sent(&self) -> u64 {
        self.sent.load(Ordering::SeqCst)
    }

    fn wait_until_sent(&self, packets: u64) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.sent() < packets {
            assert!(Instant::now() < deadline, "{} of {packets} packets sent", self.sent());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends it; gives the answers that it got.
    fn end(mut self) -> u64 {
        self.join();
        self.answered.load(Ordering::SeqCst)
    }

    fn join(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Attack {
    fn drop(&mut self) {
        self.join();
    }
}

/// An honest client: opens connections one after another, and uses each. Fails at the first that does not work.
fn use_the_service(topology: &Topology, connections: usize) {
    let vips = [false, true].map(|v6| vip(topology, v6));
    topology.client.enter(|| {
        for number in 0..connections {
            let vip = vips[number % 2];
            let mut connection = Connection::open(vip).unwrap_or_else(|error| panic!("connection {number}: {error}"));
            connection.exchange(b"an honest question").unwrap_or_else(|error| panic!("connection {number}: {error}"));
        }
    });
}

#[test]
fn a_flood_from_one_source_is_cut_and_the_client_beside_it_completes_every_connection() {
    if !can_run() {
        return;
    }
    const RATE: u64 = 500;
    const BURST: u64 = 4000;
    let (topology, _echo) = network();
    // 200 connections of some 8 packets: within the burst, however fast they come.
    let guards = format!("source_pps = {RATE}\nsource_burst = {BURST}");
    let _gateway = Gateway::start(&topology, &configuration(&topology, &guards));
    let began = Instant::now();
    let attack = Attack::start(&topology, 40, false);
    attack.wait_until_sent(20_000);
    use_the_service(&topology, 200);
    let sent = attack.sent();
    drop(attack);
    let most = BURST + (RATE as f64 * began.elapsed().as_secs_f64()).ceil() as u64 + 1;

    let tcp = [false, true].map(|v6| stats(&topology, vip(&topology, v6), PROTO_TCP));
    let udp = [false, true].map(|v6| stats(&topology, vip(&topology, v6), PROTO_UDP));
    for (of, udp) in ["IPv4", "IPv6"].iter().zip(&udp) {
        println!("{of}: {} of {} packets passed, at most {most} may", udp.packets, udp.packets + udp.drops);
        // Two CPUs that take at the same instant take one; one socket's packets mostly come by one CPU.
        assert!(udp.packets <= most * 11 / 10, "{of}: {} packets passed, {most} are allowed", udp.packets);
        assert!(udp.packets >= BURST, "{of}: {} packets passed, a burst is allowed", udp.packets);
    }
    assert_eq!(udp[0].drops + udp[1].drops, drops(&topology, Reason::SourceRate));
    assert!(drops(&topology, Reason::SourceRate) > sent / 4, "{sent} sent");
    assert_eq!((tcp[0].flows, tcp[1].flows), (100, 100));
    assert_eq!((tcp[0].drops, tcp[1].drops), (0, 0), "the honest client lost nothing");
}

#[test]
fn a_flood_of_new_flows_is_cut_and_established_ones_and_others_are_not() {
    if !can_run() {
        return;
    }
    let (topology, _echo) = network();
    let guards = "source_flows_per_s = 1\nsource_flows_burst = 200\nudp_pps = 0";
    let _gateway = Gateway::start(&topology, &configuration(&topology, guards));
    let before = topology.client.enter(|| {
        let mut connection = Connection::open(vip(&topology, false)).expect("a connection");
        connection.exchange(b"before the flood").expect("an answer");
        connection
    });
    let began = Instant::now();
    let attack = Attack::start(&topology, 20, true);
    attack.wait_until_sent(4_000);
    use_the_service(&topology, 150);
    let mut connection = before;
    connection.exchange(b"during the flood").expect("an established connection");
    drop(attack);

    let most = 200 + began.elapsed().as_secs() + 2;
    for v6 in [false, true] {
        let udp = stats(&topology, vip(&topology, v6), PROTO_UDP);
        assert!((200..=most).contains(&udp.flows), "{} flows, at most {most} are allowed", udp.flows);
        assert!(udp.drops > 1000, "{} refused", udp.drops);
        assert_eq!(stats(&topology, vip(&topology, v6), PROTO_TCP).drops, 0, "the honest client lost nothing");
    }
}

/// As many prefixes as `make test` has time for.
fn prefixes() -> u32 {
    if full() { 1_000_000 } else { 50_000 }
}

/// A list of `count` prefixes, half of each family, of which number `number` is in no other list; and `also`.
fn write_list(path: &Path, number: u32, count: u32, also: &[&str]) {
    let mut text = String::from("# made by a test\n");
    for entry in 0..count / 2 {
        let v4 = (u32::from_be_bytes([11 + number as u8, 0, 0, 0]) + entry * 19).to_be_bytes();
        let v6 = ((0x2a00 + u128::from(number)) << 112) | ((u128::from(entry) * 0x1_0003) << 64);
        writeln!(text, "{}\n{}/64", IpAddr::from(v4), IpAddr::from(v6.to_be_bytes())).expect("a string");
    }
    also.iter().for_each(|line| writeln!(text, "{line}").expect("a string"));
    fs::write(path, text).expect("write a list");
}

fn verdict(topology: &Topology, address: &str) -> Option<PrefixVerdict> {
    let ip: IpAddr = address.parse().expect("an address");
    let prefix = Prefix { len: 128, addr: Addr::from(ip) };
    maps(topology).expect("pinned maps").prefixes.find(&prefix).expect("ask the trie")
}

/// UDP exchanges on one flow in each family, one after another, for as long as this lives. One that gets no answer
/// within the patience is one too many.
struct Honest {
    stop: Arc<AtomicBool>,
    exchanges: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl Honest {
    fn start(topology: &Topology) -> Honest {
        let (stop, exchanges): (Arc<AtomicBool>, Arc<AtomicU64>) = Default::default();
        let (end, count) = (Arc::clone(&stop), Arc::clone(&exchanges));
        let vips = [false, true].map(|v6| vip(topology, v6));
        let thread = topology.client.spawn(move || {
            let flows = vips.map(|vip| Flow::open(vip).expect("a socket"));
            for flow in &flows {
                flow.socket.set_read_timeout(Some(PATIENCE)).expect("timeout");
            }
            while !end.load(Ordering::SeqCst) {
                for flow in &flows {
                    flow.exchange(b"still served?").expect("an honest client got no answer");
                    count.fetch_add(1, Ordering::SeqCst);
                }
            }
        });
        Honest { stop, exchanges, thread }
    }

    /// Waits until it has made `more` exchanges from now on.
    fn goes_on(&self, more: u64) {
        let target = self.exchanges.load(Ordering::SeqCst) + more;
        while self.exchanges.load(Ordering::SeqCst) < target {
            assert!(!self.thread.is_finished(), "the honest client gave up");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn end(self) -> u64 {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().expect("every exchange was answered");
        self.exchanges.load(Ordering::SeqCst)
    }
}

#[test]
fn lists_are_swapped_under_traffic_without_a_gap_for_who_is_on_them_or_who_is_not() {
    if !can_run() {
        return;
    }
    let (topology, _echo) = network();
    let folder = tempfile::TempDir::new().expect("a folder");
    let file = |name: &str| folder.path().join(name);
    let count = prefixes();
    let attackers = ["10.10.0.66", "fd10:0:0:66::/64"];
    write_list(&file("one"), 1, count, &attackers);
    write_list(&file("two"), 2, count, &["10.10.0.64/27", "fd10:0:0:60::/60"]);
    write_list(&file("allow"), 3, count / 10, &["10.10.0.0/24", "fd10::/32"]);
    let deny = |name: &str| format!("deny_files = [{:?}]", file(name));
    let allow = format!("allow_files = [{:?}]", file("allow"));

    let mut gateway = Gateway::start(&topology, &configuration(&topology, &deny("one")));
    assert_eq!(verdict(&topology, "12.0.0.19"), Some(PrefixVerdict::Deny));
    assert_eq!(verdict(&topology, "12.0.0.20"), Some(PrefixVerdict::Allow));
    let attack = Attack::start(&topology, 4, false);
    let honest = Honest::start(&topology);
    attack.wait_until_sent(100);

    // A list by another, by lists that allow as well, back, and the very file that is served by other contents.
    let both = format!("{}\n{allow}", deny("two"));
    let steps = [deny("two"), both.clone(), allow.clone() + "\n" + &deny("one"), deny("one"), deny("two"), both];
    for (number, guards) in steps.iter().enumerate() {
        gateway.reload(&configuration(&topology, guards));
        honest.goes_on(20);
        attack.wait_until_sent(attack.sent() + 50);
        assert!(!gateway.said().contains("needs a restart"), "step {number}\n{}", gateway.said());
    }
    assert_eq!(verdict(&topology, "13.0.0.19"), Some(PrefixVerdict::Deny), "of the list in use");
    assert_eq!(verdict(&topology, "12.0.0.19"), Some(PrefixVerdict::Other), "of the list before");
    assert_eq!(verdict(&topology, "14.0.0.19"), Some(PrefixVerdict::Allow), "of the allow list");
    write_list(&file("two"), 4, count, &attackers);
    let same = configuration(&topology, steps.last().expect("steps"));
    gateway.reload(&same);
    assert_eq!(verdict(&topology, "15.0.0.19"), Some(PrefixVerdict::Deny), "read anew at SIGHUP");

    // A wrong line changes nothing.
    let good = fs::read(file("two")).expect("the list");
    fs::write(file("two"), "10.0.0.0/8\n10.0.0.300\n").expect("write a list");
    gateway.signal(nix::sys::signal::Signal::SIGHUP);
    gateway.wait("the refusal", |gateway| gateway.said().contains("two\":2: \"10.0.0.300\" is not a prefix"));
    assert_eq!(verdict(&topology, "15.0.0.19"), Some(PrefixVerdict::Deny));
    fs::write(file("two"), good).expect("write a list");

    // Nor does a restart open a gap: the kernel goes on with what it has.
    gateway.end(nix::sys::signal::Signal::SIGKILL);
    honest.goes_on(20);
    gateway.launch();
    honest.goes_on(20);
    let (sent, refused) = (attack.sent(), drops(&topology, Reason::Denied));
    assert_eq!(attack.end(), 0, "the attacker was answered, so let through");
    println!("{} prefixes a list: {refused} of {sent} packets refused, {} exchanges", count + 2, honest.end());
    assert_eq!(drops(&topology, Reason::NotAllowed), 0);
    for line in gateway.said().lines().filter(|line| line.contains("prefix lists loaded")) {
        println!("{line}");
    }
}

#[test]
fn lists_are_turned_on_and_off_by_sighup_and_a_listener_may_do_without() {
    if !can_run() {
        return;
    }
    let (topology, _echo) = network();
    let exempt = format!(
        "\n[[listeners]]\nname = \"exempt\"\naddress = \"{}:81\"\nprotocol = \"tcp\"\npool = \"echo4\"\nguards = []\n",
        topology.vip(false)
    );
    let with = |guards: &str| configuration(&topology, guards) + &exempt;
    let mut gateway = Gateway::start(&topology, &with(""));
    let mut connection = topology.client.enter(|| Connection::open(vip(&topology, false)).expect("a connection"));
    let mut unguarded =
        topology.client.enter(|| Connection::open(SocketAddr::new(topology.vip(false), 81)).expect("a connection"));
    let flags = || {
        let maps = maps(&topology).expect("pinned maps");
        (0..8).map(|id| maps.vips.get(id).expect("a vip").flags & VIP_GUARD_PREFIX).filter(|flag| *flag != 0).count()
    };
    assert_eq!((flags(), verdict(&topology, "192.0.2.1")), (0, None));

    gateway.reload(&with("deny = [\"10.10.0.2\"]"));
    assert_eq!((flags(), verdict(&topology, "192.0.2.1")), (4, Some(PrefixVerdict::Allow)));
    connection.stream.set_read_timeout(Some(Duration::from_millis(300))).expect("timeout");
    connection.exchange(b"denied").expect_err("its client is on the list");
    unguarded.exchange(b"exempt").expect("the listener has no guards");
    assert!(drops(&topology, Reason::Denied) > 0);

    gateway.reload(&with(""));
    assert_eq!((flags(), verdict(&topology, "192.0.2.1")), (0, None));
    // What the client sends again arrives now, and the flow is the one that it was.
    connection.stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
    let mut back = [0; 6];
    std::io::Read::read_exact(&mut connection.stream, &mut back).expect("the flow goes on");
    assert_eq!(&back, b"denied");
    assert_eq!(stats(&topology, vip(&topology, false), PROTO_TCP).flows, 1);

    gateway.reload(&with("sources = 2048\nsource_pps = 100"));
    assert!(gateway.said().contains("datapath.guards.sources: 65536 -> 2048: needs a restart"), "{}", gateway.said());
    gateway.end(nix::sys::signal::Signal::SIGTERM);
    gateway.launch();
    assert_eq!(maps(&topology).expect("pinned maps").sources.capacity(), 2048, "a restart makes the new table");
    connection.exchange(b"after the restart").expect("the flow goes on");
}
