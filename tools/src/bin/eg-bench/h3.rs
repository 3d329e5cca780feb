// SPDX-License-Identifier: GPL-3.0-only
//! An HTTP/3 load generator: some connections, some requests in flight on each, GET of one URL, bounded in time. The tools
//! that Debian packages have none. Single-threaded; prints "totals REQUESTS BYTES ERRORS MICROSECONDS" as report.lua does.
//! Accepts any certificate: it only ever talks to the bench's own proxies on loopback.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use quiche::h3::{self, Event, Header, NameValue};

use crate::Result;

/// Largest UDP payload in either direction: what fits the loopback's 1500-byte neighbours on a real network.
const DATAGRAM: usize = 1350;

pub(crate) struct Plan {
    pub(crate) server: SocketAddr,
    pub(crate) path: String,
    pub(crate) connections: usize,
    pub(crate) streams: usize,
    pub(crate) time: Duration,
}

#[derive(Default)]
struct Totals {
    requests: u64,
    bytes: u64,
    errors: u64,
}

pub(crate) fn run(plan: &Plan) -> Result<()> {
    let mut config = config()?;
    let mut clients = (0..plan.connections).map(|id| Client::new(plan, &mut config, id)).collect::<Result<Vec<_>>>()?;
    let mut totals = Totals::default();
    let mut buffer = vec![0u8; 65536];
    let start = Instant::now();
    let end = start + plan.time;
    while Instant::now() < end {
        for client in &mut clients {
            client.step(plan, &mut totals, &mut buffer)?;
        }
        wait(&clients, end)?;
    }
    let elapsed = start.elapsed().as_micros();
    for client in &mut clients {
        totals.errors += u64::from(client.connection.is_closed());
        // The server learns that we are gone; whether the datagram arrives is its own timer's affair.
        client.connection.close(true, 0x100, b"").ok();
        client.flush(&mut buffer)?;
    }
    println!("totals {} {} {} {elapsed}", totals.requests, totals.bytes, totals.errors);
    Ok(())
}

fn config() -> Result<quiche::Config> {
    let mut config = quiche::Config::new(quiche::PROTOCOL_VERSION)?;
    config.set_application_protos(h3::APPLICATION_PROTOCOL)?;
    config.verify_peer(false);
    config.set_max_idle_timeout(10_000);
    config.set_max_recv_udp_payload_size(DATAGRAM);
    config.set_max_send_udp_payload_size(DATAGRAM);
    config.set_initial_max_data(16 << 20);
    config.set_initial_max_stream_data_bidi_local(1 << 20);
    config.set_initial_max_stream_data_uni(1 << 20);
    config.set_initial_max_streams_uni(8);
    Ok(config)
}

/// Until a datagram arrives, a timer is due, or the time is over.
fn wait(clients: &[Client], end: Instant) -> Result<()> {
    let left = end.saturating_duration_since(Instant::now());
    let timer = clients.iter().filter_map(|c| c.connection.timeout()).min().unwrap_or(left).min(left);
    let mut fds: Vec<PollFd<'_>> = clients.iter().map(|c| PollFd::new(c.socket.as_fd(), PollFlags::POLLIN)).collect();
    // Rounded up: a timer that is due in less than a millisecond must not become a busy loop.
    poll(&mut fds, PollTimeout::try_from(timer.as_millis() + 1)?)?;
    Ok(())
}

struct Client {
    socket: UdpSocket,
    local: SocketAddr,
    connection: quiche::Connection,
    http: Option<h3::Connection>,
    in_flight: usize,
}

impl Client {
    fn new(plan: &Plan, config: &mut quiche::Config, id: usize) -> Result<Client> {
        let socket = UdpSocket::bind(if plan.server.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" })?;
        socket.connect(plan.server)?;
        socket.set_nonblocking(true)?;
        let local = socket.local_addr()?;
        let mut scid = [0u8; 16];
        scid[..8].copy_from_slice(&(id as u64).to_be_bytes());
        scid[8..12].copy_from_slice(&std::process::id().to_be_bytes());
        let scid = quiche::ConnectionId::from_ref(&scid);
        let connection = quiche::connect(Some("localhost"), &scid, local, plan.server, config)?;
        Ok(Client { socket, local, connection, http: None, in_flight: 0 })
    }

    fn step(&mut self, plan: &Plan, totals: &mut Totals, buffer: &mut [u8]) -> Result<()> {
        if self.connection.timeout().is_some_and(|t| t.is_zero()) {
            self.connection.on_timeout();
        }
        loop {
            match self.socket.recv(buffer) {
                Ok(n) => {
                    let info = quiche::RecvInfo { from: plan.server, to: self.local };
                    // A datagram that is refused is the peer's fault and shows as a closed connection at the end.
                    self.connection.recv(&mut buffer[..n], info).ok();
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) => return Err(format!("{}: {e}", plan.server).into()),
            }
        }
        if self.connection.is_established() {
            if self.http.is_none() {
                self.http = Some(h3::Connection::with_transport(&mut self.connection, &h3::Config::new()?)?);
            }
            self.receive(totals, buffer);
            self.request(plan);
        }
        self.flush(buffer)
    }

    fn request(&mut self, plan: &Plan) {
        let Some(http) = &mut self.http else { return };
        let headers = [
            Header::new(b":method", b"GET"),
            Header::new(b":scheme", b"https"),
            Header::new(b":authority", b"localhost"),
            Header::new(b":path", plan.path.as_bytes()),
            Header::new(b"user-agent", b"eg-bench"),
        ];
        // Refused while the server grants no more streams: tried again when it does.
        while self.in_flight < plan.streams && http.send_request(&mut self.connection, &headers, true).is_ok() {
            self.in_flight += 1;
        }
    }

    fn receive(&mut self, totals: &mut Totals, buffer: &mut [u8]) {
        let Some(http) = &mut self.http else { return };
        while let Ok((stream, event)) = http.poll(&mut self.connection) {
            match event {
                Event::Headers { list, .. } => {
                    let good = list.iter().any(|h| h.name() == b":status" && h.value() == b"200");
                    totals.errors += u64::from(!good);
                }
                Event::Data => {
                    while let Ok(n) = http.recv_body(&mut self.connection, stream, buffer) {
                        totals.bytes += n as u64;
                    }
                }
                Event::Finished => {
                    totals.requests += 1;
                    self.in_flight -= 1;
                }
                Event::Reset(_) => {
                    totals.errors += 1;
                    self.in_flight -= 1;
                }
                Event::GoAway => totals.errors += 1,
                Event::PriorityUpdate => {}
            }
        }
    }

    fn flush(&mut self, buffer: &mut [u8]) -> Result<()> {
        while let Ok((n, _)) = self.connection.send(&mut buffer[..DATAGRAM]) {
            match self.socket.send(&buffer[..n]) {
                Ok(_) => {}
                // A full socket buffer is a lost datagram: QUIC sends it again.
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) => return Err(format!("{e}").into()),
            }
        }
        Ok(())
    }
}
