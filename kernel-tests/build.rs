// SPDX-License-Identifier: GPL-3.0-only
//! Compiles the tests' own BPF program, with the arguments that the product's are compiled with.

use std::env;
use std::error::Error;
use std::path::PathBuf;

use libbpf_cargo::SkeletonBuilder;

fn main() -> Result<(), Box<dyn Error>> {
    let source = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("bpf/tally.bpf.c");
    println!("cargo:rerun-if-changed={}", source.display());
    let arguments = env::var("DEP_EG_SKEL_CLANG_ARGS")?;
    SkeletonBuilder::new()
        .source(source)
        .obj(PathBuf::from(env::var("OUT_DIR")?).join("tally.bpf.o"))
        .clang(env::var("DEP_EG_SKEL_CLANG")?)
        .clang_args(arguments.split(' '))
        .build()
        .map_err(|error| format!("bpf/tally.bpf.c: {error:?}"))?;
    Ok(())
}
