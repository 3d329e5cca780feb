// SPDX-License-Identifier: GPL-3.0-only
//! The boring context of a listener's QUIC side, from the same PEM bytes as its rustls side.
//!
//! The driver builds one per worker. Which certificate a client sees is decided as on the TCP side: the first identity that
//! covers the server name, else the first. No file is read.

use super::{Identity, ServerTls};
use boring::error::ErrorStack;
use boring::pkey::{PKey, Private};
use boring::ssl::{ClientHello, NameType, SelectCertError, SslContextBuilder, SslMethod, SslRef, SslVersion};
use boring::x509::X509;

/// Key exchanges in the order of preference, as on the TCP side.
const GROUPS: &str = "X25519MLKEM768:X25519:P-256:P-384";

/// A certificate chain and key as boring holds them.
struct Pair {
    identity: Identity,
    leaf: X509,
    others: Vec<X509>,
    key: PKey<Private>,
}

impl Pair {
    fn new(identity: &Identity) -> Result<Pair, ErrorStack> {
        let mut chain = X509::stack_from_pem(identity.chain_pem())?.into_iter();
        let leaf = chain.next().ok_or_else(ErrorStack::get)?;
        let key = PKey::private_key_from_pem(identity.key_pem())?;
        Ok(Pair { identity: identity.clone(), leaf, others: chain.collect(), key })
    }

    fn present(&self, ssl: &mut SslRef) -> Result<(), ErrorStack> {
        ssl.set_certificate(&self.leaf)?;
        for other in &self.others {
            ssl.add_chain_cert(other)?;
        }
        ssl.set_private_key(&self.key)
    }
}

/// TLS 1.3 alone, as QUIC demands (RFC 9001 section 4.2).
pub(crate) fn context(tls: &ServerTls) -> Result<SslContextBuilder, ErrorStack> {
    let pairs = tls.identities().iter().map(Pair::new).collect::<Result<Vec<_>, _>>()?;
    let mut builder = SslContextBuilder::new(SslMethod::tls())?;
    builder.set_min_proto_version(Some(SslVersion::TLS1_3))?;
    builder.set_max_proto_version(Some(SslVersion::TLS1_3))?;
    builder.set_curves_list(GROUPS)?;
    builder.set_select_certificate_callback(move |mut hello: ClientHello<'_>| {
        let named = hello.servername(NameType::HOST_NAME);
        let named = named.and_then(|name| pairs.iter().find(|pair| pair.identity.covers(name)));
        let pair = named.or(pairs.first()).ok_or(SelectCertError::ERROR)?;
        pair.present(hello.ssl_mut()).map_err(|_| SelectCertError::ERROR)
    });
    Ok(builder)
}
