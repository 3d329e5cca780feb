// SPDX-License-Identifier: GPL-3.0-only
//! What stands in the datapath's way, and what the operator is told; and that `detach` leaves nothing. Needs root, XDP
//! and network namespaces.

use std::fs;
use std::net::SocketAddr;

use eg_kernel_tests::require;
use eg_kernel_tests::topology::config::{SERVICE, Service};
use eg_kernel_tests::topology::echo::{Connection, Echo};
use eg_kernel_tests::topology::gateway::{Gateway, binary, generation, refusal};
use eg_kernel_tests::topology::{Arms, Pass, Topology, egctl};
use nix::sys::signal::Signal;

fn can_run() -> bool {
    ["root", "netns", "bpffs", "xdp", "ethtool", "setpriv"].iter().all(|feature| require(feature))
}

#[test]
fn each_obstacle_is_named() {
    if !can_run() {
        return;
    }
    let topology = Topology::new(Arms::Two, 1);
    let good = Service::of(&[0]).toml(&topology);
    let refused = |configuration: &str, wrapper: &[&str], words: &str| {
        let said = refusal(&topology, configuration, wrapper);
        assert!(said.contains(words), "expected {words:?} in:\n{said}");
    };

    refused(&good.replace("\"c0\"", "\"nope\""), &[], "no interface \"nope\" in this network namespace");

    let elsewhere = tempfile::TempDir::new().expect("a folder");
    let root = format!("{:?}", topology.pin_root);
    refused(&good.replace(&root, &format!("{:?}", elsewhere.path())), &[], "is not on a BPF file system");

    let lacking = "--bounding-set=-bpf,-sys_admin,-net_admin,-perfmon";
    refused(&good, &["setpriv", lacking], "the process lacks CAP_BPF and CAP_PERFMON and CAP_NET_ADMIN");

    let other = topology.pin_root.join("v999");
    fs::create_dir_all(&other).expect("a folder in bpffs");
    refused(&good, &[], "holds pins of another version (v999, this one is v2)");
    fs::remove_dir(&other).expect("remove it again");

    let foreign = Pass::attach(&topology.gateway, "c0");
    refused(&good, &[], "attach xdp to c0: it carries XDP program");
    drop(foreign);
}

#[test]
fn a_second_process_below_the_same_pins_is_refused_and_touches_nothing() {
    if !can_run() {
        return;
    }
    let topology = Topology::new(Arms::Two, 1);
    let _echo = Echo::start(&topology.backends[0], 0);
    let good = Service::of(&[0]).toml(&topology);
    let mut gateway = Gateway::start(&topology, &good);
    let vip = SocketAddr::new(topology.vip(false), SERVICE);
    let mut connection = topology.client.enter(|| Connection::open(vip)).expect("a connection");
    let before = generation(&topology);

    let second = format!("{good}\n[observability]\nmetrics_bind = \"127.0.0.1:9099\"\n");
    let said = refusal(&topology, &second, &[]);
    let expected = format!("{:?} is in use by process {}", topology.pin_root, gateway.pid());
    assert!(said.contains(&expected), "expected {expected:?} in:\n{said}");
    let output = egctl::run(&topology, "detach");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains(&expected), "expected {expected:?} in:\n{said}");
    assert_eq!(generation(&topology), before, "the maps were touched");
    connection.exchange(b"undisturbed").expect("the flow goes on");

    // Nothing is left of a lock whose holder was killed.
    gateway.end(Signal::SIGKILL);
    gateway.launch();
    connection.exchange(b"taken over").expect("the flow goes on");

    egctl::text(&topology, "detach --force");
    assert!(!topology.pin_root.exists(), "pins are left");
}

#[test]
fn detach_leaves_nothing_behind() {
    if !can_run() {
        return;
    }
    let topology = Topology::new(Arms::Two, 1);
    let good = Service::of(&[0]).toml(&topology);
    let mut gateway = Gateway::start(&topology, &good);
    gateway.end(Signal::SIGTERM);

    let root = topology.pin_root.to_str().expect("a plain path");
    topology.gateway.run(binary("egctl").to_str().expect("a plain path"), &["--pin-root", root, "detach"]);
    assert!(!topology.pin_root.exists(), "pins are left");
    let links = topology.gateway.output("ip", &["link"]);
    assert!(!links.contains("xdp"), "a program is left:\n{links}");
    let local = topology.gateway.output("ip", &["route", "show", "table", "local"]);
    assert!(!local.contains("10.10.0.100"), "a vip is left:\n{local}");
    let addresses = topology.gateway.output("ip", &["-6", "addr"]);
    assert!(!addresses.contains("fd10::100/128"), "a vip is left:\n{addresses}");
    assert!(addresses.contains("fd10::1/64"), "and nothing else was removed:\n{addresses}");

    drop(Gateway::start(&topology, &good));
}
