// SPDX-License-Identifier: GPL-3.0-only
//! The loop of one UDP socket of one worker: it owns the connections, a list of those that have something to do and a heap
//! of timers. One task in all: no task per packet or connection, no channel.
//!
//! A turn takes what has arrived, lets each connection on the ready list make progress, wakes the exchanges that wait for
//! it, and sends. Where exchanges were woken the sending waits for the next turn, after they have run, so that their answers
//! share datagrams with the acknowledgements. Each connection's step runs under `catch_unwind`: a panic ends that connection
//! alone.

use super::config;
use super::connection::{Arrived, Connection, Shared};
use super::held::Quic;
use super::packet::{self, CONNECTION_REFUSED, Packet};
use super::socket::{Batch, MAX_BURST, MAX_SEGMENTS, Message, Socket};
use super::stream::Handle;
use crate::front;
use crate::listen::Retired;
use crate::observe::{Protocol, QuicCounters};
use crate::snapshot::{Limits, Scheme};
use crate::stream::Abort;
use crate::worker::{Binding, Live, Panicked, Phase, View, Watch, Worker};
use boring::rand::rand_bytes;
use eg_abi::cid::{self, Cid};
use quiche::{ConnectionId, RecvInfo};
use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::error::Error;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Instant;
use tokio::time::Sleep;

/// Batches received in one turn before connections get theirs.
const BATCHES: usize = 4;

/// Bursts that one connection may send in one turn before the others get theirs.
const BURSTS: usize = 8;

/// Connections that want the driver's attention. The list is the only way in: exchanges never call the driver.
#[derive(Default)]
pub(super) struct Ready {
    list: RefCell<VecDeque<Rc<Shared>>>,
    waker: RefCell<Option<Waker>>,
    /// The driver is in its turn: it will look at the list before it rests.
    busy: Cell<bool>,
}

impl Ready {
    pub(super) fn push(&self, connection: Rc<Shared>) {
        self.list.borrow_mut().push_back(connection);
        if !self.busy.get()
            && let Some(waker) = &*self.waker.borrow()
        {
            waker.wake_by_ref();
        }
    }

    fn take(&self) -> VecDeque<Rc<Shared>> {
        std::mem::take(&mut self.list.borrow_mut())
    }

    fn is_empty(&self) -> bool {
        self.list.borrow().is_empty()
    }
}

/// An entry of the timer heap, the earliest on top. It does not keep a connection alive.
struct Timer(Instant, Weak<Shared>);

