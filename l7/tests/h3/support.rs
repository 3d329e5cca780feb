// SPDX-License-Identifier: GPL-3.0-only
//! A gateway with one worker on loopback, its backend, and the client that is told by JSON what to do.

use bytes::Bytes;
use eg_l7::observe::ListenerCounters;
use eg_l7::tls::{Identity, ServerTls};
use eg_l7::{
    Algorithm, Backend, Counters, Edge, Limits, Listener, LiveGauge, Options, Pool, Route, Routes, Scheme, Snapshot,
    Steering, Transport,
};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use serde_json::{Value, json};
use std::convert::Infallible;
use std::io::{BufRead, BufReader, Lines};
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;

/// What bodies consist of: any loss or reordering shows.
fn pattern(offset: usize, len: usize) -> Bytes {
    (offset..offset + len).map(|i| (i as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect()
}

pub(crate) fn sha256(len: usize) -> String {
    boring::sha::sha256(&pattern(0, len)).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Waits for something that must become true.
pub(crate) fn until(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !done() {
        assert!(Instant::now() < deadline, "not within 5 s: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub(crate) struct Gateway {
    pub(crate) address: SocketAddr,
    edge: Option<Edge>,
    counters: Arc<Counters>,
    sent: Arc<AtomicU64>,
    files: tempfile::TempDir,
}

impl Gateway {
    pub(crate) fn start() -> Gateway {
        Gateway::with(vec!["127.0.0.1:0".parse().unwrap()], None)
    }

    /// Its sockets get traffic for every address of the host, as under socket lookup.
    pub(crate) fn steered(addresses: &[&str]) -> Gateway {
        let free = std::net::UdpSocket::bind("[::]:0").unwrap().local_addr().unwrap().port();
        let addresses = addresses.iter().map(|ip| SocketAddr::new(ip.parse().unwrap(), free)).collect();
        Gateway::with(addresses, Some(Arc::new(NoSteering)))
    }

    fn with(addresses: Vec<SocketAddr>, steering: Option<Arc<dyn Steering>>) -> Gateway {
        let files = tempfile::tempdir().unwrap();
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let (cert, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        std::fs::write(files.path().join("ca.pem"), &cert).unwrap();
        let identity = Identity::from_pem(cert.as_bytes(), key.as_bytes()).unwrap();
        let tls = Arc::new(ServerTls::new(vec![identity], false).unwrap());
        let sent = Arc::new(AtomicU64::new(0));
        let backend = Arc::new(Backend { name: "one".into(), address: backend(Arc::clone(&sent)), weight: 1 });
        let pool = Arc::new(Pool::new("pool".into(), Algorithm::RoundRobin, vec![backend]));
        let listener = Arc::new(Listener {
            name: "web".into(),
            addresses,
            scheme: Scheme::Https { tls, http3: true },
            routes: Routes::new(vec![Route { path: "/".into(), pool }]),
        });
        let snapshot = Snapshot { generation: 1, listeners: vec![listener], limits: Limits::default() };
        let options = Options { workers: 1, ..eg_l7::Options::default() };
        let edge = Edge::start(Arc::new(snapshot), options, steering).unwrap();
        let found = edge.local_addresses().into_iter().find(|(_, _, transport)| *transport == Transport::Udp);
        let counters = Arc::clone(&edge.counters()[0]);
        let gateway = Gateway { address: found.unwrap().1, edge: Some(edge), counters, sent, files };
        until("the listener is served", || !gateway.counters.listeners().is_empty());
        gateway
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    pub(crate) fn listener(&self) -> Arc<ListenerCounters> {
        self.counters.listeners().remove(0)
    }

    /// HTTP/3 connections that are open.
    pub(crate) fn live(&self) -> u64 {
        self.listener().connections(Some(eg_l7::observe::Protocol::H3)).active.get()
    }

    /// Bytes of bodies that the backend has handed to its sockets.
    pub(crate) fn backend_sent(&self) -> u64 {
        self.sent.load(Relaxed)
    }

    /// A file that holds `len` bytes of the pattern.
    pub(crate) fn file(&self, len: usize) -> PathBuf {
        let path = self.files.path().join(len.to_string());
        std::fs::write(&path, pattern(0, len)).unwrap();
        path
    }

    /// Drains in a thread of its own; its result is how many connections were cut.
    pub(crate) fn drain(&mut self, time: Duration) -> JoinHandle<u64> {
        let edge = self.edge.take().unwrap();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(edge.drain(Instant::now() + time)).aborted_connections
        })
    }
}

/// Socket lookup that assigns nothing: a wildcard UDP socket gets its port's traffic anyway.
struct NoSteering;

impl Steering for NoSteering {
    fn publish(
        &self,
        _: &str,
        _: Transport,
        _: &[SocketAddr],
        _: usize,
        _: usize,
        _: BorrowedFd<'_>,
    ) -> std::io::Result<()> {
        Ok(())
    }

    fn withdraw(&self, _: &str, _: Transport, _: &[SocketAddr]) -> std::io::Result<()> {
        Ok(())
    }

    fn live(&self, _: usize) -> Arc<dyn LiveGauge> {
        Arc::new(NoSteering)
    }
}

impl LiveGauge for NoSteering {
    fn up(&self) {}

    fn down(&self) {}
}

/// An HTTP/1.1 server in a thread of its own.
fn backend(sent: Arc<AtomicU64>) -> SocketAddr {
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            tell.send(listener.local_addr().unwrap()).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                let sent = Arc::clone(&sent);
                tokio::spawn(async move {
                    let service = service_fn(move |request| answer(request, Arc::clone(&sent)));
                    let io = hyper_util::rt::TokioIo::new(stream);
                    // Clients that cancel make these fail.
                    let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
                });
            }
        });
    });
    told.recv().unwrap()
}

