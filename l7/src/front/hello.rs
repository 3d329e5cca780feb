// SPDX-License-Identifier: GPL-3.0-only
//! The beginning of a connection: the TLS handshake where the listener wants one, and which HTTP version comes.

use super::rewind::Rewind;
use super::{Client, h1, h2};
use crate::h1::wire::Wire;
use crate::io::Io;
use crate::observe::Protocol;
use crate::snapshot::Scheme;
use crate::worker::{Phase, Watch};
use bytes::BytesMut;
use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// RFC 9113 section 3.4. No HTTP/1 request begins like it.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Serves a connection to its end.
pub(super) async fn serve(mut client: Client, stream: TcpStream) {
    let view = client.binding.view();
    let Scheme::Https { tls, .. } = &view.listener.scheme else {
        drop(view);
        return clear(client, Io::Tcp(stream)).await;
    };
    let Some(stream) = handshake(&client, TlsAcceptor::from(tls.rustls()), stream).await else {
        view.counters.handshake_failures.add(1);
        return;
    };
    drop(view);
    client.secure = true;
    let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let io = Io::Tls(Box::new(stream));
    if h2 {
        client.live.speaks(Protocol::H2);
        h2::serve(client, io).await;
    } else {
        client.live.speaks(Protocol::H1);
        let watch = Watch::new(&client.worker);
        h1::serve(client, io, BytesMut::new(), watch).await;
    }
}

/// In the clear the first bytes tell: HTTP/2 with prior knowledge begins with its preface.
async fn clear(client: Client, io: Io) {
    let watch = Watch::new(&client.worker);
    watch.arm(client.binding.view().snapshot.limits.keep_alive);
    let mut wire = Wire::new(&client.worker, io, BytesMut::new());
    let known = poll_fn(|cx| {
        loop {
            let compared = wire.read.len().min(PREFACE.len());
            let same = wire.read.get(..compared) == PREFACE.get(..compared);
            if compared > 0 && (!same || compared == PREFACE.len()) {
                return Poll::Ready(true);
            }
            let begun = compared > 0;
            match wire.poll_fill(cx) {
                // A head has begun, whichever it will be.
                Poll::Ready(Ok(1..)) if !begun => watch.arm(client.binding.view().snapshot.limits.head),
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(false),
                Poll::Pending => {
                    let (late, phase) = (watch.expired(cx), client.worker.phase());
                    match begun {
                        true if phase == Phase::Aborting => return Poll::Ready(false),
                        // HTTP/1 can say so.
                        true if late => return Poll::Ready(true),
                        false if late || phase >= Phase::Draining => return Poll::Ready(false),
                        _ => return Poll::Pending,
                    }
                }
            }
        }
    });
    if !known.await {
        return;
    }
    let Wire { io, read, .. } = wire;
    if read.starts_with(PREFACE) {
        drop(watch);
        client.live.speaks(Protocol::H2);
        h2::serve(client, Rewind { first: read, io }).await;
    } else {
        client.live.speaks(Protocol::H1);
        h1::serve(client, io, read, watch).await;
    }
}

async fn handshake(client: &Client, acceptor: TlsAcceptor, stream: TcpStream) -> Option<TlsStream<TcpStream>> {
    let watch = Watch::new(&client.worker);
    watch.arm(client.binding.view().snapshot.limits.handshake);
    let mut accepting = pin!(acceptor.accept(stream));
    let accepted = poll_fn(|cx| match accepting.as_mut().poll(cx) {
        Poll::Ready(accepted) => Poll::Ready(accepted.ok()),
        Poll::Pending if watch.expired(cx) || client.worker.phase() == Phase::Aborting => Poll::Ready(None),
        Poll::Pending => Poll::Pending,
    });
    accepted.await
}
