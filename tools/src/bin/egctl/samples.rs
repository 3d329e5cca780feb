// SPDX-License-Identifier: GPL-3.0-only
//! `egctl drops --samples`: the last refused packets, which only the process has.

use std::io::{self, Write};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::admin::Admin;
use crate::table::Stream;

/// How often `--follow` asks. The process keeps 32 of each reason: of a reason that is refused faster, some are not seen.
const AGAIN: Duration = Duration::from_millis(250);

const COLUMNS: &[&str] =
    &["at", "reason", "interface", "protocol", "source", "destination", "vip", "pool", "backend", "length"];

/// Shows the last `most` samples, and what comes within `follow`.
pub(crate) fn samples(admin: &Admin, most: usize, follow: Option<Duration>, json: bool) -> Result<(), String> {
    let mut stream = Stream::new(COLUMNS, json, io::stdout().lock());
    let done = show(admin, most, follow, json, &mut stream)?;
    match done.and_then(|()| stream.finish()) {
        // Whoever reads has seen enough.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.to_string()),
        _ => Ok(()),
    }
}

fn show<W: Write>(
    admin: &Admin,
    most: usize,
    follow: Option<Duration>,
    json: bool,
    stream: &mut Stream<W>,
) -> Result<io::Result<()>, String> {
    let until = Instant::now() + follow.unwrap_or_default();
    let (mut seen, kept) = ask(admin, 0)?;
    let mut new = kept.into_iter().rev().take(most).collect::<Vec<_>>();
    new.reverse();
    loop {
        for sample in &new {
            if let Err(error) = stream.row(row(sample, json)) {
                return Ok(Err(error));
            }
        }
        if follow.is_some()
            && let Err(error) = stream.flush()
        {
            return Ok(Err(error));
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(Ok(()));
        }
        thread::sleep(AGAIN.min(left));
        let (last, found) = ask(admin, seen)?;
        // A process that was started anew counts from 1 again.
        (seen, new) = if last < seen { ask(admin, 0)? } else { (last, found) };
    }
}

fn ask(admin: &Admin, after: u64) -> Result<(u64, Vec<Value>), String> {
    let mut answer = admin.json(&format!("/drops?after={after}"))?;
    if answer["datapath"] != json!(true) {
        return Err("the gateway runs without its kernel datapath: there are no packets to sample".to_owned());
    }
    let samples = match answer["samples"].take() {
        Value::Array(samples) => samples,
        _ => Vec::new(),
    };
    Ok((answer["last"].as_u64().unwrap_or(0), samples))
}

fn row(sample: &Value, json: bool) -> Vec<Value> {
    let mut row: Vec<Value> = COLUMNS.iter().map(|column| sample[*column].clone()).collect();
    if !json && let (Some(at), Some(seconds)) = (row.first_mut(), sample["at"].as_f64()) {
        *at = json!(time(seconds));
    }
    row
}

/// `2026-11-25T04:05:06.789Z`, as RFC 3339 has it.
fn time(seconds: f64) -> String {
    let since = Duration::try_from_secs_f64(seconds).unwrap_or_default();
    let whole = since.as_secs();
    let (days, rest) = (whole / 86_400, whole % 86_400);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", since.subsec_millis())
}

/// Year, month and day of a day that is so many after 1970-01-01.
fn date(mut days: u64) -> (u64, u64, u64) {
    let leap = |year: u64| year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
    let mut year = 1970;
    loop {
        let length = if leap(year) { 366 } else { 365 };
        if days < length {
            break;
        }
        days -= length;
        year += 1;
    }
    let february = if leap(year) { 29 } else { 28 };
    for (month, length) in (1..).zip([31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]) {
        if days < length {
            return (year, month, days + 1);
        }
        days -= length;
    }
    (year, 12, 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        assert_eq!(time(0.0), "1970-01-01T00:00:00.000Z");
        assert_eq!(time(951_782_400.0), "2000-02-29T00:00:00.000Z");
        assert_eq!(time(1_795_579_506.789), "2026-11-25T04:05:06.789Z");
        assert_eq!(time(4_107_542_399.5), "2100-02-28T23:59:59.500Z");
        assert_eq!(time(4_107_542_400.0), "2100-03-01T00:00:00.000Z");
    }
}
