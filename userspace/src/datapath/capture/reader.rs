// SPDX-License-Identifier: GPL-3.0-only
//! The thread of a capture: takes what the twins write, makes pcapng of it, and hands that to whoever asked.
//!
//! It waits for its client and for nobody else: the twins come and go by the control thread, so a client that does not
//! read delays no deadline. What the buffers cannot hold meanwhile is counted by the twins as lost.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use bytes::Bytes;
use eg_skel::abi::{CAPTURED_HELD, Captured, Drop as DropReason, Plain, Verdict};
use libbpf_rs::{MapCore, MapFlags, MapHandle, PerfBuffer, PerfBufferBuilder};
use nix::net::if_::if_indextoname;
use nix::time::{ClockId, clock_gettime};

use super::super::error::DatapathError;
use super::super::load::{Sinks, Twins};
use super::super::samples::protocol;
use super::super::sync::Tables;
use super::{Why, pcapng};

/// Pages of each CPU's buffer, 1 MiB: some 500 full frames, or 5,000 of 200 bytes. Where the process may not lock as
/// much memory, the next smaller that it may.
const PAGES: usize = 256;
const PAGES_MIN: usize = 8;
/// How soon the thread sees that the capture is over while no packet comes.
const IDLE: Duration = Duration::from_millis(20);
/// Chunks that wait for the client; then the buffers fill.
pub(super) const CHUNKS: usize = 16;

/// The capture is over: the twins are in nobody's way any more.
pub(super) struct End {
    pub(super) why: Why,
    pub(super) twins: Twins,
}

type Inbox = Arc<Mutex<Vec<(Captured, Vec<u8>)>>>;

/// Everything the thread has.
pub(super) struct Reader {
    perf: PerfBuffer<'static>,
    /// What `perf` was opened by: the kernel takes the buffers out of the map when this descriptor closes.
    _captured: MapHandle,
    /// Filled by the perf buffer's callback, on the same thread.
    inbox: Inbox,
    lost: MapHandle,
    names: Names,
    snap: u32,
    /// Indices of the interfaces that the file has, in its order.
    interfaces: Vec<u32>,
    /// Packets that may still be written.
    left: u64,
    written: u64,
    /// Nanoseconds from the programs' clock to that of the file.
    since_1970: u64,
    out: tokio::sync::mpsc::Sender<Bytes>,
    enough: tokio::sync::watch::Sender<Option<Why>>,
    end: mpsc::Receiver<End>,
}

/// What a reader is started with.
pub(super) struct Start {
    pub(super) sinks: Sinks,
    pub(super) tables: Arc<Mutex<Tables>>,
    pub(super) snap: u32,
    pub(super) count: Option<u64>,
    pub(super) interfaces: Vec<(u32, String)>,
    pub(super) out: tokio::sync::mpsc::Sender<Bytes>,
    pub(super) enough: tokio::sync::watch::Sender<Option<Why>>,
    pub(super) end: mpsc::Receiver<End>,
}

/// Starts the thread; it ends after it was told so, or when nobody can tell it any more.
pub(super) fn start(start: Start) -> Result<(), DatapathError> {
    let Start { sinks, tables, snap, count, interfaces, out, enough, end } = start;
    let inbox = Inbox::default();
    let perf = open(&sinks.captured, &inbox).map_err(DatapathError::map("open the perf buffer of a capture"))?;
    let since_1970 = clock(ClockId::CLOCK_REALTIME).saturating_sub(clock(ClockId::CLOCK_MONOTONIC));
    let names = Names { tables, vips: HashMap::new(), backends: HashMap::new() };
    let left = count.unwrap_or(u64::MAX);
    let mut head = pcapng::section(concat!("expressgateway ", env!("CARGO_PKG_VERSION")));
    interfaces.iter().for_each(|(_, name)| head.extend(pcapng::interface(name, snap)));
    let interfaces = interfaces.into_iter().map(|(index, _)| index).collect();
    let reader = Reader {
        perf,
        _captured: sinks.captured,
        inbox,
        lost: sinks.lost,
        names,
        snap,
        interfaces,
        left,
        written: 0,
        since_1970,
        out,
        enough,
        end,
    };
    let thread = std::thread::Builder::new().name("eg-capture".into());
    thread.spawn(move || reader.run(head)).map_err(DatapathError::system("start the thread of a capture"))?;
    Ok(())
}

