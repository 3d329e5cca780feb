// SPDX-License-Identifier: GPL-3.0-only
//! `egctl doctor`: it finds nothing on a healthy host, each fault once it was made on purpose, and the command that it
//! gives removes the fault. Needs root, XDP and network namespaces.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use eg_kernel_tests::require;
use eg_kernel_tests::topology::config::Service;
use eg_kernel_tests::topology::egctl;
use eg_kernel_tests::topology::gateway::{Gateway, binary};
use eg_kernel_tests::topology::{Arms, Pass, Topology};
use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

/// Longer than any state takes to be seen: a dead process 5 s, a neighbour 3 s.
const PATIENCE: Duration = Duration::from_secs(30);

fn can_run() -> bool {
    ["root", "netns", "bpffs", "xdp", "ethtool", "sysctl", "bpftool"].iter().all(|feature| require(feature))
}

/// The service, an L7 listener beside it, and a host whose settings do not depend on those of the machine.
fn healthy(topology: &Topology) -> String {
    for interface in &topology.interfaces {
        topology.gateway.run("ethtool", &["-K", interface, "rxvlan", "off"]);
    }
    for setting in [
        "net.ipv4.conf.all.rp_filter=0",
        "net.ipv4.conf.all.arp_ignore=0",
        "net.ipv4.ip_local_port_range=32768 60999",
        "net.ipv4.ip_forward=0",
        "net.ipv6.conf.all.forwarding=0",
        // An interface that goes down keeps its addresses.
        "net.ipv6.conf.all.keep_addr_on_down=1",
    ] {
        topology.gateway.run("sysctl", &["-qw", setting]);
    }
    let listener = "\n[[listeners]]\nname = \"web\"\naddress = \"10.10.0.101:80\"\nprotocol = \"http\"\n\
                    [[routes]]\nlistener = \"web\"\npath = \"/\"\npool = \"app\"\n\
                    [[pools.app.backends]]\nname = \"welcome\"\nbuiltin = \"welcome\"\n";
    Service { more: listener.into(), ..Service::of(&(0..topology.backends.len()).collect::<Vec<_>>()) }.toml(topology)
}

struct Said {
    code: Option<i32>,
    report: Value,
}

impl Said {
    fn findings(&self) -> Vec<(String, String)> {
        let findings = self.report["findings"].as_array().expect("a list");
        let word = |finding: &Value, part: &str| finding[part].as_str().expect(part).to_owned();
        for finding in findings {
            for part in ["severity", "what", "where", "why"] {
                assert!(!word(finding, part).is_empty(), "{finding}");
            }
        }
        findings.iter().map(|finding| (word(finding, "check"), word(finding, "fix"))).collect()
    }
}

fn doctor(topology: &Topology, file: Option<&Path>) -> Said {
    let mut command = egctl::command(topology);
    let output = command.args(["--json", "doctor"]).args(file).output().expect("run egctl");
    let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    Said { code: output.status.code(), report }
}

/// Asks again until exactly these are found: (check, what its fix begins with).
fn wait_for(topology: &Topology, file: Option<&Path>, expected: &[(&str, &str)]) -> Vec<String> {
    wait_under(topology, file, "true", expected)
}

/// The same, breaking the host anew before each question: the gateway mends its VIPs' addresses itself when it next looks.
fn wait_under(topology: &Topology, file: Option<&Path>, fault: &str, expected: &[(&str, &str)]) -> Vec<String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        shell(topology, &format!("{{ {fault}; }} 2>/dev/null || true"));
        let said = doctor(topology, file);
        let found = said.findings();
        let same = found.len() == expected.len()
            && found.iter().zip(expected).all(|((check, fix), (name, start))| check == name && fix.starts_with(start));
        if same {
            assert_eq!(said.code, Some(if expected.is_empty() { 0 } else { 1 }), "{:#}", said.report);
            return found.into_iter().map(|(_, fix)| fix).collect();
        }
        assert!(Instant::now() < deadline, "expected {expected:?}, and it says\n{:#}", said.report);
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// In the gateway's namespace, as the operator would.
fn shell(topology: &Topology, command: &str) {
    topology.gateway.run("sh", &["-c", command]);
}

