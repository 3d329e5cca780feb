// SPDX-License-Identifier: GPL-3.0-only
//! HTTP/3 by quiche: one driver task owns the socket and all connections, and moves pieces between their streams and the
//! answers' channels. Plain on purpose: one packet a system call, every connection visited on each turn.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use quiche::h3::{self, NameValue};
use quiche::{ConnectionId, RecvInfo, Shutdown};
use tokio::net::UdpSocket;
use tokio::sync::{Notify, mpsc};

use crate::exchange::{self, Fields, IN_FLIGHT, Incoming, Out, Piece, Reply, Request};
use crate::tls::Identity;

/// RFC 9114 section 8.1.
const H3_NO_ERROR: u64 = 0x100;
const H3_INTERNAL_ERROR: u64 = 0x102;

const CID_LENGTH: usize = 16;

pub(crate) struct Driver {
    name: Rc<str>,
    socket: UdpSocket,
    local: SocketAddr,
    quic: quiche::Config,
    http: h3::Config,
    connections: HashMap<u64, Connection>,
    /// Which connection a packet's destination CID names: ours, and the client's first choice.
    by_cid: HashMap<Vec<u8>, u64>,
    next: u64,
    /// Rung by an answer that sent something or took something.
    bell: Rc<Notify>,
}

struct Connection {
    quic: quiche::Connection,
    http: Option<h3::Connection>,
    streams: HashMap<u64, Stream>,
    peer: SocketAddr,
}

struct Stream {
    /// To the answer; None once the request has ended.
    body: Option<mpsc::Sender<Piece>>,
    readable: bool,
    finished: bool,
    /// From the answer; None once the response has ended.
    outs: Option<mpsc::Receiver<Out>>,
    /// What did not fit.
    pending: Option<Out>,
    /// An interim response was sent, so the final one is no longer the first HEADERS.
    informed: bool,
}

impl Driver {
    pub(crate) fn new(name: Rc<str>, socket: UdpSocket, identity: &Identity) -> io::Result<Self> {
        let mut quic = identity.quic()?;
        quic.set_application_protos(h3::APPLICATION_PROTOCOL).map_err(io::Error::other)?;
        quic.set_max_idle_timeout(30_000);
        quic.set_max_recv_udp_payload_size(1500);
        quic.set_max_send_udp_payload_size(1350);
        quic.set_initial_max_data(4 << 20);
        quic.set_initial_max_stream_data_bidi_local(1 << 20);
        quic.set_initial_max_stream_data_bidi_remote(1 << 20);
        quic.set_initial_max_stream_data_uni(64 << 10);
        quic.set_initial_max_streams_bidi(1000);
        quic.set_initial_max_streams_uni(8);
        let http = h3::Config::new().map_err(io::Error::other)?;
        Ok(Self {
            name,
            local: socket.local_addr()?,
            socket,
            quic,
            http,
            connections: HashMap::new(),
            by_cid: HashMap::new(),
            next: 0,
            bell: Rc::new(Notify::new()),
        })
    }

    pub(crate) async fn run(mut self) {
        let mut buffer = vec![0; 65_535];
        loop {
            let timeout = self.connections.values().filter_map(|connection| connection.quic.timeout()).min();
            tokio::select! {
                ready = self.socket.readable() => if ready.is_ok() { self.receive(&mut buffer) },
                () = self.bell.notified() => {}
                () = tokio::time::sleep(timeout.unwrap_or(Duration::from_secs(3600))) => {
                    self.connections.values_mut().for_each(|connection| connection.quic.on_timeout());
                }
            }
            for connection in self.connections.values_mut() {
                connection.step(&self.name, &self.http, &self.bell);
                connection.transmit(&self.socket, &mut buffer).await;
            }
            self.connections.retain(|_, connection| !connection.quic.is_closed());
            self.by_cid.retain(|_, id| self.connections.contains_key(id));
        }
    }

    /// Takes what has arrived, a bounded burst at a time so that answers get their turn.
    fn receive(&mut self, buffer: &mut [u8]) {
        for _ in 0..64 {
            let Ok((length, from)) = self.socket.try_recv_from(buffer) else { return };
            let packet = &mut buffer[..length];
            let Some(id) = self.connection_of(packet, from) else { continue };
            let Some(connection) = self.connections.get_mut(&id) else { continue };
            connection.peer = from;
            // Whatever quiche refuses it has already dealt with: it closes the connection or ignores the packet.
            let _ = connection.quic.recv(packet, RecvInfo { from, to: self.local });
        }
    }

