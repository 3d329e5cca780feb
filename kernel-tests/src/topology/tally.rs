// SPDX-License-Identifier: GPL-3.0-only
//! Numbered datagrams, counted by BPF where they leave the client and where they reach a backend.

use std::io;
use std::net::UdpSocket;
use std::os::fd::{AsFd, OwnedFd};

use libbpf_rs::{MapCore, MapFlags, MapHandle, Object, ObjectBuilder, TC_EGRESS, TcHookBuilder};

use super::Netns;

const MAGIC: u32 = u32::from_le_bytes(*b"EGRN");

/// How many were seen, and the sum of their numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    pub packets: u64,
    pub sum: u64,
}

impl std::iter::Sum for Count {
    fn sum<I: Iterator<Item = Count>>(counts: I) -> Count {
        counts.fold(Count::default(), |a, b| Count { packets: a.packets + b.packets, sum: a.sum + b.sum })
    }
}

/// Sends the datagram with this number.
///
/// # Errors
/// What the socket says.
pub fn send(socket: &UdpSocket, number: u32) -> io::Result<()> {
    let mut bytes = [0; 32];
    bytes[..4].copy_from_slice(&MAGIC.to_le_bytes());
    bytes[4..8].copy_from_slice(&number.to_le_bytes());
    socket.send(&bytes).map(drop)
}

/// A counting program on an interface: until dropped where it arrives, as long as the interface where it leaves.
pub struct Tally {
    map: MapHandle,
    _link: Option<OwnedFd>,
}

impl Tally {
    /// Counts what leaves by `interface`, and lets it.
    pub fn leaving(space: &Netns, interface: &str) -> Tally {
        space.enter(|| {
            let object = load();
            let index = index(interface);
            let program = object.progs().find(|it| it.name() == "eg_test_leave").expect("the program");
            let mut hook = TcHookBuilder::new(program.as_fd()).ifindex(index).replace(true).hook(TC_EGRESS);
            hook.create().expect("clsact");
            hook.attach().expect("attach to egress");
            Tally { map: map(&object), _link: None }
        })
    }

    /// Counts what arrives by `interface`, and takes it out.
    pub fn arriving(space: &Netns, interface: &str) -> Tally {
        space.enter(|| {
            let object = load();
            let index = index(interface);
            let map = map(&object);
            let program = object.progs_mut().find(|it| it.name() == "eg_test_arrive").expect("the program");
            let link = program.attach_xdp(index).expect("attach XDP");
            Tally { map, _link: Some(link.as_fd().try_clone_to_owned().expect("its descriptor")) }
        })
    }

    pub fn count(&self) -> Count {
        let values = self.map.lookup_percpu(&0u32.to_ne_bytes(), MapFlags::ANY).expect("the tally").expect("its entry");
        let word = |value: &[u8], at| u64::from_ne_bytes(value[at..at + 8].try_into().expect("eight bytes"));
        values.iter().map(|value| Count { packets: word(value, 0), sum: word(value, 8) }).sum()
    }
}

fn index(interface: &str) -> i32 {
    nix::net::if_::if_nametoindex(interface).expect(interface).cast_signed()
}

fn load() -> Object {
    let bytes = include_bytes!(concat!(env!("OUT_DIR"), "/tally.bpf.o"));
    let open = ObjectBuilder::default().open_memory(bytes).expect("the tally's object");
    open.load().expect("load the tally")
}

fn map(object: &Object) -> MapHandle {
    let found = object.maps().find(|map| map.name() == "tally").expect("the tally's map");
    MapHandle::try_from(&found).expect("its handle")
}
