// SPDX-License-Identifier: GPL-3.0-only
//! What a request asks of the backend, parsed from its query. Called once per request; `--help` in main.rs is the reference.
//! An unknown or malformed parameter is an error that the client sees as 400: a test with a typo must not pass by luck.

use std::time::Duration;

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ask {
    pub(crate) status: u16,
    pub(crate) size: Option<u64>,
    pub(crate) chunked: bool,
    pub(crate) chunk: usize,
    pub(crate) pace: Option<Duration>,
    pub(crate) echo: bool,
    pub(crate) delay: Option<Duration>,
    pub(crate) inform: u32,
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) trailers: bool,
    pub(crate) cut: Option<(u64, Cut)>,
    pub(crate) early: bool,
    pub(crate) read_pace: Option<Duration>,
    pub(crate) stall: bool,
    pub(crate) hang: bool,
}

/// How a body ends before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    Reset,
    Truncate,
}

impl Default for Ask {
    fn default() -> Self {
        Self {
            status: 200,
            size: None,
            chunked: false,
            chunk: 16 << 10,
            pace: None,
            echo: false,
            delay: None,
            inform: 0,
            fields: Vec::new(),
            trailers: false,
            cut: None,
            early: false,
            read_pace: None,
            stall: false,
            hang: false,
        }
    }
}

impl Ask {
    /// Takes the path with its query as it came; the error is a sentence for the client.
    pub(crate) fn parse(path: &str) -> Result<Self, String> {
        let mut ask = Self::default();
        let Some((_, query)) = path.split_once('?') else { return Ok(ask) };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            match key {
                "status" => {
                    ask.status =
                        value.parse().ok().filter(|n| (200..600).contains(n)).ok_or_else(|| wrong(key, value))?;
                }
                "size" => ask.size = Some(size(key, value)?),
                "chunked" => ask.chunked = true,
                "chunk" => ask.chunk = usize::try_from(size(key, value)?.clamp(1, 1 << 20)).unwrap_or(1 << 20),
                "pace" => ask.pace = Some(time(key, value)?),
                "echo" => ask.echo = true,
                "delay" => ask.delay = Some(time(key, value)?),
                "inform" => ask.inform = value.parse().map_err(|_| wrong(key, value))?,
                "header" => {
                    let (name, value) = value.split_once(':').ok_or_else(|| wrong(key, value))?;
                    ask.fields.push((name.to_owned(), value.to_owned()));
                }
                "trailers" => ask.trailers = true,
                "reset" => ask.cut = Some((size(key, value)?, Cut::Reset)),
                "truncate" => ask.cut = Some((size(key, value)?, Cut::Truncate)),
                "early" => ask.early = true,
                "read-pace" => ask.read_pace = Some(time(key, value)?),
                "stall" => ask.stall = true,
                "hang" => ask.hang = true,
                // Lets a client make a request unique, or a test vary the path, without meaning anything.
                "n" => {}
                _ => return Err(format!("unknown parameter \"{key}\" (see eg-echo --help)")),
            }
        }
        Ok(ask)
    }
}

fn wrong(key: &str, value: &str) -> String {
    format!("parameter {key}: \"{value}\" is not a value it takes (see eg-echo --help)")
}

fn size(key: &str, value: &str) -> Result<u64, String> {
    let digits = value.trim_end_matches(['k', 'm', 'g']);
    let shift = match &value[digits.len()..] {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        _ => return Err(wrong(key, value)),
    };
    digits.parse::<u64>().ok().and_then(|n| n.checked_mul(1 << shift)).ok_or_else(|| wrong(key, value))
}

fn time(key: &str, value: &str) -> Result<Duration, String> {
    let parsed = match value.strip_suffix("ms") {
        Some(digits) => digits.parse().ok().map(Duration::from_millis),
        None => value.strip_suffix('s').and_then(|digits| digits.parse().ok()).map(Duration::from_secs),
    };
    parsed.ok_or_else(|| wrong(key, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_without_query_asks_for_nothing() {
        assert_eq!(Ask::parse("/a/b"), Ok(Ask::default()));
    }

    #[test]
    fn every_parameter_is_understood() {
        let ask = Ask::parse("/?status=503&size=2k&chunk=7&pace=5ms&delay=1s&inform=2&header=a:b:c&trailers&reset=9")
            .unwrap();
        assert_eq!((ask.status, ask.size, ask.chunk, ask.inform), (503, Some(2048), 7, 2));
        assert_eq!((ask.pace, ask.delay), (Some(Duration::from_millis(5)), Some(Duration::from_secs(1))));
        assert_eq!(ask.fields, [("a".to_owned(), "b:c".to_owned())]);
        assert_eq!((ask.trailers, ask.cut), (true, Some((9, Cut::Reset))));
    }

    #[test]
    fn typos_are_errors() {
        for path in ["/?siez=1", "/?size=1q", "/?size=1km", "/?status=99", "/?delay=5", "/?header=x", "/?size="] {
            assert!(Ask::parse(path).is_err(), "{path}");
        }
    }
}
