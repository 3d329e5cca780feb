// SPDX-License-Identifier: GPL-3.0-only
//! What `docs/metrics.md` says /metrics has, and what a /metrics page has: both as sets of "name type".

use std::collections::BTreeSet;

/// The metrics in the tables below one heading.
pub(crate) fn documented(heading: &str) -> BTreeSet<String> {
    let text = include_str!("../../../docs/metrics.md");
    let section = text.split("\n## ").find(|section| section.starts_with(heading)).expect(heading);
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let mut found = BTreeSet::new();
    for row in rows {
        let mut cells = row.split('|').map(str::trim).skip(1);
        let (names, kinds) = (cells.next().expect("names"), cells.next().expect("types"));
        let kinds: Vec<&str> = kinds.split(", ").collect();
        let mut first = String::new();
        for (index, name) in names.split('`').skip(1).step_by(2).flat_map(braces).enumerate() {
            // `…_bytes_total` stands for the first name with its last words replaced: it has the first two alone.
            let name = match name.strip_prefix('…') {
                Some(rest) => format!("{first}{rest}"),
                None => name,
            };
            if index == 0 {
                first = name.splitn(3, '_').take(2).collect::<Vec<_>>().join("_");
            }
            let kind = kinds.get(index).or(kinds.last()).expect("a type");
            found.insert(format!("{name} {kind}"));
        }
    }
    found
}

/// `a_{b,c}_d` is `a_b_d` and `a_c_d`.
fn braces(name: &str) -> Vec<String> {
    let Some((before, rest)) = name.split_once('{') else { return vec![name.to_owned()] };
    let (words, after) = rest.split_once('}').expect("a closing brace");
    words.split(',').map(|word| format!("{before}{word}{after}")).collect()
}

/// What a page has: each family with samples.
pub(crate) fn printed(page: &str) -> BTreeSet<String> {
    let families = page.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let name = |family: &str| match family.split_once(' ').expect("a name and a type") {
        (name, "counter") => format!("{name}_total counter"),
        (name, kind) => format!("{name} {kind}"),
    };
    families.map(name).collect()
}