#[test]
fn a_healthy_host_has_no_findings() {
    if !can_run() {
        return;
    }
    let topology = Topology::new(Arms::Two, 2);
    let gateway = Gateway::start(&topology, &healthy(&topology));
    for file in [Some(gateway.file()), None] {
        let said = doctor(&topology, file.as_deref());
        assert_eq!(said.report["findings"], serde_json::json!([]), "{file:?}");
        assert_eq!(said.report["cannot_tell"], serde_json::json!([]), "{file:?}");
        assert_eq!(said.code, Some(0), "{file:?}");
    }
    assert!(egctl::text(&topology, "doctor").starts_with("nothing found by "));
}

#[test]
fn each_fault_of_the_host_is_found_and_its_fix_removes_it() {
    if !can_run() {
        return;
    }
    let topology = Topology::new(Arms::Two, 2);
    let gateway = Gateway::start(&topology, &healthy(&topology));
    let file = gateway.file();
    // How it is broken, what is found, the command.
    let faults: &[(&str, &str, &str)] = &[
        ("sysctl -qw net.ipv4.conf.c0.rp_filter=1", "reverse path filter", "sysctl -w net.ipv4.conf.c0.rp_filter=2"),
        ("ip link set b0 mtu 1400", "mtu", "ip link set b0 mtu 1500"),
        ("ethtool -K c0 rxvlan on", "offloads", "ethtool -K c0 rxvlan off"),
        ("ethtool -K b1 tx on", "offloads", "ethtool -K b1 tx off"),
        (
            "sysctl -qw net.ipv4.ip_local_port_range='20000 60999'",
            "source ports",
            "sysctl -w net.ipv4.ip_local_port_range=\"32768 60999\"",
        ),
        (
            "sysctl -qw net.ipv4.ip_local_port_range='1024 20000'",
            "source ports",
            "sysctl -w net.ipv4.ip_local_port_range=\"1024 10239\"",
        ),
        (
            "ip route del local 10.10.0.100 dev lo table local",
            "vips",
            "ip route add local 10.10.0.100/32 dev lo table local proto 233",
        ),
        (
            "ip -6 addr del fd10::100/128 dev c0",
            "vips",
            "ip -6 addr add fd10::100/128 dev c0 nodad noprefixroute preferred_lft 0",
        ),
        ("mkdir PINS/v999", "pins of another version", "rm -r PINS/v999"),
    ];
    let pins = topology.pin_root.to_str().expect("a plain path");
    for (fault, check, fix) in faults {
        let fixes =
            wait_under(&topology, Some(&file), &fault.replace("PINS", pins), &[(check, &fix.replace("PINS", pins))]);
        shell(&topology, &format!("{} || true", fixes[0]));
        wait_for(&topology, Some(&file), &[]);
    }

    // Two findings of one setting: both VIPs of the family.
    shell(&topology, "sysctl -qw net.ipv4.conf.all.arp_ignore=1");
    let fix = "sysctl -w net.ipv4.conf.all.arp_ignore=0";
    let fixes = wait_for(&topology, Some(&file), &[("answers for vips", fix), ("answers for vips", fix)]);
    shell(&topology, &fixes[0]);
    wait_for(&topology, Some(&file), &[]);

    // Local, as by another's hand, and yet not answered.
    let fault = "ip -6 addr del fd10::100/128 dev c0; ip -6 route replace local fd10::100/128 dev lo table local";
    let expected = [("answers for vips", "ip -6 addr add fd10::100/128 dev c0 ")];
    let fixes = wait_under(&topology, Some(&file), fault, &expected);
    shell(&topology, &format!("{} || true", fixes[0]));
    wait_for(&topology, Some(&file), &[]);
}

