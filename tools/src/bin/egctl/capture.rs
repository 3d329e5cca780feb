// SPDX-License-Identifier: GPL-3.0-only
//! `egctl capture`: asks the process for a capture, and writes the pcapng file that it answers with.
//!
//! The process makes the file. What is done here is to write whole blocks only, so that a capture that is cut short is a
//! file all the same, and to read off its end how it ended.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use expressgateway::datapath::{CaptureNetwork, CaptureRequest, CaptureVerdict};

use crate::admin::{Admin, Stream};

/// Types of blocks, and options of the last one.
const PACKET: u32 = 6;
const STATISTICS: u32 = 5;
const COMMENT: u16 = 1;
const OSDROP: u16 = 7;

#[derive(Args)]
pub(crate) struct Capture {
    /// The pcapng file to write; - is standard output: egctl capture --write - | tshark -r -
    #[arg(long, short, value_name = "FILE")]
    write: PathBuf,
    /// It ends after so many seconds, 300 at most
    #[arg(long, default_value_t = 10, value_name = "N")]
    seconds: u64,
    /// It ends after so many packets
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// So many bytes of each frame are kept, 14 to 16384
    #[arg(long, default_value_t = 2048, value_name = "BYTES")]
    snap: u32,
    /// Only packets of this VIP, to it and in answer
    #[arg(long, value_name = "ADDR:PORT")]
    vip: Option<SocketAddr>,
    /// Only packets of clients in this network, theirs and those that answer them
    #[arg(long, value_name = "ADDR[/PREFIX]")]
    client: Option<CaptureNetwork>,
    /// Only what became of them: forwarded, passed, dropped, answered, held, or one reason to drop, as egctl drops names it
    #[arg(long, value_name = "VERDICT")]
    verdict: Option<CaptureVerdict>,
}

impl Capture {
    fn request(&self) -> Result<CaptureRequest, String> {
        let Self { seconds, count, snap, vip, client, verdict, .. } = self;
        let duration = Duration::from_secs(*seconds);
        let request =
            CaptureRequest { duration, count: *count, snap: *snap, vip: *vip, client: *client, verdict: *verdict };
        // The process judges as well; here nobody need be asked for a number out of bounds.
        CaptureRequest::from_query(&request.query()).map_err(|why| format!("--{why}"))
    }
}

/// True: it came to its end.
pub(crate) fn capture(admin: &Admin, asked: &Capture) -> Result<bool, String> {
    let request = asked.request()?;
    if is_stdout(asked) && io::stdout().is_terminal() {
        return Err("a terminal shows nothing of a pcapng file: name a file, or use a pipe".to_owned());
    }
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
    runtime.block_on(async {
        let mut stream = admin.post(&format!("/capture?{}", request.query())).await?;
        let mut blocks = Blocks { out: open(asked)?, rest: Vec::new(), packets: 0, end: None };
        eprintln!("egctl: capturing, for {} s at most", request.duration.as_secs());
        let interrupted = tokio::select! {
            ended = copy(&mut stream, &mut blocks) => ended.map(|()| false)?,
            _ = tokio::signal::ctrl_c() => true,
        };
        let packets = blocks.packets;
        match &blocks.end {
            Some(End { lost, why }) => eprintln!("egctl: {packets} packets captured, {lost} lost; ended: {why}"),
            None if interrupted => eprintln!("egctl: {packets} packets captured; ended: interrupted"),
            None => eprintln!("egctl: {packets} packets captured; cut short: is the gateway running still?"),
        }
        Ok(interrupted || blocks.end.is_some())
    })
}

fn is_stdout(asked: &Capture) -> bool {
    asked.write.as_os_str() == "-"
}

fn open(asked: &Capture) -> Result<Box<dyn Write>, String> {
    if is_stdout(asked) {
        return Ok(Box::new(io::stdout()));
    }
    let file = File::create(&asked.write).map_err(|error| format!("{}: {error}", asked.write.display()))?;
    Ok(Box::new(file))
}

/// To the end of the answer, or of whoever reads ours.
async fn copy(stream: &mut Stream, blocks: &mut Blocks) -> Result<(), String> {
    while let Some(chunk) = stream.next().await {
        match blocks.take(&chunk) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            result => result.map_err(|error| format!("cannot write: {error}"))?,
        }
    }
    Ok(())
}

/// What the last block says.
struct End {
    lost: u64,
    why: String,
}

/// Passes a file on block by block.
struct Blocks {
    out: Box<dyn Write>,
    /// The beginning of a block.
    rest: Vec<u8>,
    packets: u64,
    end: Option<End>,
}

impl Blocks {
    fn take(&mut self, chunk: &[u8]) -> io::Result<()> {
        self.rest.extend(chunk);
        let mut whole = 0;
        while let Some(block) = first(self.rest.get(whole..).unwrap_or_default())? {
            match word(block, 0) {
                Some(PACKET) => self.packets += 1,
                Some(STATISTICS) => self.end = Some(end(block)),
                _ => {}
            }
            whole += block.len();
        }
        let ready: Vec<u8> = self.rest.drain(..whole).collect();
        self.out.write_all(&ready)?;
        self.out.flush()
    }
}

/// The first block, if all of it is there. A block has its length behind its type.
fn first(bytes: &[u8]) -> io::Result<Option<&[u8]>> {
    let Some(length) = word(bytes, 4) else { return Ok(None) };
    if length < 12 {
        return Err(io::Error::other("the gateway sends no pcapng file"));
    }
    Ok(bytes.get(..length as usize))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Reads the options of the statistics: behind type, length, interface and time.
fn end(block: &[u8]) -> End {
    let mut found = End { lost: 0, why: String::new() };
    let mut options = block.get(20..).unwrap_or_default();
    while let Some(head) = word(options, 0) {
        let (code, length) = (head as u16, (head >> 16) as usize);
        let Some(value) = options.get(4..4 + length).filter(|_| code != 0) else { break };
        match code {
            COMMENT => found.why = String::from_utf8_lossy(value).into_owned(),
            OSDROP => found.lost = value.try_into().map_or(0, u64::from_le_bytes),
            _ => {}
        }
        options = options.get(4 + length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}
