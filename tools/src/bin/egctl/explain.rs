// SPDX-License-Identifier: GPL-3.0-only
//! `egctl explain`: what would become of a packet now, and why, step by step.
//!
//! `frame` makes the packet or reads one that was captured; the twin of the attached program (`eg_skel::twin`) decides over
//! the live maps and changes none of them; `story` says what it did, with the operator's names; `seen` reads frames.

mod frame;
mod seen;
mod story;

use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::{ArgGroup, Args};
use eg_skel::features;
use eg_skel::loaded::LoadedProgram;
use eg_skel::share::pin_dir;
use eg_skel::twin::{Told, Twin};
use expressgateway::datapath::{Attached, attached};
use nix::net::if_::{if_indextoname, if_nametoindex};

use self::frame::Flag;
use self::story::{Asked, Story};
use crate::flows::filter::Proto;
use crate::kernel::Pins;

#[derive(Args, Debug)]
#[command(group = ArgGroup::new("what").required(true).args(["to", "hex", "pcap"]))]
pub(crate) struct Explain {
    /// Where the packet goes: a VIP's address and port, or any other
    #[arg(long = "vip", alias = "dst", value_name = "ADDR:PORT")]
    to: Option<SocketAddr>,
    /// Where it comes from [default: an address and port of a documentation network]
    #[arg(long = "src", value_name = "ADDR:PORT", conflicts_with_all = ["hex", "pcap"])]
    from: Option<SocketAddr>,
    #[arg(long, default_value = "tcp", conflicts_with_all = ["hex", "pcap"])]
    proto: Proto,
    /// TCP flags
    #[arg(long, value_delimiter = ',', default_value = "syn", conflicts_with_all = ["hex", "pcap"])]
    flags: Vec<Flag>,
    /// TCP sequence number: a half-open flow takes only what follows its SYN
    #[arg(long, default_value_t = 0, value_name = "N", conflicts_with_all = ["hex", "pcap"])]
    seq: u32,
    /// TCP acknowledgement number
    #[arg(long, default_value_t = 0, value_name = "N", conflicts_with_all = ["hex", "pcap"])]
    ack: u32,
    /// VLAN that the packet is tagged with; twice: the outer one first
    #[arg(long, value_name = "ID", value_parser = clap::value_parser!(u16).range(0..4095), conflicts_with_all = ["hex", "pcap"])]
    vlan: Vec<u16>,
    /// What it carries
    #[arg(long, default_value = "", value_name = "TEXT", conflicts_with_all = ["hex", "pcap"])]
    payload: String,
    /// TTL or hop limit
    #[arg(long, default_value_t = 64, value_name = "N", conflicts_with_all = ["hex", "pcap"])]
    ttl: u8,
    /// A whole Ethernet frame instead, in hexadecimal; blanks and colons do not count
    #[arg(long, value_name = "FRAME")]
    hex: Option<String>,
    /// A frame of this capture instead (`tcpdump -w FILE`)
    #[arg(long, value_name = "FILE")]
    pcap: Option<PathBuf>,
    /// Which frame of the capture, from 1
    #[arg(long, default_value_t = 1, value_name = "N", requires = "pcap", value_parser = clap::value_parser!(u64).range(1..))]
    packet: u64,
    /// Interface that it comes in by [default: the first that a program is attached to]
    #[arg(long, value_name = "NAME")]
    iface: Option<String>,
}

pub(crate) fn explain(pin_root: &Path, asked: &Explain, json: bool) -> Result<String, String> {
    let pins = Pins::open(pin_root)?;
    let folder = pin_dir(pin_root);
    let programs = attached(&folder).map_err(|error| crate::chain(&error))?;
    let ifindex = interface(asked, &programs)?;
    let program = programs
        .iter()
        .find(|at| at.ifindex == ifindex)
        .or(programs.first())
        .ok_or("no program is attached by the pinned links: nothing decides about packets here")?;
    let told = told(program.program)?;
    let frame = frame(asked, ifindex)?;
    let mut storage = MaybeUninit::uninit();
    let mut twin = Twin::of_pinned(&mut storage, told, &folder).map_err(|error| crate::chain(&error))?;
    let said = twin.run(&frame, ifindex).map_err(|error| {
        format!("the kernel does not run the program on {} bytes by {}: {error}", frame.len(), name(ifindex))
    })?;
    let now = features::jiffies().map_err(|error| format!("cannot ask the kernel for its time: {error}"))?;
    let attached = programs.iter().any(|at| at.ifindex == ifindex).then_some(program);
    let asked = Asked { frame: &frame, interface: name(ifindex), attached, told: &told, now };
    let story = Story::tell(&pins, &asked, &said).map_err(crate::kernel::failed)?;
    Ok(story.render(json))
}

fn interface(asked: &Explain, programs: &[Attached]) -> Result<u32, String> {
    match &asked.iface {
        Some(name) => if_nametoindex(name.as_str()).map_err(|error| format!("interface {name:?}: {error}")),
        None => Ok(programs.first().map_or(0, |at| at.ifindex)),
    }
}

fn told(program: u32) -> Result<Told, String> {
    LoadedProgram::open(program)
        .and_then(|program| program.told())
        .map_err(|error| format!("program {program}: {error}"))?
        .ok_or_else(|| format!("program {program} is of another version than this egctl"))
}

fn frame(asked: &Explain, ifindex: u32) -> Result<Vec<u8>, String> {
    if let Some(hex) = &asked.hex {
        return frame::from_hex(hex);
    }
    if let Some(path) = &asked.pcap {
        let bytes = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
        return frame::from_pcap(&bytes, asked.packet).map_err(|error| format!("{}: {error}", path.display()));
    }
    let to = asked.to.ok_or("where does the packet go?")?;
    let from = asked.from.unwrap_or_else(|| frame::anybody(to));
    if from.is_ipv4() != to.is_ipv4() {
        return Err(format!("{from} and {to} are of different families"));
    }
    let made = frame::Made {
        to,
        from,
        udp: asked.proto == Proto::Udp,
        flags: asked.flags.iter().fold(0, |bits, flag| bits | flag.bit()),
        seq: asked.seq,
        ack: asked.ack,
        vlans: &asked.vlan,
        payload: asked.payload.as_bytes(),
        ttl: asked.ttl,
        mac: frame::mac_of(&name(ifindex)),
    };
    made.build()
}

fn name(ifindex: u32) -> String {
    if_indextoname(ifindex).map_or_else(|_| format!("#{ifindex}"), |name| name.to_string_lossy().into_owned())
}
