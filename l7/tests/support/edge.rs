// SPDX-License-Identifier: GPL-3.0-only
//! An edge on loopback with backends of raw bytes, for tests that want to see exactly what crosses.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]

use eg_l7::tls::{Identity, ServerTls};
use eg_l7::{Algorithm, Backend, Edge, Limits, Listener, Options, Pool, Route, Routes, Scheme, Snapshot, Transport};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// Long enough for a busy machine; a test that waits this long has failed.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// An edge with one listener.
pub fn edge(scheme: Scheme, backends: &[SocketAddr], limits: Limits) -> (Edge, SocketAddr) {
    let edge =
        Edge::start(snapshot(scheme, backends, limits), Options { workers: 1, ..eg_l7::Options::default() }, None)
            .unwrap();
    let address = edge.local_addresses().into_iter().find(|(_, _, t)| *t == Transport::Tcp).unwrap().1;
    (edge, address)
}

/// A snapshot with one listener, `web`, on a port of the kernel's choice.
pub fn snapshot(scheme: Scheme, backends: &[SocketAddr], limits: Limits) -> Arc<Snapshot> {
    let backend =
        |(i, &address): (usize, &SocketAddr)| Arc::new(Backend { name: format!("b{i}").into(), address, weight: 1 });
    let backends = backends.iter().enumerate().map(backend).collect();
    let pool = Arc::new(Pool::new("pool".into(), Algorithm::RoundRobin, backends));
    let listener = Arc::new(Listener {
        name: "web".into(),
        addresses: vec!["127.0.0.1:0".parse().unwrap()],
        scheme,
        routes: Routes::new(vec![Route { path: "/".into(), pool }]),
    });
    Arc::new(Snapshot { generation: 1, listeners: vec![listener], limits })
}

/// A self-signed certificate for `localhost`.
pub fn tls() -> (Scheme, Vec<u8>) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let (cert, key) = (made.cert.pem().into_bytes(), made.signing_key.serialize_pem().into_bytes());
    let tls = ServerTls::new(vec![Identity::from_pem(&cert, &key).unwrap()], false).unwrap();
    (Scheme::Https { tls: Arc::new(tls), http3: false }, made.cert.der().to_vec())
}

/// A listening socket whose connections are served by `serve`, each on a thread of its own.
pub fn backend(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serve = Arc::new(serve);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let serve = Arc::clone(&serve);
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            std::thread::spawn(move || serve(stream));
        }
    });
    address
}

/// A backend that answers every request head on a connection with `answer`, and tells what it read.
pub fn canned(answer: &'static [u8]) -> (SocketAddr, Receiver<String>) {
    let (told, heads) = channel();
    let address = backend(move |mut stream| {
        while let Some(head) = read_head(&mut stream) {
            // The test may have seen enough.
            let _ = told.send(head);
            if stream.write_all(answer).is_err() {
                return;
            }
        }
    });
    (address, heads)
}

/// Reads up to and with the empty line; `None` at the end.
pub fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        head.push(byte[0]);
    }
    Some(String::from_utf8(head).unwrap())
}

/// Reads exactly that much.
pub fn read_exact(stream: &mut TcpStream, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

/// Reads until the end; says whether it was a reset.
pub fn read_to_end(stream: &mut TcpStream) -> (Vec<u8>, bool) {
    let mut bytes = Vec::new();
    let reset = stream.read_to_end(&mut bytes).is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset);
    (bytes, reset)
}

/// A client's connection.
pub fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Sends a request and returns the whole answer of a connection that closes, without the line of the date.
pub fn ask(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = connect(address);
    stream.write_all(request).unwrap();
    let text = String::from_utf8_lossy(&read_to_end(&mut stream).0).into_owned();
    text.split_inclusive('\n').filter(|line| !line.starts_with("date: ")).collect()
}

/// Waits until `holds`.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "it never came true: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
