// SPDX-License-Identifier: GPL-3.0-only
//! egctl beside a process without privileges, as a first user has it: nothing is pinned, and it still answers.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::{Value, json};

/// The gateway that was built beside egctl.
fn gateway() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_egctl")).with_file_name("expressgateway")
}

struct Running {
    child: Child,
    admin: String,
    folder: PathBuf,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// The shipped default configuration on free ports, in a process that may nothing.
fn start() -> Running {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/default.toml");
    let mut text = std::fs::read_to_string(shipped).expect("the default configuration");
    for port in ["9090", "8080", "8443"] {
        text = text.replace(&format!("127.0.0.1:{port}\""), "127.0.0.1:0\"");
    }
    let folder = std::env::temp_dir().join(format!("eg-egctl-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::write(folder.join("gateway.toml"), text).expect("write the configuration");
    let mut command = match nix::unistd::geteuid().is_root() {
        true => {
            let mut command = Command::new("setpriv");
            command.args(["--bounding-set", "-all", "--inh-caps", "-all"]).arg(gateway());
            command
        }
        false => Command::new(gateway()),
    };
    command.arg("gateway.toml").current_dir(&folder).env("STATE_DIRECTORY", &folder).env_remove("RUST_LOG");
    let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().expect("start the gateway");
    let mut lines = BufReader::new(child.stderr.take().expect("a pipe")).lines().map_while(Result::ok);
    let mut admin = None;
    for line in lines.by_ref() {
        if let Some((_, rest)) = line.split_once("admin=") {
            admin = rest.split_whitespace().next().map(str::to_owned);
        }
        if line.contains("serving generation=1") {
            break;
        }
    }
    // Whoever writes to a pipe that nobody reads is stopped.
    std::thread::spawn(move || lines.for_each(drop));
    Running { child, admin: admin.expect("an admin address in the log"), folder }
}

fn egctl(admin: &str, pins: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_egctl"));
    command.args(["--admin", admin, "--pin-root"]).arg(pins).args(arguments);
    command.output().expect("run egctl")
}

#[test]
fn vips_and_pools_are_asked_of_the_process_where_nothing_is_pinned() {
    let running = start();
    let nothing = running.folder.join("no-pins");
    let rows = |what: &str| -> Vec<Value> {
        let output = egctl(&running.admin, &nothing, &["--json", what]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{what}: {said}");
        assert!(said.contains("nothing is pinned there") && said.contains(&running.admin), "{said}");
        serde_json::from_slice(&output.stdout).expect("a list")
    };
    let of = |row: &Value, columns: &[&str]| columns.iter().map(|column| row[*column].clone()).collect::<Vec<_>>();
    let vips = rows("vips");
    let listeners: Vec<_> = vips.iter().map(|row| of(row, &["listener", "protocol", "pool", "packets"])).collect();
    let welcome = |name: &str, protocol: &str| vec![json!(name), json!(protocol), json!("welcome"), Value::Null];
    assert_eq!(
        listeners,
        [welcome("web", "http"), welcome("web-tls", "https"), welcome("web-tls", "https (http/3)")],
        "{vips:#?}"
    );
    assert!(vips.iter().all(|row| row["address"].as_str().is_some_and(|at| at.starts_with("127.0.0.1:"))), "{vips:#?}");
    let pools = rows("pools");
    let backends: Vec<_> = pools.iter().map(|row| of(row, &["pool", "backend", "address", "state"])).collect();
    assert_eq!(backends, [vec![json!("welcome"), json!("welcome"), json!("welcome"), Value::Null]], "{pools:#?}");

    let text = String::from_utf8(egctl(&running.admin, &nothing, &["vips"]).stdout).expect("text");
    assert!(text.starts_with("LISTENER ") && text.contains("web-tls"), "{text}");
}

#[test]
fn without_pins_and_without_a_process_both_are_named() {
    let output = egctl("127.0.0.1:1", Path::new("/no-pins"), &["vips"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(said.contains("/no-pins/v") && said.contains("nothing is pinned there"), "{said}");
    assert!(said.contains("127.0.0.1:1: ") && said.contains("is the gateway running"), "{said}");
}