type Body = http_body_util::combinators::BoxBody<Bytes, hyper::Error>;

async fn answer(request: Request<Incoming>, sent: Arc<AtomicU64>) -> Result<Response<Body>, Infallible> {
    let path = request.uri().path().to_owned();
    if path == "/echo" {
        return Ok(Response::new(request.into_body().boxed()));
    }
    if path == "/deaf" {
        std::future::pending::<()>().await;
    }
    if path == "/slow" {
        let pieces = futures_util::stream::unfold(0, |i| async move {
            tokio::time::sleep(Duration::from_millis(125)).await;
            (i < 16).then(|| (Ok(Frame::data(pattern(i * 32768, 32768))), i + 1))
        });
        return Ok(Response::new(BodyExt::boxed(StreamBody::new(pieces))));
    }
    let Some(size) = path.strip_prefix("/size/").and_then(|size| size.parse::<usize>().ok()) else {
        let mut response = Response::new(http_body_util::Empty::new().map_err(|never| match never {}).boxed());
        *response.status_mut() = StatusCode::NOT_FOUND;
        return Ok(response);
    };
    let pieces = futures_util::stream::iter((0..size).step_by(32768).map(move |at| {
        let piece = pattern(at, 32768.min(size - at));
        sent.fetch_add(piece.len() as u64, Relaxed);
        Ok(Frame::data(piece))
    }));
    let mut response = Response::new(BodyExt::boxed(StreamBody::new(pieces)));
    response.headers_mut().insert("content-length", size.into());
    Ok(response)
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// Says so if the client is not there.
pub(crate) fn client_is_missing() -> bool {
    let missing = !root().join(".venv/bin/python").exists();
    if missing {
        let required = std::env::var("EG_REQUIRE").unwrap_or_default();
        assert!(
            !required.split(',').any(|name| name.trim() == "aioquic"),
            "EG_REQUIRE names aioquic, and .venv is missing"
        );
        println!("skipped, because the HTTP/3 client is not installed: run tools/bootstrap");
    }
    missing
}

/// A client at work.
pub(crate) struct Running {
    child: Child,
    lines: std::cell::RefCell<Lines<BufReader<ChildStdout>>>,
}

impl Running {
    pub(crate) fn start(gateway: &Gateway, mut order: Value) -> Running {
        if order["host"].is_null() {
            order["host"] = json!(gateway.address.ip().to_string());
        }
        order["port"] = json!(gateway.address.port());
        order["ca"] = json!(gateway.files.path().join("ca.pem"));
        let mut child = Command::new(root().join(".venv/bin/python"))
            .arg(root().join("userspace/tests/clients/h3_client.py"))
            .arg(order.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Running { child, lines: lines.into() }
    }

    /// The next event of that kind.
    pub(crate) fn wait_for(&self, event: &str) -> Value {
        let mut lines = self.lines.borrow_mut();
        loop {
            let line = lines.next().unwrap_or_else(|| panic!("the client ended without \"{event}\"")).unwrap();
            let value: Value = serde_json::from_str(&line).unwrap();
            if value["event"] == event {
                return value;
            }
        }
    }

    /// What the client says in the end, once it has closed its connection.
    pub(crate) fn report(mut self) -> Value {
        let report = self.wait_for("report");
        self.child.wait().unwrap();
        report
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a client to its end.
pub(crate) fn client(gateway: &Gateway, order: Value) -> Value {
    Running::start(gateway, order).report()
}
