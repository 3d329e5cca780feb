// SPDX-License-Identifier: GPL-3.0-only
//! TCP and UDP echo: who answers and whom it sees first, then the client's own bytes.

use std::io;
use std::rc::Rc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

pub(crate) async fn tcp(name: Rc<str>, listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let name = Rc::clone(&name);
                // A client that goes away is no event for an echo server.
                tokio::task::spawn_local(async move { drop(echo(&name, stream).await) });
            }
            Err(error) => pause_after(&error).await,
        }
    }
}

/// Out of descriptors, say: trying again at once would only spin.
pub(crate) async fn pause_after(error: &io::Error) {
    eprintln!("eg-echo: accept: {error}");
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
}

async fn echo(name: &str, mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let peer = stream.peer_addr()?;
    stream.write_all(format!("{name} {peer}\n").as_bytes()).await?;
    let mut buffer = vec![0; 64 << 10];
    loop {
        let length = stream.read(&mut buffer).await?;
        if length == 0 {
            return stream.shutdown().await;
        }
        stream.write_all(&buffer[..length]).await?;
    }
}

pub(crate) async fn udp(name: Rc<str>, socket: UdpSocket) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        // An ICMP error of an earlier answer surfaces here: it concerns a client that has left.
        let Ok((length, peer)) = socket.recv_from(&mut buffer).await else { continue };
        let mut answer = format!("{name} {peer}\n").into_bytes();
        answer.extend_from_slice(&buffer[..length]);
        drop(socket.send_to(&answer, peer).await);
    }
}
