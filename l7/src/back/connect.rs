// SPDX-License-Identifier: GPL-3.0-only
//! Dials a backend.

use crate::io::Io;
use std::io;
use std::net::SocketAddr;
use tokio::net::TcpStream;

/// Bytes in the socket that the kernel has not sent yet before it stops taking more: what a slow backend can make us queue
/// beyond what is on its way.
const NOTSENT_LOWAT: u32 = 128 * 1024;

/// Connects. The caller keeps the deadline: dropping the future gives up.
pub(crate) async fn connect(address: SocketAddr) -> io::Result<Io> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    socket2::SockRef::from(&stream).set_tcp_notsent_lowat(NOTSENT_LOWAT)?;
    Ok(Io::Tcp(stream))
}
