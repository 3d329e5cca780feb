// SPDX-License-Identifier: GPL-3.0-only
//! The operator's HTTP server on `[observability].metrics_bind`: health, metrics, status, refused packets.
//!
//! Runs on the control thread beside signals and reloads, so it is bounded: few connections, one request each, a time
//! limit for all of it. It tells and never changes anything, but for one thing: `POST /capture` begins a capture, which ends
//! by itself.

mod capture;
mod drops;
mod peer;
mod status;
mod token;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;

use crate::datapath::CaptureAsk;
use crate::telemetry::Metrics;
use crate::vitals::{Phase, Vitals};

/// For the head of a request; a client that dawdles is cut.
const HEAD: Duration = Duration::from_secs(5);
/// For the whole connection: even the largest answer is a few megabytes.
const WHOLE: Duration = Duration::from_secs(30);

/// For a capture to begin: a reload may be under way, and then the programs' twins are loaded, a minute at most.
const BEGIN: Duration = Duration::from_secs(120);

/// An answer, or a capture as it grows.
type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The bound socket; nothing is answered before [`Admin::serve`].
pub struct Admin {
    listener: TcpListener,
}

impl Admin {
    /// # Errors
    /// The address cannot be bound.
    pub async fn bind(address: SocketAddr) -> io::Result<Admin> {
        Ok(Admin { listener: TcpListener::bind(address).await? })
    }

    /// # Errors
    /// The socket has no address.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers until the runtime ends, at most `connections` at a time: further ones wait in the kernel's backlog. A few
    /// scrapers and probes need one each, for milliseconds. `captures` is where control hears of wanted captures.
    pub async fn serve(
        self,
        vitals: Arc<Vitals>,
        metrics: Arc<Metrics>,
        captures: mpsc::Sender<CaptureAsk>,
        connections: usize,
    ) {
        let slots = Arc::new(Semaphore::new(connections));
        while let Ok(slot) = Arc::clone(&slots).acquire_owned().await {
            let (stream, peer) = match self.listener.accept().await {
                Ok(accepted) => accepted,
                // Out of descriptors: a scrape can wait, signals and reloads go on meanwhile.
                Err(_) => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let ends = stream.local_addr().ok().map(|local| (peer, local));
            let (vitals, metrics, captures) = (Arc::clone(&vitals), Arc::clone(&metrics), captures.clone());
            tokio::spawn(async move {
                let end = Arc::new(Mutex::new(Instant::now() + WHOLE));
                let later = Arc::clone(&end);
                let service = service_fn(move |request: Request<Incoming>| {
                    let (vitals, metrics, captures) = (Arc::clone(&vitals), Arc::clone(&metrics), captures.clone());
                    let later = Arc::clone(&later);
                    async move {
                        if request.uri().path() != "/capture" {
                            return Ok::<_, Infallible>(answer(&request, &vitals, &metrics).map(Full::boxed_unsync));
                        }
                        *later.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now() + BEGIN;
                        let (response, takes) = capture::capture(&request, ends, &vitals, &captures).await;
                        *later.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now() + takes + WHOLE;
                        Ok(response)
                    }
                });
                let connection = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEAD)
                    .keep_alive(false)
                    .serve_connection(TokioIo::new(stream), service);
                tokio::select! {
                    // Whether the client stayed for the answer changes nothing here.
                    _ = connection => {}
                    () = over(&end) => {}
                }
                drop(slot);
            });
        }
    }
}

/// Waits for an end that may be put off meanwhile.
async fn over(end: &Mutex<Instant>) {
    loop {
        let until = *end.lock().unwrap_or_else(PoisonError::into_inner);
        if until <= Instant::now() {
            return;
        }
        tokio::time::sleep_until(until).await;
    }
}

fn answer(request: &Request<Incoming>, vitals: &Vitals, metrics: &Metrics) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match request.uri().path() {
        "/livez" | "/healthz" => text(StatusCode::OK, "ok\n"),
        "/startupz" => match vitals.phase() {
            Phase::Starting => text(StatusCode::SERVICE_UNAVAILABLE, "starting\n"),
            Phase::Serving | Phase::Draining => text(StatusCode::OK, "ok\n"),
        },
        "/readyz" => match vitals.phase() {
            Phase::Serving => text(StatusCode::OK, "ok\n"),
            other => text(StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", other.word())),
        },
        path @ ("/metrics" | "/status" | "/drops") => {
            if let Err(refusal) = allowed(request, vitals) {
                return refusal;
            }
            match path {
                "/metrics" => metrics.encode().map_or_else(
                    |_| text(StatusCode::INTERNAL_SERVER_ERROR, "metrics cannot be written\n"),
                    |body| typed(StatusCode::OK, METRICS_TYPE, body),
                ),
                "/drops" => drops(request.uri().query(), vitals),
                _ => typed(StatusCode::OK, "application/json", format!("{:#}\n", status::status(vitals))),
            }
        }
        _ => text(StatusCode::NOT_FOUND, "livez healthz readyz startupz metrics status drops capture\n"),
    }
}

/// The refusal, for whoever lacks the token.
#[allow(clippy::result_large_err)]
fn allowed(request: &Request<Incoming>, vitals: &Vitals) -> Result<(), Response<Full<Bytes>>> {
    let presented = request.headers().get(AUTHORIZATION).map(HeaderValue::as_bytes);
    if token::allows(vitals.plan.load().admin.token_sha256.as_ref(), presented) {
        return Ok(());
    }
    vitals.admin_refused.fetch_add(1, Relaxed);
    let mut response = text(StatusCode::UNAUTHORIZED, "a bearer token is needed\n");
    response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    Err(response)
}

fn drops(query: Option<&str>, vitals: &Vitals) -> Response<Full<Bytes>> {
    match drops::after(query) {
        Some(after) => typed(StatusCode::OK, "application/json", format!("{}\n", drops::drops(vitals, after))),
        None => text(StatusCode::BAD_REQUEST, "expected nothing, or ?after=NUMBER\n"),
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    typed(status, "text/plain; charset=utf-8", body)
}

fn typed(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
