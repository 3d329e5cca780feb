// SPDX-License-Identifier: GPL-3.0-only
//! Compiles each program under `bpf/` and generates its skeleton into `OUT_DIR`.
//!
//! The headers are the system's user API (linux-libc-dev) and libbpf's own, which libbpf-sys carries: no dump of one
//! kernel's types is checked in, because nothing here reads a kernel structure that is not user API.

use std::env;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use libbpf_cargo::SkeletonBuilder;

/// Source below `bpf/`, and the name of the generated file.
const PROGRAMS: [(&str, &str); 7] = [
    ("xdp/ingress.bpf.c", "xdp_ingress.skel.rs"),
    ("tc/ingress.bpf.c", "tc_ingress.skel.rs"),
    ("xdp/capture.bpf.c", "xdp_capture.skel.rs"),
    ("tc/capture.bpf.c", "tc_capture.skel.rs"),
    ("sock/lookup.bpf.c", "sock_lookup.skel.rs"),
    ("tc/backend.bpf.c", "tc_backend.skel.rs"),
    ("tc/egress.bpf.c", "tc_egress.skel.rs"),
];

/// The compiler that the objects are tested with.
const CLANG: &str = "clang-19";

fn main() -> Result<(), Box<dyn Error>> {
    let bpf = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("../bpf").canonicalize()?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    println!("cargo:rerun-if-changed={}", bpf.display());
    println!("cargo:rustc-env=EG_CLANG={CLANG}");

    let headers = out.join("include");
    write_libbpf_headers(&headers.join("bpf"))?;
    let args = [
        "-mcpu=v3".to_owned(),
        "-Wall".to_owned(),
        "-Wextra".to_owned(),
        "-Werror".to_owned(),
        // Helpers are called by each program with some of their arguments unused, and the verifier, not the
        // compiler, judges comparisons of lengths.
        "-Wno-unused-parameter".to_owned(),
        "-Wno-sign-compare".to_owned(),
        // No paths of the machine that built it in the object.
        format!("-ffile-prefix-map={}=.", bpf.display()),
        format!("-I{}", bpf.display()),
        format!("-I{}", headers.display()),
        format!("-I/usr/include/{}", multiarch()?),
    ];
    // For build scripts that compile BPF of their own beside this crate (DEP_EG_SKEL_CLANG, DEP_EG_SKEL_CLANG_ARGS).
    println!("cargo:clang={CLANG}");
    println!("cargo:clang_args={}", args.join(" "));
    for (source, skeleton) in PROGRAMS {
        SkeletonBuilder::new()
            .source(bpf.join(source))
            .clang(CLANG)
            .clang_args(&args)
            .build_and_generate(out.join(skeleton))
            .map_err(|e| format!("bpf/{source}: {e:?}"))?;
    }
    Ok(())
}

/// `<bpf/bpf_helpers.h>` and the like.
fn write_libbpf_headers(dir: &Path) -> Result<(), Box<dyn Error>> {
    fs::create_dir_all(dir)?;
    for (name, text) in libbpf_sys::API_HEADERS {
        fs::write(dir.join(name), text)?;
    }
    Ok(())
}

/// Where Debian keeps `<asm/types.h>`, which `<linux/types.h>` includes and clang does not look for with `-target bpf`.
fn multiarch() -> Result<&'static str, Box<dyn Error>> {
    match env::var("CARGO_CFG_TARGET_ARCH")?.as_str() {
        "x86_64" => Ok("x86_64-linux-gnu"),
        "aarch64" => Ok("aarch64-linux-gnu"),
        "riscv64" => Ok("riscv64-linux-gnu"),
        other => Err(format!("no known header directory for {other}").into()),
    }
}
