// SPDX-License-Identifier: GPL-3.0-only
//! The backend that comes with the process: a page for a first `curl`, an echo for a first `POST`.
//!
//! An ordinary HTTP/1.1 server (hyper) on a loopback port of its own, on its own thread, so that an echoed gigabyte does
//! not delay signals or scrapes. A pool reaches it like any other backend; it knows nothing of who asks.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response};
use http_body_util::{Either, Full};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};

const PAGE: &str = "<!doctype html>\n<title>ExpressGateway</title>\n<h1>It works</h1>\n\
    <p>This page comes from the built-in welcome backend of ExpressGateway.\n\
    Send a body with any method and it comes back.\n\
    Put your own servers into <code>[[pools.welcome.backends]]</code>.</p>\n";

/// Binds and starts; returns where. The thread ends with the process.
///
/// # Errors
/// No loopback port, runtime or thread could be had.
pub fn start() -> io::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("eg-welcome".to_owned()).spawn(move || runtime.block_on(serve(listener)))?;
    Ok(address)
}

async fn serve(listener: TcpListener) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "the welcome backend cannot listen"),
    };
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // Small answers must not wait for an acknowledgement.
                let _ = stream.set_nodelay(true);
                tokio::spawn(async move {
                    // A client that goes away is its own business.
                    let _ = http1::Builder::new()
                        .timer(TokioTimer::new())
                        .serve_connection(TokioIo::new(stream), service_fn(answer))
                        .await;
                });
            }
            // Out of descriptors, most likely: not accepting for a moment is the only cure from here.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

type Answer = Response<Either<Incoming, Full<Bytes>>>;

async fn answer(request: Request<Incoming>) -> Result<Answer, Infallible> {
    let (head, body) = request.into_parts();
    let mut response = Response::new(Either::Right(Full::default()));
    let kind = if !body.is_end_stream() {
        *response.body_mut() = Either::Left(body);
        head.headers.get(CONTENT_TYPE).cloned().unwrap_or(HeaderValue::from_static("application/octet-stream"))
    } else if matches!(head.method, Method::GET | Method::HEAD) {
        *response.body_mut() = Either::Right(Full::new(Bytes::from_static(PAGE.as_bytes())));
        HeaderValue::from_static("text/html; charset=utf-8")
    } else {
        *response.body_mut() = Either::Right(Full::new(Bytes::from(format!("{} {}\n", head.method, head.uri))));
        HeaderValue::from_static("text/plain; charset=utf-8")
    };
    response.headers_mut().insert(CONTENT_TYPE, kind);
    Ok(response)
}
