// SPDX-License-Identifier: GPL-3.0-only
//! Compiles BPF sources of this checkout when the bench runs: its own programs, and the copy of the product's program that
//! counts its lookups. Done here and not in a build script, so that nobody who only builds the tools pays for it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use libbpf_rs::{ObjectBuilder, OpenObject};

use crate::Result;

/// The compiler that the product's objects are built with.
const CLANG: &str = "clang-19";

/// A directory for objects, removed when dropped.
pub(crate) struct Workshop {
    dir: PathBuf,
}

impl Workshop {
    pub(crate) fn new() -> Result<Workshop> {
        let dir = env::temp_dir().join(format!("eg-bench-bpf-{}", std::process::id()));
        let headers = dir.join("bpf");
        fs::create_dir_all(&headers)?;
        for (name, text) in libbpf_sys::API_HEADERS {
            fs::write(headers.join(name), text)?;
        }
        Ok(Workshop { dir })
    }

    /// Compiles `source` (below the checkout) with `extra` arguments and opens it, not yet loaded.
    pub(crate) fn open(&self, source: &str, extra: &[String]) -> Result<OpenObject> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let object = self.dir.join("bench.o");
        let done = Command::new(CLANG)
            .args(["-O2", "-g", "-target", "bpf", "-mcpu=v3", "-c", "-o"])
            .arg(&object)
            .arg(root.join(source))
            .arg(format!("-I{}", root.join("bpf").display()))
            .arg(format!("-I{}", self.dir.display()))
            .arg(format!("-I/usr/include/{}-linux-gnu", env::consts::ARCH))
            .args(extra)
            .output()
            .map_err(|e| format!("{CLANG}: {e}"))?;
        if !done.status.success() {
            return Err(format!("{CLANG} {source}: {}", String::from_utf8_lossy(&done.stderr)).into());
        }
        Ok(ObjectBuilder::default().open_file(&object)?)
    }

    /// The argument that puts counters before each map lookup and change of the product's program.
    pub(crate) fn counters() -> Vec<String> {
        let header = Path::new(env!("CARGO_MANIFEST_DIR")).join("bench/bpf/counted.h");
        vec!["-include".to_owned(), header.display().to_string()]
    }
}

impl Drop for Workshop {
    fn drop(&mut self) {
        // Nothing to do about a temporary directory that cannot be removed.
        let _ = fs::remove_dir_all(&self.dir);
    }
}
