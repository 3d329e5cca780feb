// SPDX-License-Identifier: GPL-3.0-only
//! `egctl doctor`: what on this host stands in the gateway's way, and the command that removes it.
//!
//! In the order of a run: `subject` (what should work, from the configuration or the pins), `facts` (how the host is, read
//! once), [`CHECKS`] (pure judgements, one file for each family), `report`. It changes nothing: an operator at night must
//! be able to run it without a thought. To backends it opens connections, and closes them at once.

mod backends;
mod facts;
mod host;
mod kernel;
mod links;
mod pins;
mod report;
mod subject;
mod tunnels;
mod vips;
mod xdp;

use std::path::Path;
use std::process::ExitCode;

use self::facts::Facts;
use self::report::{Finding, Report};
use self::subject::Subject;

/// One question. What it needs and cannot know is its error.
struct Check {
    name: &'static str,
    look: fn(&Subject, &Facts) -> Result<Vec<Finding>, String>,
}

/// From the ground up: what comes first explains what follows.
const CHECKS: &[Check] = &[
    Check { name: "privilege", look: kernel::privilege },
    Check { name: "kernel features", look: kernel::features },
    Check { name: "bpf file system", look: kernel::bpffs },
    Check { name: "bpf compiler", look: kernel::jit },
    Check { name: "pins of another version", look: pins::other_versions },
    Check { name: "attached", look: pins::attached },
    Check { name: "process", look: pins::alive },
    Check { name: "interfaces", look: links::state },
    Check { name: "offloads", look: links::offloads },
    Check { name: "xdp programs", look: xdp::programs },
    Check { name: "xdp mode", look: xdp::mode },
    Check { name: "ways to backends", look: backends::ways },
    Check { name: "mtu", look: backends::mtu },
    Check { name: "decapsulation", look: tunnels::answers },
    Check { name: "vips", look: vips::local },
    Check { name: "answers for vips", look: vips::answered },
    Check { name: "source ports", look: host::source_ports },
    Check { name: "reverse path filter", look: host::rp_filter },
    Check { name: "ip forwarding", look: host::forwarding },
    Check { name: "connection tracking", look: host::conntrack },
];

/// Looks and says; 0: nothing found, 1: findings, 2: nothing found, but not everything could be seen.
pub(crate) fn doctor(pin_root: &Path, file: Option<&Path>, json: bool) -> ExitCode {
    let subject = match file.map_or_else(|| subject::pinned(pin_root), subject::configured) {
        Ok(subject) => subject,
        Err(error) => {
            eprintln!("egctl: doctor cannot tell: {error}");
            return ExitCode::from(2);
        }
    };
    let report = subject.map_or_else(Report::default, |subject| {
        let facts = Facts::gather(&subject);
        examine(&subject, &facts)
    });
    print!("{}", report.render(json));
    ExitCode::from(report.code())
}

fn examine(subject: &Subject, facts: &Facts) -> Report {
    let mut report = Report::default();
    for check in CHECKS {
        report.add(check.name, (check.look)(subject, facts));
    }
    report
}

#[cfg(test)]
mod tests;
