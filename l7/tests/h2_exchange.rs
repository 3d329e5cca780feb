// SPDX-License-Identifier: GPL-3.0-only
//! HTTP/2 through an edge to an HTTP/1 backend, with the `h2` crate as the client, in the clear and over TLS.

#[path = "support/edge.rs"]
mod support;

use bytes::Bytes;
use eg_l7::observe::Protocol;
use eg_l7::{Limits, Scheme};
use h2::client::{Connection, SendRequest};
use http::{HeaderMap, Request, StatusCode};
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};
use support::*;
use tokio::io::{AsyncRead, AsyncWrite};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(PATIENCE, test).await.expect("it takes too long") })
}

async fn client(address: SocketAddr) -> SendRequest<Bytes> {
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let (send, connection) = h2::client::handshake(stream).await.unwrap();
    drive(connection);
    send
}

fn drive<T: AsyncRead + AsyncWrite + Unpin + Send + 'static>(connection: Connection<T>) {
    tokio::spawn(async move {
        // Its end is what the tests look at through their streams.
        let _ = connection.await;
    });
}

fn get(path: &str) -> Request<()> {
    Request::get(format!("http://a.example{path}")).body(()).unwrap()
}

async fn read(body: &mut h2::RecvStream) -> Result<Vec<u8>, h2::Error> {
    let mut all = Vec::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        all.extend_from_slice(&data);
    }
    Ok(all)
}

#[test]
fn a_request_crosses_and_cookie_crumbs_are_joined() {
    let (backend, heads) = canned(OK);
    let (edge, address) = edge(Scheme::Http, &[backend], Limits::default());
    run(async {
        let mut client = client(address).await;
        let request = Request::get("http://a.example/x?y").header("cookie", "a=1").header("cookie", "b=2");
        let request = request.header("te", "trailers").header("x-mine", "1").body(()).unwrap();
        let response = client.send_request(request, true).unwrap().0.await.unwrap();
        assert_eq!(
            (response.status(), &response.headers()["via"]),
            (StatusCode::OK, &"1.1 expressgateway".parse().unwrap())
        );
        assert_eq!(read(&mut response.into_body()).await.unwrap(), b"ok");
    });
    assert_eq!(
        heads.recv_timeout(PATIENCE).unwrap(),
        "GET /x?y HTTP/1.1\r\nhost: a.example\r\nx-mine: 1\r\ncookie: a=1; b=2\r\nx-forwarded-for: 127.0.0.1\r\n\
         x-forwarded-proto: http\r\nx-forwarded-host: a.example\r\nvia: 2 expressgateway\r\n\r\n"
    );
    assert_eq!(edge.counters()[0].listeners()[0].requests().collect::<Vec<_>>(), [(Protocol::H2, 200, 1)]);
}

