// SPDX-License-Identifier: GPL-3.0-only
//! Direct server return around one backend host: a client whose packets to a VIP go by a gateway, a backend that answers
//! it directly.
//!
//! ```text
//! client eth0 -- g0 gateway g1 -- eth0 backend   to the VIP, encapsulated on the second link (MTU 1600)
//! client back ------------------- back backend   from the VIP
//! ```
//!
//! The gateway is a thread of the test's that takes frames off one wire and puts them, wrapped, on the other
//! ([`Wrapper`]): it shares no code with the product. Needs a veth and AF_PACKET, and no tunnel device.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrLike, bind, recv, send, setsockopt,
    socket, sockopt,
};
use nix::sys::time::TimeVal;
use pnet::util::MacAddr;

use super::{Netns, address, mount_bpffs, remove_tree, veth};
use crate::packet::{Encap, Tunnel};

static COUNT: AtomicU32 = AtomicU32::new(0);

/// The network.
pub struct Dsr {
    pub client: Netns,
    pub gateway: Netns,
    pub backend: Netns,
    /// Removed on drop with all that is pinned below.
    pub pin_root: PathBuf,
}

/// The backend's interface towards the gateway.
pub const INTERFACE: &str = "eth0";

const BACKEND_MAC: MacAddr = MacAddr(2, 0xbb, 0, 0, 0, 1);

impl Dsr {
    /// Builds it. The VIPs are on the backend's `lo`.
    ///
    /// # Panics
    /// If the host refuses a step: the caller has checked what it needs with `require`.
    pub fn new() -> Dsr {
        mount_bpffs();
        let unique = format!("egd{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let space = |role: &str| Netns::new(&format!("{unique}-{role}"));
        let dsr = Dsr {
            client: space("client"),
            gateway: space("gateway"),
            backend: space("backend"),
            pin_root: PathBuf::from(format!("/sys/fs/bpf/{unique}")),
        };
        dsr.connect();
        dsr
    }

    fn connect(&self) {
        let Dsr { client, gateway, backend, .. } = self;
        for space in [client, gateway, backend] {
            // The namespace's own defaults are whatever the host's are.
            for setting in ["all.rp_filter=0", "default.rp_filter=0", "all.forwarding=0", "default.forwarding=0"] {
                space.run("sysctl", &["-qw", &format!("net.ipv4.conf.{setting}")]);
            }
        }
        veth(client, "eth0", gateway, "g0");
        veth(gateway, "g1", backend, INTERFACE);
        veth(client, "back", backend, "back");
        gateway.ip("link set g1 mtu 1600");
        backend.ip("link set eth0 mtu 1600");
        backend.ip(&format!("link set eth0 address {BACKEND_MAC}"));
        address(client, "eth0", &["10.10.0.2/24", "fd10::2/64"]);
        address(gateway, "g0", &["10.10.0.1/24", "fd10::1/64"]);
        address(gateway, "g1", &["10.20.0.1/24", "fd20::1/64"]);
        address(backend, INTERFACE, &["10.20.0.2/24", "fd20::2/64"]);
        address(client, "back", &["10.30.0.2/24", "fd30::2/64"]);
        address(backend, "back", &["10.30.0.1/24", "fd30::1/64"]);
        address(backend, "lo", &["203.0.113.7/32", "2001:db8:f::7/128"]);
        client.ip("route add 203.0.113.0/24 via 10.10.0.1");
        client.ip("-6 route add 2001:db8:f::/64 via fd10::1");
        // The gateway's own stack sees the client's packets too, and is to say nothing about them.
        gateway.ip("route add blackhole 203.0.113.0/24");
        gateway.ip("-6 route add blackhole 2001:db8:f::/64");
        backend.ip("route add 10.10.0.0/24 via 10.30.0.2");
        backend.ip("-6 route add fd10::/64 via fd30::2");
    }

    pub fn vip(&self, v6: bool, port: u16) -> SocketAddr {
        let ip: IpAddr = if v6 { "2001:db8:f::7".parse().unwrap() } else { "203.0.113.7".parse().unwrap() };
        SocketAddr::new(ip, port)
    }

    /// Outer headers from the gateway to the backend.
    pub fn tunnel(&self, v6: bool, encap: Encap) -> Tunnel {
        let (source, destination) = if v6 { ("fd20::1", "fd20::2") } else { ("10.20.0.1", "10.20.0.2") };
        let mut tunnel = Tunnel::new(source.parse().unwrap(), destination.parse().unwrap(), encap);
        tunnel.dmac = BACKEND_MAC;
        tunnel
    }

    /// Lets the backend's interface merge what arrives within half a millisecond.
    pub fn merge_received(&self) {
        self.backend.run("ethtool", &["-K", INTERFACE, "gro", "on"]);
        // Unlike setns, `ip netns exec` shows the namespace's own sysfs.
        for (key, value) in [("gro_flush_timeout", "500000"), ("napi_defer_hard_irqs", "50")] {
            let write = format!("echo {value} > /sys/class/net/{INTERFACE}/{key}");
            let status = Command::new("ip").args(["netns", "exec", self.backend.name(), "sh", "-c", &write]).status();
            assert!(status.is_ok_and(|status| status.success()), "{write}");
        }
    }

    /// `egctl` in the backend's namespace; what it printed, or what it said when it failed.
    pub fn egctl(&self, arguments: &[&str]) -> Result<String, String> {
        let mut command = self.backend.command(super::gateway::binary("egctl"));
        let output = command.arg("--pin-root").arg(&self.pin_root).args(arguments).output().expect("run egctl");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }
}

impl Default for Dsr {
    fn default() -> Self {
        Dsr::new()
    }
}

impl Drop for Dsr {
    fn drop(&mut self) {
        remove_tree(&self.pin_root);
    }
}

/// The thread that is the gateway; it ends when this is dropped.
pub struct Wrapper {
    tunnel: Arc<Mutex<Tunnel>>,
    stop: Arc<AtomicBool>,
    wrapped: Arc<AtomicU64>,
    bytes: Arc<AtomicU64>,
    wire: OwnedFd,
    thread: Option<JoinHandle<()>>,
}

/// A frame with a VIP's packet of 1500 bytes and more than enough.
const FRAME_MAX: usize = 2048;

impl Wrapper {
    pub fn start(dsr: &Dsr, tunnel: Tunnel) -> Wrapper {
        let (near, wire) = dsr.gateway.enter(|| (packet_socket("g0"), packet_socket("g1")));
        let mut wrapper = Wrapper {
            tunnel: Arc::new(Mutex::new(tunnel)),
            stop: Arc::default(),
            wrapped: Arc::default(),
            bytes: Arc::default(),
            wire,
            thread: None,
        };
        let far = wrapper.wire.try_clone().expect("a descriptor");
        let (tunnel, stop) = (Arc::clone(&wrapper.tunnel), Arc::clone(&wrapper.stop));
        let (wrapped, bytes) = (Arc::clone(&wrapper.wrapped), Arc::clone(&wrapper.bytes));
        let vips = [dsr.vip(false, 0).ip(), dsr.vip(true, 0).ip()];
        wrapper.thread = Some(std::thread::spawn(move || {
            let mut frame = [0; FRAME_MAX];
            while !stop.load(Ordering::SeqCst) {
                let Ok(length) = recv(near.as_raw_fd(), &mut frame, MsgFlags::empty()) else { continue };
                let Some(packet) = frame.get(14..length).filter(|packet| leads_to(packet, &vips)) else { continue };
                let outer = tunnel.lock().expect("the tunnel").around(packet);
                send(far.as_raw_fd(), &outer, MsgFlags::empty()).expect("send on the wire");
                bytes.fetch_add(outer.len() as u64 - 14, Ordering::SeqCst);
                wrapped.fetch_add(1, Ordering::SeqCst);
            }
        }));
        wrapper
    }

