// SPDX-License-Identifier: GPL-3.0-only
//! HTTP/2, driven directly: resets with their codes, interim responses and trailers go out as the exchange says them.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;

use bytes::Bytes;
use h2::Reason;
use h2::server::SendResponse;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use crate::exchange::{self, IN_FLIGHT, Incoming, Out, Reply, Request};

pub(crate) async fn serve<S>(
    name: Rc<str>,
    stream: S,
    peer: SocketAddr,
    protocol: &'static str,
) -> Result<(), h2::Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut connection = h2::server::Builder::new()
        .initial_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
        .max_concurrent_streams(1000)
        .handshake::<_, Bytes>(stream)
        .await?;
    while let Some(accepted) = connection.accept().await {
        let (request, respond) = accepted?;
        let (head, body) = request.into_parts();
        let request = Request {
            backend: Rc::clone(&name),
            protocol,
            peer,
            method: head.method.to_string(),
            scheme: head.uri.scheme_str().unwrap_or_default().to_owned(),
            authority: head.uri.authority().map(ToString::to_string).unwrap_or_default(),
            path: head.uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
            fields: exchange::fields(&head.headers),
            body: if body.is_end_stream() { Incoming::Empty } else { Incoming::H2(body) },
        };
        let (channel, outs) = mpsc::channel(IN_FLIGHT);
        tokio::task::spawn_local(exchange::answer(request, Reply { channel, wake: None }));
        tokio::task::spawn_local(async move { drop(forward(outs, respond).await) });
    }
    Ok(())
}

/// Puts one answer on the wire; ends early when the client resets the stream, which closes the channel.
async fn forward(mut outs: mpsc::Receiver<Out>, mut respond: SendResponse<Bytes>) -> Result<(), h2::Error> {
    let mut stream = loop {
        let out = tokio::select! {
            out = outs.recv() => out,
            reset = poll_fn(|cx| respond.poll_reset(cx)) => return reset.map(drop),
        };
        match out {
            Some(Out::Inform(status, fields)) => {
                let mut interim = http::Response::new(());
                *interim.status_mut() = http::StatusCode::from_u16(status).unwrap_or_default();
                *interim.headers_mut() = exchange::map(&fields);
                respond.send_informational(interim)?;
            }
            Some(Out::Head { status, fields, end }) => {
                let mut response = http::Response::new(());
                *response.status_mut() = http::StatusCode::from_u16(status).unwrap_or_default();
                *response.headers_mut() = exchange::map(&fields);
                let stream = respond.send_response(response, end)?;
                if end {
                    return Ok(());
                }
                break stream;
            }
            _ => {
                respond.send_reset(Reason::INTERNAL_ERROR);
                return Ok(());
            }
        }
    };
    loop {
        let out = tokio::select! {
            out = outs.recv() => out,
            reset = poll_fn(|cx| stream.poll_reset(cx)) => return reset.map(drop),
        };
        match out {
            Some(Out::Data(mut data)) => {
                while !data.is_empty() {
                    stream.reserve_capacity(data.len());
                    let granted = match poll_fn(|cx| stream.poll_capacity(cx)).await {
                        Some(granted) => granted?,
                        None => return Ok(()),
                    };
                    stream.send_data(data.split_to(granted.min(data.len())), false)?;
                }
            }
            Some(Out::End(None)) => return stream.send_data(Bytes::new(), true),
            Some(Out::End(Some(trailers))) => return stream.send_trailers(exchange::map(&trailers)),
            _ => {
                // A reset drops what h2 still holds; the connection's task, woken by what was sent, writes it first.
                for _ in 0..4 {
                    tokio::task::yield_now().await;
                }
                stream.send_reset(Reason::INTERNAL_ERROR);
                return Ok(());
            }
        }
    }
}
