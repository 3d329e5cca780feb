// SPDX-License-Identifier: GPL-3.0-only
//! What is wrong with a configuration, all of it, each with its place.
//!
//! Parsing and resolving add to one [`Problems`] and go on, so that an operator fixes a file once and not ten times.
//! An error is `file:line:col: path: message`, lower case, and says what was expected.

use std::cell::RefCell;
use std::fmt;

use super::source::Source;

/// A value with the place it was written at.
#[derive(Clone, Debug)]
pub(crate) struct At<T> {
    pub(crate) value: T,
    pub(crate) place: Place,
}

impl<T> At<T> {
    pub(crate) fn map<U>(self, change: impl FnOnce(T) -> U) -> At<U> {
        At { value: change(self.value), place: self.place }
    }
}

/// Where in the file, as a byte offset and as the path of keys that leads there.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) offset: usize,
    pub(crate) path: String,
}

#[derive(Clone, Debug)]
struct Problem {
    place: Place,
    message: String,
}

/// Collects problems while a file is read; shared by reference, since a reader of one key must not stop another's.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    errors: RefCell<Vec<Problem>>,
    notes: RefCell<Vec<Problem>>,
}

impl Problems {
    pub(crate) fn error(&self, place: &Place, message: impl Into<String>) {
        self.errors.borrow_mut().push(Problem { place: place.clone(), message: message.into() });
    }

    /// Something legal that has no effect, or that a newcomer would be surprised by.
    pub(crate) fn note(&self, place: &Place, message: impl Into<String>) {
        self.notes.borrow_mut().push(Problem { place: place.clone(), message: message.into() });
    }

    pub(crate) fn any(&self) -> bool {
        !self.errors.borrow().is_empty()
    }

    pub(crate) fn into_error(self, source: &Source) -> ConfigError {
        ConfigError { lines: lines(self.errors.into_inner(), source) }
    }

    pub(crate) fn into_notes(self, source: &Source) -> Vec<String> {
        lines(self.notes.into_inner(), source)
    }
}

fn lines(mut problems: Vec<Problem>, source: &Source) -> Vec<String> {
    problems.sort_by_key(|problem| problem.place.offset);
    problems
        .iter()
        .map(|Problem { place, message }| {
            let (line, column) = source.position(place.offset);
            match place.path.as_str() {
                "" => format!("{}:{line}:{column}: {message}", source.name()),
                path => format!("{}:{line}:{column}: {path}: {message}", source.name()),
            }
        })
        .collect()
}

/// A configuration that was refused. `Display` is one line per error, in the file's order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    lines: Vec<String>,
}

impl ConfigError {
    /// An error that has no place in a file, such as a file that cannot be read.
    pub(crate) fn whole(message: String) -> Self {
        Self { lines: vec![message] }
    }

    /// One entry per error.
    pub fn lines(&self) -> &[String] {
        &self.lines
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines.join("\n"))
    }
}

impl std::error::Error for ConfigError {}
