// SPDX-License-Identifier: GPL-3.0-only
//! `egctl flows`: what the kernel remembers of connections, one line each.
//!
//! The table may hold millions: it is walked in batches, and a line is written as soon as it is known. Only `--sort` keeps
//! lines, and not more than its bound. The table changes meanwhile: a flow may be missed or seen twice.

pub(crate) mod filter;
mod pair;

use std::collections::BTreeMap;
use std::io::{self, BufWriter, Write};
use std::ops::ControlFlow;
use std::path::Path;

use clap::{Args, ValueEnum};
use eg_skel::loaded::LoadedProgram;
use eg_skel::share::pin_dir;
use eg_skel::{MapError, abi, features};
use expressgateway::datapath::attached;
use serde_json::{Value, json};

use self::filter::{Filter, State};
use self::pair::{Line, Reader, tables};
use crate::kernel::{Pins, failed, protocol};
use crate::table::{Stream, Table};

/// Lines that `--sort` keeps when no `--limit` says otherwise. Worst cost: some 400 bytes each, 40 MB. When there are more,
/// the last in the order are left out, and standard error says so. Nobody reads more.
const SORTED_MAX: usize = 100_000;

const COLUMNS: &[&str] =
    &["protocol", "client", "vip", "listener", "pool", "backend", "source", "state", "idle", "halves", "stale"];

