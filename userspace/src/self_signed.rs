// SPDX-License-Identifier: GPL-3.0-only
//! The certificate for `https` listeners that have none: made at the first start, kept, remade before it expires.
//!
//! No client trusts it by itself: it makes a first start and a test possible, and it says so in the log.

use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, DnType, KeyPair};

use crate::state::State;

const FILE: &str = "self-signed.pem";
const YEAR: u64 = 365 * 24 * 3600;
/// Remade at a start that finds less than this left, so that a process rarely outlives its certificate.
const MARGIN: u64 = 30 * 24 * 3600;
const KEY: &str = "-----BEGIN PRIVATE KEY-----";

/// A certificate and its key as PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelfSigned {
    pub cert_pem: String,
    pub key_pem: String,
}

/// Takes the kept one or makes one. An unusable state directory means memory only, which is logged.
///
/// # Errors
/// The certificate cannot be made at all.
pub fn obtain(state: &Result<State, String>) -> Result<SelfSigned, rcgen::Error> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let state = match state {
        Ok(state) => state,
        Err(why) => {
            tracing::warn!(why, "self-signed certificate is kept in memory only: the next start makes another");
            return make(now).map(|(made, _)| made);
        }
    };
    let path = state.path(FILE).display().to_string();
    match state.read(FILE) {
        Ok(Some(bytes)) => match kept(&bytes, now) {
            Ok(kept) => {
                tracing::info!(path, "https listeners without a certificate use the self-signed one");
                return Ok(kept);
            }
            Err(why) => tracing::info!(path, why, "self-signed certificate is made anew"),
        },
        Ok(None) => {}
        Err(error) => tracing::warn!(path, %error, "cannot read the self-signed certificate"),
    }
    let (made, expires) = make(now)?;
    match state.write(FILE, file(&made, expires).as_bytes()) {
        Ok(()) => tracing::info!(path, "https listeners without a certificate use a new self-signed one"),
        Err(error) => {
            tracing::warn!(path, %error, "self-signed certificate is kept in memory only: the next start makes another");
        }
    }
    Ok(made)
}

fn make(now: u64) -> Result<(SelfSigned, u64), rcgen::Error> {
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    let host = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    let is_dns = |name: &String| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(&byte));
    names.extend(host.filter(|name| !name.is_empty() && name.len() < 64 && is_dns(name) && name != "localhost"));
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name.push(DnType::CommonName, "ExpressGateway self-signed");
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    // An hour back, for clients whose clock is behind.
    params.not_before = epoch + Duration::from_secs(now.saturating_sub(3600));
    params.not_after = epoch + Duration::from_secs(now + YEAR);
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    Ok((SelfSigned { cert_pem: certificate.pem(), key_pem: key.serialize_pem() }, now + YEAR))
}

/// One file, so that certificate and key are replaced together. Text before a PEM block is allowed (RFC 7468 section 2):
/// it holds the expiry, which saves an X.509 parser.
fn file(made: &SelfSigned, expires: u64) -> String {
    format!("expires {expires}\n{}{}", made.cert_pem, made.key_pem)
}

fn kept(bytes: &[u8], now: u64) -> Result<SelfSigned, &'static str> {
    let text = std::str::from_utf8(bytes).map_err(|_| "the kept one is not text")?;
    let (first, rest) = text.split_once('\n').ok_or("the kept one is damaged")?;
    let expires: u64 =
        first.strip_prefix("expires ").and_then(|at| at.parse().ok()).ok_or("the kept one is damaged")?;
    if expires < now + MARGIN {
        return Err("the kept one has expired or soon will");
    }
    let (cert, key) = rest.split_at(rest.find(KEY).ok_or("the kept one is damaged")?);
    let kept = SelfSigned { cert_pem: cert.to_owned(), key_pem: key.to_owned() };
    match eg_l7::tls::Identity::from_pem(cert.as_bytes(), key.as_bytes()) {
        Ok(_) => Ok(kept),
        Err(_) => Err("the kept one is damaged"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_certificate_is_used_until_a_month_before_it_expires() {
        let (made, expires) = make(1_800_000_000).unwrap();
        assert_eq!(expires, 1_800_000_000 + YEAR);
        let file = file(&made, expires);
        assert_eq!(kept(file.as_bytes(), 1_800_000_001), Ok(made));
        assert!(kept(file.as_bytes(), expires - MARGIN + 1).is_err());
    }

    #[test]
    fn a_damaged_file_is_not_used() {
        let (made, expires) = make(1_800_000_000).unwrap();
        let file = file(&made, expires);
        for wrong in
            ["", "expires x\n", "expires 99999999999\n", &file[..file.len() - 40], &file.replace("expires ", "")]
        {
            assert!(kept(wrong.as_bytes(), 0).is_err(), "{wrong}");
        }
    }
}
