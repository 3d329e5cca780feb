// SPDX-License-Identifier: GPL-3.0-only
//! One owner for what is pinned: whoever changes maps, links and VIPs holds a lock on the pin root's folder.
//!
//! `Datapath::start` takes it before it touches anything and keeps it as long as it runs, `egctl detach` while it cleans
//! up. The kernel gives a flock back when its holder is gone, however it went, so a lock is never stale; and the lock
//! is on the folder itself, so it holds across network and mount namespaces, and for every version's pins below it.
//! Pinned objects cannot be opened and locked, folders of bpffs can: locking is the virtual file system's.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::error::DatapathError;

/// Changing what is pinned below a root, until it is dropped.
#[derive(Debug)]
pub struct Owner {
    /// The pin root, locked.
    _folder: Flock<File>,
}

impl Owner {
    /// Takes a pin root, which is made if it is missing.
    ///
    /// # Errors
    /// Another process has it, or it is not on bpffs or cannot be made.
    pub fn take(root: &Path) -> Result<Owner, DatapathError> {
        on_bpffs(root)?;
        let fail = |source| DatapathError::PinRoot { path: root.to_path_buf(), source };
        loop {
            fs::create_dir_all(root).map_err(fail)?;
            if let Some(owner) = Owner::of_existing(root)? {
                return Ok(owner);
            }
        }
    }

    /// Takes a pin root that is there; `None`: it is not, or no longer.
    ///
    /// # Errors
    /// Another process has it, or it cannot be opened.
    pub fn of_existing(root: &Path) -> Result<Option<Owner>, DatapathError> {
        let fail = |source| DatapathError::PinRoot { path: root.to_path_buf(), source };
        let folder = match File::open(root) {
            Ok(folder) => folder,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(fail(error)),
        };
        let opened = folder.metadata().map_err(fail)?;
        match Flock::lock(folder, FlockArg::LockExclusiveNonblock) {
            // Who had it before may have removed the folder: then this is a lock on nothing.
            Ok(folder) => Ok(fs::metadata(root)
                .is_ok_and(|now| (now.dev(), now.ino()) == (opened.dev(), opened.ino()))
                .then_some(Owner { _folder: folder })),
            Err((_, Errno::EWOULDBLOCK)) => {
                let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
                Err(DatapathError::Owned { path: root.to_path_buf(), pid: holder(&locks, opened.dev(), opened.ino()) })
            }
            Err((_, error)) => Err(fail(error.into())),
        }
    }
}

fn on_bpffs(root: &Path) -> Result<(), DatapathError> {
    let existing = root.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let kind =
        statfs(existing).map_err(|error| DatapathError::PinRoot { path: existing.into(), source: error.into() })?;
    if kind.filesystem_type() != BPF_FS_MAGIC {
        return Err(DatapathError::NoBpffs { path: root.into() });
    }
    Ok(())
}

/// The process that holds a flock, by proc_locks(5): `1: FLOCK ADVISORY WRITE 4711 00:1c:123 0 EOF`. `None`: it is in
/// another PID namespace, or has let go meanwhile.
fn holder(locks: &str, device: u64, inode: u64) -> Option<i32> {
    let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
    let what = format!("{major:02x}:{minor:02x}:{inode}");
    locks.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        // A line with an arrow is of somebody who waits.
        let [_, "FLOCK", _, _, pid, at, ..] = words.as_slice() else { return None };
        (*at == what).then(|| pid.parse().ok()).flatten().filter(|pid| *pid > 0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_of_a_lock_is_found_by_device_and_inode() {
        let locks = "1: POSIX  ADVISORY  WRITE 12 00:1c:77 0 EOF\n2: FLOCK  ADVISORY  WRITE 13 00:1c:770 0 EOF\n\
                     3: -> FLOCK  ADVISORY  WRITE 14 00:1c:77 0 EOF\n4: FLOCK  ADVISORY  WRITE 15 00:1c:77 0 EOF\n\
                     5: FLOCK  ADVISORY  WRITE 0 fe:01:9 0 EOF\n";
        assert_eq!(holder(locks, nix::sys::stat::makedev(0, 0x1c), 77), Some(15));
        assert_eq!(holder(locks, nix::sys::stat::makedev(0xfe, 1), 9), None, "a process of another PID namespace");
        assert_eq!(holder(locks, nix::sys::stat::makedev(1, 1), 77), None);
    }
}
