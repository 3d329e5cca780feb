// SPDX-License-Identifier: GPL-3.0-only
//! One guest: boot, run the tests, read its console.
//!
//! The emulator's exit code says nothing (always 255), so the guest prints markers. An emulated guest panics now and
//! then for reasons of the emulator's; that, and nothing else, earns one retry, which is printed.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::kernels::Kernel;

const BEGIN: &str = "eg-vm: running on";
const PASSED: &str = "eg-vm: passed";
const FAILED: &str = "eg-vm: failed";

/// Seconds after which a guest has hung: booting takes about one minute, the tests some fifteen.
const LIMIT: &str = "2400";

/// Runs `tests`, of each the part that is named, on `kernel`; an error tells what the guest's console said last.
pub(crate) fn run(workspace: &Path, kernel: &Kernel, tests: &[(PathBuf, &str)]) -> Result<(), String> {
    let script = write_script(workspace, tests)?;
    let mut console = boot(workspace, kernel, &script, &[])?;
    if panicked(&console) {
        println!("vmtests: the guest's kernel panicked in the emulator; trying once more\n{}", tail(&console));
        // Seen to help: a plain CPU without 16-byte compare-and-exchange.
        console = boot(workspace, kernel, &script, &["--qemu-opts=-cpu", "--qemu-opts=max,cx16=off"])?;
    }
    if !console.contains(&format!("{BEGIN} {}", kernel.release)) {
        return Err(format!("{} did not boot:\n{}", kernel.release, tail(&console)));
    }
    print!("{}", results(&console));
    if console.contains(PASSED) {
        return Ok(());
    }
    let how = if console.contains(FAILED) { "tests failed" } else { "the guest ended before its tests did" };
    Err(format!("{}: {how} (all of it is in .cache/kernels/console.log):\n{}", kernel.release, tail(&console)))
}

/// What the guest runs. The host's root is there, read-only, so the binary is where it is here.
fn write_script(workspace: &Path, tests: &[(PathBuf, &str)]) -> Result<PathBuf, String> {
    let path = workspace.join(".cache/kernels/guest.sh");
    let run = |(tests, part): &(PathBuf, &str)| {
        format!("'{}' --test-threads=1 --color=never --show-output {part}", tests.display())
    };
    let all = tests.iter().map(run).collect::<Vec<_>>().join(" && ");
    let text = format!(
        "#!/bin/sh\n\
         echo \"{BEGIN} $(uname -r)\"\n\
         mount -t bpf bpf /sys/fs/bpf 2>/dev/null\n\
         ip link set lo up\n\
         export EG_REQUIRE=root,bpffs,xdp,sk_lookup,tc\n\
         if {all}; then echo '{PASSED}'; else echo '{FAILED}'; fi\n"
    );
    fs::write(&path, text).map_err(|e| format!("{}: {e}", path.display()))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(path)
}

/// Boots and returns the console. virtme-ng wants a terminal, which `script` gives it; without `-v` it prints nothing.
fn boot(workspace: &Path, kernel: &Kernel, script: &Path, extra: &[&str]) -> Result<String, String> {
    let venv = workspace.join(".venv/bin");
    let vng = if venv.join("vng").exists() { venv.join("vng") } else { PathBuf::from("vng") };
    let call = format!(
        "'{}' -v -r '{}' --disable-kvm --cpus 2 -m 2G {} -- '{}'",
        vng.display(),
        kernel.image.display(),
        extra.join(" "),
        script.display()
    );
    let output = Command::new("timeout")
        .args(["--kill-after=10", LIMIT, "script", "-q", "-e", "-c", &call, "/dev/null"])
        .current_dir(workspace)
        .env("PATH", search_path(&venv))
        .stdin(Stdio::null())
        .output()
        .map_err(|e| format!("cannot run vng: {e}; vmtests/bootstrap installs it"))?;
    let console = String::from_utf8_lossy(&output.stdout).replace('\r', "");
    let log = workspace.join(".cache/kernels/console.log");
    fs::write(&log, &console).map_err(|e| format!("{}: {e}", log.display()))?;
    Ok(console)
}

/// virtme-ng looks for qemu and virtiofsd on PATH; cargo installs the latter where root's PATH does not look.
fn search_path(venv: &Path) -> OsString {
    let mut path = venv.as_os_str().to_owned();
    if let Some(home) = std::env::var_os("HOME") {
        path.push(":");
        path.push(Path::new(&home).join(".cargo/bin"));
    }
    path.push(":/usr/sbin:/sbin:");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    path
}

fn panicked(console: &str) -> bool {
    console.contains("Kernel panic - not syncing")
}

/// The tests' own lines, out of the kernel's messages, and what is to be recorded of the verifier.
fn results(console: &str) -> String {
    let is_ours = |line: &&str| {
        line.starts_with("test ") || line.contains("eg-vm:") || line.starts_with("not in verifier-counts")
    };
    let lines = console.lines().filter(is_ours);
    lines.map(|line| format!("  {line}\n")).collect()
}

fn tail(console: &str) -> String {
    let lines: Vec<&str> = console.lines().collect();
    lines.iter().skip(lines.len().saturating_sub(60)).map(|line| format!("  | {line}\n")).collect()
}