#[derive(Args, Debug)]
pub(crate) struct Flows {
    #[command(flatten)]
    filter: Filter,
    /// Stop after N lines
    #[arg(long, value_name = "N", conflicts_with = "count")]
    limit: Option<usize>,
    /// Order the lines, at most 100000 unless --limit says otherwise. idle: the longest idle first. recent: the other way
    /// round. When a flow began is not known
    #[arg(long, conflicts_with = "count")]
    sort: Option<Sort>,
    /// Only how many there are, by state, and how many of them no longer count
    #[arg(long)]
    count: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Sort {
    Idle,
    Recent,
    Client,
    Vip,
    Backend,
}

pub(crate) fn flows(pin_root: &Path, asked: &Flows, json: bool) -> Result<(), String> {
    let pins = Pins::open(pin_root)?;
    let program = attached(&pin_dir(pin_root)).map_err(|error| crate::chain(&error))?.first().map(|at| at.program);
    let program = program.ok_or("no program is attached by the pinned links: flows cannot be judged")?;
    let tunables = LoadedProgram::open(program).and_then(|program| program.tunables());
    let tunables = tunables
        .map_err(|error| format!("XDP program {program}: {error}"))?
        .ok_or_else(|| format!("XDP program {program} is of another version than this egctl"))?;
    let now = features::jiffies().map_err(|error| format!("cannot ask the kernel for its time: {error}"))?;
    let reader = Reader::new(&pins, tunables, now);
    if asked.count {
        return count(&pins, &reader, &asked.filter, json);
    }
    let out = BufWriter::new(io::stdout().lock());
    let mut stream = Stream::new(COLUMNS, json, out);
    let shown = match asked.sort {
        None => unsorted(&pins, &reader, asked, &mut stream)?,
        Some(by) => sorted(&pins, &reader, asked, by, &mut stream)?,
    };
    match shown.and_then(|()| stream.finish()) {
        // Whoever reads has seen enough.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.to_string()),
        _ => Ok(()),
    }
}

/// Gives every flow that was asked for to `each`.
fn walk(
    pins: &Pins,
    reader: &Reader<'_>,
    filter: &Filter,
    mut each: impl FnMut(Line) -> ControlFlow<()>,
) -> Result<(), String> {
    let mut broken = None;
    let mut one = |key: &abi::FlowKey, flow: &abi::Flow| -> Result<ControlFlow<()>, MapError> {
        let Some(mut line) = reader.line(key, flow)?.filter(|line| filter.may_hold(line)) else {
            return Ok(ControlFlow::Continue(()));
        };
        let whole = reader.complete(key, flow, &mut line)? && filter.holds(&line);
        Ok(if whole { each(line) } else { ControlFlow::Continue(()) })
    };
    for table in tables(&pins.maps) {
        let mut ended = false;
        table
            .walk(|key, flow| {
                let next = one(&key, &flow).unwrap_or_else(|error| {
                    broken = Some(failed(error));
                    ControlFlow::Break(())
                });
                ended = next.is_break();
                next
            })
            .map_err(failed)?;
        if ended {
            break;
        }
    }
    broken.map_or(Ok(()), Err)
}

fn unsorted<W: Write>(
    pins: &Pins,
    reader: &Reader<'_>,
    asked: &Flows,
    stream: &mut Stream<W>,
) -> Result<io::Result<()>, String> {
    let mut left = asked.limit.unwrap_or(usize::MAX);
    let mut written = Ok(());
    if left > 0 {
        walk(pins, reader, &asked.filter, |line| {
            left -= 1;
            written = stream.row(row(&line));
            if left == 0 || written.is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
    }
    Ok(written)
}

/// Keeps the first of the order, and forgets the last as better ones come.
fn sorted<W: Write>(
    pins: &Pins,
    reader: &Reader<'_>,
    asked: &Flows,
    by: Sort,
    stream: &mut Stream<W>,
) -> Result<io::Result<()>, String> {
    let most = asked.limit.unwrap_or(SORTED_MAX);
    let mut kept = BTreeMap::new();
    let mut seen = 0u64;
    walk(pins, reader, &asked.filter, |line| {
        seen += 1;
        kept.insert((order(by, &line), seen), row(&line));
        if kept.len() > most {
            kept.pop_last();
        }
        ControlFlow::Continue(())
    })?;
    if asked.limit.is_none() && seen > most as u64 {
        eprintln!("egctl: {seen} flows, the first {most} of this order are shown: see --limit");
    }
    Ok(kept.into_values().try_for_each(|row| stream.row(row)))
}

/// Addresses in the order of their bytes, not of their text.
fn order(by: Sort, line: &Line) -> (u64, String, Option<std::net::SocketAddr>) {
    match by {
        Sort::Idle => (u64::MAX - line.idle, String::new(), None),
        Sort::Recent => (line.idle, String::new(), None),
        Sort::Client => (0, String::new(), Some(line.client)),
        Sort::Vip => (0, String::new(), line.vip),
        Sort::Backend => {
            let (pool, name) = line.backend.clone().unwrap_or_default();
            (0, format!("{pool}\0{name}"), line.backend_address)
        }
    }
}

fn row(line: &Line) -> Vec<Value> {
    vec![
        json!(protocol(line.protocol)),
        json!(line.client.to_string()),
        json!(line.vip.map(|at| at.to_string())),
        json!(line.listener),
        json!(line.backend.as_ref().map(|(pool, _)| pool)),
        json!(line.backend.as_ref().map(|(_, name)| name)),
        json!(line.source.to_string()),
        json!(line.state.word()),
        json!(line.idle),
        json!(line.halves),
        json!(line.stale.map(|miss| miss.label())),
    ]
}

fn count(pins: &Pins, reader: &Reader<'_>, filter: &Filter, json: bool) -> Result<(), String> {
    let (mut all, mut states, mut lacking, mut stale) = (0u64, [0u64; 3], 0u64, 0u64);
    walk(pins, reader, filter, |line| {
        all += 1;
        match line.state {
            State::Opening => states[0] += 1,
            State::Open => states[1] += 1,
            State::Closing => states[2] += 1,
        }
        lacking += u64::from(line.halves != Some("both"));
        stale += u64::from(line.stale.is_some());
        ControlFlow::Continue(())
    })?;
    let mut table = Table::new(&["flows", "opening", "open", "closing", "one half", "stale"]);
    let [opening, open, closing] = states;
    table.row([all, opening, open, closing, lacking, stale].map(|number| json!(number)).to_vec());
    print!("{}", table.render(json));
    Ok(())
}
