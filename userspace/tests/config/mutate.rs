// SPDX-License-Identifier: GPL-3.0-only
//! A small seeded mutator of text: cuts, copies, swaps of lines, splices of two files, single bytes and known words.

use std::time::{Duration, Instant};

#[derive(Debug, Default)]
pub(crate) struct Runs {
    pub(crate) total: u64,
    /// For how many the body said true.
    pub(crate) accepted: u64,
}

/// Words that take a mutated file into another branch of the reader.
const WORDS: [&str; 16] = [
    "0",
    "-1",
    "99999999999999999999",
    "true",
    "\"\"",
    "[]",
    "{}",
    "\"tcp\"",
    "\"udp\"",
    "\"https\"",
    "\"[::]:0\"",
    "\"0.0.0.0:1\"",
    "\"é\"",
    "\"/\"",
    "1e400",
    "[[routes]]",
];

/// Calls `body` with mutations of `corpus` until the time is over. Equal seeds give equal sequences.
pub(crate) fn run(corpus: Vec<String>, time: Duration, seed: u64, mut body: impl FnMut(&str) -> bool) -> Runs {
    let mut random = Random(seed);
    let mut runs = Runs::default();
    let end = Instant::now() + time;
    for text in &corpus {
        runs.accepted += u64::from(body(text));
        runs.total += 1;
    }
    while Instant::now() < end {
        let mut text = corpus[random.below(corpus.len())].clone();
        for _ in 0..=random.below(4) {
            text = mutate(&text, &corpus, &mut random);
        }
        runs.accepted += u64::from(body(&text));
        runs.total += 1;
    }
    runs
}

fn mutate(text: &str, corpus: &[String], random: &mut Random) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    if lines.is_empty() {
        return WORDS[random.below(WORDS.len())].to_owned();
    }
    let line = random.below(lines.len());
    match random.below(8) {
        0 => drop(lines.remove(line)),
        1 => lines.insert(random.below(lines.len()), lines[line].clone()),
        2 => lines.swap(line, 0),
        3 => {
            let other = &corpus[random.below(corpus.len())];
            let from = random.below(other.lines().count().max(1));
            lines.splice(line.., other.lines().skip(from).map(str::to_owned));
        }
        4 => {
            if let Some((key, _)) = lines[line].split_once('=') {
                lines[line] = format!("{key}= {}", WORDS[random.below(WORDS.len())]);
            }
        }
        _ => {
            let mut letters: Vec<char> = lines[line].chars().collect();
            let at = random.below(letters.len() + 1);
            match random.below(3) {
                0 => letters.insert(at, char::from(u8::try_from(random.below(128)).unwrap())),
                1 if at < letters.len() => drop(letters.remove(at)),
                _ if at < letters.len() => letters[at] = char::from(u8::try_from(random.below(128)).unwrap()),
                _ => letters.truncate(at / 2),
            }
            lines[line] = letters.into_iter().collect();
        }
    }
    lines.join("\n")
}

/// SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, OOPSLA 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % end as u64).unwrap()
    }
}
