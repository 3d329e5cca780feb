// SPDX-License-Identifier: GPL-3.0-only
//! One HTTP/2 stream as the exchange sees it.

use super::Client;
use crate::exchange::Request;
use crate::head::{Head, HeadError};
use crate::observe::Protocol;
use crate::stream::{Abort, Frame, Front, Sink, Source};
use ::h2::server::SendResponse;
use ::h2::{RecvStream, SendStream};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use std::task::{Context, Poll, ready};

/// A stream.
pub(super) struct Stream {
    body: RecvStream,
    /// What the last frame took of the window: given back when the exchange asks for the next.
    taken: usize,
    ended: bool,
    respond: SendResponse<Bytes>,
    /// There once the final head is sent, if a body follows.
    send: Option<SendStream<Bytes>>,
}

impl Stream {
    /// Splits an accepted stream into the request's head and the rest.
    pub(super) fn new(
        client: &Client,
        request: http::Request<RecvStream>,
        respond: SendResponse<Bytes>,
    ) -> (Result<Request, HeadError>, Stream) {
        let (parts, body) = request.into_parts();
        let end = body.is_end_stream();
        let stream = Stream { body, taken: 0, ended: end, respond, send: None };
        let request = head(&parts).map(|head| Request {
            head,
            end,
            protocol: Protocol::H2,
            http10: false,
            peer: client.peer,
            local: client.local,
            secure: client.secure,
            view: client.binding.view(),
        });
        (request, stream)
    }

    fn release(&mut self) {
        // It fails only when the stream is gone, and its credit with it.
        let _ = self.body.flow_control().release_capacity(std::mem::take(&mut self.taken));
    }
}

impl Source for Stream {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Frame, Abort>> {
        self.release();
        while !self.ended {
            match ready!(self.body.poll_data(cx)) {
                // An empty DATA frame: h2 counts those against its budget.
                Some(Ok(data)) if data.is_empty() => {}
                Some(Ok(data)) => {
                    self.taken = data.len();
                    return Poll::Ready(Ok(Frame::Data(data)));
                }
                Some(Err(error)) => return Poll::Ready(Err(why(&error))),
                None => self.ended = true,
            }
        }
        match ready!(self.body.poll_trailers(cx)) {
            Ok(None) => Poll::Ready(Ok(Frame::End)),
            Ok(Some(fields)) => {
                let mut trailers = Head::trailers();
                Poll::Ready(
                    push(&mut trailers, &fields).map(|()| Frame::Trailers(trailers)).map_err(|_| Abort::Malformed),
                )
            }
            Err(error) => Poll::Ready(Err(why(&error))),
        }
    }
}

impl Sink for Stream {
    fn poll_send(&mut self, cx: &mut Context<'_>, data: &mut Bytes) -> Poll<Result<(), Abort>> {
        let Some(send) = &mut self.send else {
            // The message has no body (it answers HEAD, say): what comes nonetheless goes nowhere.
            data.clear();
            return Poll::Ready(Ok(()));
        };
        while !data.is_empty() {
            send.reserve_capacity(data.len());
            if send.capacity() == 0 {
                match ready!(send.poll_capacity(cx)) {
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => return Poll::Ready(Err(Abort::Cancelled)),
                }
            }
            let chunk = data.split_to(send.capacity().min(data.len()));
            if !chunk.is_empty() {
                send.send_data(chunk, false).map_err(|_| Abort::Cancelled)?;
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_finish(&mut self, _: &mut Context<'_>, trailers: Option<&Head>) -> Poll<Result<(), Abort>> {
        let Some(send) = &mut self.send else { return Poll::Ready(Ok(())) };
        let sent = match trailers {
            Some(trailers) => send.send_trailers(fields(trailers)),
            None => send.send_data(Bytes::new(), true),
        };
        Poll::Ready(sent.map_err(|_| Abort::Cancelled))
    }

    fn abort(&mut self, why: Abort) {
        match &mut self.send {
            Some(send) => send.send_reset(why.h2_reason()),
            None => self.respond.send_reset(why.h2_reason()),
        }
    }
}

impl Front for Stream {
    fn poll_inform(&mut self, _: &mut Context<'_>, head: &Head) -> Poll<Result<(), Abort>> {
        Poll::Ready(self.respond.send_informational(response(head)).map_err(|_| Abort::Cancelled))
    }

    fn poll_respond(&mut self, _: &mut Context<'_>, head: &Head, end: bool) -> Poll<Result<(), Abort>> {
        match self.respond.send_response(response(head), end) {
            Ok(send) => {
                self.send = Some(send).filter(|_| !end);
                Poll::Ready(Ok(()))
            }
            Err(_) => Poll::Ready(Err(Abort::Cancelled)),
        }
    }

    fn poll_cancelled(&mut self, cx: &mut Context<'_>) -> Poll<Abort> {
        let reset = match &mut self.send {
            Some(send) => send.poll_reset(cx),
            None => self.respond.poll_reset(cx),
        };
        reset.map(|_| Abort::Cancelled)
    }
}

fn head(parts: &http::request::Parts) -> Result<Head, HeadError> {
    let authority = parts.uri.authority().map_or("", |authority| authority.as_str());
    // CONNECT has no path; the exchange refuses it by its method.
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let mut head = Head::request(parts.method.as_str().as_bytes(), authority.as_bytes(), path.as_bytes())?;
    push(&mut head, &parts.headers)?;
    Ok(head)
}

fn push(head: &mut Head, fields: &HeaderMap) -> Result<(), HeadError> {
    fields.iter().try_for_each(|(name, value)| head.push(name.as_str().as_bytes(), value.as_bytes()))
}

fn response(head: &Head) -> http::Response<()> {
    let mut response = http::Response::new(());
    // A head's status is within 100..=599.
    *response.status_mut() = StatusCode::from_u16(head.status()).unwrap_or(StatusCode::BAD_GATEWAY);
    *response.headers_mut() = fields(head);
    response
}

/// A head holds only what a `HeaderMap` takes, up to its 24,576 names, which our limits never reach.
fn fields(head: &Head) -> HeaderMap {
    let mut map = HeaderMap::with_capacity(head.len());
    for (name, value) in head.fields() {
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
            map.append(name, value);
        }
    }
    map
}

/// Who ended it: the client, or we because it broke the rules.
fn why(error: &h2::Error) -> Abort {
    match error.reason() {
        Some(h2::Reason::PROTOCOL_ERROR) if error.is_library() => Abort::Malformed,
        _ => Abort::Cancelled,
    }
}
