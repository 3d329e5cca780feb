// SPDX-License-Identifier: GPL-3.0-only
//! TCP and UDP flows to an eg-echo: who answered, and whether the bytes came back.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use crate::Flows;
use crate::tally::Tally;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Tcp,
    Udp,
}

pub(crate) async fn blast(arguments: Flows, kind: Kind) -> Tally {
    let tally = Rc::new(RefCell::new(Tally::default()));
    let next = Rc::new(Cell::new(0));
    let arguments = Rc::new(arguments);
    let tasks: Vec<_> = (0..arguments.concurrency.clamp(1, arguments.connections.max(1)))
        .map(|_| {
            let (arguments, tally, next) = (Rc::clone(&arguments), Rc::clone(&tally), Rc::clone(&next));
            tokio::task::spawn_local(async move {
                while next.get() < arguments.connections {
                    let index = next.replace(next.get() + 1);
                    if let Err(kind) = flow(&arguments, kind, index, &tally).await {
                        tally.borrow_mut().fail(kind);
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        if task.await.is_err() {
            tally.borrow_mut().fail("panic");
        }
    }
    tally.take()
}

enum Open {
    Tcp(BufReader<TcpStream>),
    Udp(UdpSocket),
}

/// One flow from its opening to its end.
async fn flow(arguments: &Flows, kind: Kind, index: u32, tally: &RefCell<Tally>) -> Result<(), &'static str> {
    let time = Duration::from_millis(arguments.timeout_ms);
    let began = Instant::now();
    let (mut open, mut name) = match timeout(time, open(arguments.address, kind)).await {
        Ok(Ok(open)) => open,
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => return Err("connect-refused"),
        Ok(Err(_)) => return Err("connect"),
        Err(_) => return Err("connect-timeout"),
    };
    tally.borrow_mut().connections += 1;
    let hold_until = Instant::now() + Duration::from_secs_f64(arguments.hold.clamp(0.0, 600.0));
    let mut round = 0;
    loop {
        let payload: Vec<u8> = (0..arguments.bytes).map(|at| (index as usize + round + at) as u8).collect();
        match timeout(time, exchange(&mut open, &payload, time / 3)).await {
            Ok(Ok(who)) => {
                if let Some(who) = who {
                    // A UDP flow names its backend each time: it must not move.
                    if name.as_ref().is_some_and(|name| *name != who) {
                        return Err("moved");
                    }
                    name = Some(who);
                }
            }
            Ok(Err(kind)) => return Err(kind),
            Err(_) => return Err("timeout"),
        }
        if round == 0 {
            tally.borrow_mut().took(began.elapsed());
            tally.borrow_mut().backend(name.as_deref().unwrap_or("?"));
        }
        tally.borrow_mut().ok += 1;
        round += 1;
        if Instant::now() >= hold_until {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

async fn open(address: SocketAddr, kind: Kind) -> io::Result<(Open, Option<String>)> {
    if kind == Kind::Udp {
        let any: SocketAddr = if address.is_ipv4() { ([0; 4], 0).into() } else { ([0u16; 8], 0).into() };
        let socket = UdpSocket::bind(any).await?;
        socket.connect(address).await?;
        return Ok((Open::Udp(socket), None));
    }
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    let name = line.split(' ').next().filter(|name| !name.is_empty()).ok_or(io::ErrorKind::UnexpectedEof)?.to_owned();
    Ok((Open::Tcp(stream), Some(name)))
}

/// Sends the payload and has it back; who answered, where the protocol says so each time.
async fn exchange(open: &mut Open, payload: &[u8], again: Duration) -> Result<Option<String>, &'static str> {
    match open {
        Open::Tcp(stream) => {
            stream.write_all(payload).await.map_err(|_| "reset")?;
            let mut back = vec![0; payload.len()];
            stream.read_exact(&mut back).await.map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => "closed",
                _ => "reset",
            })?;
            if back == payload { Ok(None) } else { Err("altered") }
        }
        Open::Udp(socket) => {
            let mut back = vec![0; 64 << 10];
            loop {
                socket.send(payload).await.map_err(|_| "unreachable")?;
                // UDP may lose a datagram; one that is lost for good runs into the caller's timeout.
                let Ok(received) = timeout(again, socket.recv(&mut back)).await else { continue };
                let answer = &back[..received.map_err(|_| "unreachable")?];
                let split = answer.iter().position(|byte| *byte == b'\n').ok_or("altered")?;
                if &answer[split + 1..] != payload {
                    // The late answer to an earlier round that was sent twice.
                    continue;
                }
                let name = answer.split(|byte| *byte == b' ').next().unwrap_or_default();
                return Ok(Some(String::from_utf8_lossy(name).into_owned()));
            }
        }
    }
}
