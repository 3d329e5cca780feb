// SPDX-License-Identifier: GPL-3.0-only
//! What a test needs of its host. A test that cannot run prints `skipped, because …` and ends; where `EG_REQUIRE` (a comma
//! list of features) names the feature, that is a failure instead, so that a skip cannot hide on a machine that has it.

use std::path::Path;
use std::process::Command;

use libbpf_rs::ProgramType;
use nix::unistd::Uid;

/// May the test go on? Usage: `if !require("xdp") { return; }`.
///
/// # Panics
/// If the feature is missing and `EG_REQUIRE` names it, or if that names something that is no feature.
pub fn require(feature: &str) -> bool {
    let required = std::env::var("EG_REQUIRE").unwrap_or_default();
    if let Some(name) = unknown(&required) {
        panic!("EG_REQUIRE names {name:?}, which no test knows; known: {}", known().collect::<Vec<_>>().join(", "));
    }
    assert!(known().any(|name| name == feature), "kernel-tests/features.txt lacks {feature}");
    let Some(why) = missing(feature) else {
        return true;
    };
    assert!(!required.split(',').any(|name| name.trim() == feature), "{feature} is required by EG_REQUIRE, but {why}");
    println!("skipped, because {why}");
    false
}

/// The names of `features.txt`.
fn known() -> impl Iterator<Item = &'static str> {
    include_str!("../features.txt").lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
}

/// The first name in a value of `EG_REQUIRE` that is none.
fn unknown(required: &str) -> Option<&str> {
    required.split(',').map(str::trim).find(|name| !name.is_empty() && !known().any(|known| known == *name))
}

/// Why the host lacks a feature; `None` if it has it. A name that is no kernel feature is taken for a command on PATH.
pub fn missing(feature: &str) -> Option<String> {
    let (there, why) = match feature {
        "root" => (Uid::effective().is_root(), "we are not root".to_owned()),
        "netns" => (
            Uid::effective().is_root() && Path::new("/proc/self/ns/net").exists(),
            "network namespaces need root".to_owned(),
        ),
        "bpffs" => (
            Uid::effective().is_root() && Path::new("/sys/fs/bpf").is_dir(),
            "there is no /sys/fs/bpf to mount on, or we are not root".to_owned(),
        ),
        "xdp" => (loads(ProgramType::Xdp), "this kernel or user may not load XDP programs".to_owned()),
        "tcx" => (tcx(), "this kernel has no tcx (Linux 6.6), or we are not root".to_owned()),
        "tc" => (loads(ProgramType::SchedCls), "this kernel or user may not load classifiers".to_owned()),
        "sk_lookup" => (loads(ProgramType::SkLookup), "this kernel or user may not load sk_lookup programs".to_owned()),
        command => (
            Command::new("sh")
                .args(["-c", &format!("command -v {command} >/dev/null")])
                .status()
                .is_ok_and(|s| s.success()),
            format!("{command} is not installed"),
        ),
    };
    (!there).then_some(why)
}

/// Asked of the loopback interface, which has the same index in every namespace.
fn tcx() -> bool {
    let mut query = libbpf_sys::bpf_prog_query_opts {
        sz: size_of::<libbpf_sys::bpf_prog_query_opts>() as libbpf_sys::size_t,
        ..Default::default()
    };
    // SAFETY: the structure says its own size, and that it has room for no programs.
    Uid::effective().is_root()
        && unsafe { libbpf_sys::bpf_prog_query_opts(1, libbpf_sys::BPF_TCX_INGRESS, &mut query) } == 0
}

fn loads(program: ProgramType) -> bool {
    Uid::effective().is_root() && program.is_supported().unwrap_or(false)
}

/// Whether `EG_FULL` asks for the counts that `make test` has no time for.
pub fn full() -> bool {
    std::env::var_os("EG_FULL").is_some_and(|value| !value.is_empty() && value != "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_feature_is_noticed() {
        assert_eq!(unknown("root, xdp,sk_lookup"), None);
        assert_eq!(unknown(""), None);
        assert_eq!(unknown("root,sk_lokup,xdp"), Some("sk_lokup"));
    }
}
