// SPDX-License-Identifier: GPL-3.0-only
//! `eg_sk_lookup` with real sockets, in a network namespace of the test's own: L7 listeners are reached at addresses that
//! no socket is bound to, by the least loaded worker.

use std::fs::File;
use std::io::ErrorKind;
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::process::Command;
use std::time::Duration;

use eg_abi::{Listener, ListenerKey, PROTO_TCP, PROTO_UDP};
use eg_kernel_tests::require;
use eg_skel::Maps;
use eg_skel::sock_lookup::LookupSkelBuilder;
use eg_skel::xdp_ingress::IngressSkelBuilder;
use libbpf_rs::skel::{OpenSkel, Skel, SkelBuilder};
use libbpf_rs::{Link, OpenObject};
use nix::sched::{CloneFlags, unshare};

const VIPS: [&str; 2] = ["203.0.113.7:443", "[2001:db8:f::7]:443"];
const ELSEWHERE: &str = "203.0.113.7:80";

/// A namespace with the VIPs on its loopback device, and the program attached to it. The thread that made it lives in
/// it; both end together.
struct Host {
    maps: Maps,
    _attached: Link,
}

fn in_a_namespace(test: impl FnOnce(Host) + Send + 'static) {
    if !require("netns") || !require("sk_lookup") {
        return;
    }
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
        for command in ["link set lo up", "addr add 203.0.113.7/32 dev lo", "addr add 2001:db8:f::7/128 dev lo nodad"] {
            assert!(Command::new("ip").args(command.split(' ')).status().expect("ip").success(), "ip {command}");
        }
        let leak = || -> &'static mut MaybeUninit<OpenObject> { Box::leak(Box::new(MaybeUninit::uninit())) };
        let xdp = IngressSkelBuilder::default().open(leak()).expect("open").load().expect("load xdp/ingress");
        let sock = LookupSkelBuilder::default().open(leak()).expect("open").load().expect("load sock/lookup");
        let namespace = File::open("/proc/thread-self/ns/net").expect("our namespace");
        let attached = sock.progs.eg_sk_lookup.attach_netns(namespace.as_raw_fd()).expect("attach");
        let maps = Maps::of_objects(&[xdp.object(), sock.object()]).expect("the maps");
        test(Host { maps, _attached: attached });
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// Three workers' TCP sockets, not bound to any VIP, offered for both of them. Bound to the mapped loopback address: one
/// bound to ::1 is IPv6 only (`__inet6_bind`), and would refuse IPv4 connections.
fn tcp_workers(host: &Host) -> Vec<TcpListener> {
    let sockets: Vec<_> = (0..3).map(|_| TcpListener::bind("[::ffff:127.0.0.1]:0").unwrap()).collect();
    for (slot, socket) in sockets.iter().enumerate() {
        socket.set_nonblocking(true).unwrap();
        host.maps.socks.set(slot as u32, socket.as_fd()).unwrap();
    }
    for vip in VIPS {
        host.maps.listeners.set(&ListenerKey::new(at(vip), PROTO_TCP), &Listener { base: 0, workers: 3 }).unwrap();
    }
    sockets
}

/// Connects, and says which of the sockets got the connection. On loopback it is there when connect returns.
fn who_accepts(sockets: &[TcpListener], vip: &str) -> usize {
    let client = TcpStream::connect_timeout(&at(vip), Duration::from_secs(5)).unwrap();
    let mut takers = Vec::new();
    for (worker, socket) in sockets.iter().enumerate() {
        match socket.accept() {
            Ok((taken, from)) => {
                assert_eq!(canonical(taken.local_addr().unwrap()), at(vip), "the VIP is what the worker sees");
                assert_eq!(canonical(from), client.local_addr().unwrap());
                takers.push(worker);
            }
            Err(e) => assert_eq!(e.kind(), ErrorKind::WouldBlock),
        }
    }
    assert_eq!(takers.len(), 1, "one worker has it: {takers:?}");
    takers[0]
}

fn canonical(at: SocketAddr) -> SocketAddr {
    SocketAddr::new(at.ip().to_canonical(), at.port())
}

#[test]
fn a_connection_goes_to_the_least_loaded_worker() {
    in_a_namespace(|host| {
        let sockets = tcp_workers(&host);
        for (loads, least) in [([5, 0, 9], 1), ([0, 1, 1], 0), ([7, 7, 6], 2)] {
            for (worker, load) in loads.into_iter().enumerate() {
                host.maps.workers.gauge(worker).unwrap().set(load);
            }
            for vip in VIPS {
                assert_eq!(who_accepts(&sockets, vip), least, "{vip}, loads {loads:?}");
            }
        }
    });
}

#[test]
fn workers_with_equal_loads_take_turns() {
    in_a_namespace(|host| {
        let sockets = tcp_workers(&host);
        let mut taken = [0; 3];
        for _ in 0..60 {
            taken[who_accepts(&sockets, VIPS[0])] += 1;
        }
        assert!(taken.iter().all(|n| *n >= 8), "{taken:?}");
    });
}

#[test]
fn a_closed_socket_falls_to_the_next_and_the_last_to_the_stack() {
    in_a_namespace(|host| {
        let mut sockets = tcp_workers(&host);
        host.maps.workers.gauge(0).unwrap().set(0);
        host.maps.workers.gauge(1).unwrap().set(1);
        host.maps.workers.gauge(2).unwrap().set(2);
        drop(sockets.remove(0));
        assert_eq!(who_accepts(&sockets, VIPS[0]), 0, "the second worker, now first in the list");
        host.maps.socks.delete(1).unwrap();
        assert_eq!(who_accepts(&sockets, VIPS[0]), 1);
        host.maps.socks.delete(2).unwrap();
        let refused = TcpStream::connect_timeout(&at(VIPS[0]), Duration::from_secs(5)).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    });
}

#[test]
fn what_is_no_listeners_is_left_to_the_stack() {
    in_a_namespace(|host| {
        let _workers = tcp_workers(&host);
        let own = TcpListener::bind(ELSEWHERE).unwrap();
        own.set_nonblocking(true).unwrap();
        assert_eq!(who_accepts(&[own], ELSEWHERE), 0);
    });
}

#[test]
fn a_listener_of_the_unspecified_address_gets_every_address_of_its_family() {
    in_a_namespace(|host| {
        let sockets = tcp_workers(&host);
        host.maps.workers.gauge(0).unwrap().set(1);
        host.maps.workers.gauge(1).unwrap().set(1);
        let any = ListenerKey::new(at("0.0.0.0:8080"), PROTO_TCP);
        host.maps.listeners.set(&any, &Listener { base: 0, workers: 3 }).unwrap();
        assert_eq!(who_accepts(&sockets, "203.0.113.7:8080"), 2);
        assert_eq!(who_accepts(&sockets, "127.0.0.1:8080"), 2);
        let refused = TcpStream::connect_timeout(&at("[2001:db8:f::7]:8080"), Duration::from_secs(5)).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    });
}

#[test]
fn datagrams_of_one_client_reach_one_worker_and_clients_spread() {
    in_a_namespace(|host| {
        for (n, vip) in VIPS.into_iter().enumerate() {
            let base = 8 * n as u32;
            let sockets: Vec<_> = (0..3).map(|_| UdpSocket::bind("[::]:0").unwrap()).collect();
            for (slot, socket) in sockets.iter().enumerate() {
                socket.set_nonblocking(true).unwrap();
                host.maps.socks.set(base + slot as u32, socket.as_fd()).unwrap();
            }
            host.maps.listeners.set(&ListenerKey::new(at(vip), PROTO_UDP), &Listener { base, workers: 3 }).unwrap();
            let mut clients_of = [0; 3];
            for _ in 0..60 {
                let client = UdpSocket::bind(if n == 0 { "127.0.0.1:0" } else { "[::1]:0" }).unwrap();
                (0..4).for_each(|_| assert_eq!(client.send_to(b"hello", at(vip)).unwrap(), 5));
                let mut bytes = [0; 8];
                let got = sockets.iter().map(|s| std::iter::from_fn(|| s.recv_from(&mut bytes).ok()).count());
                let got: Vec<_> = got.collect();
                assert_eq!(got.iter().sum::<usize>(), 4, "{got:?}");
                let worker = got.iter().position(|n| *n == 4).expect("all four at one worker");
                clients_of[worker] += 1;
            }
            assert!(clients_of.iter().all(|n| *n >= 8), "{vip}: {clients_of:?}");
        }
    });
}
