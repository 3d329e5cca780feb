// SPDX-License-Identifier: GPL-3.0-only
//! What SIGUSR1 and SIGUSR2 do to a running process; SIGTERM, SIGINT and SIGHUP are in `lifecycle.rs`.

use std::path::Path;

use nix::sys::signal::Signal;

#[allow(dead_code, reason = "shared by tests that each use a part")]
#[path = "process/run.rs"]
mod run;

use run::{Process, command, curl, folder};

/// A new certificate in `cert.pem` with its key in `key.pem`, and a copy for clients to trust.
fn renew(folder: &Path, trusted: &str) {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    std::fs::write(folder.join("cert.pem"), made.cert.pem()).unwrap();
    std::fs::write(folder.join(trusted), made.cert.pem()).unwrap();
    std::fs::write(folder.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
}

const CONFIG: &str = "[observability]\nmetrics_bind = \"127.0.0.1:0\"\n[[listeners]]\nname = \"web\"\naddress = \"127.0.0.1:0\"\n\
                      protocol = \"https\"\ntls = { cert = \"cert.pem\", key = \"key.pem\" }\n[[routes]]\nlistener = \"web\"\npool = \"app\"\n\
                      [[pools.app.backends]]\nbuiltin = \"welcome\"\n";

fn start() -> Process {
    let folder = folder();
    renew(folder.path(), "first.pem");
    std::fs::write(folder.path().join("gateway.toml"), CONFIG).unwrap();
    let mut command = command(folder.path());
    command.arg("gateway.toml");
    let process = Process::spawn(command, folder);
    process.wait_for_line("serving");
    process
}

/// Whether a client that trusts this certificate alone gets an answer.
fn serves(process: &Process, trusted: &str) -> bool {
    let trusted = process.folder.path().join(trusted);
    curl(&["--cacert", trusted.to_str().unwrap(), &format!("https://{}/", process.address("web"))]).0 == 200
}

#[test]
fn sigusr1_serves_renewed_certificates_and_leaves_the_rest_of_the_file_alone() {
    let process = start();
    assert!(serves(&process, "first.pem"));
    process.signal(Signal::SIGUSR1);
    process.wait_for_line("certificates: nothing changed");

    renew(process.folder.path(), "second.pem");
    assert!(serves(&process, "first.pem"), "before the signal the old one is served");
    process.configure("this is no configuration");
    process.signal(Signal::SIGUSR1);
    process.wait_for_line("certificates: new ones are served generation=2 listeners=\"web\"");
    assert!(serves(&process, "second.pem") && !serves(&process, "first.pem"));
    let status = process.status();
    assert_eq!((&status["generation"], &status["reload"]["failed"]), (&2.into(), &0.into()), "{status:#}");
    // The plan that is served has the new one, so a reload finds nothing to do.
    let status = process.reload(CONFIG);
    assert_eq!(status["reload"]["last"]["message"], "nothing changed", "{status:#}");
}

#[test]
fn sigusr1_keeps_the_old_certificate_when_the_new_one_cannot_be_used() {
    let process = start();
    let cert = process.folder.path().join("cert.pem");
    let whole = std::fs::read(&cert).unwrap();
    std::fs::write(&cert, &whole[..whole.len() / 2]).unwrap();
    process.signal(Signal::SIGUSR1);
    let said = process.wait_for_line("certificates: the old ones stay: listener \"web\": ");
    assert!(said.contains("cert.pem"), "{said}");
    assert!(serves(&process, "first.pem"));
    assert_eq!(process.status()["generation"], 1);
}

#[test]
fn sigusr2_ends_nothing_and_says_that_there_is_no_hand_over() {
    let mut process = start();
    process.signal(Signal::SIGUSR2);
    process.wait_for_line("SIGUSR2: handing over to a new binary is not available in this build");
    assert!(serves(&process, "first.pem"));
    process.signal(Signal::SIGTERM);
    assert!(process.wait().success());
}