impl PartialEq for Timer {
    fn eq(&self, other: &Timer) -> bool {
        self.0 == other.0
    }
}
impl Eq for Timer {}
impl PartialOrd for Timer {
    fn partial_cmp(&self, other: &Timer) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Timer {
    fn cmp(&self, other: &Timer) -> std::cmp::Ordering {
        Reverse(self.0).cmp(&Reverse(other.0))
    }
}

/// Packets of one size (the last may be shorter) for one address.
#[derive(Clone, Copy)]
struct Burst {
    len: usize,
    segment: usize,
    from: SocketAddr,
    to: SocketAddr,
}

/// What new connections begin with; made anew when the listener's view changes.
struct Setup {
    view: Rc<View>,
    transport: quiche::Config,
    http: Rc<quiche::h3::Config>,
    limits: Rc<Limits>,
}

impl Setup {
    fn new(view: Rc<View>) -> Result<Setup, Box<dyn Error + Send + Sync>> {
        let Scheme::Https { tls, .. } = &view.listener.scheme else {
            return Err("HTTP/3 needs a certificate".into());
        };
        let limits = Rc::new(view.snapshot.limits.clone());
        let transport = config::transport(tls, &limits)?;
        let http = Rc::new(config::http(&limits)?);
        Ok(Setup { transport, http, limits, view })
    }
}

/// A worker's driver of one UDP socket.
pub(super) struct Driver {
    worker: Rc<Worker>,
    binding: Rc<Binding>,
    watch: Watch,
    socket: Socket,
    /// After the socket: while this one counts, the edge takes the port for its own.
    retired: Retired,
    /// The destinations that are ours; None when the socket can get no others.
    destinations: Option<Vec<SocketAddr>>,
    setup: Setup,
    ready: Rc<Ready>,
    /// By our connection IDs, and by the client's first one together with its address until the handshake is done.
    connections: HashMap<Vec<u8>, Rc<Shared>>,
    openings: HashMap<(Vec<u8>, SocketAddr), Rc<Shared>>,
    timers: BinaryHeap<Timer>,
    sleep: Pin<Box<Sleep>>,
    batch: Batch,
    /// Send on the next turn, after the exchanges that were woken have run.
    deferred: Vec<Rc<Shared>>,
    /// Send when the kernel has room again.
    stalled: Vec<Rc<Shared>>,
    out: Vec<u8>,
    /// What is in `out` because the kernel had no room for it.
    blocked: Option<Burst>,
    phase: Phase,
}

impl Driver {
    pub(super) fn new(
        worker: &Rc<Worker>,
        binding: Rc<Binding>,
        socket: std::net::UdpSocket,
        destinations: Option<Vec<SocketAddr>>,
        retired: Retired,
    ) -> Result<Driver, Box<dyn Error + Send + Sync>> {
        Ok(Driver {
            worker: Rc::clone(worker),
            retired,
            watch: Watch::new(worker),
            socket: Socket::new(socket)?,
            destinations,
            setup: Setup::new(binding.view())?,
            binding,
            ready: Rc::default(),
            connections: HashMap::new(),
            openings: HashMap::new(),
            timers: BinaryHeap::new(),
            sleep: Box::pin(tokio::time::sleep_until(tokio::time::Instant::now())),
            batch: Batch::new(),
            deferred: Vec::new(),
            stalled: Vec::new(),
            out: vec![0; MAX_BURST],
            blocked: None,
            phase: Phase::Running,
        })
    }

    /// Runs until the worker has drained or the listener is retired, and no connection is left.
    pub(super) async fn run(mut self) {
        std::future::poll_fn(|cx| self.turn(cx)).await;
    }

    fn turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.ready.busy.set(true);
        match &mut *self.ready.waker.borrow_mut() {
            Some(known) => known.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        let now = Instant::now();
        self.watch.expired(cx);
        self.obey(now);
        let more = self.receive(cx);
        self.expire(now);
        let mut waiting = std::mem::take(&mut self.deferred);
        if self.unblocked(cx) {
            waiting.append(&mut self.stalled);
        }
        for connection in self.ready.take() {
            connection.queued.set(false);
            match self.progress(&connection, now) {
                true => self.deferred.push(connection),
                false => self.flush(&connection, cx),
            }
        }
        for connection in waiting {
            self.flush(&connection, cx);
        }
        self.ready.busy.set(false);
        // In a drain the socket stays open as long as the worker lives, to refuse whoever comes.
        if self.retired.is_set() && self.connections.is_empty() {
            return Poll::Ready(());
        }
        if more || !self.deferred.is_empty() || !self.ready.is_empty() {
            cx.waker().wake_by_ref();
        }
        self.sleep(cx);
        Poll::Pending
    }

    /// Follows the worker into a drain, and out of it.
    fn obey(&mut self, now: Instant) {
        let phase = match self.retired.is_set() {
            true => self.worker.phase().max(Phase::Draining),
            false => self.worker.phase(),
        };
        if phase == self.phase {
            return;
        }
        self.phase = phase;
        for connection in self.everyone() {
            let told = guarded(|| match phase {
                Phase::Running => {}
                Phase::Draining => connection.inner.borrow_mut().begin_goodbye(now),
                Phase::Aborting => connection.inner.borrow_mut().cut(),
            });
            match told {
                Ok(()) => connection.touch(),
                Err(panicked) => self.panicked(&connection, &panicked),
            }
        }
    }

    /// Each connection once.
    fn everyone(&self) -> Vec<Rc<Shared>> {
        let mut all: Vec<_> = self.connections.values().cloned().collect();
        all.sort_by_key(|connection| Rc::as_ptr(connection) as usize);
        all.dedup_by(|a, b| Rc::ptr_eq(a, b));
        all
    }

