// SPDX-License-Identifier: GPL-3.0-only
//! egctl: what the operator asks a running gateway, or what one left in the kernel.
//!
//! `status`, `drops --samples` and `capture` ask the process over its admin address. `vips`, `pools`, `flows` and `drops` read the
//! pinned maps, so they answer when no process runs as well (the first two ask the process where nothing is pinned); `explain`
//! runs a twin of the attached program over them; `doctor` looks at the host around both; `detach` takes everything of ours
//! off the host. `backend` is for the hosts behind a gateway. Nothing but `detach`, `backend attach` and
//! `backend detach` changes anything for longer than `capture` runs.

mod admin;
mod backend;
mod capture;
mod doctor;
mod explain;
mod flows;
mod kernel;
mod samples;
mod served;
mod table;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::admin::Admin;

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
    /// The VIPs in the kernel and what each has forwarded; where nothing is pinned, the running process's listeners
    Vips,
    /// Pools and backends in the kernel: state, next hop, share of the ring, traffic; where nothing is pinned, the process's
    Pools,
    /// The connections that the kernel remembers, one line each
    ///
    /// SOURCE is the address and port that we write towards the backend. IDLE is in seconds, HALVES says which of the two
    /// entries of a flow are there (each rebuilds the other), and STALE why the next packet will not follow the flow:
    /// epoch (its VIP was removed or forwards otherwise now), generation (its backend left), expired (idle beyond its
    /// timeout), taken (its port belongs to another flow now). Such flows lie there until they are evicted.
    Flows(flows::Flows),
    /// Packets by verdict, and the refused ones by reason
    ///
    /// With --samples: the last refused packets themselves, from the running process. These are samples, at most 100 a
    /// second and CPU of which 32 of each reason are kept; the exact numbers are those without --samples.
    Drops {
        /// The last N refused packets (100), each with time, reason, interface, addresses, VIP, backend and length
        #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "100")]
        samples: Option<usize>,
        /// With --samples: go on for so many seconds and show what is refused meanwhile
        #[arg(long, value_name = "SECONDS", requires = "samples")]
        follow: Option<u32>,
    },
    /// Looks for what commonly stands in the way on this host, and says how to remove it
    ///
    /// Judges by the configuration file, or without one by what is pinned in the kernel; run it in the gateway's network
    /// namespace, with its privileges. Each finding says how bad it is (error: traffic is lost; warning: it will be, or
    /// is slow; hint), what and where it is, why it matters, and a command that removes it. Exit code 0: nothing found.
    /// 1: findings. 2: nothing found, but something could not be looked at.
    Doctor {
        /// The configuration file
        #[arg(value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// What would become of a packet now, and why, step by step
    ///
    /// The attached program is loaded once more, told to write nothing, and run on the packet over the live maps: nothing is
    /// counted, remembered or sent. The answer is that of this moment: a choice by chance, by turn or by load may be another
    /// for the next packet, and so may the source port of a new flow. Where programs are attached by tc, the XDP program
    /// answers: both decide alike, except for frames to another host's MAC, which tc leaves alone.
    Explain(Box<explain::Explain>),
    /// Records packets as they come in, with what became of each, into a file for Wireshark
    ///
    /// Each packet has its interface, time and length, and as its comment the verdict with the VIP and the backend: "forwarded
    /// vip 192.0.2.1:80/tcp backend 10.0.0.2:8080", "dropped no_flow vip 192.0.2.1:80/tcp". For as long as it runs the attached
    /// programs are replaced by twins that record; the process does that, puts the programs back at the end, and carries out
    /// one capture at a time. It ends with its time or count, with this command, and with a reload. No packet is lost or
    /// treated otherwise for it; those that the process is too slow to write are missing in the file, and counted.
    Capture(capture::Capture),
    /// Takes programs, pins and local addresses of ours off the host, in this network namespace; flows are forgotten
    ///
    /// Refused beside a living process.
    Detach {
        /// Also beside a living process, which goes on without programs and forwards nothing until it is restarted
        #[arg(long)]
        force: bool,
    },
    /// On a backend host: takes a gateway's packets out of their tunnels
    #[command(subcommand)]
    Backend(backend::What),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("egctl: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<ExitCode, String> {
    let Arguments { pin_root, json, .. } = arguments;
    let text = match &arguments.what {
        What::Status => admin::status(&admin(arguments), *json)?,
        What::Vips => served::vips(pin_root, &admin(arguments))?.render(*json),
        What::Pools => served::pools(pin_root, &admin(arguments))?.render(*json),
        What::Flows(asked) => return flows::flows(pin_root, asked, *json).map(|()| ExitCode::SUCCESS),
        What::Drops { samples: None, .. } => kernel::drops(pin_root)?.render(*json),
        What::Drops { samples: Some(most), follow } => {
            let follow = follow.map(|seconds| Duration::from_secs(seconds.into()));
            return samples::samples(&admin(arguments), *most, follow, *json).map(|()| ExitCode::SUCCESS);
        }
        What::Doctor { file } => return Ok(doctor::doctor(pin_root, file.as_deref(), *json)),
        What::Explain(asked) => explain::explain(pin_root, asked, *json)?,
        What::Capture(asked) => {
            let whole = capture::capture(&admin(arguments), asked)?;
            return Ok(if whole { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        What::Detach { force } => kernel::detach(pin_root, *force)?,
        What::Backend(what) => backend::run(what, pin_root, *json)?,
    };
    print!("{text}");
    Ok(ExitCode::SUCCESS)
}

fn admin(arguments: &Arguments) -> Admin {
    let token = arguments.token.clone().or_else(|| std::env::var("EG_ADMIN_TOKEN").ok());
    Admin { address: arguments.admin, token }
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
