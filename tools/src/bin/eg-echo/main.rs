// SPDX-License-Identifier: GPL-3.0-only
//! eg-echo: a backend for tests and the demo that speaks TCP, UDP, HTTP/1.1, HTTP/2 and HTTP/3, says who it is, and misbehaves
//! on request.
//!
//! Started by `make demo`, by the topology and black-box tests, and by hand. It promises to print one line with every bound
//! address once all of them accept, and to answer as `--help` says. It deliberately shares no code with the gateway: what is
//! tested must not vouch for itself. It is no production server: no limits, no drain, no access log.

mod ask;
mod exchange;
mod h1;
mod h2s;
mod h3;
mod pattern;
mod plain;
mod tls;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::rc::Rc;

use clap::Parser;
use socket2::{Domain, Protocol, Socket, Type};

const ABOUT: &str = "A backend that says who it is, over TCP, UDP, HTTP/1.1, HTTP/2 and HTTP/3";

const ASKING: &str = "\
TCP: the first line sent is `NAME PEER-ADDRESS`, then every byte comes back.
UDP: each datagram comes back after a line `NAME PEER-ADDRESS`.
HTTP: JSON with what arrived (method, path, fields, trailers, body_bytes, body_sha256) and a field x-backend: NAME.

A request asks for more in its query, on any path; N takes the suffixes k, m, g; T is like 200ms or 2s:
  status=N        this status instead of 200
  size=N          a body of N bytes: the big-endian 64-bit numbers 0, 1, 2, … (so that any loss or reordering shows)
  chunked         no content-length on that body
  chunk=N pace=T  in pieces of N bytes (16k), with pauses of T between them
  echo            the request's body streamed back as it arrives
  delay=T         a wait before the response
  inform=N        N interim responses 103 first
  header=NAME:VALUE   one more response field; may be repeated
  trailers        trailers x-echo-trailer, x-body-bytes, x-body-sha256 after the body
                  (over HTTP/1.1 only if the request says te: trailers)
  reset=N         after N bytes of body: TCP reset, RST_STREAM INTERNAL_ERROR, RESET_STREAM H3_INTERNAL_ERROR
  truncate=N      after N bytes of body: FIN in the middle of an HTTP/1.1 body; elsewhere as reset
  early           the response without waiting for the request's body, which stays unread
  read-pace=T     a pause of T after each piece of the request's body (slow reader)
  stall           the request's body is never read, and there is no response
  hang            the request's body is read, and there is no response";

#[derive(Parser, Clone)]
#[command(name = "eg-echo", about = ABOUT, after_help = ASKING, version)]
pub(crate) struct Arguments {
    /// Who this is, in every answer
    #[arg(long, default_value = "echo")]
    name: String,
    /// Address to listen on; may be repeated
    #[arg(long, default_value = "127.0.0.1", value_name = "IP")]
    bind: Vec<IpAddr>,
    /// TCP echo on this port (0: any free one; this holds for all ports)
    #[arg(long, value_name = "PORT")]
    tcp: Option<u16>,
    /// UDP echo on this port
    #[arg(long, value_name = "PORT")]
    udp: Option<u16>,
    /// HTTP/1.1 and cleartext HTTP/2 (prior knowledge) on this port
    #[arg(long, value_name = "PORT")]
    http: Option<u16>,
    /// HTTP/1.1 and HTTP/2 over TLS on this port
    #[arg(long, value_name = "PORT")]
    https: Option<u16>,
    /// HTTP/3 on this UDP port
    #[arg(long, value_name = "PORT")]
    h3: Option<u16>,
    /// Certificate chain (PEM); without it a self-signed one is made
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<std::path::PathBuf>,
    /// Its private key (PEM)
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<std::path::PathBuf>,
    /// Threads that accept (HTTP/3 and UDP have one each in any case)
    #[arg(long, default_value_t = 1)]
    threads: usize,
}

