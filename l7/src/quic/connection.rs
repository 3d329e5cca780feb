// SPDX-License-Identifier: GPL-3.0-only
//! One client's QUIC connection with its HTTP/3 streams.
//!
//! The driver feeds it datagrams and timeouts and takes what it wants to send; exchanges reach their stream through
//! [`Shared`], by stream id, and leave a waker where they must wait. Whoever changes anything calls [`Shared::touch`], so
//! that the driver comes by. Nobody holds the borrow across an await or across `catch_unwind`: a panic inside leaves the
//! `RefCell` free and the driver buries the connection.

use super::driver::Ready;
use super::held::Quic;
use super::packet::CONNECTION_REFUSED;
use super::stream::Stream;
use crate::front::h3::request::{self, Malformed, Parsed};
use crate::snapshot::Limits;
use crate::stream::Abort;
use crate::worker::Live;
use quiche::h3::{self, Event};
use quiche::{Error as QuicError, RecvInfo, Shutdown};
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// RFC 9114 section 8.1.
const H3_NO_ERROR: u64 = 0x100;
const H3_INTERNAL_ERROR: u64 = 0x102;

/// RFC 9114 section 5.2: a server that shuts down gracefully first sends "a GOAWAY frame with an identifier of 2^62-4".
const GOAWAY_ALL: u64 = (1 << 62) - 4;

/// After the last response was handed over, how long a goodbye waits for the client to acknowledge it.
const ACKNOWLEDGE: Duration = Duration::from_secs(1);

/// How much of the closing period a drain waits for: in it we only answer what is still under way (RFC 9000 section
/// 10.2.1), and nothing of the client's is lost with it.
const CLOSING: Duration = Duration::from_millis(500);

/// A connection as the driver and its exchanges share it.
pub(crate) struct Shared {
    pub(super) inner: RefCell<Connection>,
    /// Whether it is in the driver's ready list.
    pub(super) queued: Cell<bool>,
    /// The earliest entry that it has in the driver's timer heap.
    pub(super) armed: Cell<Option<Instant>>,
    ready: Rc<Ready>,
}

impl Shared {
    pub(super) fn new(inner: Connection, ready: Rc<Ready>) -> Rc<Shared> {
        Rc::new(Shared { inner: RefCell::new(inner), queued: Cell::new(false), armed: Cell::new(None), ready })
    }

    /// The driver will look at this connection.
    pub(super) fn touch(self: &Rc<Self>) {
        if !self.queued.replace(true) {
            self.ready.push(Rc::clone(self));
        }
    }
}

/// A request that has arrived and has no exchange yet.
pub(super) struct Arrived {
    pub(super) id: u64,
    pub(super) parsed: Parsed,
    pub(super) end: bool,
}

/// How far a graceful shutdown is.
struct Goodbye {
    announced: bool,
    exact_at: Instant,
    /// Requests from this id on are rejected.
    exact: Option<u64>,
    idle_since: Option<Instant>,
}

/// The state of a connection.
pub(crate) struct Connection {
    pub(super) quic: Box<Quic>,
    pub(super) h3: Option<h3::Connection>,
    pub(super) streams: HashMap<u64, Stream>,
    /// Streams whose head has not come, and since when it comes.
    opening: HashMap<u64, Instant>,
    /// Streams whose exchange is over, until quiche has delivered what they sent. True: worth waiting for.
    finishing: HashMap<u64, bool>,
    /// One past the largest request id seen.
    next_request: u64,
    goodbye: Option<Goodbye>,
    limits: Rc<Limits>,
    http: Rc<h3::Config>,
    began: Instant,
    /// Since when there is no request.
    idle_since: Instant,
    /// When a client that waits for an answer is next shown that we are still here.
    ping_at: Instant,
    /// Its streams were told that it is gone.
    buried: bool,
    /// Every connection ID by which the driver finds it.
    pub(super) ids: HashSet<Vec<u8>>,
    /// The ID that the client chose for its first packets.
    pub(super) original: Option<Vec<u8>>,
    pub(super) peer: SocketAddr,
    pub(super) local: SocketAddr,
    /// None once the connection is forgotten, or only waits for its closing period to end.
    pub(super) live: Option<Live>,
    closed_at: Option<Instant>,
}

