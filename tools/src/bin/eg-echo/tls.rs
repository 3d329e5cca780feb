// SPDX-License-Identifier: GPL-3.0-only
//! One certificate for both stacks: rustls under HTTP/1.1 and HTTP/2, BoringSSL under HTTP/3.

use std::io;
use std::path::Path;
use std::sync::Arc;

use boring::pkey::PKey;
use boring::ssl::{SslContextBuilder, SslMethod};
use boring::x509::X509;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

#[derive(Clone)]
pub(crate) struct Identity {
    chain: String,
    key: String,
}

impl Identity {
    pub(crate) fn load_or_make(cert: Option<&Path>, key: Option<&Path>) -> io::Result<Self> {
        if let (Some(cert), Some(key)) = (cert, key) {
            return Ok(Self { chain: read(cert)?, key: read(key)? });
        }
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned(), "eg-echo.test".to_owned()])
            .map_err(io::Error::other)?;
        Ok(Self { chain: made.cert.pem(), key: made.signing_key.serialize_pem() })
    }

    /// For TLS over TCP; offers h2 and http/1.1.
    pub(crate) fn acceptor(&self) -> io::Result<TlsAcceptor> {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(self.chain.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|error| io::Error::other(format!("certificate: {error}")))?;
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes())
            .map_err(|error| io::Error::other(format!("private key: {error}")))?;
        let mut config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(|error| io::Error::other(format!("certificate and key: {error}")))?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }

    /// For QUIC; the caller sets transport parameters and ALPN.
    pub(crate) fn quic(&self) -> io::Result<quiche::Config> {
        let mut context = SslContextBuilder::new(SslMethod::tls())?;
        let mut chain = X509::stack_from_pem(self.chain.as_bytes())?.into_iter();
        let leaf = chain.next().ok_or_else(|| io::Error::other("certificate: no PEM block"))?;
        context.set_certificate(&leaf)?;
        for intermediate in chain {
            context.add_extra_chain_cert(intermediate)?;
        }
        context.set_private_key(&*PKey::private_key_from_pem(self.key.as_bytes())?)?;
        quiche::Config::with_boring_ssl_ctx_builder(quiche::PROTOCOL_VERSION, context).map_err(io::Error::other)
    }
}

fn read(path: &Path) -> io::Result<String> {
    std::fs::read_to_string(path)
        .map_err(|error| io::Error::new(error.kind(), format!("cannot read {}: {error}", path.display())))
}
