// SPDX-License-Identifier: GPL-3.0-only
//! Takes everything of ours off the host: programs, pins, local addresses. Flows are forgotten.
//!
//! `Datapath::stop` calls it when `detach_on_exit` is set, `egctl detach` when no process is there to ask. It goes by
//! what is pinned and marked, so it also cleans up after a process that was killed, of this ABI or another.

use std::fmt;
use std::fs;
use std::path::Path;

use super::attach::links::Links;
use super::attach::vips::Vips;
use super::error::DatapathError;
use super::load::versions;
use super::netlink::Netlink;

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Detached {
    pub links: usize,
    pub maps: usize,
}

impl fmt::Display for Detached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} links detached, {} maps unpinned", self.links, self.maps)
    }
}

/// The caller owns `pin_root` (`Owner`), or means it. Detaches programs, removes pins below `pin_root`, and the VIPs that were made local in this network namespace. Must
/// run inside a tokio runtime. A pin root that does not exist is nothing to remove, and no error.
///
/// # Errors
/// What cannot be removed, with its path; what was removed before stays removed, and calling again goes on.
pub async fn detach(pin_root: &Path) -> Result<Detached, DatapathError> {
    let mut detached = Detached::default();
    if pin_root.exists() {
        for (folder, _) in versions(pin_root)? {
            remove(&folder, &mut detached)?;
        }
        // Other things of the operator's may lie there: an empty folder alone is ours to remove.
        if let Err(error) = fs::remove_dir(pin_root) {
            tracing::debug!(?pin_root, %error, "the pin root stays");
        }
    }
    Vips::new(Netlink::open()?).keep_only(&[]).await?;
    Ok(detached)
}

fn remove(folder: &Path, detached: &mut Detached) -> Result<(), DatapathError> {
    let fail = |source| DatapathError::PinRoot { path: folder.to_path_buf(), source };
    let links = folder.join(super::LINKS);
    if links.exists() {
        detached.links += Links::open(links)?.detach_all()?;
    }
    for entry in fs::read_dir(folder).map_err(fail)? {
        fs::remove_file(entry.map_err(fail)?.path()).map_err(fail)?;
        detached.maps += 1;
    }
    fs::remove_dir(folder).map_err(fail)
}
