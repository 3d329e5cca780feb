// SPDX-License-Identifier: GPL-3.0-only
//! Every file under `config/examples/` boots. Ports become free ones and pins get a folder of their own; a file with a
//! kernel datapath runs in a network namespace whose interfaces have the names that the file wants.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use expressgateway::config::dump::dump;
use expressgateway::config::plan::Plan;
use expressgateway::config::{self};
use nix::sys::signal::Signal;

#[allow(dead_code, reason = "shared by tests that each use a part")]
#[path = "process/run.rs"]
mod run;

use run::{Process, curl, folder};

const BPFFS: &str = "/sys/fs/bpf";

fn examples() -> Vec<(String, Plan)> {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/examples");
    let files = std::fs::read_dir(examples).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = files.filter(|path| path.extension().is_some_and(|kind| kind == "toml")).collect();
    files.sort();
    let plan = |path: &Path| {
        let text = std::fs::read_to_string(path).unwrap();
        let loaded = config::from_text("example", path.parent().unwrap(), &text);
        loaded.unwrap_or_else(|error| panic!("{}\n{error}", path.display())).plan
    };
    files.iter().map(|path| (path.file_stem().unwrap().to_str().unwrap().to_owned(), plan(path))).collect()
}

#[test]
fn every_example_without_a_kernel_datapath_boots() {
    let mut booted = 0;
    for (name, mut plan) in examples().into_iter().filter(|(_, plan)| plan.datapath.is_none()) {
        plan.observability.metrics_bind.set_port(0);
        plan.edge.listeners.iter_mut().flat_map(|listener| &mut listener.addresses).for_each(|at| at.set_port(0));
        let process = Process::serve(&dump(&plan).unwrap());
        assert_eq!(curl(&[&format!("http://{}/readyz", process.admin())]).0, 200, "{name}");
        for listener in &plan.edge.listeners {
            assert_ne!(process.address(&listener.name).port(), 0, "{name}");
        }
        booted += 1;
    }
    assert!(booted > 0, "no example of this kind");
}

#[test]
fn every_example_with_a_kernel_datapath_boots_and_leaves_nothing_behind() {
    if let Some(why) = cannot() {
        let required = std::env::var("EG_REQUIRE").unwrap_or_default();
        assert!(!required.split(',').any(|feature| feature == "xdp"), "EG_REQUIRE has xdp, and {why}");
        println!("skipped, because {why}");
        return;
    }
    let mut booted = 0;
    for (name, mut plan) in examples() {
        plan.observability.metrics_bind.set_port(0);
        let Some(datapath) = &mut plan.datapath else { continue };
        let pins = Path::new(BPFFS).join(format!("eg-example-{}-{name}", std::process::id()));
        datapath.pin_root.clone_from(&pins);
        datapath.flows = 4096;
        datapath.detach_on_exit = true;
        let (interfaces, mut vips) = (datapath.interfaces.clone(), datapath.vips.clone());
        let mut process = in_namespace(&interfaces, &dump(&plan).unwrap());
        process.wait_for_line("serving");
        for interface in &interfaces {
            process.wait_for_line(&format!("attached interface=\"{interface}\""));
        }
        let metrics = process.ask("/metrics").1;
        assert!(metrics.contains("expressgateway_l4_readable 1\n"), "{name}\n{metrics}");
        for vip in &vips {
            let labels = format!("{{listener=\"{}\",address=\"{}\",", vip.listener, vip.address);
            assert!(metrics.contains(&format!("expressgateway_vip_packets_total{labels}")), "{name}\n{metrics}");
        }
        let removed = vips.pop().expect("an L4 example has a VIP");
        plan.datapath.as_mut().unwrap().vips = vips;
        let status = process.reload(&dump(&plan).unwrap());
        assert_eq!(status["generation"], 2, "{name}: {status:#}");
        process.wait_for_line(&format!("vip {}/", removed.address));
        let gone = format!("listener=\"{}\",address=\"{}\"", removed.listener, removed.address);
        assert!(!process.ask("/metrics").1.contains(&gone), "{name}: {gone} is still there");
        process.signal(Signal::SIGTERM);
        let ended = process.wait();
        assert!(ended.success(), "{name}: {ended}\n{}", process.log().join("\n"));
        let left = std::fs::read_dir(&pins).map_or(0, Iterator::count);
        assert_eq!(left, 0, "{name} left pins in {pins:?}");
        // An empty root may stay: the operator may have made it.
        let _ = std::fs::remove_dir(&pins);
        booted += 1;
    }
    assert!(booted > 0, "no example of this kind");
}

fn cannot() -> Option<&'static str> {
    if !nix::unistd::geteuid().is_root() {
        return Some("this test makes a network namespace and is not root");
    }
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    if !mounts.lines().any(|line| line.split(' ').nth(1) == Some(BPFFS)) {
        let mounted = Command::new("mount").args(["-t", "bpf", "bpf", BPFFS]).status().unwrap();
        if !mounted.success() {
            return Some("no BPF file system can be mounted");
        }
    }
    None
}

/// The namespace goes when the process does.
fn in_namespace(interfaces: &[String], config: &str) -> Process {
    let folder = folder();
    std::fs::write(folder.path().join("gateway.toml"), config).unwrap();
    let mut script = "set -e; ip link set lo up\n".to_owned();
    for (index, name) in interfaces.iter().enumerate() {
        let _ = writeln!(script, "ip link add {name} type veth peer name p{index}");
        let _ = writeln!(script, "ip link set {name} up; ip link set p{index} up");
    }
    script.push_str("exec \"$0\" gateway.toml");
    let mut command = Command::new("unshare");
    command.args(["--net", "sh", "-c", &script, env!("CARGO_BIN_EXE_expressgateway")]);
    command.current_dir(folder.path()).env("XDG_STATE_HOME", folder.path().join("state")).env_remove("RUST_LOG");
    let mut process = Process::spawn(command, folder);
    process.elsewhere = true;
    process
}