fn open(map: &MapHandle, inbox: &Inbox) -> Result<PerfBuffer<'static>, libbpf_rs::Error> {
    let mut pages = PAGES;
    loop {
        let sink = Arc::clone(inbox);
        let take = move |_cpu: i32, record: &[u8]| {
            let Some((head, rest)) = record.split_at_checked(size_of::<Captured>()) else { return };
            let Some(head) = Captured::from_bytes(head) else { return };
            // The kernel pads a record to eight bytes.
            let Some(bytes) = rest.get(..head.kept as usize) else { return };
            sink.lock().unwrap_or_else(PoisonError::into_inner).push((head, bytes.to_vec()));
        };
        match PerfBufferBuilder::new(map).pages(pages).sample_cb(take).build() {
            Err(_) if pages > PAGES_MIN => pages /= 2,
            result => return result,
        }
    }
}

/// Bytes that go to the client at once: with the few that may wait for it, what a slow client makes the process hold.
const CHUNK: usize = 256 << 10;

impl Reader {
    fn run(mut self, head: Vec<u8>) {
        let mut going = self.send(head);
        let end = loop {
            match self.end.try_recv() {
                Ok(end) => break end,
                Err(mpsc::TryRecvError::Disconnected) => return,
                Err(mpsc::TryRecvError::Empty) => {}
            }
            if let Err(error) = self.perf.poll(IDLE)
                && error.kind() != libbpf_rs::ErrorKind::Interrupted
            {
                tracing::error!(%error, "cannot read what is captured");
                going = false;
            }
            going = going && self.write_out();
            if !going || self.left == 0 || self.out.is_closed() {
                let why = if self.left == 0 { Why::Count } else { Why::Client };
                self.enough.send_replace(Some(why));
                match self.end.recv() {
                    Ok(end) => break end,
                    Err(mpsc::RecvError) => return,
                }
            }
        };
        self.finish(end);
    }

    /// The twins are replaced; what is in them still comes out, and then they go.
    fn finish(mut self, End { why, twins }: End) {
        grace_period();
        drop(twins);
        if let Err(error) = self.perf.consume() {
            tracing::error!(%error, "cannot read the rest of what was captured");
        }
        let lost = self.lost();
        let all = self.write_out();
        tracing::info!(packets = self.written, lost, why = why.text(), "capture ended");
        if all {
            let time = clock(ClockId::CLOCK_REALTIME);
            let comment = why.text();
            self.send(pcapng::statistics(&pcapng::Statistics { time, captured: self.written, lost, comment }));
        }
    }

    /// False: nobody wants it any more.
    fn write_out(&mut self) -> bool {
        let mut frames = std::mem::take(&mut *self.inbox.lock().unwrap_or_else(PoisonError::into_inner));
        if frames.is_empty() {
            return true;
        }
        // Each CPU has a buffer of its own.
        frames.sort_by_key(|(head, _)| head.time);
        let mut chunk = Vec::new();
        for (head, bytes) in frames {
            if self.left == 0 {
                break;
            }
            self.left -= 1;
            self.written += 1;
            let interface = self.interface(head.ifindex, &mut chunk);
            let comment = self.names.comment(&head);
            chunk.extend(pcapng::packet(&pcapng::Packet {
                interface,
                time: head.time.saturating_add(self.since_1970),
                length: head.length,
                bytes: &bytes,
                comment: &comment,
            }));
            if chunk.len() >= CHUNK && !self.send(std::mem::take(&mut chunk)) {
                return false;
            }
        }
        chunk.is_empty() || self.send(chunk)
    }

