// SPDX-License-Identifier: GPL-3.0-only
//! The command line, and which file is meant when none is named.

use std::path::{Path, PathBuf};

use clap::Parser;

/// Looked for in this order when no file is named.
const DEFAULTS: [&str; 2] = ["config/default.toml", "/etc/expressgateway/default.toml"];

/// An eBPF-first layer 4 and layer 7 load balancer.
///
/// SIGTERM and SIGINT drain and exit (a second one exits at once), SIGHUP reads the configuration again, SIGUSR1
/// the certificates.
#[derive(Debug, Parser)]
#[command(name = "expressgateway", disable_version_flag = true)]
pub struct Cli {
    /// Configuration file [default: config/default.toml, then /etc/expressgateway/default.toml]
    #[arg(value_name = "FILE", conflicts_with = "config")]
    pub file: Option<PathBuf>,

    /// The same, as an option
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Check the configuration and exit; opens no socket, touches no map, writes no file
    #[arg(long, conflicts_with_all = ["dump", "version"])]
    pub check: bool,

    /// Print the effective configuration, every default included, and exit
    #[arg(long, conflicts_with = "version")]
    pub dump: bool,

    /// Print the version, what is built in, and what this kernel offers
    #[arg(short = 'V', long)]
    pub version: bool,
}

impl Cli {
    /// The file to read.
    ///
    /// # Errors
    /// None was named and none of the usual ones exists; the text says what was tried.
    pub fn file(&self) -> Result<PathBuf, String> {
        if let Some(named) = self.file.as_ref().or(self.config.as_ref()) {
            return Ok(named.clone());
        }
        let found = DEFAULTS.iter().map(Path::new).find(|path| path.is_file());
        found.map(Path::to_path_buf).ok_or_else(|| {
            let tried = DEFAULTS.join(" and ");
            format!("no configuration: tried {tried}; name one with `expressgateway FILE`")
        })
    }
}

/// What `--version` prints.
pub fn version() -> String {
    format!(
        "expressgateway {}\nl4: tcp and udp by XDP, NAT with and without SNAT, maglev\n\
         l7: HTTP/1.1, HTTP/2 and HTTP/3 in front, HTTP/1.1 behind, TLS 1.2 and 1.3\nabi: v{}\n{}",
        env!("CARGO_PKG_VERSION"),
        eg_abi::ABI,
        crate::datapath::Datapath::capabilities(),
    )
}
