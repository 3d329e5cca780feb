// SPDX-License-Identifier: GPL-3.0-only
//! What we tell each client that it may do: the transport parameters, the HTTP/3 settings, and why those numbers.
//!
//! Made once per driver and snapshot. Connections keep what they began with.

use crate::snapshot::Limits;
use crate::tls::{self, ServerTls};
use quiche::{Config, h3};
use std::error::Error;

/// The largest UDP payload that we send. Fits Ethernet (1500) with room for IPv6 and one encapsulation of 40 octets; the
/// path is not probed for more.
const MAX_SEND: usize = 1350;

/// The control stream, two QPACK streams and a few of reserved types: RFC 9114 section 6.2 wants at least three.
const UNI_STREAMS: u64 = 8;

/// Of a unidirectional stream: SETTINGS, GOAWAY and priorities are small.
const UNI_WINDOW: u64 = 16 * 1024;

/// The transport's configuration of a listener.
pub(super) fn transport(tls: &ServerTls, limits: &Limits) -> Result<Config, Box<dyn Error + Send + Sync>> {
    let mut config = Config::with_boring_ssl_ctx_builder(super::packet::VERSION, tls::quic::context(tls)?)?;
    config.set_application_protos(h3::APPLICATION_PROTOCOL)?;
    config.set_max_idle_timeout(u64::try_from(limits.keep_alive.as_millis()).unwrap_or(u64::MAX));
    config.set_max_send_udp_payload_size(MAX_SEND);
    // The receive window of a stream is what a client may make us hold while a backend does not take it. The connection's
    // window is the sum of all streams', so that a stalled stream never starves another.
    let streams = u64::from(limits.streams);
    let window = u64::from(limits.stream_window);
    let sum = streams * window + UNI_STREAMS * UNI_WINDOW;
    config.set_initial_max_streams_bidi(streams);
    config.set_initial_max_streams_uni(UNI_STREAMS);
    config.set_initial_max_stream_data_bidi_remote(window);
    config.set_initial_max_stream_data_uni(UNI_WINDOW);
    config.set_initial_max_data(sum);
    // quiche would grow windows up to 16 and 24 MiB.
    config.set_max_stream_window(window);
    config.set_max_connection_window(sum);
    config.set_disable_active_migration(true);
    config.grease(false);
    Ok(config)
}

/// HTTP/3's settings.
pub(super) fn http(limits: &Limits) -> Result<h3::Config, h3::Error> {
    let mut config = h3::Config::new()?;
    // A head over our own limit gets 431; one over twice that ends the connection, since quiche decodes no further. RFC
    // 9114 section 4.2.2 counts 32 octets per field beside its text.
    let fields = u64::try_from(limits.head_fields).unwrap_or(u64::MAX).saturating_mul(64);
    let text = u64::try_from(limits.head_bytes).unwrap_or(u64::MAX).saturating_mul(2);
    config.set_max_field_section_size(text.saturating_add(fields));
    // No dynamic table: quiche has none.
    config.set_qpack_max_table_capacity(0);
    config.set_qpack_blocked_streams(0);
    Ok(config)
}
