// SPDX-License-Identifier: GPL-3.0-only
//! eg-blast: bounded load for tests and the demo, counted by outcome, as one line of JSON.
//!
//! Started by tests that drain, reload or kill something under load, and by `make demo` for the spread over backends. It
//! promises to stop by itself, and to tell a failure that the gateway caused from a race that HTTP permits. It measures no
//! throughput worth quoting: that is what tools/bench is for.

mod echo;
mod http;
mod tally;

use std::net::SocketAddr;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use tally::Tally;

#[derive(Parser)]
#[command(name = "eg-blast", version, about = "Bounded load for tests; prints JSON, exit code 1 if anything failed")]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// HTTP/1.1 requests on keep-alive connections, at a paced rate, for a time
    Http(Http),
    /// TCP connections to an eg-echo: identity line, then a payload that must come back
    Tcp(Flows),
    /// UDP flows to an eg-echo: one socket each, a payload that must come back
    Udp(Flows),
}

#[derive(Args, Clone)]
pub(crate) struct Http {
    /// Where to connect
    address: SocketAddr,
    /// The request target
    #[arg(long, default_value = "/")]
    path: String,
    /// The Host field; the address unless given
    #[arg(long)]
    host: Option<String>,
    /// Connections kept open
    #[arg(long, default_value_t = 4)]
    connections: u32,
    /// Requests a second over all connections; 0: each as fast as it can
    #[arg(long, default_value_t = 100)]
    rate: u32,
    /// How long, in seconds (at most 600)
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Bytes of request body
    #[arg(long, default_value_t = 0)]
    body: usize,
    /// How long one request may take, in milliseconds
    #[arg(long, default_value_t = 5000)]
    timeout_ms: u64,
}

#[derive(Args, Clone)]
pub(crate) struct Flows {
    /// Where to connect
    address: SocketAddr,
    /// How many connections (flows) in all
    #[arg(long, default_value_t = 100)]
    connections: u32,
    /// How many of them at a time
    #[arg(long, default_value_t = 32)]
    concurrency: u32,
    /// Bytes that must come back on each
    #[arg(long, default_value_t = 64)]
    bytes: usize,
    /// After the first exchange, keep every flow open this many seconds (at most 600) and repeat the exchange on each twice
    /// a second; needs --concurrency of at least --connections
    #[arg(long, default_value_t = 0.0)]
    hold: f64,
    /// How long one exchange may take, in milliseconds; a UDP payload is sent once more after a third of it
    #[arg(long, default_value_t = 3000)]
    timeout_ms: u64,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("eg-blast: {error}");
            return ExitCode::FAILURE;
        }
    };
    let local = tokio::task::LocalSet::new();
    let tally: Tally = local.block_on(&runtime, async {
        match arguments.what {
            What::Http(http) => http::blast(http).await,
            What::Tcp(flows) => echo::blast(flows, echo::Kind::Tcp).await,
            What::Udp(flows) => echo::blast(flows, echo::Kind::Udp).await,
        }
    });
    println!("{}", tally.json());
    if tally.clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
