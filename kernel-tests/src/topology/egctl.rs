// SPDX-License-Identifier: GPL-3.0-only
//! The built `egctl`, run where an operator would: in the gateway's namespace.

use std::process::{Command, Output};

use serde_json::Value;

use super::Topology;
use super::gateway::binary;

/// The command, with the topology's pin root; arguments are still to be added.
pub fn command(topology: &Topology) -> Command {
    let mut command = topology.gateway.command(binary("egctl"));
    command.arg("--pin-root").arg(&topology.pin_root);
    command
}

/// Runs it to its end with the words of `arguments`.
pub fn run(topology: &Topology, arguments: &str) -> Output {
    command(topology).args(arguments.split(' ')).output().expect("run egctl")
}

/// What it prints.
///
/// # Panics
/// If it fails.
pub fn text(topology: &Topology, arguments: &str) -> String {
    let output = run(topology, arguments);
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "egctl {arguments}: {}\n{complaint}", output.status);
    String::from_utf8(output.stdout).expect("text")
}

/// The list of objects that `--json` gives.
///
/// # Panics
/// If it fails, or gives something else.
pub fn rows(topology: &Topology, arguments: &str) -> Vec<Value> {
    let text = text(topology, &format!("--json {arguments}"));
    match serde_json::from_str(&text) {
        Ok(Value::Array(rows)) => rows,
        other => panic!("egctl {arguments}: {other:?}\n{text}"),
    }
}