impl Connection {
    pub(super) fn new(quic: Quic, http: Rc<h3::Config>, limits: Rc<Limits>, info: RecvInfo, live: Live) -> Connection {
        let now = Instant::now();
        Connection {
            quic: Box::new(quic),
            h3: None,
            streams: HashMap::new(),
            opening: HashMap::new(),
            finishing: HashMap::new(),
            next_request: 0,
            goodbye: None,
            limits,
            http,
            began: now,
            idle_since: now,
            ping_at: now,
            buried: false,
            ids: HashSet::new(),
            original: None,
            peer: info.from,
            local: info.to,
            live: Some(live),
            closed_at: None,
        }
    }

    /// Reads what arrived and makes progress. New requests are appended to `arrived`. Returns whether a task was woken.
    pub(super) fn process(&mut self, now: Instant, arrived: &mut Vec<Arrived>) -> bool {
        let mut woke = false;
        while self.quic.path_event_next().is_some() {}
        if self.h3.is_none() && self.quic.is_established() {
            self.h3 = h3::Connection::with_transport(&mut self.quic, &self.http).ok();
            self.idle_since = now;
            self.ping_at = now + self.ping_interval();
        }
        self.note_openings(now);
        self.events(arrived, &mut woke);
        self.sweep();
        self.advance_goodbye(now);
        let over = self.quic.is_closed() || self.quic.is_draining() || self.quic.local_error().is_some();
        if over && !self.buried {
            woke |= self.bury(Abort::Cancelled);
        }
        if over && now >= *self.closed_at.get_or_insert(now) + CLOSING {
            self.live = None;
        }
        woke
    }

    /// HTTP/3 says nothing of a stream before it has a whole head of it, which may never come.
    fn note_openings(&mut self, now: Instant) {
        for id in self.quic.readable().filter(|id| id % 4 == 0) {
            if !self.streams.contains_key(&id) && !self.finishing.contains_key(&id) {
                self.opening.entry(id).or_insert(now);
            }
        }
    }

    fn events(&mut self, arrived: &mut Vec<Arrived>, woke: &mut bool) {
        loop {
            let Some(h3) = &mut self.h3 else { return };
            match h3.poll(&mut self.quic) {
                Ok((id, Event::Headers { list, more_frames })) => {
                    self.on_headers(id, &list, more_frames, arrived, woke)
                }
                Ok((id, Event::Data)) => self.wake_reader(id, woke),
                Ok((id, Event::Finished)) => {
                    if self.opening.contains_key(&id) {
                        // RFC 9114 section 4.1: "When a server does not receive a complete request", H3_REQUEST_INCOMPLETE.
                        self.reset_unserved(id, Abort::Incomplete);
                    }
                    if let Some(stream) = self.streams.get_mut(&id) {
                        stream.request_ended();
                    }
                    self.wake_reader(id, woke);
                }
                Ok((id, Event::Reset(_))) if self.opening.contains_key(&id) => {
                    self.reset_unserved(id, Abort::Cancelled)
                }
                Ok((id, Event::Reset(_))) => self.cancel(id, woke),
                Ok((_, Event::PriorityUpdate | Event::GoAway)) => {}
                Err(h3::Error::Done) => break,
                Err(_) => {
                    // quiche has closed the connection with the right code where the client is at fault.
                    let _ = self.quic.close(true, H3_INTERNAL_ERROR, b"");
                    break;
                }
            }
        }
        // A stopped stream is reported as writable.
        while let Some(id) = self.quic.stream_writable_next() {
            match self.quic.stream_capacity(id) {
                Err(QuicError::StreamStopped(_)) => self.cancel(id, woke),
                _ => {
                    if let Some(stream) = self.streams.get_mut(&id) {
                        *woke |= stream.wake_writer();
                    }
                }
            }
        }
        for stream in self.streams.values_mut() {
            *woke |= stream.make_room();
        }
        // HTTP/3 reports nothing more about a stream with unread data until it is read; a reset must be seen before.
        for id in self.quic.readable() {
            let reading = self.streams.get(&id).is_some_and(Stream::is_reading);
            if reading && matches!(self.quic.stream_recv(id, &mut []), Err(QuicError::StreamReset(_))) {
                self.cancel(id, woke);
            }
        }
    }

