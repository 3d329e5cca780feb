// SPDX-License-Identifier: GPL-3.0-only
//! What gateways have left in the kernel, and whether one still looks after it.

use eg_skel::share::pin_dir;

use super::facts::Facts;
use super::report::{Finding, Severity};
use super::subject::Subject;

/// The process writes its time every second.
const DEAD_AFTER: u64 = 5;

pub(super) fn other_versions(subject: &Subject, facts: &Facts) -> Result<Vec<Finding>, String> {
    let ours = pin_dir(&subject.pin_root);
    let alone = matches!(facts.pinned(), Ok(None));
    let found = facts.other_versions.clone()?.into_iter().map(|path| Finding {
        severity: Severity::Error,
        what: format!("pins of another version: {}", path.display()),
        at: path.display().to_string(),
        why: format!("this version keeps its own in {}, and does not start beside them", ours.display()),
        // Pins that go take their links with them; `detach` takes ours as well.
        fix: if alone {
            format!("egctl --pin-root {} detach", subject.pin_root.display())
        } else {
            format!("rm -r {}", path.display())
        },
    });
    Ok(found.collect())
}

pub(super) fn attached(subject: &Subject, facts: &Facts) -> Result<Vec<Finding>, String> {
    if facts.pinned()?.is_some() {
        return Ok(Vec::new());
    }
    Ok(vec![Finding {
        severity: Severity::Error,
        what: "the gateway's programs are not attached".into(),
        at: subject.pin_root.display().to_string(),
        why: "nothing is pinned there: no VIP is forwarded until the gateway is started".into(),
        fix: subject.start(),
    }])
}

pub(super) fn alive(subject: &Subject, facts: &Facts) -> Result<Vec<Finding>, String> {
    let Some(pinned) = facts.pinned()?.filter(|pinned| pinned.silent > DEAD_AFTER) else { return Ok(Vec::new()) };
    Ok(vec![Finding {
        severity: Severity::Error,
        what: format!("no sign of life from the process for {} s", pinned.silent),
        at: subject.pin_root.display().to_string(),
        why: "its programs go on forwarding by the last configuration, but no next hop is kept fresh, nothing is reloaded, \
              and L7 listeners are gone"
            .into(),
        fix: subject.start(),
    }])
}
