// SPDX-License-Identifier: GPL-3.0-only
//! Backends that say who they are, and clients that ask.
//!
//! TCP: the backend's number as one byte on accept, then every byte back. UDP: the number as one byte before the
//! datagram's own bytes. Both on IPv4 and IPv6, on the same port.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use super::Netns;

/// What every echo backend listens on.
pub const PORT: u16 = 7000;

/// Beyond the longest datagram.
const DATAGRAM_MAX: usize = 1 << 16;

/// How long a client waits for an answer: beyond a SYN's first two retransmissions (1 s, 2 s).
pub const PATIENCE: Duration = Duration::from_secs(5);

/// A backend's servers; they end when this is dropped.
pub struct Echo {
    stop: Arc<AtomicBool>,
    accepted: Arc<AtomicU64>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Echo {
    /// Starts all four servers inside `space`, on every address; they listen when this returns.
    pub fn start(space: &Netns, number: u8) -> Echo {
        Echo::start_on(space, number, &["0.0.0.0".parse().expect("an address"), "::".parse().expect("an address")])
    }

    /// Starts servers on these addresses alone: a datagram's answer then comes from the address it was sent to.
    pub fn start_on(space: &Netns, number: u8, addresses: &[IpAddr]) -> Echo {
        let stop = Arc::new(AtomicBool::new(false));
        let accepted = Arc::new(AtomicU64::new(0));
        let mut threads = Vec::new();
        for &address in addresses {
            let (tcp, udp) = space.enter(move || {
                let (tcp, udp) = listen(address);
                tcp.set_nonblocking(true).expect("nonblocking");
                udp.set_read_timeout(Some(Duration::from_millis(50))).expect("timeout");
                (tcp, udp)
            });
            let (end, count) = (Arc::clone(&stop), Arc::clone(&accepted));
            threads.push(thread::spawn(move || serve_tcp(&tcp, number, &end, &count)));
            let end = Arc::clone(&stop);
            threads.push(thread::spawn(move || serve_udp(&udp, number, &end)));
        }
        Echo { stop, accepted, threads }
    }

    /// TCP connections accepted so far.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::SeqCst)
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// The IPv6 sockets must not take the IPv4 port as well.
fn listen(address: IpAddr) -> (TcpListener, UdpSocket) {
    use nix::sys::socket::{
        AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt, socket, sockopt,
    };
    let address = SocketAddr::new(address, PORT);
    let family = if address.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
    let open = |kind| {
        let socket = socket(family, kind, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
        if address.is_ipv6() {
            setsockopt(&socket, sockopt::Ipv6V6Only, &true).expect("IPV6_V6ONLY");
        }
        bind(std::os::fd::AsRawFd::as_raw_fd(&socket), &SockaddrStorage::from(address)).expect("bind");
        socket
    };
    let tcp = open(SockType::Stream);
    listen(&tcp, Backlog::new(1024).expect("a backlog")).expect("listen");
    (TcpListener::from(tcp), UdpSocket::from(open(SockType::Datagram)))
}

fn serve_tcp(listener: &TcpListener, number: u8, stop: &AtomicBool, accepted: &AtomicU64) {
    while !stop.load(Ordering::SeqCst) {
        match listener.accept() {
            Ok((stream, _)) => {
                accepted.fetch_add(1, Ordering::SeqCst);
                let started = thread::Builder::new().stack_size(64 << 10).spawn(move || {
                    // The client has gone when this fails, and judges for itself.
                    let _ = echo(stream, number);
                });
                started.expect("a thread");
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(Duration::from_millis(1)),
            Err(_) => return,
        }
    }
}

fn echo(mut stream: TcpStream, number: u8) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.write_all(&[number])?;
    let mut buffer = [0; 4096];
    loop {
        let read = stream.read(&mut buffer)?;
        if read == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..read])?;
    }
}

fn serve_udp(socket: &UdpSocket, number: u8, stop: &AtomicBool) {
    let mut buffer = vec![0; DATAGRAM_MAX];
    while !stop.load(Ordering::SeqCst) {
        let Ok((length, from)) = socket.recv_from(&mut buffer[1..]) else { continue };
        buffer[0] = number;
        let _ = socket.send_to(&buffer[..=length], from);
    }
}

/// A client's TCP connection, and who answered it.
pub struct Connection {
    pub stream: TcpStream,
    pub backend: u8,
}

impl Connection {
    /// Connects and waits for the backend's number. The calling thread is in the client's namespace.
    pub fn open(vip: SocketAddr) -> io::Result<Connection> {
        let mut stream = TcpStream::connect_timeout(&vip, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        let mut number = [0];
        stream.read_exact(&mut number)?;
        Ok(Connection { stream, backend: number[0] })
    }

    /// Sends `bytes` and checks that they come back.
    pub fn exchange(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)?;
        let mut back = vec![0; bytes.len()];
        self.stream.read_exact(&mut back)?;
        if back == bytes { Ok(()) } else { Err(io::Error::other("other bytes came back")) }
    }
}

/// A client's UDP flow.
pub struct Flow {
    pub socket: UdpSocket,
}

impl Flow {
    /// A socket connected to the VIP, so that only replies from the VIP itself are received.
    pub fn open(vip: SocketAddr) -> io::Result<Flow> {
        Flow::open_from(vip, 0)
    }

    /// The same from this port.
    pub fn open_from(vip: SocketAddr, port: u16) -> io::Result<Flow> {
        let any: IpAddr = if vip.is_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        let socket = UdpSocket::bind((any, port))?;
        socket.connect(vip)?;
        socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        Ok(Flow { socket })
    }

    /// Sends `bytes`, checks that they come back, and says from whom.
    pub fn exchange(&self, bytes: &[u8]) -> io::Result<u8> {
        self.socket.send(bytes)?;
        let mut back = vec![0; DATAGRAM_MAX];
        let length = self.socket.recv(&mut back)?;
        if length == bytes.len() + 1 && &back[1..length] == bytes {
            Ok(back[0])
        } else {
            Err(io::Error::other("other bytes came back"))
        }
    }
}