#[test]
fn an_unreachable_backend_is_found_and_told_by_its_cause() {
    if !can_run() {
        return;
    }
    let topology = Topology::new(Arms::Two, 2);
    let gateway = Gateway::start(&topology, &healthy(&topology));
    let file = gateway.file();

    // Its interface: routes go with it.
    shell(&topology, "ip link set b1 down");
    let routes = [
        ("ways to backends", "ip route add 10.20.1.2/32 via "),
        ("ways to backends", "ip route add fd20:1::2/128 via "),
    ];
    let fixes = wait_for(&topology, Some(&file), &[("interfaces", "ip link set b1 up"), routes[0], routes[1]]);
    shell(&topology, &fixes[0]);
    wait_for(&topology, Some(&file), &[]);

    // Its route.
    shell(&topology, "ip route del 10.20.1.0/24 dev b1");
    wait_for(&topology, Some(&file), &[routes[0]]);
    shell(&topology, "ip route add 10.20.1.0/24 dev b1 src 10.20.1.1");
    wait_for(&topology, Some(&file), &[]);

    // The cable.
    topology.backends[0].run("sysctl", &["-qw", "net.ipv6.conf.all.keep_addr_on_down=1"]);
    topology.backends[0].ip("link set eth0 down");
    wait_for(&topology, Some(&file), &[("interfaces", "ethtool b0; then bring the other end up")]);
    topology.backends[0].ip("link set eth0 up");
    wait_for(&topology, Some(&file), &[]);

    // The host: nobody answers for its address. Once it is back, the command asks at once.
    topology.backends[1].ip("addr del 10.20.1.2/24 dev eth0");
    shell(&topology, "ip neigh flush to 10.20.1.2 dev b1");
    let fix = "ip neigh replace 10.20.1.2 dev b1 use; ip neigh show 10.20.1.2 dev b1";
    let fixes = wait_for(&topology, Some(&file), &[("ways to backends", fix)]);
    topology.backends[1].ip("addr add 10.20.1.2/24 dev eth0");
    shell(&topology, &fixes[0]);
    wait_for(&topology, Some(&file), &[]);
}

#[test]
fn a_dead_gateway_is_found_and_a_start_revives_it() {
    if !can_run() {
        return;
    }
    let topology = Topology::new(Arms::Two, 1);
    let mut gateway = Gateway::start(&topology, &healthy(&topology));
    let file = gateway.file();
    gateway.end(Signal::SIGKILL);
    let start = format!("expressgateway {}", file.display());
    let fixes = wait_for(&topology, Some(&file), &[("process", &start)]);
    assert_eq!(fixes, std::slice::from_ref(&start));
    wait_for(&topology, None, &[("process", "systemctl start expressgateway")]);
    gateway.launch();
    wait_for(&topology, Some(&file), &[]);

    // Nothing there at all; and somebody else's program where ours belongs.
    gateway.end(Signal::SIGTERM);
    egctl::text(&topology, "detach");
    wait_for(&topology, Some(&file), &[("attached", &start)]);
    let foreign = Pass::attach(&topology.gateway, "c0");
    let fixes = wait_for(&topology, Some(&file), &[("attached", &start), ("xdp programs", "bpftool link detach id ")]);
    shell(&topology, &fixes[1]);
    wait_for(&topology, Some(&file), &[("attached", &start)]);
    drop(foreign);
    let other = topology.pin_root.join("v999");
    fs::create_dir_all(&other).expect("a folder in bpffs");
    let detach = format!("egctl --pin-root {} detach", topology.pin_root.display());
    let fixes = wait_for(&topology, Some(&file), &[("pins of another version", &detach), ("attached", &start)]);
    let folder = binary("egctl").parent().expect("a folder").display().to_string();
    shell(&topology, &format!("PATH=\"$PATH:{folder}\"; {}", fixes[0]));
    gateway.launch();
    wait_for(&topology, Some(&file), &[]);

    // Without a file, nothing pinned is nothing to judge by.
    gateway.end(Signal::SIGTERM);
    egctl::text(&topology, "detach");
    let output = egctl::run(&topology, "doctor");
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("nothing is pinned there"), "{output:?}");
}

