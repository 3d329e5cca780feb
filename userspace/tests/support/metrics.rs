// SPDX-License-Identifier: GPL-3.0-only
//! Reads the text that /metrics answers, by the exposition format's own rules.

use std::collections::BTreeMap;

/// One scrape.
pub(crate) struct Metrics {
    samples: Vec<Sample>,
    pub(crate) text: String,
}

struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

impl Metrics {
    pub(crate) fn parse(text: &str) -> Metrics {
        let samples = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).map(sample).collect();
        Metrics { samples, text: text.to_owned() }
    }

    /// The sum of the samples of `name` that carry all of `labels`; `None` when there is no such sample.
    pub(crate) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let mut found = self
            .samples
            .iter()
            .filter(|sample| sample.name == name)
            .filter(|sample| labels.iter().all(|(key, value)| sample.labels.get(*key).is_some_and(|own| own == value)))
            .map(|sample| sample.value)
            .peekable();
        found.peek()?;
        Some(found.sum())
    }

    /// A counter's value, 0 when it has not been bumped yet.
    pub(crate) fn count(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        self.sum(name, labels).unwrap_or(0.0) as u64
    }
}

fn sample(line: &str) -> Sample {
    let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("not a sample: {line}"));
    let value = value.parse().unwrap_or_else(|_| panic!("not a number: {line}"));
    let Some((name, labels)) = series.split_once('{') else {
        return Sample { name: series.to_owned(), labels: BTreeMap::new(), value };
    };
    let mut rest = labels.strip_suffix('}').unwrap_or_else(|| panic!("labels do not end: {line}"));
    let mut labels = BTreeMap::new();
    while let Some((key, after)) = rest.split_once("=\"") {
        let end = after.find('"').unwrap_or_else(|| panic!("a label does not end: {line}"));
        labels.insert(key.trim_start_matches(',').to_owned(), after[..end].to_owned());
        rest = &after[end + 1..];
    }
    Sample { name: name.to_owned(), labels, value }
}