    /// Waits for the client.
    fn send(&self, bytes: Vec<u8>) -> bool {
        self.out.blocking_send(Bytes::from(bytes)).is_ok()
    }

    /// Its number in the file, which gets a block for one that it has not.
    fn interface(&mut self, index: u32, chunk: &mut Vec<u8>) -> u32 {
        let known = self.interfaces.iter().position(|known| *known == index);
        let number = known.unwrap_or_else(|| {
            let name =
                if_indextoname(index).map_or_else(|_| index.to_string(), |name| name.to_string_lossy().into_owned());
            chunk.extend(pcapng::interface(&name, self.snap));
            self.interfaces.push(index);
            self.interfaces.len() - 1
        });
        u32::try_from(number).unwrap_or(0)
    }

    fn lost(&self) -> u64 {
        let values = self.lost.lookup_percpu(&0u32.to_ne_bytes(), MapFlags::ANY).ok().flatten().unwrap_or_default();
        values.iter().filter_map(|value| u64::from_bytes(value)).sum()
    }
}

/// Who is behind the numbers; a reload, which could give a number to somebody else, ends a capture first.
struct Names {
    tables: Arc<Mutex<Tables>>,
    vips: HashMap<u32, String>,
    backends: HashMap<u32, String>,
}

impl Names {
    /// As `forwarded vip 192.0.2.1:80/tcp backend 10.0.0.2:8080`.
    fn comment(&mut self, head: &Captured) -> String {
        let mut text = match (head.verdict, Verdict::from_code(head.verdict)) {
            (_, Some(Verdict::Dropped)) => {
                let reason = DropReason::from_code(head.reason).map_or("unknown", DropReason::label);
                format!("dropped {reason}")
            }
            (_, Some(verdict)) => verdict.label().to_owned(),
            (CAPTURED_HELD, None) => "held".to_owned(),
            (_, None) => "unknown".to_owned(),
        };
        if head.reply != 0 {
            text.push_str(" reply");
        }
        if head.vip != 0 {
            text.push_str(" vip ");
            text.push_str(self.vip(head.vip));
        }
        if head.backend != 0 {
            text.push_str(" backend ");
            text.push_str(self.backend(head.backend));
        }
        text
    }

    fn vip(&mut self, id: u32) -> &str {
        let Self { tables, vips, .. } = self;
        vips.entry(id).or_insert_with(|| {
            let tables = tables.lock().unwrap_or_else(PoisonError::into_inner);
            let found = tables.vips.iter().find(|(_, entry)| entry.id == id);
            found.map_or_else(
                || id.to_string(),
                |((address, number), _)| format!("{address}/{}", protocol(*number).unwrap_or_default()),
            )
        })
    }

    fn backend(&mut self, id: u32) -> &str {
        let Self { tables, backends, .. } = self;
        backends.entry(id).or_insert_with(|| {
            let tables = tables.lock().unwrap_or_else(PoisonError::into_inner);
            let found = tables.backends.iter().find(|(_, entry)| entry.id == id);
            found.map_or_else(|| id.to_string(), |(key, _)| key.address.to_string())
        })
    }
}

/// Nanoseconds.
fn clock(id: ClockId) -> u64 {
    let now = clock_gettime(id).map_or(Duration::ZERO, Duration::from);
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

/// Returns once every program that was running has ended. `MEMBARRIER_CMD_GLOBAL` waits for a grace period of RCU
/// (membarrier(2): "all running threads … have passed through a state where all memory accesses match program order"),
/// under which programs run. Where the kernel has none, what may follow are a tail call or a record that come too late.
fn grace_period() {
    const MEMBARRIER_CMD_GLOBAL: i32 = 1;
    // SAFETY: takes numbers alone, and writes nothing.
    let answer = unsafe { nix::libc::syscall(nix::libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if answer != 0 {
        tracing::debug!(error = %std::io::Error::last_os_error(), "no grace period");
    }
}
