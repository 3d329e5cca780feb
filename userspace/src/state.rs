// SPDX-License-Identifier: GPL-3.0-only
//! Where the process keeps what must outlive it and is not configuration.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The state directory, made if it is missing.
#[derive(Clone, Debug)]
pub struct State {
    directory: PathBuf,
}

impl State {
    /// `$STATE_DIRECTORY` (systemd; its first entry), else `$XDG_STATE_HOME/expressgateway`, else
    /// `~/.local/state/expressgateway`.
    ///
    /// # Errors
    /// None of the variables is set, or the directory cannot be made; the text names what was tried.
    pub fn open() -> Result<State, String> {
        let directory =
            locate(|name| std::env::var_os(name)).ok_or("STATE_DIRECTORY, XDG_STATE_HOME and HOME are unset")?;
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&directory);
        made.map_err(|error| format!("cannot make {directory:?}: {error}"))?;
        Ok(State { directory })
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// # Errors
    /// Those of reading; a missing file is `Ok(None)`.
    pub fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        match fs::read(self.path(name)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Replaces the file whole: readers see the old one or the new one. Only this user can read it.
    ///
    /// # Errors
    /// Those of writing; the old file is then still there.
    pub fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let new = self.path(&format!(".{name}.{}", std::process::id()));
        let result = write_private(&new, bytes).and_then(|()| fs::rename(&new, self.path(name)));
        if result.is_err() {
            // The failure to be told is the first one.
            let _ = fs::remove_file(&new);
        }
        result
    }
}

fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn locate(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty());
    if let Some(list) = set("STATE_DIRECTORY") {
        return std::env::split_paths(&list).next();
    }
    if let Some(home) = set("XDG_STATE_HOME") {
        return Some(PathBuf::from(home).join("expressgateway"));
    }
    Some(PathBuf::from(set("HOME")?).join(".local/state/expressgateway"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_directory_is_found_in_the_documented_order() {
        let with = |set: &[(&str, &str)]| {
            locate(|name| set.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value)))
        };
        let home = ("HOME", "/home/eg");
        assert_eq!(with(&[home]), Some("/home/eg/.local/state/expressgateway".into()));
        assert_eq!(with(&[home, ("XDG_STATE_HOME", "/x")]), Some("/x/expressgateway".into()));
        assert_eq!(with(&[home, ("XDG_STATE_HOME", "/x"), ("STATE_DIRECTORY", "/a:/b")]), Some("/a".into()));
        assert_eq!(with(&[home, ("STATE_DIRECTORY", "")]), Some("/home/eg/.local/state/expressgateway".into()));
        assert_eq!(with(&[]), None);
    }
}
