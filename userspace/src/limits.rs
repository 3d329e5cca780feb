// SPDX-License-Identifier: GPL-3.0-only
//! How many descriptors the process may have: as many as it is allowed to ask for.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Raises the soft limit to the hard one. A connection costs one descriptor, a proxied one two: the usual soft limit of
/// 1,024 would be full at 500. A failure is logged and lived with.
pub fn raise_descriptors() {
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((soft, hard)) if soft >= hard => tracing::info!(limit = soft, "descriptors"),
        Ok((soft, hard)) => match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
            Ok(()) => tracing::info!(limit = hard, was = soft, "descriptors"),
            Err(error) => tracing::warn!(limit = soft, wanted = hard, %error, "cannot raise the descriptor limit"),
        },
        Err(error) => tracing::warn!(%error, "cannot read the descriptor limit"),
    }
}