    fn on_headers(&mut self, id: u64, list: &[h3::Header], more: bool, arrived: &mut Vec<Arrived>, woke: &mut bool) {
        if let Some(stream) = self.streams.get_mut(&id) {
            match request::trailers(list, &self.limits) {
                Ok(trailers) => {
                    stream.trailers_arrived(trailers);
                    self.wake_reader(id, woke);
                }
                Err(Malformed) => self.malformed(id, woke),
            }
            return;
        }
        if self.finishing.contains_key(&id) {
            return;
        }
        self.opening.remove(&id);
        self.next_request = self.next_request.max(id.saturating_add(4));
        if self.goodbye.as_ref().and_then(|goodbye| goodbye.exact).is_some_and(|exact| id >= exact) {
            return self.reset_unserved(id, Abort::Refused);
        }
        match request::parse(list) {
            Ok(parsed) if !more && parsed.content_length.is_some_and(|length| length > 0) => {
                self.reset_unserved(id, Abort::Malformed);
            }
            Ok(parsed) => {
                self.streams.insert(id, Stream::new(parsed.content_length, !more));
                arrived.push(Arrived { id, parsed, end: !more });
            }
            Err(Malformed) => self.reset_unserved(id, Abort::Malformed),
        }
    }

    fn wake_reader(&mut self, id: u64, woke: &mut bool) {
        if let Some(stream) = self.streams.get_mut(&id) {
            *woke |= stream.wake_reader();
        }
    }

    fn cancel(&mut self, id: u64, woke: &mut bool) {
        if let Some(stream) = self.streams.get_mut(&id) {
            *woke |= stream.fail(Abort::Cancelled);
        }
    }

    fn malformed(&mut self, id: u64, woke: &mut bool) {
        self.shutdown(id, Abort::Malformed);
        if let Some(stream) = self.streams.get_mut(&id) {
            *woke |= stream.fail(Abort::Malformed);
        }
    }

    fn reset_unserved(&mut self, id: u64, why: Abort) {
        self.shutdown(id, why);
        self.opening.remove(&id);
        self.finishing.insert(id, false);
    }

    /// Ends a stream in both directions, or in that of the request when the response is complete.
    pub(super) fn shutdown(&mut self, id: u64, why: Abort) {
        let code = why.h3_code();
        if why != Abort::Early {
            let _ = self.quic.stream_shutdown(id, Shutdown::Write, code);
        }
        let _ = self.quic.stream_shutdown(id, Shutdown::Read, code);
    }

    /// The exchange of a stream is over. `delivered` says that what was sent should still reach the client.
    pub(super) fn finish_stream(&mut self, id: u64, delivered: bool, now: Instant) {
        self.finishing.insert(id, delivered);
        if self.streams.is_empty() {
            self.idle_since = now;
        }
    }

    /// Forgets streams that quiche has finished with. HTTP/3 keeps an entry for a stream that was reset by us until
    /// something is tried on it.
    fn sweep(&mut self) {
        let (quic, h3) = (&mut self.quic, &mut self.h3);
        self.finishing.retain(|&id, _| {
            if !matches!(quic.stream_capacity(id), Err(QuicError::InvalidStreamState(_))) {
                return true;
            }
            if let Some(h3) = h3 {
                let nothing: &[h3::Header] = &[];
                let _ = h3.send_additional_headers(quic, id, nothing, false, false);
                let _ = h3.send_response(quic, id, nothing, false);
            }
            false
        });
    }

    /// Tells every exchange that its client is gone, or that its time is over.
    pub(super) fn bury(&mut self, why: Abort) -> bool {
        self.buried = true;
        self.streams.values_mut().fold(false, |woke, stream| stream.fail(why) | woke)
    }

    /// Begins a graceful shutdown.
    pub(super) fn begin_goodbye(&mut self, now: Instant) {
        if self.goodbye.is_some() {
            return;
        }
        // RFC 9114 section 5.2: long enough "to permit any in-flight requests to arrive".
        let rtt = self.quic.path_stats().map(|path| path.rtt).max().unwrap_or_default();
        let settle = (rtt * 3).clamp(Duration::from_millis(100), Duration::from_secs(1));
        self.goodbye = Some(Goodbye { announced: false, exact_at: now + settle, exact: None, idle_since: None });
    }

