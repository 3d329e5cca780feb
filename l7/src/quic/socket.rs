// SPDX-License-Identifier: GPL-3.0-only
//! A UDP socket that moves many datagrams with each system call: recvmmsg with GRO in, GSO out.
//!
//! The driver owns one. It promises that the local address of each datagram is known (IP_PKTINFO), that datagrams leave
//! from the address that they are told to leave from, and that a host without GSO or GRO only makes it slower.

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, sendmsg, setsockopt,
    sockopt,
};
use std::cell::Cell;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::task::{Context, Poll, ready};
use tokio::io::Interest;

/// Messages taken by one recvmmsg. Each may hold many datagrams where the kernel coalesces, so more bring little, and each
/// costs a buffer per worker.
const MESSAGES: usize = 8;

/// GRO coalesces up to this much into one message, and truncates into a smaller buffer.
const MESSAGE: usize = 64 * 1024;

/// What the kernel takes in one GSO message before 6.9 (UDP_MAX_SEGMENTS).
pub(super) const MAX_SEGMENTS: usize = 64;

/// The largest payload of a UDP datagram over IPv4, which bounds a GSO message too.
pub(super) const MAX_BURST: usize = 65507;

/// Asked for; the kernel grants at most net.core.rmem_max and wmem_max. What a burst of clients fills while the worker is
/// busy elsewhere is lost when it is full, and recovered by QUIC.
const KERNEL_BUFFER: usize = 4 * 1024 * 1024;

/// A socket of a driver.
pub(super) struct Socket {
    io: tokio::net::UdpSocket,
    v6: bool,
    port: u16,
    /// Cleared when the kernel or the device refuses segmentation.
    gso: Cell<bool>,
}

/// One message as it was received: datagrams of `stride` bytes, the last one perhaps shorter.
#[derive(Clone, Copy, Debug)]
pub(super) struct Message {
    pub(super) len: usize,
    pub(super) stride: usize,
    pub(super) from: SocketAddr,
    /// Where it was sent to.
    pub(super) to: SocketAddr,
}

/// The buffers of a recvmmsg and what it filled them with.
pub(super) struct Batch {
    buffers: Vec<Box<[u8]>>,
    messages: Vec<Message>,
}

impl Batch {
    pub(super) fn new() -> Batch {
        let buffers = (0..MESSAGES).map(|_| vec![0u8; MESSAGE].into_boxed_slice()).collect();
        Batch { buffers, messages: Vec::with_capacity(MESSAGES) }
    }

    /// Stands in while the other one is in use.
    pub(super) fn empty() -> Batch {
        Batch { buffers: Vec::new(), messages: Vec::new() }
    }

    /// Every datagram of the batch, in the order of arrival.
    pub(super) fn datagrams(&mut self) -> impl Iterator<Item = (&mut [u8], Message)> {
        self.buffers.iter_mut().zip(self.messages.iter()).flat_map(|(buffer, &message)| {
            let filled = buffer.get_mut(..message.len).unwrap_or_default();
            filled.chunks_mut(message.stride.max(1)).map(move |datagram| (datagram, message))
        })
    }
}

impl Socket {
    /// Takes over a bound socket and asks for what the driver needs of it.
    pub(super) fn new(socket: std::net::UdpSocket) -> io::Result<Socket> {
        socket.set_nonblocking(true)?;
        let local = socket.local_addr()?;
        if local.is_ipv6() {
            setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
        } else {
            setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
        }
        // Kernels before 5.0 lack it: each datagram is then a message.
        let _ = setsockopt(&socket, sockopt::UdpGroSegment, &true);
        let reference = socket2::SockRef::from(&socket);
        let _ = reference.set_recv_buffer_size(KERNEL_BUFFER);
        let _ = reference.set_send_buffer_size(KERNEL_BUFFER);
        let io = tokio::net::UdpSocket::from_std(socket)?;
        Ok(Socket { io, v6: local.is_ipv6(), port: local.port(), gso: Cell::new(true) })
    }

    /// Fills the batch with what has arrived; Pending when nothing has.
    pub(super) fn poll_receive(&self, cx: &mut Context<'_>, batch: &mut Batch) -> Poll<io::Result<()>> {
        loop {
            ready!(self.io.poll_recv_ready(cx))?;
            match self.io.try_io(Interest::READABLE, || self.receive(batch)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                other => return Poll::Ready(other),
            }
        }
    }