    /// The connection that a packet belongs to, made if the packet may start one.
    fn connection_of(&mut self, packet: &mut [u8], from: SocketAddr) -> Option<u64> {
        let header = quiche::Header::from_slice(packet, CID_LENGTH).ok()?;
        if let Some(id) = self.by_cid.get(header.dcid.as_ref()) {
            return Some(*id);
        }
        if header.ty == quiche::Type::Short || header.ty == quiche::Type::VersionNegotiation {
            return None;
        }
        // The version before the type: another version's types have other numbers (RFC 9369 section 3.2).
        if !quiche::version_is_supported(header.version) {
            let mut answer = [0; 256];
            let length = quiche::negotiate_version(&header.scid, &header.dcid, &mut answer).ok()?;
            drop(self.socket.try_send_to(&answer[..length], from));
            return None;
        }
        if header.ty != quiche::Type::Initial {
            return None;
        }
        let mut cid = [0; CID_LENGTH];
        boring::rand::rand_bytes(&mut cid).ok()?;
        let quic = quiche::accept(&ConnectionId::from_ref(&cid), None, self.local, from, &mut self.quic).ok()?;
        let id = self.next;
        self.next += 1;
        self.by_cid.extend([(cid.to_vec(), id), (header.dcid.to_vec(), id)]);
        self.connections.insert(id, Connection { quic, http: None, streams: HashMap::new(), peer: from });
        Some(id)
    }
}

impl Connection {
    /// Everything that can move, moves.
    fn step(&mut self, name: &Rc<str>, config: &h3::Config, bell: &Rc<Notify>) {
        if self.http.is_none() && (self.quic.is_established() || self.quic.is_in_early_data()) {
            self.http = h3::Connection::with_transport(&mut self.quic, config).ok();
        }
        let Some(http) = &mut self.http else { return };
        while let Ok((id, event)) = http.poll(&mut self.quic) {
            match event {
                h3::Event::Headers { list, more_frames } => match self.streams.get_mut(&id) {
                    Some(stream) => stream.trailers(&list),
                    None => {
                        let stream = Stream::open(name, self.peer, list, more_frames, bell);
                        self.streams.insert(id, stream);
                    }
                },
                h3::Event::Data => self.streams.entry(id).or_insert_with(Stream::dead).readable = true,
                h3::Event::Finished => {
                    if let Some(stream) = self.streams.get_mut(&id) {
                        stream.finished = true;
                    }
                }
                h3::Event::Reset(_) => {
                    if let Some(stream) = self.streams.get_mut(&id) {
                        // The answer sees an aborted body if it still reads, and a closed channel if it still writes.
                        if let Some(body) = stream.body.take() {
                            drop(body.try_send(Piece::Aborted));
                        }
                        stream.outs = None;
                    }
                }
                h3::Event::PriorityUpdate | h3::Event::GoAway => {}
            }
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.pump_in(id, http, &mut self.quic);
            }
        }
        for (id, stream) in &mut self.streams {
            stream.pump_in(*id, http, &mut self.quic);
            stream.pump_out(*id, http, &mut self.quic);
        }
        self.streams.retain(|_, stream| stream.body.is_some() || stream.outs.is_some());
    }

    async fn transmit(&mut self, socket: &UdpSocket, buffer: &mut [u8]) {
        while let Ok((length, info)) = self.quic.send(buffer) {
            // An unreachable client is what its idle timeout is for.
            drop(socket.send_to(&buffer[..length], info.to).await);
        }
    }
}

impl Stream {
    fn open(name: &Rc<str>, peer: SocketAddr, list: Vec<h3::Header>, more: bool, bell: &Rc<Notify>) -> Self {
        let mut request = Request {
            backend: Rc::clone(name),
            protocol: "h3",
            peer,
            method: String::new(),
            scheme: String::new(),
            authority: String::new(),
            path: String::new(),
            fields: Fields::new(),
            body: Incoming::Empty,
        };
        for (field, value) in text(&list) {
            match field.as_str() {
                ":method" => request.method = value,
                ":scheme" => request.scheme = value,
                ":authority" => request.authority = value,
                ":path" => request.path = value,
                _ => request.fields.push((field, value)),
            }
        }
        let mut body = None;
        if more {
            let (sender, receiver) = mpsc::channel(IN_FLIGHT);
            body = Some(sender);
            request.body = Incoming::H3(receiver, Rc::clone(bell));
        }
        let (channel, outs) = mpsc::channel(IN_FLIGHT);
        tokio::task::spawn_local(exchange::answer(request, Reply { channel, wake: Some(Rc::clone(bell)) }));
        Self { body, readable: false, finished: !more, outs: Some(outs), pending: None, informed: false }
    }