#[test]
fn generic_mode_is_found_and_the_configuration_corrected() {
    if !can_run() {
        return;
    }
    let topology = Topology::new(Arms::Two, 1);
    let mut gateway = Gateway::start(&topology, &healthy(&topology).replace("\"native\"", "\"generic\""));
    let file = gateway.file();
    let sed = format!("sed -i 's/^xdp = \"generic\"/xdp = \"native\"/' {}", file.display());
    let fixes = wait_for(&topology, Some(&file), &[("xdp mode", &sed), ("xdp mode", &sed)]);
    let (edit, restart) = fixes[0].split_once(" && ").expect("two commands");
    assert_eq!(restart, "systemctl restart expressgateway");
    shell(&topology, edit);
    gateway.end(Signal::SIGTERM);
    gateway.launch();
    wait_for(&topology, Some(&file), &[]);
}

#[test]
fn what_the_configuration_asks_of_the_host_is_judged() {
    if !can_run() || !require("setpriv") || !require("unshare") {
        return;
    }
    let topology = Topology::new(Arms::Two, 2);
    let good = healthy(&topology);
    let _gateway = Gateway::start(&topology, &good);
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("other.toml");
    let write = |toml: &str| fs::write(&file, toml).expect("write the configuration");

    // Backends see clients' addresses: this host is their router.
    write(&good.replace("snat = true", "snat = false"));
    let expected = [
        ("ip forwarding", "sysctl -w net.ipv4.ip_forward=1"),
        ("ip forwarding", "sysctl -w net.ipv6.conf.all.forwarding=1"),
    ];
    for fix in wait_for(&topology, Some(&file), &expected) {
        shell(&topology, &fix);
    }
    wait_for(&topology, Some(&file), &[]);

    // An interface that packets leave by and that carries no program, and one that does not exist.
    write(&good.replace(", \"b1\"]", "]"));
    let add = "add \"b1\" to datapath.interfaces in ";
    wait_for(&topology, Some(&file), &[("ways to backends", add), ("ways to backends", add)]);
    write(&good.replace("\"b1\"]", "\"b1\", \"nope\"]"));
    wait_for(&topology, Some(&file), &[("interfaces", "ip link; then correct datapath.interfaces in ")]);

    // No BPF file system, until one is mounted (in a mount namespace of its own).
    let elsewhere = TempDir::new().expect("a folder");
    write(
        &good.replace(
            topology.pin_root.to_str().expect("a path"),
            elsewhere.path().join("pins").to_str().expect("a path"),
        ),
    );
    let mount = format!("mount -t bpf bpf {}", elsewhere.path().display());
    let said = doctor(&topology, Some(&file));
    let found = said.findings();
    assert!(found.contains(&("bpf file system".into(), mount.clone())), "{found:?}");
    let again = format!("{mount} && {} --json doctor {}", binary("egctl").display(), file.display());
    let after = topology.gateway.output("unshare", &["-m", "sh", "-c", &again]);
    assert!(after.contains("\"findings\":") && !after.contains("bpf file system"), "{after}");

    // Without privilege it says so, and what it could not see; a wrong file is no diagnosis.
    write(&good);
    let lacking = "--bounding-set=-bpf,-sys_admin,-net_admin,-perfmon";
    let egctl = binary("egctl").display().to_string();
    let said = topology.gateway.output("setpriv", &[lacking, &egctl, "doctor", file.to_str().expect("a path")]);
    assert!(said.contains("error: this process lacks CAP_BPF and CAP_PERFMON and CAP_NET_ADMIN\n"), "{said}");
    assert!(said.contains("\ncannot tell: kernel features: "), "{said}");
    write("[datapath]\ninterface = 3\n");
    let output = egctl::run(&topology, &format!("doctor {}", file.display()));
    assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{output:?}");
    write(&good[good.find("\n[[listeners]]\nname = \"web\"").expect("the L7 listener")..]);
    assert!(egctl::text(&topology, &format!("doctor {}", file.display())).contains("nothing to check"));
}