#[test]
fn bodies_and_trailers_stream_both_ways() {
    const SIZE: usize = 4 << 20;
    let backend = backend(|mut stream| {
        let head = read_head(&mut stream).unwrap();
        assert!(head.contains("transfer-encoding: chunked\r\n"), "{head}");
        let mut seen = Vec::new();
        while !seen.ends_with(b"x-up: 1\r\n\r\n") {
            let mut bytes = [0; 65536];
            let n = stream.read(&mut bytes).unwrap();
            assert!(n > 0);
            seen.extend_from_slice(&bytes[..n]);
        }
        assert_eq!(seen.iter().filter(|&&b| b == b'u').count(), SIZE + 1);
        stream
            .write_all(format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{SIZE:x}\r\n").as_bytes())
            .unwrap();
        stream.write_all(&vec![b'd'; SIZE]).unwrap();
        stream.write_all(b"\r\n0\r\nx-down: 2\r\n\r\n").unwrap();
    });
    let (_edge, address) = edge(Scheme::Http, &[backend], Limits::default());
    run(async {
        let mut client = client(address).await;
        let request = Request::post("http://a.example/").body(()).unwrap();
        let (response, mut send) = client.send_request(request, false).unwrap();
        let mut data = Bytes::from(vec![b'u'; SIZE]);
        while !data.is_empty() {
            send.reserve_capacity(data.len());
            let n = std::future::poll_fn(|cx| send.poll_capacity(cx)).await.unwrap().unwrap();
            send.send_data(data.split_to(n.min(data.len())), false).unwrap();
        }
        send.send_trailers(HeaderMap::from_iter([("x-up".parse().unwrap(), "1".parse().unwrap())])).unwrap();
        let mut body = response.await.unwrap().into_body();
        assert_eq!(read(&mut body).await.unwrap(), vec![b'd'; SIZE]);
        assert_eq!(body.trailers().await.unwrap().unwrap()["x-down"], "2");
    });
}

#[test]
fn over_tls_alpn_chooses_and_http_11_works_beside() {
    let (backend, heads) = canned(OK);
    let (scheme, certificate) = tls();
    let (_edge, address) = edge(scheme, &[backend], Limits::default());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate.into()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(roots).with_no_client_auth();
    run(async {
        for alpn in [&b"h2"[..], b"http/1.1"] {
            let mut config = config.clone();
            config.alpn_protocols = vec![alpn.to_vec()];
            let stream = tokio::net::TcpStream::connect(address).await.unwrap();
            let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
            let mut stream = connector.connect("localhost".try_into().unwrap(), stream).await.unwrap();
            assert_eq!(stream.get_ref().1.alpn_protocol(), Some(alpn));
            if alpn == b"h2" {
                let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
                drive(connection);
                let response = client.send_request(get("/"), true).unwrap().0.await.unwrap();
                assert_eq!(read(&mut response.into_body()).await.unwrap(), b"ok");
            } else {
                use tokio::io::{AsyncReadExt, AsyncWriteExt};
                stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
                let mut answer = String::new();
                stream.read_to_string(&mut answer).await.unwrap();
                assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nok"), "{answer}");
            }
            assert!(heads.recv_timeout(PATIENCE).unwrap().contains("x-forwarded-proto: https\r\n"));
        }
    });
}

#[test]
fn a_cancelled_stream_closes_the_backends_connection() {
    let (told, events) = channel();
    let backend = backend(move |mut stream| {
        read_head(&mut stream).unwrap();
        told.send("asked").unwrap();
        assert!(!matches!(stream.read(&mut [0]), Ok(1..)));
        told.send("closed").unwrap();
    });
    let (edge, address) = edge(Scheme::Http, &[backend], Limits::default());
    run(async {
        let mut client = client(address).await;
        let (response, mut send) = client.send_request(get("/"), true).unwrap();
        let asked = tokio::task::spawn_blocking(move || {
            assert_eq!(events.recv_timeout(PATIENCE), Ok("asked"));
            events
        });
        let events = asked.await.unwrap();
        send.send_reset(h2::Reason::CANCEL);
        drop(response);
        let closed = tokio::task::spawn_blocking(move || events.recv_timeout(PATIENCE));
        assert_eq!(closed.await.unwrap(), Ok("closed"));
    });
    eventually("the cancelled request is counted", || edge.counters()[0].listeners()[0].cancelled_requests.get() == 1);
}

#[test]
fn a_truncated_response_is_reset_with_internal_error() {
    let backend = backend(|mut stream| {
        read_head(&mut stream).unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc").unwrap();
    });
    let (_edge, address) = edge(Scheme::Http, &[backend], Limits::default());
    run(async {
        let mut client = client(address).await;
        // Head and reset may arrive together, and then this client tells of the reset alone.
        let error = match client.send_request(get("/"), true).unwrap().0.await {
            Ok(response) => read(&mut response.into_body()).await.unwrap_err(),
            Err(error) => error,
        };
        assert_eq!(error.reason(), Some(h2::Reason::INTERNAL_ERROR));
    });
}

#[test]
fn an_early_answer_is_complete_and_the_rest_is_reset_with_no_error() {
    let (backend, _heads) = canned(b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 2\r\n\r\nno");
    let (_edge, address) = edge(Scheme::Http, &[backend], Limits::default());
    run(async {
        let mut client = client(address).await;
        let request = Request::post("http://a.example/").header("content-length", "1000000").body(()).unwrap();
        let (response, mut send) = client.send_request(request, false).unwrap();
        send.send_data(Bytes::from_static(b"first"), false).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(read(&mut response.into_body()).await.unwrap(), b"no");
        let reason = std::future::poll_fn(|cx| send.poll_reset(cx)).await.unwrap();
        assert_eq!(reason, h2::Reason::NO_ERROR);
    });
}

#[test]
fn what_we_do_not_serve_is_refused_by_status() {
    let (backend, _heads) = canned(OK);
    let (_edge, address) = edge(Scheme::Http, &[backend], Limits { head_fields: 20, ..Limits::default() });
    run(async {
        let client = client(address).await;
        let mut many = get("/");
        for i in 0..30 {
            many.headers_mut().append("x", i.into());
        }
        let host = Request::get("http://a.example/").header("host", "b.example").body(()).unwrap();
        let expect = Request::get("http://a.example/").header("expect", "wonders").body(()).unwrap();
        for (request, status) in [
            (Request::connect("a.example:443").body(()).unwrap(), 405),
            (Request::trace("http://a.example/").body(()).unwrap(), 405),
            (many, 431),
            (host, 400),
            (expect, 417),
        ] {
            let response = client.clone().ready().await.unwrap().send_request(request, true).unwrap().0.await.unwrap();
            assert_eq!(response.status().as_u16(), status);
        }
    });
}

#[test]
fn draining_says_goaway_and_lets_streams_finish() {
    let (told, asked) = channel();
    let backend = backend(move |mut stream| {
        read_head(&mut stream).unwrap();
        told.send(()).unwrap();
        std::thread::sleep(Duration::from_millis(300));
        stream.write_all(OK).unwrap();
    });
    let (edge, address) = edge(Scheme::Http, &[backend], Limits::default());
    run(async {
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
        let ended = tokio::spawn(connection);
        let response = client.send_request(get("/"), true).unwrap().0;
        tokio::task::spawn_blocking(move || asked.recv_timeout(PATIENCE).unwrap()).await.unwrap();
        let draining = tokio::spawn(edge.drain(Instant::now() + PATIENCE));
        let response = response.await.unwrap();
        assert_eq!(read(&mut response.into_body()).await.unwrap(), b"ok");
        assert_eq!(draining.await.unwrap().aborted_connections, 0);
        assert!(ended.await.unwrap().is_ok(), "the connection ended in order");
        assert!(client.ready().await.is_err(), "it takes no more requests");
    });
}
