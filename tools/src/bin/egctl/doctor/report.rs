// SPDX-License-Identifier: GPL-3.0-only
//! Findings, and how they are told.

use std::fmt::Write;

use serde_json::json;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Severity {
    /// Traffic is lost now.
    Error,
    /// It will be, or is slower than it could be.
    Warning,
    /// Worth knowing when something else is odd.
    Hint,
}

impl Severity {
    fn word(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Hint => "hint",
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) severity: Severity,
    pub(crate) what: String,
    /// The interface, address, file or setting.
    pub(crate) at: String,
    pub(crate) why: String,
    /// A command for a shell; words in capitals are the operator's to fill in.
    pub(crate) fix: String,
}

/// What all checks said.
#[derive(Debug, Default)]
pub(crate) struct Report {
    checks: usize,
    findings: Vec<(&'static str, Finding)>,
    unknown: Vec<(&'static str, String)>,
}

impl Report {
    pub(crate) fn add(&mut self, check: &'static str, said: Result<Vec<Finding>, String>) {
        self.checks += 1;
        match said {
            Ok(findings) => self.findings.extend(findings.into_iter().map(|finding| (check, finding))),
            Err(why) => self.unknown.push((check, why)),
        }
        // Stable: within a severity the order of the checks stays, from the ground up.
        self.findings.sort_by_key(|(_, finding)| finding.severity);
    }

    pub(crate) fn code(&self) -> u8 {
        match (self.findings.is_empty(), self.unknown.is_empty()) {
            (false, _) => 1,
            (true, false) => 2,
            (true, true) => 0,
        }
    }

    pub(crate) fn render(&self, json: bool) -> String {
        if json { self.json() } else { self.text() }
    }

    fn json(&self) -> String {
        let findings = self.findings.iter().map(|(check, finding)| {
            json!({
                "severity": finding.severity.word(), "check": check, "what": finding.what, "where": finding.at,
                "why": finding.why, "fix": finding.fix,
            })
        });
        let unknown = self.unknown.iter().map(|(check, why)| json!({ "check": check, "why": why }));
        let report = json!({
            "checks": self.checks,
            "findings": findings.collect::<Vec<_>>(),
            "cannot_tell": unknown.collect::<Vec<_>>(),
        });
        format!("{report}\n")
    }

    fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        for (_, Finding { severity, what, at, why, fix }) in &self.findings {
            let _ = writeln!(out, "{}: {what}\n  where: {at}\n  why:   {why}\n  fix:   {fix}\n", severity.word());
        }
        for (check, why) in &self.unknown {
            let _ = writeln!(out, "cannot tell: {check}: {why}");
        }
        let _ = match (self.checks, self.findings.len()) {
            (0, _) => writeln!(out, "the kernel datapath is off in this configuration: nothing to check"),
            (checks, 0) => writeln!(out, "nothing found by {checks} checks"),
            (checks, findings) => writeln!(out, "{findings} found by {checks} checks"),
        };
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(severity: Severity) -> Finding {
        Finding { severity, what: "w".into(), at: "a".into(), why: "y".into(), fix: "f".into() }
    }

    #[test]
    fn exit_codes_tell_findings_from_ignorance() {
        let report = |said: Vec<Result<Vec<Finding>, String>>| {
            let mut report = Report::default();
            said.into_iter().for_each(|said| report.add("check", said));
            report.code()
        };
        assert_eq!(report(vec![]), 0);
        assert_eq!(report(vec![Ok(vec![])]), 0);
        assert_eq!(report(vec![Ok(vec![]), Err("no".into())]), 2);
        assert_eq!(report(vec![Err("no".into()), Ok(vec![finding(Severity::Hint)])]), 1);
    }

    #[test]
    fn the_worst_comes_first() {
        let mut report = Report::default();
        report.add("one", Ok(vec![finding(Severity::Hint)]));
        report.add("two", Ok(vec![finding(Severity::Error)]));
        assert!(report.text().starts_with("error: w\n  where: a\n  why:   y\n  fix:   f\n\nhint: w\n"));
        assert!(report.text().ends_with("2 found by 2 checks\n"));
        let json: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
        assert_eq!(json["findings"][0]["check"], "two");
        assert_eq!(json["findings"][1]["severity"], "hint");
    }
}
