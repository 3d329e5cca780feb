// SPDX-License-Identifier: GPL-3.0-only
//! egctl: what the operator asks a running gateway, or what one left in the kernel.
//!
//! `status` asks the process over its admin address. `vips`, `pools` and `drops` read the pinned maps, so they answer when
//! no process runs as well; `detach` takes everything of ours off the host. `backend` is for the hosts behind a gateway.
//! Nothing but `detach`, `backend attach` and `backend detach` changes anything.

mod admin;
mod backend;
mod kernel;
mod table;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

const PIN_ROOT: &str = "/sys/fs/bpf/expressgateway";

#[derive(Parser)]
#[command(name = "egctl", version, about = "Asks a running ExpressGateway, or what it left in the kernel")]
struct Arguments {
    /// The admin address ([observability].metrics_bind)
    #[arg(long, global = true, default_value = "127.0.0.1:9090", value_name = "IP:PORT")]
    admin: SocketAddr,
    /// The admin token, where [admin].api_token_hash is set; the environment variable EG_ADMIN_TOKEN does too, and shows in no
    /// process list
    #[arg(long, global = true, value_name = "TOKEN")]
    token: Option<String>,
    /// Where maps are pinned ([datapath].pin_root)
    #[arg(long, global = true, default_value = PIN_ROOT, value_name = "DIR")]
    pin_root: PathBuf,
    /// JSON instead of text
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// What the process runs: phase, generation, last reload, listeners, pools
    Status,
    /// The VIPs in the kernel and what each has forwarded
    Vips,
    /// Pools and backends in the kernel: state, next hop, share of the ring, traffic
    Pools,
    /// Packets by verdict, and the refused ones by reason
    Drops,
    /// Takes programs, pins and local addresses of ours off the host, in this network namespace; flows are forgotten
    Detach,
    /// On a backend host: takes a gateway's packets out of their tunnels
    #[command(subcommand)]
    Backend(backend::What),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match arguments.what {
        What::Status => admin::status(arguments.admin, token(&arguments), arguments.json),
        What::Vips => kernel::vips(&arguments.pin_root).map(|table| table.render(arguments.json)),
        What::Pools => kernel::pools(&arguments.pin_root).map(|table| table.render(arguments.json)),
        What::Drops => kernel::drops(&arguments.pin_root).map(|table| table.render(arguments.json)),
        What::Detach => kernel::detach(&arguments.pin_root),
        What::Backend(what) => backend::run(what, &arguments.pin_root, arguments.json),
    };
    match done {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("egctl: {error}");
            ExitCode::FAILURE
        }
    }
}

fn token(arguments: &Arguments) -> Option<String> {
    arguments.token.clone().or_else(|| std::env::var("EG_ADMIN_TOKEN").ok())
}

/// An error with all its causes on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
