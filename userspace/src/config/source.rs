// SPDX-License-Identifier: GPL-3.0-only
//! The text of a configuration file, and how a byte offset in it reads to an editor.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::error::ConfigError;

/// Worst cost: this much memory, once per start or reload. A larger file is refused. A listener with its routes and
/// pools is well under a kilobyte, so this is thousands of services.
const MAX_BYTES: u64 = 16 << 20;

pub(crate) struct Source {
    name: String,
    directory: PathBuf,
    text: String,
}

impl Source {
    pub(crate) fn read(path: &Path) -> Result<Self, ConfigError> {
        let fail = |what: String| ConfigError::whole(format!("{}: {what}", path.display()));
        let mut bytes = Vec::new();
        let file = File::open(path).map_err(|error| fail(format!("cannot open: {error}")))?;
        file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(|error| fail(format!("cannot read: {error}")))?;
        if bytes.len() as u64 > MAX_BYTES {
            return Err(fail(format!("larger than {} MiB, the limit for a configuration", MAX_BYTES >> 20)));
        }
        let text = String::from_utf8(bytes).map_err(|error| {
            let good = String::from_utf8_lossy(error.as_bytes().get(..error.utf8_error().valid_up_to()).unwrap_or(&[]));
            let (line, column) = position(&good, good.len());
            ConfigError::whole(format!("{}:{line}:{column}: not UTF-8, as TOML must be", path.display()))
        })?;
        let absolute = std::path::absolute(path).map_err(|error| fail(format!("cannot locate: {error}")))?;
        let directory = absolute.parent().unwrap_or(Path::new("/")).to_path_buf();
        Ok(Self { name: path.display().to_string(), directory, text })
    }

    /// A configuration that is not a file; relative paths in it start at `directory`.
    pub(crate) fn from_text(name: &str, directory: &Path, text: &str) -> Self {
        Self { name: name.to_owned(), directory: directory.to_path_buf(), text: text.to_owned() }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Line and column of a byte offset, both from 1, the column in characters.
    pub(crate) fn position(&self, offset: usize) -> (usize, usize) {
        position(&self.text, offset)
    }
}

fn position(text: &str, offset: usize) -> (usize, usize) {
    let mut end = offset.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let before = text.get(..end).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    let start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (line, before.get(start..).unwrap_or_default().chars().count() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_counts_characters_and_a_line_counts_newlines() {
        let source = Source::from_text("x", Path::new("/"), "a = 1\n# é\nb = 2\n");
        assert_eq!(source.position(0), (1, 1));
        assert_eq!(source.position(6), (2, 1));
        assert_eq!(source.position(10), (2, 4));
        assert_eq!(source.position(11), (3, 1));
        assert_eq!(source.position(999), (4, 1));
    }
}