    /// Takes what has arrived. Returns whether there may be more.
    fn receive(&mut self, cx: &mut Context<'_>) -> bool {
        let mut batch = std::mem::replace(&mut self.batch, Batch::empty());
        let mut more = true;
        for _ in 0..BATCHES {
            match self.socket.poll_receive(cx, &mut batch) {
                Poll::Pending => {
                    more = false;
                    break;
                }
                Poll::Ready(Err(error)) => {
                    // An ICMP error that an earlier datagram met: nothing is wrong with the socket.
                    tracing::debug!(%error, "receiving QUIC datagrams");
                    continue;
                }
                Poll::Ready(Ok(())) => {}
            }
            self.counters().receive_calls.add(1);
            for (datagram, message) in batch.datagrams() {
                self.datagram(datagram, message);
            }
        }
        self.batch = batch;
        more
    }

    fn datagram(&mut self, datagram: &mut [u8], message: Message) {
        self.counters().received_datagrams.add(1);
        self.counters().received_bytes.add(datagram.len() as u64);
        if self.destinations.as_ref().is_some_and(|ours| !ours.contains(&message.to)) {
            return self.counters().foreign_destination.add(1);
        }
        let info = RecvInfo { from: message.from, to: message.to };
        let found = match packet::parse(datagram) {
            Packet::Short(rest) => rest.get(..cid::LEN).and_then(|id| self.connections.get(id)).cloned(),
            Packet::Long(destination) => self.find(destination, info.from),
            Packet::Initial { destination, source } => match self.find(destination, info.from) {
                None => self.open(destination, source, info),
                found => found,
            },
            Packet::Foreign { destination, source } => {
                if let Some(answer) = packet::negotiate(destination, source) {
                    self.counters().version_negotiations.add(1);
                    self.answer(&answer, info);
                }
                return;
            }
            Packet::Junk => return self.counters().malformed.add(1),
        };
        // A stateless reset will answer these one day.
        let Some(connection) = found else { return self.counters().unknown_connection.add(1) };
        let result = guarded(|| connection.inner.borrow_mut().quic.recv(datagram, info));
        match result {
            Err(panicked) => return self.panicked(&connection, &panicked),
            Ok(Err(error)) => tracing::debug!(%error, peer = %info.from, "QUIC packet refused"),
            Ok(Ok(_)) => {}
        }
        let mut inner = connection.inner.borrow_mut();
        if inner.quic.stats().recv == 0 {
            // The packet that opened it was not authentic: nothing is owed to whoever sent it.
            self.counters().malformed.add(1);
            return self.forget(&mut inner);
        }
        drop(inner);
        connection.touch();
    }

    fn find(&self, destination: &[u8], peer: SocketAddr) -> Option<Rc<Shared>> {
        let known = self.connections.get(destination);
        known.or_else(|| self.openings.get(&(destination.to_vec(), peer))).cloned()
    }

    /// A connection for a client's first packet; none when it is refused.
    fn open(&mut self, destination: &[u8], source: &[u8], info: RecvInfo) -> Option<Rc<Shared>> {
        let live = Some(self.phase).filter(|phase| *phase < Phase::Draining);
        let live = live.and_then(|_| Live::accept(&self.worker, &self.binding));
        let Some(live) = live else {
            if let Some(answer) = packet::refuse(destination, source, CONNECTION_REFUSED) {
                self.counters().refused.add(1);
                self.answer(&answer, info);
            }
            return None;
        };
        let view = self.binding.view();
        if !Rc::ptr_eq(&view, &self.setup.view) {
            match Setup::new(view) {
                Ok(setup) => self.setup = setup,
                Err(error) => tracing::error!(%error, "HTTP/3 keeps its old configuration"),
            }
        }
        let id = self.mint()?;
        let accepted = quiche::accept_with_buf_factory(
            &ConnectionId::from_ref(&id),
            None,
            info.to,
            info.from,
            &mut self.setup.transport,
        );
        let quic = accepted.inspect_err(|error| tracing::warn!(%error, "cannot open a QUIC connection")).ok()?;
        let (http, limits) = (Rc::clone(&self.setup.http), Rc::clone(&self.setup.limits));
        let mut connection = Connection::new(quic, http, limits, info, live);
        connection.ids.insert(id.to_vec());
        connection.original = Some(destination.to_vec());
        let shared = Shared::new(connection, Rc::clone(&self.ready));
        self.connections.insert(id.to_vec(), Rc::clone(&shared));
        self.openings.insert((destination.to_vec(), info.from), Rc::clone(&shared));
        Some(shared)
    }

