// SPDX-License-Identifier: GPL-3.0-only
//! Keeps a log line that many events could write from drowning the log.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// The least time between two lines: an operator sees at once that something began, and within this that it goes on.
const PAUSE: Duration = Duration::from_secs(10);

/// When one kind of line was last written.
#[derive(Debug, Default)]
pub(crate) struct Seldom {
    last: Cell<Option<Instant>>,
    unsaid: Cell<u64>,
}

impl Seldom {
    /// Whether to write the line now; the number is how many events went by without one.
    pub(crate) fn say(&self, now: Instant) -> Option<u64> {
        if self.last.get().is_some_and(|last| now.saturating_duration_since(last) < PAUSE) {
            self.unsaid.set(self.unsaid.get() + 1);
            return None;
        }
        self.last.set(Some(now));
        Some(self.unsaid.take())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_event_is_said_and_the_others_are_counted() {
        let (seldom, now) = (Seldom::default(), Instant::now());
        assert_eq!(seldom.say(now), Some(0));
        assert_eq!(seldom.say(now + PAUSE / 2), None);
        assert_eq!(seldom.say(now + PAUSE / 2), None);
        assert_eq!(seldom.say(now + PAUSE), Some(2));
    }
}