    fn receive(&self, batch: &mut Batch) -> io::Result<()> {
        batch.messages.clear();
        // nix 0.31 leaves in the headers the lengths of control data that the kernel wrote, so that headers used twice would
        // have no room for the segment size. Until that is mended they are made anew for each call.
        let control = nix::cmsg_space!(libc::in6_pktinfo, i32);
        let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(batch.buffers.len(), Some(control));
        let mut slices: Vec<_> = batch.buffers.iter_mut().map(|buffer| [IoSliceMut::new(buffer)]).collect();
        let received = recvmmsg(self.io.as_raw_fd(), &mut headers, slices.iter_mut(), MsgFlags::MSG_DONTWAIT, None)?;
        for message in received {
            let mut to = None;
            let mut stride = message.bytes;
            for control in message.cmsgs()? {
                match control {
                    ControlMessageOwned::Ipv4PacketInfo(info) => {
                        to = Some(IpAddr::V4(Ipv4Addr::from(info.ipi_addr.s_addr.to_ne_bytes())));
                    }
                    ControlMessageOwned::Ipv6PacketInfo(info) => {
                        to = Some(IpAddr::V6(Ipv6Addr::from(info.ipi6_addr.s6_addr)).to_canonical());
                    }
                    ControlMessageOwned::UdpGroSegments(size) => stride = usize::try_from(size).unwrap_or(stride),
                    _ => {}
                }
            }
            let from = message.address.as_ref().and_then(address);
            // Without both addresses, or cut short, it cannot be answered: it is kept as an empty message so that the
            // buffers and messages stay in step.
            let whole = !message.flags.contains(MsgFlags::MSG_TRUNC);
            let (len, from, to) = match (from, to) {
                (Some(from), Some(to)) if whole => (message.bytes, from, to),
                _ => (0, UNSPECIFIED, UNSPECIFIED.ip()),
            };
            batch.messages.push(Message { len, stride, from, to: SocketAddr::new(to, self.port) });
        }
        Ok(())
    }

    /// Pending while the kernel's buffer is full.
    pub(super) fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io.poll_send_ready(cx)
    }

    /// Sends `data`, cut into datagrams of `segment` bytes, from that local address. WouldBlock when the kernel's buffer is
    /// full: nothing was sent, [`Socket::poll_writable`] says when to try again. Returns how many system calls it took.
    pub(super) fn send(&self, data: &[u8], segment: usize, from: IpAddr, to: SocketAddr) -> io::Result<u64> {
        if data.len() <= segment || !self.gso.get() {
            return self.send_singly(data, segment, from, to);
        }
        match self.send_message(data, u16::try_from(segment).ok(), from, to) {
            // The device cannot compute checksums (EIO), or the kernel does not know segmentation (EINVAL).
            Err(error) if matches!(error.raw_os_error(), Some(libc::EIO | libc::EINVAL)) => {
                self.gso.set(false);
                self.send_singly(data, segment, from, to)
            }
            Err(error) => Err(error),
            Ok(()) => Ok(1),
        }
    }

    fn send_singly(&self, data: &[u8], segment: usize, from: IpAddr, to: SocketAddr) -> io::Result<u64> {
        let mut calls = 0;
        for datagram in data.chunks(segment.max(1)) {
            match self.send_message(datagram, None, from, to) {
                // The first ones have left: the others are lost as on a congested path, rather than sent twice.
                Err(error) if calls > 0 && error.kind() == io::ErrorKind::WouldBlock => break,
                other => other?,
            }
            calls += 1;
        }
        Ok(calls)
    }

    fn send_message(&self, data: &[u8], segment: Option<u16>, from: IpAddr, to: SocketAddr) -> io::Result<()> {
        let slices = [IoSlice::new(data)];
        let (v4, v6);
        let info = match self.v6 {
            true => {
                let source = match from {
                    IpAddr::V4(from) => from.to_ipv6_mapped(),
                    IpAddr::V6(from) => from,
                };
                let ipi6_addr = libc::in6_addr { s6_addr: source.octets() };
                v6 = libc::in6_pktinfo { ipi6_addr, ipi6_ifindex: 0 };
                ControlMessage::Ipv6PacketInfo(&v6)
            }
            false => {
                let source = match from {
                    IpAddr::V4(from) => from,
                    IpAddr::V6(_) => return Err(Errno::EAFNOSUPPORT.into()),
                };
                let ipi_spec_dst = libc::in_addr { s_addr: u32::from_ne_bytes(source.octets()) };
                v4 = libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst, ipi_addr: libc::in_addr { s_addr: 0 } };
                ControlMessage::Ipv4PacketInfo(&v4)
            }
        };
        let to = SockaddrStorage::from(match (self.v6, to) {
            (true, SocketAddr::V4(to)) => SocketAddr::new(to.ip().to_ipv6_mapped().into(), to.port()),
            (_, to) => to,
        });
        let fd = self.io.as_raw_fd();
        let sent = match &segment {
            Some(size) => {
                sendmsg(fd, &slices, &[info, ControlMessage::UdpGsoSegments(size)], MsgFlags::MSG_DONTWAIT, Some(&to))
            }
            None => sendmsg(fd, &slices, &[info], MsgFlags::MSG_DONTWAIT, Some(&to)),
        };
        if sent == Err(Errno::EAGAIN) {
            // tokio forgets that the socket was writable only if an attempt under its eyes says so. Attempts are not made
            // that way in the first place because it would refuse the first one on a new socket.
            let _ = self.io.try_io(Interest::WRITABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
        }
        sent?;
        Ok(())
    }
}

