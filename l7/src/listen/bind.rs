// SPDX-License-Identifier: GPL-3.0-only
//! Makes the sockets of a place, one per worker, or none at all when one of them cannot be made.
//!
//! Ordinarily: SO_REUSEPORT sockets on the address. With steering: TCP sockets on a loopback port of the kernel's choice,
//! which the kernel's socket lookup assigns connections to whatever their address; UDP sockets on the wildcard, because
//! replies leave from the socket's own port.
//!
//! SO_REUSEPORT lets any process of the same user join in and take its share of the traffic unseen. So the first socket
//! of a place binds without it, which the kernel refuses where anybody else is, and gets it afterwards, for the others
//! to join. Only where this process itself has sockets on the port, as when a reload renames a listener, it is there
//! from the start.

use super::{Endpoint, Place, Retired, Socket};
use crate::error::EdgeError;
use crate::snapshot::{Listener, Snapshot};
use crate::steering::{Steering, Transport};
use socket2::{Domain, Protocol, SockAddr, Type};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

/// Connections that wait to be accepted, per socket. A full queue drops SYNs, which clients send again; the kernel caps it
/// at net.core.somaxconn.
const BACKLOG: i32 = 4096;

/// Bytes in a socket that the kernel has not sent yet before it says that it is writable again: what a slow client can
/// make us queue beyond what is on its way. Smaller costs throughput, larger costs memory and delays resets.
const NOTSENT_LOWAT: u32 = 128 * 1024;

/// The sockets of one place, one per worker.
pub(crate) struct Bound {
    pub(crate) place: Place,
    /// With their real ports.
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) retired: Retired,
    pub(crate) endpoints: Vec<Endpoint>,
}

/// The places that a snapshot wants. TCP comes before UDP, so that a port 0 is chosen once for both.
pub(crate) fn places(snapshot: &Snapshot, steered: bool) -> Vec<Place> {
    let mut places = Vec::new();
    for transport in [Transport::Tcp, Transport::Udp] {
        let wanted = |listener: &&Arc<Listener>| transport == Transport::Tcp || listener.scheme.http3();
        for listener in snapshot.listeners.iter().filter(wanted) {
            let groups: Vec<Vec<SocketAddr>> = match (steered, transport) {
                (false, _) => listener.addresses.iter().map(|&address| vec![address]).collect(),
                (true, Transport::Tcp) => vec![listener.addresses.clone()],
                (true, Transport::Udp) => by_port(&listener.addresses),
            };
            places.extend(groups.into_iter().map(|addresses| Place {
                listener: Arc::clone(&listener.name),
                transport,
                addresses,
            }));
        }
    }
    places
}

fn by_port(addresses: &[SocketAddr]) -> Vec<Vec<SocketAddr>> {
    let mut groups: Vec<Vec<SocketAddr>> = Vec::new();
    for &address in addresses {
        match groups.iter_mut().find(|group| group.first().is_some_and(|first| first.port() == address.port())) {
            Some(group) => group.push(address),
            None => groups.push(vec![address]),
        }
    }
    groups
}