/// Sockets bound before any thread starts, so that a failure leaves nothing running.
#[derive(Default)]
struct Sockets {
    tcp: Vec<std::net::TcpListener>,
    http: Vec<std::net::TcpListener>,
    https: Vec<std::net::TcpListener>,
    udp: Vec<std::net::UdpSocket>,
    h3: Vec<std::net::UdpSocket>,
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("eg-echo: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> io::Result<()> {
    let identity = tls::Identity::load_or_make(arguments.cert.as_deref(), arguments.key.as_deref())?;
    let mut per_thread: Vec<Sockets> = (0..arguments.threads.max(1)).map(|_| Sockets::default()).collect();
    let mut bound = Vec::new();
    for ip in &arguments.bind {
        for (label, port) in [("tcp", arguments.tcp), ("http", arguments.http), ("https", arguments.https)] {
            let Some(mut port) = port else { continue };
            for sockets in &mut per_thread {
                let listener = listen(SocketAddr::new(*ip, port))?;
                // Port 0 was "any" for the first thread only: the others join it.
                port = listener.local_addr()?.port();
                match label {
                    "tcp" => sockets.tcp.push(listener),
                    "http" => sockets.http.push(listener),
                    _ => sockets.https.push(listener),
                }
            }
            bound.push(format!("{label}={}", SocketAddr::new(*ip, port)));
        }
        for (label, port) in [("udp", arguments.udp), ("h3", arguments.h3)] {
            let Some(port) = port else { continue };
            let socket = datagrams(SocketAddr::new(*ip, port))?;
            bound.push(format!("{label}={}", socket.local_addr()?));
            if label == "udp" { &mut per_thread[0].udp } else { &mut per_thread[0].h3 }.push(socket);
        }
    }
    if bound.is_empty() {
        return Err(io::Error::other("nothing to do: give at least one of --tcp, --udp, --http, --https, --h3"));
    }
    println!("eg-echo {} ready {}", arguments.name, bound.join(" "));

    let mut threads = Vec::new();
    for sockets in per_thread {
        let (name, identity) = (arguments.name.clone(), identity.clone());
        threads.push(std::thread::spawn(move || serve(&name, &identity, sockets)));
    }
    for thread in threads {
        thread.join().map_err(|_| io::Error::other("a thread panicked"))??;
    }
    Ok(())
}

/// One thread: everything it was given, on one current-thread runtime.
fn serve(name: &str, identity: &tls::Identity, sockets: Sockets) -> io::Result<()> {
    let name: Rc<str> = Rc::from(name);
    let acceptor = identity.acceptor()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        for listener in sockets.tcp {
            tokio::task::spawn_local(plain::tcp(Rc::clone(&name), tokio::net::TcpListener::from_std(listener)?));
        }
        for socket in sockets.udp {
            tokio::task::spawn_local(plain::udp(Rc::clone(&name), tokio::net::UdpSocket::from_std(socket)?));
        }
        for (listeners, acceptor) in [(sockets.http, None), (sockets.https, Some(acceptor))] {
            for listener in listeners {
                let listener = tokio::net::TcpListener::from_std(listener)?;
                tokio::task::spawn_local(h1::accept(Rc::clone(&name), listener, acceptor.clone()));
            }
        }
        for socket in sockets.h3 {
            let driver = h3::Driver::new(Rc::clone(&name), tokio::net::UdpSocket::from_std(socket)?, identity)?;
            tokio::task::spawn_local(driver.run());
        }
        std::future::pending::<io::Result<()>>().await
    })
}

fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    bind(&socket, address)?;
    socket.listen(4096)?;
    Ok(socket.into())
}

fn datagrams(address: SocketAddr) -> io::Result<std::net::UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
    // Bursts of a whole congestion window arrive while one packet is being worked on.
    socket.set_recv_buffer_size(4 << 20)?;
    socket.set_send_buffer_size(4 << 20)?;
    bind(&socket, address)?;
    Ok(socket.into())
}

fn bind(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    socket
        .bind(&address.into())
        .map_err(|error| io::Error::new(error.kind(), format!("cannot bind {address}: {error}")))
}