const UNSPECIFIED: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// Mapped addresses of a dual-stack socket become plain IPv4 ones.
fn address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = storage.as_sockaddr_in() {
        return Some(SocketAddr::new(v4.ip().into(), v4.port()));
    }
    let v6 = storage.as_sockaddr_in6()?;
    match v6.ip().to_ipv4_mapped() {
        Some(v4) => Some(SocketAddr::new(v4.into(), v6.port())),
        // A link-local peer is reached only with its scope.
        None => Some(std::net::SocketAddrV6::new(v6.ip(), v6.port(), 0, v6.scope_id()).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::time::Duration;

    async fn receive(socket: &Socket, want: usize) -> Vec<(Vec<u8>, Message)> {
        let mut batch = Batch::new();
        let mut all = Vec::new();
        while all.len() < want {
            let ready = tokio::time::timeout(Duration::from_secs(5), poll_fn(|cx| socket.poll_receive(cx, &mut batch)));
            ready.await.expect("datagrams within 5 s").unwrap();
            all.extend(batch.datagrams().map(|(datagram, message)| (datagram.to_vec(), message)));
        }
        all
    }

    fn bind(address: &str) -> (Socket, SocketAddr) {
        let socket = std::net::UdpSocket::bind(address).unwrap();
        let local = socket.local_addr().unwrap();
        (Socket::new(socket).unwrap(), local)
    }

    #[tokio::test]
    async fn a_burst_arrives_as_the_datagrams_that_were_sent() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let (a, from) = bind(address);
            let (b, to) = bind(address);
            let data: Vec<u8> = (0..10 * 1200 + 7).map(|i| (i / 1200) as u8).collect();
            for gso in [true, false] {
                a.gso.set(gso);
                a.send(&data, 1200, from.ip(), to).unwrap();
                let got = receive(&b, 11).await;
                assert_eq!(got.len(), 11);
                for (i, (datagram, message)) in got.iter().enumerate() {
                    assert_eq!(datagram[..], data[i * 1200..data.len().min((i + 1) * 1200)]);
                    assert_eq!((message.from, message.to), (from, to));
                }
            }
        }
    }

    #[tokio::test]
    async fn a_wildcard_socket_knows_where_a_datagram_went_and_answers_from_there() {
        let (wild, local) = bind("[::]:0");
        for (address, target) in [("127.0.0.1:0", "127.0.0.3"), ("[::1]:0", "::1")] {
            let (client, from) = bind(address);
            let to = SocketAddr::new(target.parse().unwrap(), local.port());
            client.send(b"ask", 3, from.ip(), to).unwrap();
            let (_, message) = receive(&wild, 1).await[0];
            assert_eq!((message.from, message.to), (from, to));
            wild.send(b"answer", 6, message.to.ip(), message.from).unwrap();
            let (datagram, message) = receive(&client, 1).await.remove(0);
            assert_eq!((&datagram[..], message.from), (&b"answer"[..], to));
        }
    }
}
