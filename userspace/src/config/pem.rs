// SPDX-License-Identifier: GPL-3.0-only
//! Certificate and key files: read whole, within bounds, and only if they are files.
//!
//! `resolve` reads them with the configuration, SIGUSR1 alone. Text that a certificate was made from is part of the plan,
//! so comparing two plans compares certificates.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use super::plan::{Certificate, Pem, Plan, SchemePlan};
use crate::app::causes;

/// Far above any chain (a certificate has 1 to 4 KiB), far below what would hurt: this much is read of whatever a path turns
/// out to lead to, and a longer file is refused.
const MAX: u64 = 1 << 20;

/// A file with a PEM block of this kind.
///
/// # Errors
/// In words, with the path.
pub(super) fn read(path: &Path, kind: &str) -> Result<Pem, String> {
    let unreadable = |error| format!("cannot read {path:?}: {error}");
    // Opening a FIFO would otherwise wait for somebody to write.
    let mut open = File::options();
    open.read(true).custom_flags(nix::libc::O_NONBLOCK);
    let file = open.open(path).map_err(unreadable)?;
    if !file.metadata().map_err(unreadable)?.is_file() {
        return Err(format!("cannot read {path:?}: not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX {
        return Err(format!("cannot read {path:?}: longer than {MAX} bytes"));
    }
    let text = String::from_utf8_lossy(&bytes);
    let begins = |line: &str| line.starts_with("-----BEGIN ") && line.trim_end().ends_with(&format!("{kind}-----"));
    if !text.lines().any(begins) {
        return Err(format!("{path:?} has no PEM block \"{kind}\""));
    }
    Ok(Pem(Arc::from(bytes)))
}

pub(super) fn certificate(path: &Path) -> Result<Pem, String> {
    read(path, "CERTIFICATE")
}

pub(super) fn key(path: &Path) -> Result<Pem, String> {
    read(path, "PRIVATE KEY")
}

/// Whether the key is the certificate's.
pub(super) fn fit(cert: &Path, key: &Path, cert_pem: &Pem, key_pem: &Pem) -> Result<(), String> {
    match eg_l7::tls::Identity::from_pem(&cert_pem.0, &key_pem.0) {
        Ok(_) => Ok(()),
        Err(error) => Err(format!("{cert:?} with {key:?}: {}", causes(&error))),
    }
}

/// Puts what the plan's files hold now into it. Gives the listeners with another certificate or key than before.
///
/// # Errors
/// The first file that cannot be used; the plan is then to be thrown away.
pub(crate) fn reread(plan: &mut Plan) -> Result<Vec<String>, String> {
    let mut changed = Vec::new();
    for listener in &mut plan.edge.listeners {
        let SchemePlan::Https { certificate: old, .. } = &mut listener.scheme else { continue };
        let Certificate::Files { cert, key: key_path, .. } = &*old else { continue };
        let named = |why| format!("listener {:?}: {why}", listener.name);
        let (cert_pem, key_pem) = (certificate(cert).map_err(named)?, key(key_path).map_err(named)?);
        fit(cert, key_path, &cert_pem, &key_pem).map_err(named)?;
        let new = Certificate::Files { cert: cert.clone(), key: key_path.clone(), cert_pem, key_pem };
        if new != *old {
            *old = new;
            changed.push(listener.name.clone());
        }
    }
    Ok(changed)
}