    fn mint(&self) -> Option<[u8; cid::LEN]> {
        let mut nonce = [0; cid::NONCE_LEN];
        rand_bytes(&mut nonce).ok()?;
        let worker = u8::try_from(self.worker.index).ok()?;
        Some(Cid { config: 0, server: [0; 4], worker, generation: 0, nonce }.encode())
    }

    /// Sends a datagram that belongs to no connection; it is lost when the kernel has no room.
    fn answer(&self, datagram: &[u8], info: RecvInfo) {
        let counters = self.counters();
        if self.socket.send(datagram, datagram.len(), info.to.ip(), info.from).is_ok() {
            counters.send_calls.add(1);
            counters.sent_datagrams.add(1);
            counters.sent_bytes.add(datagram.len() as u64);
        }
    }

    /// Lets connections act on deadlines that have passed.
    fn expire(&mut self, now: Instant) {
        while self.timers.peek().is_some_and(|timer| timer.0 <= now) {
            let Some(Timer(at, connection)) = self.timers.pop() else { return };
            let Some(connection) = connection.upgrade() else { continue };
            // An entry that an earlier one replaced.
            if connection.armed.get() != Some(at) {
                continue;
            }
            connection.armed.set(None);
            match guarded(|| connection.inner.borrow_mut().on_timeout(now)) {
                Ok(()) => connection.touch(),
                Err(panicked) => self.panicked(&connection, &panicked),
            }
        }
    }

    /// One step of a connection: what arrived becomes events, new requests become exchanges. Returns whether tasks were
    /// woken.
    fn progress(&mut self, connection: &Rc<Shared>, now: Instant) -> bool {
        let mut arrived = Vec::new();
        let stepped = guarded(|| connection.inner.borrow_mut().process(now, &mut arrived));
        let woke = match stepped {
            Ok(woke) => woke,
            Err(panicked) => {
                self.panicked(connection, &panicked);
                return false;
            }
        };
        let (peer, local) = self.register(connection);
        let spawned = !arrived.is_empty();
        for Arrived { id, parsed, end } in arrived {
            let front = Handle::new(Rc::clone(connection), id);
            front::h3::spawn(&self.worker, self.binding.view(), parsed, end, (peer, local), front);
        }
        woke || spawned
    }

    /// Keeps the tables in step with the connection's state.
    fn register(&mut self, connection: &Rc<Shared>) -> (SocketAddr, SocketAddr) {
        let mut inner = connection.inner.borrow_mut();
        let inner = &mut *inner;
        if inner.h3.is_some()
            && let Some(original) = inner.original.take()
        {
            self.openings.remove(&(original, inner.peer));
            self.counters().handshakes.add(1);
            if let Some(live) = &inner.live {
                live.speaks(Protocol::H3);
            }
        }
        while let Some(retired) = inner.quic.retired_scid_next() {
            self.connections.remove(retired.as_ref());
            inner.ids.remove(retired.as_ref());
        }
        if inner.quic.is_closed() {
            self.forget(inner);
        }
        (inner.peer, inner.local)
    }

    fn forget(&mut self, inner: &mut Connection) {
        for id in inner.ids.drain() {
            self.connections.remove(&id);
        }
        // Still there: the handshake was never completed.
        if let Some(original) = inner.original.take() {
            self.openings.remove(&(original, inner.peer));
            self.setup.view.counters.handshake_failures.add(1);
        }
        inner.live = None;
    }

    /// A connection whose step panicked is forgotten without another word: its state cannot be trusted.
    fn panicked(&mut self, connection: &Rc<Shared>, panicked: &Panicked) {
        self.worker.panicked("QUIC connection", panicked);
        let mut inner = connection.inner.borrow_mut();
        inner.bury(Abort::Internal);
        self.forget(&mut inner);
    }

    fn counters(&self) -> &QuicCounters {
        &self.worker.counters.quic
    }

