// SPDX-License-Identifier: GPL-3.0-only
//! `POST /capture`: a pcapng file that grows for as long as the capture runs. `egctl capture` asks.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::poll_fn;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST, HeaderValue, ORIGIN};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use tokio::sync::{mpsc, oneshot};

use super::{Answer, allowed, peer, text};
use crate::datapath::{CaptureAsk, CaptureRefused, CaptureRequest, Captured};
use crate::vitals::Vitals;

/// The answer, and how long it takes to be said. `ends` are the connection's: the client's and ours.
pub(super) async fn capture(
    request: &Request<Incoming>,
    ends: Option<(SocketAddr, SocketAddr)>,
    vitals: &Vitals,
    captures: &mpsc::Sender<CaptureAsk>,
) -> (Answer, Duration) {
    let refuse = |response: Response<Full<Bytes>>| (response.map(Full::boxed_unsync), Duration::ZERO);
    let said = |status, why: String| refuse(text(status, format!("{why}\n")));
    if *request.method() != Method::POST {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only POST\n");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
        return refuse(response);
    }
    if let Err(response) = allowed(request, vitals) {
        return refuse(response);
    }
    let page = [ORIGIN.as_str(), "sec-fetch-site"].iter().any(|name| request.headers().contains_key(*name));
    if page || !is_asked_by_address(request.headers().get(HOST)) {
        return said(StatusCode::FORBIDDEN, "packets are for those who ask by address, and for no page".to_owned());
    }
    if vitals.plan.load().admin.token_sha256.is_none()
        && !ends.is_some_and(|(peer, local)| peer::is_trusted(peer, local))
    {
        let why = "without admin.api_token_hash, packets are for root and the gateway's own user on this host";
        return said(StatusCode::FORBIDDEN, why.to_owned());
    }
    let wanted = match CaptureRequest::from_query(request.uri().query().unwrap_or_default()) {
        Ok(wanted) => wanted,
        Err(why) => return said(StatusCode::BAD_REQUEST, why),
    };
    let takes = wanted.duration;
    let (answer, answered) = oneshot::channel();
    // Control is drained when it listens no more.
    let asked = captures.send(CaptureAsk { request: wanted, answer }).await.is_ok();
    match if asked { answered.await.ok() } else { None } {
        Some(Ok(captured)) => (streamed(captured), takes),
        Some(Err(refused)) => said(status(&refused), refused.to_string()),
        None => said(StatusCode::SERVICE_UNAVAILABLE, "the gateway stops".to_owned()),
    }
}

fn status(refused: &CaptureRefused) -> StatusCode {
    match refused {
        CaptureRefused::Off | CaptureRefused::NotAttached => StatusCode::SERVICE_UNAVAILABLE,
        CaptureRefused::Busy { .. } => StatusCode::CONFLICT,
        CaptureRefused::NoVip(_) => StatusCode::BAD_REQUEST,
        CaptureRefused::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// A page in a browser on this host can have its own name resolve to the loopback address, and then read what it asks
/// for: such a request names that name, `egctl` an address.
fn is_asked_by_address(host: Option<&HeaderValue>) -> bool {
    let Some(host) = host.and_then(|host| host.to_str().ok()) else { return false };
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host.parse::<SocketAddr>().is_ok() || bare.parse::<IpAddr>().is_ok()
}

fn streamed(mut captured: Captured) -> Answer {
    let frames = poll_fn(move |context| {
        captured.poll_recv(context).map(|chunk| chunk.map(|chunk| Ok::<_, Infallible>(Frame::data(chunk))))
    });
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-pcapng"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_must_be_an_address() {
        let by = |host: &str| is_asked_by_address(Some(&HeaderValue::from_str(host).unwrap()));
        assert!(by("127.0.0.1:9090") && by("[::1]:9090") && by("127.0.0.1") && by("[::1]"));
        assert!(!by("localhost:9090") && !by("evil.example") && !by("evil.example:9090") && !by(""));
        assert!(!is_asked_by_address(None));
    }
}