    /// Wraps like this from now on.
    pub fn use_tunnel(&self, tunnel: Tunnel) {
        *self.tunnel.lock().expect("the tunnel") = tunnel;
    }

    /// Packets wrapped so far.
    pub fn wrapped(&self) -> u64 {
        self.wrapped.load(Ordering::SeqCst)
    }

    /// Their L3 bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::SeqCst)
    }

    /// Puts a frame on the backend's wire.
    pub fn send(&self, frame: &[u8]) {
        send(self.wire.as_raw_fd(), frame, MsgFlags::empty()).expect("send on the wire");
    }
}

impl Drop for Wrapper {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn leads_to(packet: &[u8], vips: &[IpAddr]) -> bool {
    let destination = match packet.first().map(|byte| byte >> 4) {
        Some(4) => packet.get(16..20).and_then(|ip| <[u8; 4]>::try_from(ip).ok()).map(IpAddr::from),
        Some(6) => packet.get(24..40).and_then(|ip| <[u8; 16]>::try_from(ip).ok()).map(IpAddr::from),
        _ => None,
    };
    destination.is_some_and(|ip| vips.contains(&ip))
}

/// All frames of an interface; gives up a read every while, so that its thread can end.
fn packet_socket(interface: &str) -> OwnedFd {
    let socket =
        socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll).expect("AF_PACKET");
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(0, 50_000)).expect("a timeout");
    setsockopt(&socket, sockopt::RcvBuf, &(8 << 20)).expect("a buffer");
    let index = nix::net::if_::if_nametoindex(interface).expect(interface);
    let at = nix::libc::sockaddr_ll {
        sll_family: nix::libc::AF_PACKET as u16,
        sll_protocol: (nix::libc::ETH_P_ALL as u16).to_be(),
        sll_ifindex: index.cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: the address is a whole sockaddr_ll, and its length is said.
    let at = unsafe { LinkAddr::from_raw((&raw const at).cast(), Some(size_of_val(&at) as u32)) };
    bind(socket.as_raw_fd(), &at.expect("a link address")).expect("bind");
    socket
}
