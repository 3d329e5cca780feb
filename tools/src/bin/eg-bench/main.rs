// SPDX-License-Identifier: GPL-3.0-only
//! `eg-bench`: the parts of `make bench` that Python cannot do. tools/bench calls it and reads what it prints.
//!
//! `packets` measures the XDP program per packet, beside a yardstick, with BPF_PROG_TEST_RUN. `syscalls` counts what given
//! processes ask of the kernel. Neither touches an interface of the host nor pins anything: what they load and make dies with them. `h3` is
//! an HTTP/3 load generator.

use std::error::Error;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

mod cases;
mod compile;
mod frame;
mod h3;
mod live;
mod packets;
mod syscalls;
mod world;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

#[derive(Parser)]
#[command(about = "what `make bench` measures and loads with, beyond the packaged tools")]
struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Nanoseconds and map lookups per packet of the XDP program, as JSON
    Packets {
        /// Rounds in which the program, the yardstick and the floor take turns
        #[arg(long, default_value_t = 7)]
        rounds: u32,
        /// Packets per measurement
        #[arg(long, default_value_t = 1_000_000)]
        packets: u32,
        /// The core to run on
        #[arg(long, default_value_t = 0)]
        core: usize,
        /// Cases whose name contains this
        #[arg(long, default_value = "")]
        only: String,
    },
    /// System calls by number, of these processes, from the line "ready" until stdin closes, as JSON
    Syscalls { pids: Vec<u32> },
    /// HTTP/3 requests, as many as are answered in a given time
    H3 {
        server: SocketAddr,
        #[arg(long, default_value = "/")]
        path: String,
        #[arg(long, default_value_t = 8)]
        connections: usize,
        /// Requests in flight on each connection
        #[arg(long, default_value_t = 8)]
        streams: usize,
        #[arg(long, default_value_t = 3)]
        seconds: u64,
    },
}

fn main() -> ExitCode {
    let done = match Args::parse().what {
        What::Packets { rounds, packets, core, only } => packets::run(rounds, packets, core, &only),
        What::Syscalls { pids } => syscalls::run(&pids),
        What::H3 { server, path, connections, streams, seconds } => {
            h3::run(&h3::Plan { server, path, connections, streams, time: Duration::from_secs(seconds) })
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("eg-bench: {error}");
            ExitCode::FAILURE
        }
    }
}
