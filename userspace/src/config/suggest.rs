// SPDX-License-Identifier: GPL-3.0-only
//! "did you mean": the known word nearest to a misspelt one.

/// ` (did you mean "x"?)`, or nothing when no candidate is near: a far-fetched suggestion misleads more than none.
pub(crate) fn hint<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    match nearest(word, candidates) {
        Some(found) => format!(" (did you mean {found:?}?)"),
        None => String::new(),
    }
}

fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // A third of the letters wrong is a misspelling, more is another word. Words past 64 letters are not worth the
    // quadratic cost.
    let length = word.chars().count();
    let limit = if length < 2 { 0 } else { (length / 3).max(1) };
    if length > 64 {
        return None;
    }
    candidates
        .into_iter()
        .filter(|candidate| candidate.chars().count().abs_diff(length) <= limit)
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Insertions, deletions, replacements and swaps of neighbours (optimal string alignment), case ignored.
fn distance(from: &str, to: &str) -> usize {
    let from: Vec<char> = from.to_lowercase().chars().collect();
    let to: Vec<char> = to.to_lowercase().chars().collect();
    let at = |row: &[usize], index: usize| row.get(index).copied().unwrap_or(usize::MAX / 2);
    let mut older: Vec<usize> = Vec::new();
    let mut old: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, b) in to.iter().enumerate() {
            let mut best = (at(&old, j) + usize::from(a != b)).min(at(&old, j + 1) + 1).min(at(&row, j) + 1);
            let swapped = i > 0 && j > 0 && from.get(i - 1) == Some(b) && to.get(j - 1) == Some(a);
            if swapped {
                best = best.min(at(&older, j - 1) + 1);
            }
            row.push(best);
        }
        older = std::mem::replace(&mut old, row);
    }
    at(&old, to.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_count_one_for_each_edit() {
        for (from, to, expected) in [
            ("", "", 0),
            ("abc", "", 3),
            ("listner", "listener", 1),
            ("prot", "port", 1),
            ("http", "HTTP", 0),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(distance(from, to), expected, "{from} {to}");
        }
    }

    #[test]
    fn only_near_words_are_suggested() {
        let known = ["workers", "drain_timeout_ms", "tls"];
        assert_eq!(nearest("worker", known), Some("workers"));
        assert_eq!(nearest("drain_timout_ms", known), Some("drain_timeout_ms"));
        assert_eq!(nearest("banana", known), None);
        assert_eq!(nearest("b", ["a"]), None);
        assert_eq!(nearest(&"w".repeat(65), known), None);
    }
}
