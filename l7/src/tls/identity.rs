// SPDX-License-Identifier: GPL-3.0-only
//! A certificate chain with its private key, from PEM bytes, checked when it is loaded: an identity that exists works.

use rustls::crypto::aws_lc_rs;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use std::fmt;
use std::sync::Arc;

/// A certificate chain and its key.
#[derive(Clone)]
pub struct Identity {
    key: Arc<CertifiedKey>,
    chain_pem: Arc<[u8]>,
    key_pem: Arc<[u8]>,
}

/// Why a certificate and key cannot be used.
#[derive(Debug)]
pub enum IdentityError {
    /// The PEM holds no certificate.
    NoCertificate,
    /// The certificate's PEM is malformed.
    Certificate(rustls_pki_types::pem::Error),
    /// The PEM holds no private key, or a malformed one.
    Key(rustls_pki_types::pem::Error),
    /// The key does not belong to the certificate, or is of a kind that is not supported.
    Rustls(rustls::Error),
}

impl fmt::Display for IdentityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            IdentityError::NoCertificate => "no certificate in the PEM file",
            IdentityError::Certificate(_) => "the certificate's PEM is malformed",
            IdentityError::Key(_) => "no usable private key in the PEM file",
            IdentityError::Rustls(_) => "the key does not fit the certificate, or is of an unsupported kind",
        })
    }
}

impl std::error::Error for IdentityError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            IdentityError::NoCertificate => None,
            IdentityError::Certificate(source) | IdentityError::Key(source) => Some(source),
            IdentityError::Rustls(source) => Some(source),
        }
    }
}

impl Identity {
    /// Parses the chain (leaf first) and the key (PKCS#8, PKCS#1 or SEC1) and checks that they belong together.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Identity, IdentityError> {
        let certificates =
            CertificateDer::pem_slice_iter(chain).collect::<Result<Vec<_>, _>>().map_err(IdentityError::Certificate)?;
        if certificates.is_empty() {
            return Err(IdentityError::NoCertificate);
        }
        let private = PrivateKeyDer::from_pem_slice(key).map_err(IdentityError::Key)?;
        let provider = aws_lc_rs::default_provider();
        let certified = CertifiedKey::from_der(certificates, private, &provider).map_err(IdentityError::Rustls)?;
        Ok(Identity { key: Arc::new(certified), chain_pem: chain.into(), key_pem: key.into() })
    }

    /// The chain as it was given.
    pub fn chain_pem(&self) -> &[u8] {
        &self.chain_pem
    }

    /// The key as it was given.
    pub fn key_pem(&self) -> &[u8] {
        &self.key_pem
    }

    pub(super) fn certified_key(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.key)
    }

    /// Whether the leaf is valid for that server name.
    pub(super) fn covers(&self, name: &str) -> bool {
        let Ok(name) = ServerName::try_from(name) else { return false };
        let Some(leaf) = self.key.cert.first() else { return false };
        rustls::server::ParsedCertificate::try_from(leaf)
            .is_ok_and(|leaf| rustls::client::verify_server_name(&leaf, &name).is_ok())
    }
}

/// The key never reaches a log.
impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("certificates", &self.key.cert.len()).finish_non_exhaustive()
    }
}