    /// Sends what the connection has to say, and arms its timer.
    fn flush(&mut self, connection: &Rc<Shared>, cx: &mut Context<'_>) {
        if self.blocked.is_some() {
            return self.stalled.push(Rc::clone(connection));
        }
        if connection.inner.borrow().ids.is_empty() {
            return;
        }
        for burst in 0.. {
            if burst == BURSTS {
                connection.touch();
                break;
            }
            let out = &mut self.out;
            let filled = match guarded(|| fill(&mut connection.inner.borrow_mut().quic, out)) {
                Ok(filled) => filled,
                Err(panicked) => return self.panicked(connection, &panicked),
            };
            let Some(filled) = filled else { break };
            if !self.transmit(filled) {
                // Leaves a waker with the socket.
                let _ = self.socket.poll_writable(cx);
                self.stalled.push(Rc::clone(connection));
                break;
            }
        }
        self.arm(connection);
    }

    /// Whether there is room in the kernel; a burst that waited for it is sent first.
    fn unblocked(&mut self, cx: &mut Context<'_>) -> bool {
        while let Some(burst) = self.blocked.take() {
            if self.socket.poll_writable(cx).is_pending() {
                self.blocked = Some(burst);
                return false;
            }
            self.transmit(burst);
        }
        true
    }

    /// Sends the burst in `out`. False when the kernel has no room for it.
    fn transmit(&mut self, burst: Burst) -> bool {
        let data = self.out.get(..burst.len).unwrap_or_default();
        let counters = &self.worker.counters.quic;
        match self.socket.send(data, burst.segment, burst.from.ip(), burst.to) {
            Ok(calls) => {
                counters.send_calls.add(calls);
                counters.sent_datagrams.add(burst.len.div_ceil(burst.segment.max(1)) as u64);
                counters.sent_bytes.add(burst.len as u64);
                true
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                counters.send_waits.add(1);
                self.blocked = Some(burst);
                false
            }
            // No route, a firewall, an ICMP error: for QUIC these datagrams are lost.
            Err(_) => {
                counters.send_failures.add(1);
                true
            }
        }
    }

    fn arm(&mut self, connection: &Rc<Shared>) {
        let inner = connection.inner.borrow();
        if inner.ids.is_empty() {
            return;
        }
        let Some(deadline) = inner.deadline() else { return };
        if connection.armed.get().is_none_or(|armed| deadline < armed) {
            connection.armed.set(Some(deadline));
            self.timers.push(Timer(deadline, Rc::downgrade(connection)));
            // An entry that an earlier one replaced stays until its time; the heap must not grow by them.
            if self.timers.len() > 64 + 4 * self.connections.len() {
                self.timers.retain(|Timer(at, owner)| owner.upgrade().is_some_and(|o| o.armed.get() == Some(*at)));
            }
        }
    }

    fn sleep(&mut self, cx: &mut Context<'_>) {
        let Some(Timer(deadline, _)) = self.timers.peek() else { return };
        let deadline = tokio::time::Instant::from_std(*deadline);
        if self.sleep.deadline() != deadline {
            self.sleep.as_mut().reset(deadline);
        }
        if self.sleep.as_mut().poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
    }
}

/// Fills `out` with packets for one address: as many full ones as the congestion controller lets go at once.
fn fill(quic: &mut Quic, out: &mut [u8]) -> Option<Burst> {
    let full = quic.max_send_udp_payload_size();
    let (written, info) = quic.send(out.get_mut(..full)?).ok()?;
    let mut burst = Burst { len: written, segment: written, from: info.from, to: info.to };
    if written < full {
        return Some(burst);
    }
    let limit = quic.send_quantum().min(full * MAX_SEGMENTS).min(out.len());
    while burst.len + full <= limit {
        let Some(room) = out.get_mut(burst.len..burst.len + full) else { break };
        let Ok((written, _)) = quic.send_on_path(room, Some(burst.from), Some(burst.to)) else { break };
        burst.len += written;
        if written < full {
            break;
        }
    }
    Some(burst)
}

/// Runs a connection's step and catches its panic.
fn guarded<T>(step: impl FnOnce() -> T) -> Result<T, Panicked> {
    catch_unwind(AssertUnwindSafe(step)).map_err(|payload| Panicked::new(&*payload))
}
