// SPDX-License-Identifier: GPL-3.0-only
//! TLS for clients: which certificates a listener shows and which versions it speaks.
//!
//! [`ServerTls`] is built once per listener and snapshot, from PEM bytes that the control plane read. The TCP side uses
//! rustls; the QUIC side makes its own context from the same PEM bytes. Nothing here reads a file.

mod identity;
pub(crate) mod quic;

pub use identity::{Identity, IdentityError};

use rustls::crypto::aws_lc_rs;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::fmt;
use std::sync::Arc;

/// A listener's TLS.
pub struct ServerTls {
    rustls: Arc<rustls::ServerConfig>,
    identities: Arc<[Identity]>,
    tls13_only: bool,
}

impl ServerTls {
    /// TLS 1.2 and 1.3 (1.3 alone with `tls13_only`) with ALPN `h2` and `http/1.1`. The first identity is shown to clients
    /// that name no server, or one that no certificate covers; there must be at least one.
    pub fn new(identities: Vec<Identity>, tls13_only: bool) -> Result<ServerTls, IdentityError> {
        if identities.is_empty() {
            return Err(IdentityError::NoCertificate);
        }
        let identities: Arc<[Identity]> = identities.into();
        let versions: &[&rustls::SupportedProtocolVersion] = match tls13_only {
            true => &[&rustls::version::TLS13],
            false => &[&rustls::version::TLS13, &rustls::version::TLS12],
        };
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .map_err(IdentityError::Rustls)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(Resolver { identities: Arc::clone(&identities) }));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config.ticketer = aws_lc_rs::Ticketer::new().map_err(IdentityError::Rustls)?;
        // A resumed session saves the certificate; more than two tickets per handshake only cost bytes.
        config.send_tls13_tickets = 2;
        Ok(ServerTls { rustls: Arc::new(config), identities, tls13_only })
    }

    /// For the TCP side.
    pub(crate) fn rustls(&self) -> Arc<rustls::ServerConfig> {
        Arc::clone(&self.rustls)
    }

    /// The certificates with their keys, the default one first.
    pub fn identities(&self) -> &[Identity] {
        &self.identities
    }

    /// Whether TLS 1.2 is refused.
    pub fn tls13_only(&self) -> bool {
        self.tls13_only
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls").field("identities", &self.identities).field("tls13_only", &self.tls13_only).finish()
    }
}

#[derive(Debug)]
struct Resolver {
    identities: Arc<[Identity]>,
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let named = hello.server_name().and_then(|name| self.identities.iter().find(|identity| identity.covers(name)));
        named.or_else(|| self.identities.first()).map(Identity::certified_key)
    }
}
