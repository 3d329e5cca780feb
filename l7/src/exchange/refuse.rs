// SPDX-License-Identifier: GPL-3.0-only
//! Answers a request ourselves, with a status from the table in `error` and a body that says nothing more.

use super::Request;
use crate::date;
use crate::error::Refusal;
use crate::head::{Head, HeadError};
use crate::stream::{Abort, Front};
use crate::worker::{Phase, Watch};
use bytes::Bytes;
use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

/// Sends the refusal, until the watch's deadline, and counts it.
pub(super) async fn refuse(
    request: &Request,
    refusal: Refusal,
    front: &mut impl Front,
    watch: &Watch,
) -> Result<(), Abort> {
    let sent = {
        let mut sending = pin!(send(request.head.method() == b"HEAD", refusal, front));
        poll_fn(|cx| match sending.as_mut().poll(cx) {
            Poll::Pending if watch.expired(cx) => Poll::Ready(Err(Abort::Timeout)),
            Poll::Pending if watch.worker().phase() == Phase::Aborting => Poll::Ready(Err(Abort::Internal)),
            poll => poll,
        })
        .await
    };
    if let Err(why) = sent {
        front.abort(why);
    }
    request.view.counters.request(request.protocol, refusal.status());
    sent
}

async fn send(head_only: bool, refusal: Refusal, front: &mut impl Front) -> Result<(), Abort> {
    let head = head(refusal).map_err(|_| Abort::Internal)?;
    poll_fn(|cx| front.poll_respond(cx, &head, head_only)).await?;
    if !head_only {
        let mut body = Bytes::from_static(refusal.text().as_bytes());
        poll_fn(|cx| front.poll_send(cx, &mut body)).await?;
    }
    poll_fn(|cx| front.poll_finish(cx, None)).await
}

/// The head of a refusal, for those who have no request to answer (a head that could not be parsed).
pub(crate) fn head(refusal: Refusal) -> Result<Head, HeadError> {
    let mut head = Head::response(refusal.status())?;
    // RFC 9110 section 6.6.1: whoever originates a response and has a clock must say when.
    head.push(b"date", date::now().as_bytes())?;
    head.push(b"content-type", b"text/plain")?;
    head.push(b"content-length", refusal.text().len().to_string().as_bytes())?;
    if refusal == Refusal::Method {
        // RFC 9110 section 15.5.6: "The origin server MUST generate an Allow header field in a 405 response".
        head.push(b"allow", b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")?;
    }
    Ok(head)
}
