// SPDX-License-Identifier: GPL-3.0-only
//! `egctl backend`: the host that serves, not the gateway. Parses, calls `expressgateway::backend`, prints.

use std::fmt::Write;
use std::net::IpAddr;
use std::path::Path;

use clap::{Args, Subcommand, ValueEnum};
use expressgateway::backend::{self, Attach, Attached, Prefix, Wanted};
use serde_json::{Value, json};

use crate::table::Table;

#[derive(Subcommand)]
pub(crate) enum What {
    /// Decapsulates what gateways send by an interface (IPIP, IP6IP6, 4in6, 6in4, GUE), without a tunnel device; a second
    /// time replaces what the first one said
    Attach(AttachArguments),
    /// Ends that; with the last interface the counters go
    Detach {
        #[arg(value_name = "IFACE")]
        interface: String,
    },
    /// Which interfaces, by which hook, and what became of their packets
    Status,
}

#[derive(Args)]
pub(crate) struct AttachArguments {
    #[arg(value_name = "IFACE")]
    interface: String,
    /// Inner destination to decapsulate for; may be repeated [default: the addresses on lo, loopback aside]
    #[arg(long, value_name = "ADDR")]
    vip: Vec<IpAddr>,
    /// Accept encapsulated packets from these outer sources only; may be repeated [default: any]
    #[arg(long, value_name = "PREFIX")]
    from: Vec<Prefix>,
    /// Outer destination that means this host; may be repeated [default: the addresses of IFACE]
    #[arg(long, value_name = "ADDR")]
    to: Vec<IpAddr>,
    /// UDP port of GUE
    #[arg(long, default_value_t = 6080, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    gue_port: u16,
    /// Where the program hooks in; auto: tcx, or clsact on a kernel before 6.6
    #[arg(long, value_enum, default_value_t = Mode::Auto)]
    mode: Mode,
    /// Give lo those VIPs that the host does not have; detaching leaves them there
    #[arg(long)]
    add_vips: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Mode {
    Auto,
    Tcx,
    Clsact,
}

pub(crate) fn run(what: &What, pin_root: &Path, json: bool) -> Result<String, String> {
    match what {
        What::Attach(arguments) => attach(arguments, pin_root, json),
        What::Detach { interface } => {
            block_on(backend::detach(pin_root, interface))?;
            Ok(if json {
                format!("{}\n", json!({ "detached": interface }))
            } else {
                format!("{interface}: detached\n")
            })
        }
        What::Status => {
            let status = backend::status(pin_root).map_err(|error| crate::chain(&error))?;
            Ok(if json { format!("{}\n", status_json(&status)) } else { status_text(&status) })
        }
    }
}

fn attach(arguments: &AttachArguments, pin_root: &Path, json: bool) -> Result<String, String> {
    let wanted = Attach {
        pin_root: pin_root.into(),
        interface: arguments.interface.clone(),
        vips: arguments.vip.clone(),
        from: arguments.from.clone(),
        to: arguments.to.clone(),
        gue_port: arguments.gue_port,
        mode: match arguments.mode {
            Mode::Auto => Wanted::Auto,
            Mode::Tcx => Wanted::Tcx,
            Mode::Clsact => Wanted::Clsact,
        },
        add_vips: arguments.add_vips,
    };
    let attached = block_on(backend::attach(&wanted))?;
    Ok(if json { format!("{}\n", attached_json(&attached)) } else { attached_text(&attached, wanted.gue_port) })
}

fn block_on<T>(work: impl Future<Output = Result<T, backend::BackendError>>) -> Result<T, String> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
    runtime.block_on(work).map_err(|error| crate::chain(&error))
}

fn attached_text(attached: &Attached, gue_port: u16) -> String {
    let Attached { interface, mode, replaced, vips, from, to, added, hints } = attached;
    let mut out = String::new();
    let verb = if *replaced { "replaced" } else { "attached" };
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{interface}: {verb} by {}, GUE on port {gue_port}", mode.label());
    let _ = writeln!(out, "  decapsulates for {}", words(vips));
    let _ = writeln!(out, "  sent to {}", words(to));
    let _ = writeln!(out, "  by {}", if from.is_empty() { "anybody".into() } else { words(from) });
    for vip in added {
        let _ = writeln!(out, "  added {vip} to lo");
    }
    for hint in hints {
        let _ = writeln!(out, "hint: {hint}");
    }
    out
}

fn attached_json(attached: &Attached) -> Value {
    let hints: Vec<Value> =
        attached.hints.iter().map(|hint| json!({ "problem": hint.problem, "fix": hint.fix })).collect();
    json!({
        "interface": attached.interface,
        "mode": attached.mode.label(),
        "replaced": attached.replaced,
        "vips": attached.vips,
        "from": attached.from.iter().map(Prefix::to_string).collect::<Vec<_>>(),
        "to": attached.to,
        "added": attached.added,
        "hints": hints,
    })
}

fn status_json(status: &backend::Status) -> Value {
    let interface = |interface: &backend::Interface| {
        json!({
            "interface": interface.name,
            "index": interface.index,
            "mode": interface.mode.map(|mode| mode.label()),
            "running": interface.running,
            "gue_port": interface.gue_port,
            "vips": interface.vips,
            "from": interface.from.iter().map(Prefix::to_string).collect::<Vec<_>>(),
            "to": interface.to,
        })
    };
    let result = |(result, count): &(eg_abi::backend::Decap, eg_abi::Count)| {
        json!({
            "result": result.label(),
            "outcome": result.outcome().label(),
            "packets": count.packets,
            "bytes": count.bytes,
        })
    };
    json!({
        "interfaces": status.interfaces.iter().map(interface).collect::<Vec<_>>(),
        "results": status.results.iter().map(result).collect::<Vec<_>>(),
    })
}

fn status_text(status: &backend::Status) -> String {
    if status.interfaces.is_empty() {
        return "nothing is attached; see `egctl backend attach`\n".into();
    }
    let mut interfaces = Table::new(&["interface", "mode", "running", "gue port", "vips", "from", "to"]);
    for interface in &status.interfaces {
        interfaces.row(vec![
            json!(interface.name),
            json!(interface.mode.map_or("unknown", |mode| mode.label())),
            json!(if interface.running { "yes" } else { "no" }),
            json!(interface.gue_port),
            json!(words(&interface.vips)),
            json!(if interface.from.is_empty() { "any".into() } else { words(&interface.from) }),
            json!(words(&interface.to)),
        ]);
    }
    let mut results = Table::new(&["outcome", "result", "packets", "bytes"]);
    for (result, count) in status.results.iter().filter(|(_, count)| count.packets > 0) {
        results.row(vec![
            json!(result.outcome().label()),
            json!(result.label()),
            json!(count.packets),
            json!(count.bytes),
        ]);
    }
    format!("{}\n{}", interfaces.render(false), results.render(false))
}

fn words<T: ToString>(all: &[T]) -> String {
    all.iter().map(T::to_string).collect::<Vec<_>>().join(" ")
}