/// Binds a place for every worker. `chosen` gives the real address where TCP already found one for port 0; `ours` says
/// whether this process has sockets on a port.
pub(crate) fn bind(
    place: Place,
    workers: usize,
    steering: Option<&dyn Steering>,
    chosen: impl Fn(SocketAddr) -> SocketAddr,
    ours: impl Fn(Transport, u16) -> bool,
) -> Result<Bound, EdgeError> {
    let refused = |address: SocketAddr| {
        let (listener, transport) = (place.listener.to_string(), place.transport);
        move |source| EdgeError::Bind { listener, address, transport, source }
    };
    let mut addresses: Vec<SocketAddr> = place.addresses.iter().map(|&address| chosen(address)).collect();
    let retired = Retired::default();
    let mut sockets = Vec::new();
    if steering.is_some() && place.transport == Transport::Tcp {
        addresses.iter().try_for_each(|&address| vacant(address).map_err(refused(address)))?;
    }
    let mut loopback = None;
    for worker in 0..workers {
        let address = addresses.first().copied().unwrap_or_else(|| SocketAddr::from((Ipv6Addr::LOCALHOST, 0)));
        let at = match (steering.is_some(), place.transport) {
            (false, _) => address,
            // Linux makes a socket bound to ::1 IPv6 only, whatever IPV6_V6ONLY says (__inet6_bind), and socket lookup then refuses
            // it IPv4 connections. One bound to the mapped loopback address takes both.
            (true, Transport::Tcp) => {
                loopback.unwrap_or_else(|| SocketAddr::from((Ipv4Addr::LOCALHOST.to_ipv6_mapped(), 0)))
            }
            (true, Transport::Udp) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, address.port())),
        };
        let alone = worker == 0 && !ours(place.transport, at.port());
        let (socket, bound) = socket(place.transport, at, steering.is_some(), alone).map_err(refused(at))?;
        // The workers' listeners are one group: the kernel believes a SYN cookie where it has noted a shortage of late, which
        // it does for a group, and the ACK that brings a cookie back may reach another worker than its SYN.
        loopback = Some(bound);
        if steering.is_none()
            && let Some(first) = addresses.first_mut()
        {
            *first = bound;
        }
        sockets.push(socket);
    }
    if let Some(steering) = steering {
        for (worker, socket) in sockets.iter().enumerate() {
            steering.publish(&place.listener, place.transport, &addresses, worker, workers, socket.as_fd()).map_err(
                |source| EdgeError::Steer { listener: place.listener.to_string(), transport: place.transport, source },
            )?;
        }
    }
    let endpoints = sockets
        .into_iter()
        .map(|socket| Endpoint {
            listener: Arc::clone(&place.listener),
            addresses: addresses.clone(),
            steered: steering.is_some(),
            retired: retired.clone(),
            socket,
        })
        .collect();
    Ok(Bound { place, addresses, retired, endpoints })
}

/// Refuses an address where somebody listens. Steered traffic would go past them without a word: the kernel asks our program
/// before it looks for their socket.
fn vacant(address: SocketAddr) -> io::Result<()> {
    let socket = socket2::Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
        socket.set_freebind_v6(true)?;
    } else {
        socket.set_freebind_v4(true)?;
    }
    // Connections that are closing are no obstacle.
    socket.set_reuse_address(true)?;
    match socket.bind(&SockAddr::from(address)) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(error),
        // Whatever else forbids binding there does not stand in the way of who does not bind there.
        _ => Ok(()),
    }
}

/// `alone`: nobody else may have the port, until this socket has it.
fn socket(transport: Transport, at: SocketAddr, steered: bool, alone: bool) -> io::Result<(Socket, SocketAddr)> {
    let (kind, protocol) = match transport {
        Transport::Tcp => (Type::STREAM, Protocol::TCP),
        Transport::Udp => (Type::DGRAM, Protocol::UDP),
    };
    let socket = socket2::Socket::new(Domain::for_address(at), kind.nonblocking(), Some(protocol))?;
    if at.is_ipv6() {
        // A steered socket gets IPv4 traffic too (as mapped addresses); an ordinary one leaves IPv4 to another socket.
        socket.set_only_v6(!steered)?;
    }
    if steered && transport == Transport::Udp {
        // An IPv6 VIP that is local by a route alone is no interface's address, and only with this may IPV6_PKTINFO name it as
        // the source of a reply (ip6_datagram_send_ctl answers EINVAL otherwise).
        socket.set_freebind_v6(true)?;
    }
    socket.set_reuse_port(!alone)?;
    if transport == Transport::Tcp {
        socket.set_reuse_address(true)?;
        // Accepted connections inherit both.
        socket.set_tcp_nodelay(true)?;
        socket.set_tcp_notsent_lowat(NOTSENT_LOWAT)?;
    }
    socket.bind(&SockAddr::from(at))?;
    // Before listening: that is when the kernel looks whether the socket is one of a group.
    socket.set_reuse_port(true)?;
    if transport == Transport::Tcp {
        socket.listen(BACKLOG)?;
    }
    let bound = socket.local_addr()?.as_socket().unwrap_or(at);
    Ok(match transport {
        Transport::Tcp => (Socket::Tcp(socket.into()), bound),
        Transport::Udp => (Socket::Udp(socket.into()), bound),
    })
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Socket::Tcp(socket) => socket.as_fd(),
            Socket::Udp(socket) => socket.as_fd(),
        }
    }
}
