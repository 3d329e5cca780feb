// SPDX-License-Identifier: GPL-3.0-only
//! Boots another kernel in an emulator and passes the packet table inside: `cargo run -p eg-vmtests -- --kernel 6.1`.
//!
//! The kernel is Debian's own package, unpacked into `.cache/kernels` without touching the host's packages
//! ([`kernels`]); virtme-ng boots it with the host's root, read-only ([`boot`]). Every object is loaded inside by the
//! test binary that was built here. `vmtests/bootstrap` installs what this needs. Timings inside mean nothing: there is
//! no hardware virtualisation.

mod boot;
mod kernels;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// The gateway's packet tables, probes' and the backend host's, each with the part of it that is run: an emulator takes
/// minutes for what tc and XDP have in common, so tc passes the first table alone. `packets_others` only loads.
const TABLES: [(&str, &str); 7] = [
    ("packets", ""),
    ("packets_frag", ""),
    ("packets_cookie", ""),
    ("packets_probe", ""),
    ("decap", ""),
    ("packets_others", ""),
    ("packets_tc", "packets::"),
];

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("vmtests: {why}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let series = series_from_arguments()?;
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().map_err(|e| e.to_string())?;
    let kernel = kernels::fetch(&workspace, &series)?;
    let part = |(table, part): &(&str, &'static str)| Ok((packet_tests(&workspace, table)?, *part));
    let tests = TABLES.iter().map(part).collect::<Result<Vec<_>, String>>()?;
    println!("vmtests: {} passes the packet tables?", kernel.release);
    boot::run(&workspace, &kernel, &tests)?;
    println!("vmtests: {} loaded every object and passed the packet tables", kernel.release);
    Ok(())
}

fn series_from_arguments() -> Result<String, String> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--kernel", series] => Ok(series.to_owned()),
        _ => Err("usage: eg-vmtests --kernel SERIES   (a series of vmtests/kernels.toml)".to_owned()),
    }
}

/// Builds a packet table and sets a copy of the binary aside, which a build meanwhile does not replace.
fn packet_tests(workspace: &Path, table: &str) -> Result<PathBuf, String> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace).args(["test", "--workspace", "--test", table, "--no-run"]);
    // cargo says on its standard error: Executable tests/packets.rs (target/debug/deps/packets-…)
    let output = cargo.output().map_err(|e| format!("cannot run cargo: {e}"))?;
    let text = String::from_utf8_lossy(&output.stderr);
    let binary = text.rsplit_once("(target/").and_then(|(_, rest)| rest.split_once(')')).map(|(path, _)| path);
    let Some(path) = binary.filter(|_| output.status.success()) else {
        return Err(format!("cannot build the packet tests {table}:\n{text}"));
    };
    let copy = workspace.join(".cache/kernels").join(table);
    std::fs::copy(workspace.join("target").join(path), &copy).map_err(|e| format!("{}: {e}", copy.display()))?;
    Ok(copy)
}