    fn advance_goodbye(&mut self, now: Instant) {
        let (Some(goodbye), Some(h3)) = (&mut self.goodbye, &mut self.h3) else { return };
        if !goodbye.announced {
            goodbye.announced = h3.send_goaway(&mut self.quic, GOAWAY_ALL).is_ok();
        }
        if goodbye.announced
            && goodbye.exact.is_none()
            && now >= goodbye.exact_at
            && h3.send_goaway(&mut self.quic, self.next_request).is_ok()
        {
            goodbye.exact = Some(self.next_request);
        }
        if goodbye.exact.is_none() || !self.streams.is_empty() {
            return;
        }
        let idle_since = *goodbye.idle_since.get_or_insert(now);
        let delivered = !self.finishing.values().any(|&wanted| wanted);
        if delivered || now >= idle_since + ACKNOWLEDGE {
            let _ = self.quic.close(true, H3_NO_ERROR, b"");
        }
    }

    /// Ends the connection now, whatever it is doing.
    pub(super) fn cut(&mut self) {
        let cut = !self.streams.is_empty();
        self.bury(Abort::Internal);
        let _ = match self.quic.is_established() {
            true => self.quic.close(true, if cut { H3_INTERNAL_ERROR } else { H3_NO_ERROR }, b""),
            false => self.quic.close(false, CONNECTION_REFUSED, b""),
        };
    }

    /// Ends the connection because of a fault of ours.
    pub(super) fn fault(&mut self) {
        let _ = self.quic.close(true, H3_INTERNAL_ERROR, b"");
    }

    /// When [`Connection::on_timeout`] wants to be called.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let over = self.quic.is_draining() || self.quic.local_error().is_some();
        let own = match (&self.goodbye, &self.h3) {
            _ if over => self.live.as_ref().and(self.closed_at).map(|at| at + CLOSING),
            (_, None) => Some(self.began + self.limits.handshake),
            (Some(goodbye), _) if goodbye.exact.is_none() => Some(goodbye.exact_at),
            (Some(goodbye), _) => goodbye.idle_since.map(|since| since + ACKNOWLEDGE),
            (None, _) if self.streams.is_empty() => Some(self.idle_since + self.limits.keep_alive),
            (None, _) => Some(self.ping_at),
        };
        let head = self.opening.values().min().filter(|_| !over).map(|&since| since + self.limits.head);
        [self.quic.timeout_instant(), own, head].into_iter().flatten().min()
    }

    /// Acts on deadlines that have passed.
    pub(super) fn on_timeout(&mut self, now: Instant) {
        self.quic.on_timeout();
        if self.h3.is_none() && now >= self.began + self.limits.handshake {
            let _ = self.quic.close(false, 0, b"");
        }
        let late = |(&id, &since): (&u64, &Instant)| (now >= since + self.limits.head).then_some(id);
        let late: Vec<u64> = self.opening.iter().filter_map(late).collect();
        late.into_iter().for_each(|id| self.reset_unserved(id, Abort::Timeout));
        let idle = self.h3.is_some() && self.goodbye.is_none() && self.streams.is_empty();
        if idle && now >= self.idle_since + self.limits.keep_alive {
            let _ = self.quic.close(true, H3_NO_ERROR, b"");
        }
        // QUIC's idle timeout must not cut a request whose answer takes long: the exchange's deadlines decide that.
        if !self.streams.is_empty() && now >= self.ping_at {
            let _ = self.quic.send_ack_eliciting();
            self.ping_at = now + self.ping_interval();
        }
    }

    /// A third of the idle timeout, which is the smaller of both sides' (RFC 9000 section 10.1).
    fn ping_interval(&self) -> Duration {
        let theirs = self.quic.peer_transport_params().map_or(0, |params| params.max_idle_timeout);
        let theirs = Some(theirs).filter(|&millis| millis > 0).map(Duration::from_millis);
        theirs.map_or(self.limits.keep_alive, |theirs| theirs.min(self.limits.keep_alive)) / 3
    }
}
