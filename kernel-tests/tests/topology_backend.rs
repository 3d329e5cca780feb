// SPDX-License-Identifier: GPL-3.0-only
//! A backend host on a real network: `egctl backend attach`, and then TCP and UDP of a client reach sockets on the VIP
//! through every encapsulation, and are answered directly. Needs root and network namespaces; no tunnel device.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use eg_abi::backend::Decap;
use eg_kernel_tests::packet::backend::Backend;
use eg_kernel_tests::packet::{Encap, Inner};
use eg_kernel_tests::require;
use eg_kernel_tests::topology::dsr::{Dsr, INTERFACE, Wrapper};
use eg_kernel_tests::topology::echo::{Connection, Echo, Flow, PATIENCE, PORT};
use libbpf_rs::{TC_INGRESS, TcHookBuilder};
use serde_json::Value;

fn can_run() -> bool {
    ["root", "netns", "bpffs", "tc", "ethtool", "sysctl"].iter().all(|feature| require(feature))
}

/// UDP sockets bound to the VIPs themselves, so that their answers come from there.
struct Answers {
    stop: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

const UDP_PORT: u16 = 7001;

impl Answers {
    fn start(dsr: &Dsr) -> Answers {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = [false, true].map(|v6| {
            let vip = dsr.vip(v6, UDP_PORT);
            let socket = dsr.backend.enter(|| UdpSocket::bind(vip).expect("bind the VIP"));
            socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout");
            let end = Arc::clone(&stop);
            std::thread::spawn(move || {
                let mut buffer = [0; 2048];
                while !end.load(Ordering::SeqCst) {
                    let Ok((length, from)) = socket.recv_from(&mut buffer[1..]) else { continue };
                    let _ = socket.send_to(&buffer[..=length], from);
                }
            })
        });
        Answers { stop, threads: threads.into() }
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

/// The packets counted under a result, as `egctl` shows them.
fn counted(dsr: &Dsr, result: Decap) -> u64 {
    figures(dsr, result).0
}

/// Packets and bytes.
fn figures(dsr: &Dsr, result: Decap) -> (u64, u64) {
    let status: Value = serde_json::from_str(&dsr.egctl(&["--json", "backend", "status"]).expect("status")).unwrap();
    let results = status["results"].as_array().expect("results").iter();
    let found = results.clone().find(|entry| entry["result"] == result.label()).expect("the result is listed");
    (found["packets"].as_u64().expect("a number"), found["bytes"].as_u64().expect("a number"))
}

const MEGABYTE: usize = 1 << 20;

/// A connection that moves a mebibyte each way, intact. Full-sized segments fill the client's MTU, so that outer
/// packets are larger than 1500 bytes.
fn tcp_moves_a_megabyte(dsr: &Dsr, v6: bool) {
    let vip = dsr.vip(v6, PORT);
    dsr.client.enter(|| {
        let mut connection = Connection::open(vip).unwrap_or_else(|error| panic!("connect to {vip}: {error}"));
        let bytes: Vec<u8> = (0..MEGABYTE).map(|at| (at * 31 + at / 251) as u8).collect();
        let mut writing = connection.stream.try_clone().expect("a descriptor");
        writing.set_write_timeout(Some(PATIENCE)).expect("a timeout");
        let sent = bytes.clone();
        let writer = std::thread::spawn(move || writing.write_all(&sent));
        let mut back = vec![0; MEGABYTE];
        connection.stream.read_exact(&mut back).unwrap_or_else(|error| panic!("read from {vip}: {error}"));
        writer.join().expect("the writer").expect("write");
        assert!(back == bytes, "the bytes are those that were sent to {vip}");
    });
}

fn udp_is_answered(dsr: &Dsr, v6: bool) {
    let vip = dsr.vip(v6, UDP_PORT);
    dsr.client.enter(|| {
        let flow = Flow::open(vip).expect("a socket");
        for size in [0, 1, 64, 1400] {
            let bytes = vec![0x5a; size];
            flow.exchange(&bytes).unwrap_or_else(|error| panic!("{size} bytes to {vip}: {error}"));
        }
    });
}

/// Every encapsulation of both families in both.
fn every_way(dsr: &Dsr, wrapper: &Wrapper, mut after: impl FnMut(Decap)) {
    for outer_v6 in [false, true] {
        for v6 in [false, true] {
            for encap in [Encap::Ip, Encap::Gue(Vec::new()), Encap::Gue(vec![7; 8]), Encap::Gue1] {
                let result = match (&encap, outer_v6, v6) {
                    (Encap::Gue(_), ..) => Decap::Gue,
                    (Encap::Gue1, ..) => Decap::Gue1,
                    (Encap::Ip, false, false) => Decap::Ipip,
                    (Encap::Ip, true, true) => Decap::Ip6Ip6,
                    (Encap::Ip, true, false) => Decap::FourInSix,
                    (Encap::Ip, false, true) => Decap::SixInFour,
                };
                println!("{encap:?}, outside v{}, inside v{}", 4 + 2 * u8::from(outer_v6), 4 + 2 * u8::from(v6));
                wrapper.use_tunnel(dsr.tunnel(outer_v6, encap));
                tcp_moves_a_megabyte(dsr, v6);
                udp_is_answered(dsr, v6);
                after(result);
            }
        }
    }
}

/// Runs `work` with the program attached by `egctl` in this mode.
fn attached(mode: &str, work: impl FnOnce(&Dsr, &Wrapper)) {
    let dsr = Dsr::new();
    let _echo = Echo::start(&dsr.backend, 1);
    let _answers = Answers::start(&dsr);
    let wrapper = Wrapper::start(&dsr, dsr.tunnel(false, Encap::Ip));
    let from = ["--from", "10.20.0.1", "--from", "fd20::1"];
    let said = dsr.egctl(&[&["backend", "attach", INTERFACE, "--mode", mode], &from[..]].concat()).expect("attach");
    let expected = if mode == "auto" { auto() } else { mode };
    assert!(said.starts_with(&format!("eth0: attached by {expected}, GUE on port 6080\n")), "{said}");
    work(&dsr, &wrapper);
}

#[test]
fn tcp_and_udp_reach_the_vip_through_every_encapsulation_and_return_directly() {
    if !can_run() {
        return;
    }
    for mode in ["auto", "clsact"] {
        attached(mode, |dsr, wrapper| {
            let mut seen = std::collections::BTreeSet::new();
            every_way(dsr, wrapper, |result| {
                seen.insert(result);
            });
            assert_eq!(seen.len(), 6, "every kind was tried");
            all_were_decapsulated(dsr, wrapper);
            for result in seen {
                // A mebibyte in segments of 1448 bytes at most.
                assert!(counted(dsr, result) > 720, "{result:?}: {}", counted(dsr, result));
            }
        });
    }
}

/// Everything that the gateway sent, and nothing was refused.
fn all_were_decapsulated(dsr: &Dsr, wrapper: &Wrapper) {
    let taken_off = || Decap::ALL.iter().filter(|result| **result < Decap::Other);
    let all = || taken_off().map(|result| counted(dsr, *result)).sum::<u64>();
    // What a connection says after its last byte may still be on its way.
    let deadline = Instant::now() + PATIENCE;
    while wrapper.wrapped() != all() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(wrapper.wrapped(), all(), "everything the gateway sent was decapsulated");
    for result in Decap::ALL.iter().filter(|result| **result > Decap::Other) {
        assert_eq!(counted(dsr, *result), 0, "{result:?}");
    }
}

#[test]
fn what_receive_offload_merged_comes_out_whole_and_counts_as_what_was_sent() {
    if !can_run() {
        return;
    }
    attached("auto", |dsr, wrapper| {
        dsr.merge_received();
        for outer_v6 in [false, true] {
            for v6 in [false, true] {
                wrapper.use_tunnel(dsr.tunnel(outer_v6, Encap::Ip));
                tcp_moves_a_megabyte(dsr, v6);
            }
        }
        all_were_decapsulated(dsr, wrapper);
        // The headers of merged packets are there once.
        let results = [Decap::Ipip, Decap::Ip6Ip6, Decap::FourInSix, Decap::SixInFour];
        let bytes: u64 = results.iter().map(|result| figures(dsr, *result).1).sum();
        if bytes == wrapper.bytes() {
            println!("skipped, because the kernel merged nothing");
        }
    });
}

/// The program as kernels before 6.3 run it, on this one: the test loads it itself, for no option says so.
#[test]
fn a_family_is_changed_without_the_flags_of_newer_kernels() {
    if !can_run() {
        return;
    }
    let dsr = Dsr::new();
    let _echo = Echo::start(&dsr.backend, 1);
    let _answers = Answers::start(&dsr);
    let wrapper = Wrapper::start(&dsr, dsr.tunnel(false, Encap::Ip));
    let backend = Backend::new(false);
    let index = dsr.backend.enter(|| nix::net::if_::if_nametoindex(INTERFACE).expect("the interface"));
    let vips = [dsr.vip(false, 0).ip(), dsr.vip(true, 0).ip()];
    let hosts = [dsr.tunnel(false, Encap::Ip).destination, dsr.tunnel(true, Encap::Ip).destination];
    backend.allow(index, &vips, &[("::".parse().unwrap(), 0)], &hosts);
    // A duplicate: the program itself may not be shared with the thread that enters the namespace.
    let program = backend.skel.progs.eg_tc_backend.as_fd().try_clone_to_owned().expect("a descriptor");
    dsr.backend.enter(|| clsact(program.as_fd(), index));
    every_way(&dsr, &wrapper, |_| {});
    // Given to the program by the network, and not by the test: the sum that it checks when dropped would not hold.
    std::mem::forget(backend);
}

/// A filter with the priority and handle that `egctl` uses; it ends with the interface.
fn clsact(program: BorrowedFd<'_>, index: u32) {
    let mut hook = TcHookBuilder::new(program).ifindex(index.cast_signed()).handle(233).priority(233).hook(TC_INGRESS);
    hook.create().expect("clsact");
    hook.attach().expect("attach");
}

/// What `--mode auto` means on this kernel.
fn auto() -> &'static str {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
    if (numbers.next(), numbers.next()) >= (Some(6), Some(6)) { "tcx" } else { "clsact" }
}

#[test]
fn what_is_not_allowed_reaches_no_socket() {
    if !can_run() {
        return;
    }
    attached("auto", |dsr, wrapper| {
        let client: SocketAddr = "10.10.0.2:40000".parse().unwrap();
        let datagram = |text: &[u8]| Inner::Udp.packet(client, dsr.vip(false, 7002), text);
        let socket = dsr.backend.enter(|| UdpSocket::bind(dsr.vip(false, 7002)).expect("bind the VIP"));
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");

        let mut forged = dsr.tunnel(false, Encap::Ip);
        forged.source = "10.20.0.9".parse().unwrap();
        wrapper.send(&forged.around(&datagram(b"forged")));
        forged.encap = Encap::Gue1;
        wrapper.send(&forged.around(&datagram(b"forged")));
        let mut congested = dsr.tunnel(false, Encap::Ip);
        congested.ecn = 3;
        wrapper.send(&congested.around(&datagram(b"congested")));
        // A VLAN's frame is another interface's.
        let good = dsr.tunnel(false, Encap::Ip).around(&datagram(b"tagged"));
        wrapper.send(&[&good[..12], &[0x81, 0, 0, 10], &good[12..]].concat());
        // Priority without a VLAN is not.
        let good = dsr.tunnel(false, Encap::Ip).around(&datagram(b"priority"));
        wrapper.send(&[&good[..12], &[0x81, 0, 0xe0, 0], &good[12..]].concat());

        // One wire, one order: had another been delivered, it would come first.
        let mut buffer = [0; 64];
        let (length, from) = socket.recv_from(&mut buffer).expect("the datagram with a priority");
        assert_eq!((&buffer[..length], from), (&b"priority"[..], client));
        assert_eq!(counted(dsr, Decap::NotFrom), 2);
        assert_eq!(counted(dsr, Decap::Ecn), 1);
        assert_eq!(counted(dsr, Decap::Ipip), 1);
    });
}

#[test]
fn attaching_again_replaces_and_detaching_leaves_nothing() {
    if !can_run() {
        return;
    }
    let dsr = Dsr::new();
    let _answers = Answers::start(&dsr);
    let _wrapper = Wrapper::start(&dsr, dsr.tunnel(false, Encap::Ip));
    let status = || -> Value {
        serde_json::from_str(&dsr.egctl(&["--json", "backend", "status"]).expect("status")).expect("JSON")
    };
    let attach = |arguments: &[&str]| -> Value {
        let said = dsr.egctl(&[&["--json", "backend", "attach", INTERFACE], arguments].concat()).expect("attach");
        serde_json::from_str(&said).expect("JSON")
    };
    assert_eq!(status()["interfaces"].as_array().unwrap().len(), 0, "nothing yet");

    // The defaults: VIPs are what is on lo, destinations what is on the interface.
    let first = attach(&[]);
    assert_eq!((&first["replaced"], &first["mode"]), (&Value::Bool(false), &Value::from(auto())));
    assert_eq!(first["vips"], serde_json::json!(["203.0.113.7", "2001:db8:f::7"]));
    assert_eq!(first["to"], serde_json::json!(["10.20.0.2", "fd20::2"]));
    udp_is_answered(&dsr, false);

    // Each mode takes the place of the other, and of itself.
    for (mode, vip) in [("tcx", false), ("clsact", true), ("clsact", false), ("tcx", true), ("auto", false)] {
        if mode == "tcx" && auto() != "tcx" {
            continue;
        }
        let vip = dsr.vip(vip, 0).ip();
        let from = if vip.is_ipv6() { "::/0" } else { "10.20.0.0/24" };
        let again = attach(&[
            "--mode",
            mode,
            "--vip",
            &vip.to_string(),
            "--from",
            from,
            "--gue-port",
            "6081",
            "--to",
            "10.20.0.2",
        ]);
        assert_eq!(again["replaced"], true, "{mode}");
        let status = status();
        assert_eq!(status["interfaces"].as_array().unwrap().len(), 1, "{mode}");
        let interface = &status["interfaces"][0];
        let expected = if mode == "auto" { auto() } else { mode };
        assert_eq!((&interface["mode"], &interface["running"]), (&Value::from(expected), &Value::Bool(true)));
        assert_eq!(interface["vips"], serde_json::json!([vip]));
        assert_eq!(interface["from"], serde_json::json!([from]));
        assert_eq!(interface["to"], serde_json::json!(["10.20.0.2"]));
        assert_eq!(interface["gue_port"], 6081);
        let filters = dsr.backend.output("tc", &["filter", "show", "dev", INTERFACE, "ingress"]);
        assert_eq!(filters.contains("eg_tc_backend"), expected == "clsact", "{filters}");
    }
    udp_is_answered(&dsr, false);

    dsr.egctl(&["backend", "detach", INTERFACE]).expect("detach");
    assert!(!dsr.pin_root.exists(), "no pins are left");
    let error = dsr.egctl(&["backend", "detach", INTERFACE]).unwrap_err();
    assert!(error.contains("eth0: nothing of ours is attached there"), "{error}");
    let silent = dsr.client.enter(|| {
        let flow = Flow::open(dsr.vip(false, UDP_PORT)).expect("a socket");
        flow.exchange(b"is anybody there?")
    });
    assert!(silent.is_err(), "nothing decapsulates any more");
}

#[test]
fn obstacles_are_named_and_hints_say_what_is_missing() {
    if !can_run() {
        return;
    }
    let dsr = Dsr::new();
    let refused = |arguments: &[&str], why: &str| {
        let error = dsr.egctl(&[&["backend", "attach"], arguments].concat()).unwrap_err();
        assert!(error.contains(why), "{arguments:?}: {error}");
        assert!(!dsr.pin_root.exists(), "{arguments:?} left pins");
    };
    refused(&["nope"], "no interface \"nope\" in this network namespace");
    refused(&["lo"], "lo: carries no Ethernet frames");
    refused(&[INTERFACE, "--from", "10.0.0.1/8"], "did you mean 10.0.0.0/8?");
    refused(&[INTERFACE, "--gue-port", "0"], "0 is not in 1..=65535");
    refused(&[INTERFACE, "--vip", "vip"], "invalid value 'vip'");
    dsr.backend.ip("addr flush dev lo scope global");
    refused(&[INTERFACE], "no VIP: lo has no address but loopback");
    dsr.gateway.ip("addr flush dev g1");
    dsr.backend.ip("addr flush dev eth0");
    refused(&[INTERFACE, "--vip", "203.0.113.7"], "eth0: has no address that gateways could send to");
    dsr.backend.ip("addr add 10.20.0.2/24 dev eth0");

    // Set up badly on purpose.
    dsr.backend.run("sysctl", &["-qw", "net.ipv4.conf.eth0.rp_filter=1"]);
    dsr.backend.ip("link set eth0 mtu 1500");
    let said = dsr.egctl(&["backend", "attach", INTERFACE, "--vip", "203.0.113.7"]).expect("attach");
    for hint in [
        "203.0.113.7 is no address of this host",
        "ip addr add 203.0.113.7/32 dev lo ",
        "sysctl -w net.ipv4.conf.eth0.rp_filter=2",
        "sysctl -w net.ipv4.conf.eth0.arp_ignore=1 net.ipv4.conf.eth0.arp_announce=2",
        "ip link set dev eth0 mtu 1552 ",
        "attach with --from PREFIX",
    ] {
        assert!(said.contains(hint), "{hint:?} is not in\n{said}");
    }

    // What the hints say helps, and nothing was changed before.
    for setting in ["rp_filter=2", "arp_ignore=1", "arp_announce=2"] {
        dsr.backend.run("sysctl", &["-qw", &format!("net.ipv4.conf.eth0.{setting}")]);
    }
    dsr.backend.ip("link set eth0 mtu 1552");
    let vips = ["--vip", "203.0.113.7", "--vip", "2001:db8:f::7", "--add-vips"];
    let said =
        dsr.egctl(&[&["backend", "attach", INTERFACE, "--from", "10.20.0.1"], &vips[..]].concat()).expect("attach");
    assert!(said.contains("added 203.0.113.7 to lo") && !said.contains("hint"), "{said}");
    let addresses = dsr.backend.output("ip", &["addr", "show", "dev", "lo"]);
    assert!(
        addresses.contains("inet 203.0.113.7/32 ") && addresses.contains("inet6 2001:db8:f::7/128 "),
        "{addresses}"
    );
    let status = dsr.egctl(&["backend", "status"]).expect("status");
    assert!(status.contains("INTERFACE") && status.contains("10.20.0.1/32"), "{status}");
}

/// Somebody's filter, in the place that ours would have: it leaves the packet to the next.
fn somebodys_filter(index: u32) {
    let program = eg_skel::program::returning(libbpf_sys::BPF_PROG_TYPE_SCHED_CLS, c"somebodys", -1).expect("a filter");
    clsact(program.as_fd(), index);
}

#[test]
fn a_filter_that_is_not_ours_is_left_alone_and_nothing_is_half_done() {
    if !can_run() {
        return;
    }
    if auto() != "tcx" {
        println!("skipped, because this kernel has no tcx");
        return;
    }
    let dsr = Dsr::new();
    let _answers = Answers::start(&dsr);
    let _wrapper = Wrapper::start(&dsr, dsr.tunnel(false, Encap::Ip));
    dsr.backend.enter(|| somebodys_filter(nix::net::if_::if_nametoindex(INTERFACE).expect("the interface")));
    let by_clsact = || dsr.egctl(&["backend", "attach", INTERFACE, "--mode", "clsact", "--vip", "192.0.2.99"]);
    let error = by_clsact().unwrap_err();
    assert!(error.contains("program \"somebodys\", which is not ours"), "{error}");
    assert!(!dsr.pin_root.exists(), "pins are left");

    // By tcx both live side by side, and a failed change leaves what was there.
    dsr.egctl(&["backend", "attach", INTERFACE]).expect("attach");
    udp_is_answered(&dsr, false);
    let before = dsr.egctl(&["--json", "backend", "status"]).expect("status");
    by_clsact().unwrap_err();
    let (before, after): (Value, Value) = (
        serde_json::from_str(&before).unwrap(),
        serde_json::from_str(&dsr.egctl(&["--json", "backend", "status"]).expect("status")).unwrap(),
    );
    assert_eq!(before["interfaces"], after["interfaces"]);
    dsr.egctl(&["backend", "detach", INTERFACE]).expect("detach");
    let filters = dsr.backend.output("tc", &["filter", "show", "dev", INTERFACE, "ingress"]);
    assert!(filters.contains("somebodys"), "{filters}");
}

#[test]
fn an_interface_that_is_gone_is_shown_and_can_be_detached() {
    if !can_run() {
        return;
    }
    let dsr = Dsr::new();
    for mode in ["auto", "clsact"] {
        dsr.backend.ip("link add gone type veth peer name peer");
        dsr.backend.ip("addr add 10.40.0.1/24 dev gone");
        dsr.egctl(&["backend", "attach", "gone", "--mode", mode]).expect("attach");
        dsr.backend.ip("link del gone");
        let status: Value =
            serde_json::from_str(&dsr.egctl(&["--json", "backend", "status"]).expect("status")).unwrap();
        assert_eq!(status["interfaces"][0]["running"], false, "{mode}");
        dsr.egctl(&["backend", "detach", "gone"]).expect("detach");
        assert!(!dsr.pin_root.exists(), "{mode}: no pins are left");
    }
}

/// So that a connection which is not answered fails the test soon, and not the whole run.
#[test]
fn without_the_program_nothing_reaches_the_vip() {
    if !can_run() {
        return;
    }
    let dsr = Dsr::new();
    let _echo = Echo::start(&dsr.backend, 1);
    let wrapper = Wrapper::start(&dsr, dsr.tunnel(false, Encap::Ip));
    let refused = dsr.client.enter(|| TcpStream::connect_timeout(&dsr.vip(false, PORT), Duration::from_secs(1)));
    assert!(refused.is_err(), "the network itself decapsulates");
    assert!(wrapper.wrapped() >= 1, "the gateway sent it");
}