    /// Data of a stream that has been answered and forgotten.
    fn dead() -> Self {
        Self { body: None, readable: true, finished: false, outs: None, pending: None, informed: false }
    }

    fn trailers(&mut self, list: &[h3::Header]) {
        if let Some(body) = &self.body {
            // One place is kept free for this by pump_in.
            drop(body.try_send(Piece::Trailers(text(list))));
        }
    }

    /// From the wire to the answer, as far as the answer has room.
    fn pump_in(&mut self, id: u64, http: &mut h3::Connection, quic: &mut quiche::Connection) {
        let mut buffer = [0; 16 << 10];
        while self.readable {
            match &self.body {
                Some(body) if body.is_closed() => {
                    // Answered early: RFC 9114 section 4.1 asks for H3_NO_ERROR, so that the response counts.
                    let _ = quic.stream_shutdown(id, Shutdown::Read, H3_NO_ERROR);
                    self.body = None;
                    self.readable = false;
                    return;
                }
                Some(body) if body.capacity() < 2 => return,
                _ => {}
            }
            match http.recv_body(quic, id, &mut buffer) {
                Ok(length) => {
                    if let Some(body) = &self.body {
                        drop(body.try_send(Piece::Data(Bytes::copy_from_slice(&buffer[..length]))));
                    }
                }
                Err(_) => self.readable = false,
            }
        }
        if self.finished {
            self.body = None;
        }
    }

    /// From the answer to the wire, as far as the client has given credit.
    fn pump_out(&mut self, id: u64, http: &mut h3::Connection, quic: &mut quiche::Connection) {
        loop {
            let Some(outs) = &mut self.outs else { return };
            let out = match self.pending.take() {
                Some(out) => out,
                None => match outs.try_recv() {
                    Ok(out) => out,
                    Err(mpsc::error::TryRecvError::Empty) => return,
                    Err(mpsc::error::TryRecvError::Disconnected) => Out::Cut(crate::ask::Cut::Reset),
                },
            };
            match self.put(id, out, http, quic) {
                Put::More => {}
                Put::Blocked(out) => {
                    self.pending = Some(out);
                    return;
                }
                Put::Done => self.outs = None,
            }
        }
    }

    fn put(&mut self, id: u64, out: Out, http: &mut h3::Connection, quic: &mut quiche::Connection) -> Put {
        let result = match &out {
            Out::Inform(status, fields) => self.headers(id, *status, fields, false, http, quic).map(|()| Put::More),
            Out::Head { status, fields, end } => {
                let done = if *end { Put::Done } else { Put::More };
                self.headers(id, *status, fields, *end, http, quic).map(|()| done)
            }
            Out::Data(data) => match http.send_body(quic, id, data, false) {
                Ok(sent) if sent == data.len() => Ok(Put::More),
                Ok(sent) => return Put::Blocked(Out::Data(data.slice(sent..))),
                Err(error) => Err(error),
            },
            Out::End(None) => http.send_body(quic, id, &[], true).map(|_| Put::Done),
            Out::End(Some(trailers)) => {
                http.send_additional_headers(quic, id, &list(trailers), true, true).map(|()| Put::Done)
            }
            Out::Cut(_) => {
                let _ = quic.stream_shutdown(id, Shutdown::Write, H3_INTERNAL_ERROR);
                let _ = quic.stream_shutdown(id, Shutdown::Read, H3_INTERNAL_ERROR);
                Ok(Put::Done)
            }
        };
        match result {
            Ok(put) => put,
            Err(h3::Error::Done | h3::Error::StreamBlocked) => Put::Blocked(out),
            // The client stopped the stream or the connection is closing.
            Err(_) => Put::Done,
        }
    }

    fn headers(
        &mut self,
        id: u64,
        status: u16,
        fields: &Fields,
        end: bool,
        http: &mut h3::Connection,
        quic: &mut quiche::Connection,
    ) -> h3::Result<()> {
        let mut head = vec![h3::Header::new(b":status", status.to_string().as_bytes())];
        head.extend(list(fields));
        if self.informed {
            return http.send_additional_headers(quic, id, &head, false, end);
        }
        http.send_response(quic, id, &head, end)?;
        self.informed = status < 200;
        Ok(())
    }
}

/// What became of one piece.
enum Put {
    More,
    Blocked(Out),
    Done,
}

fn text(list: &[h3::Header]) -> Fields {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    list.iter().map(|header| (text(header.name()), text(header.value()))).collect()
}

fn list(fields: &Fields) -> Vec<h3::Header> {
    fields.iter().map(|(name, value)| h3::Header::new(name.to_ascii_lowercase().as_bytes(), value.as_bytes())).collect()
}
