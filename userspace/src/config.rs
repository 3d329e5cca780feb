// SPDX-License-Identifier: GPL-3.0-only
//! From a file to a [`Plan`]: parse with positions, resolve, report every error at once.
//!
//! `main` loads one at start, `reload` at each SIGHUP. Loading reads the file, the certificates it names and one kernel
//! setting; it opens no socket and touches no map, so a wrong file costs nothing.

mod error;
mod net;
pub(crate) mod pem;
mod read;
mod resolve;
mod schema;
mod source;
mod suggest;
mod value;

pub mod diff;
pub mod dump;
pub mod plan;

use std::ops::RangeInclusive;
use std::path::Path;

use toml::de::DeTable;

pub use error::ConfigError;
use error::{Place, Problems};
pub use net::Net;
#[cfg(test)]
pub(crate) use net::net;
use plan::Plan;
use resolve::Host;
use source::Source;

/// A configuration that holds, and what its author might want to know about it.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub plan: Plan,
    /// `file:line:col: path: message`, for what is legal and has no effect.
    pub notes: Vec<String>,
}

/// Reads and resolves `path`.
///
/// # Errors
/// Everything that is wrong with the file, in its order.
pub fn load(path: &Path) -> Result<Loaded, ConfigError> {
    let source = Source::read(path)?;
    from_source(&source, local_ports())
}

/// Resolves a text that is called `name` in errors; relative paths start at `directory`, the host is not looked at.
///
/// # Errors
/// As [`load`].
pub fn from_text(name: &str, directory: &Path, text: &str) -> Result<Loaded, ConfigError> {
    from_source(&Source::from_text(name, directory, text), None)
}

fn from_source(source: &Source, local_ports: Option<RangeInclusive<u16>>) -> Result<Loaded, ConfigError> {
    let problems = Problems::default();
    let (table, syntax) = DeTable::parse_recoverable(source.text());
    for error in &syntax {
        let place = Place { offset: error.span().map_or(0, |span| span.start), path: String::new() };
        problems.error(&place, error.message().replace('\n', ", "));
    }
    // What follows a syntax error was guessed by the parser: more errors about it would be noise.
    if problems.any() {
        return Err(problems.into_error(source));
    }
    let file = schema::file(table.get_ref(), &problems);
    let host = Host { directory: source.directory(), local_ports };
    let plan = resolve::resolve(&file, &host, &problems);
    if problems.any() {
        return Err(problems.into_error(source));
    }
    Ok(Loaded { plan, notes: problems.into_notes(source) })
}

/// Ports that this host gives to its own connections. Unreadable means unknown: nothing is checked against it then.
fn local_ports() -> Option<RangeInclusive<u16>> {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
    let (first, last) = text.trim().split_once(char::is_whitespace)?;
    Some(first.parse().ok()?..=last.trim().parse().ok()?)
}
