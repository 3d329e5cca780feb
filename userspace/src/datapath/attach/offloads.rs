// SPDX-License-Identifier: GPL-3.0-only
//! What a driver does to packets before a program sees them, and must not: turned off where we attach, and turned on
//! again when we leave.
//!
//! With rx-vlan offload an XDP program sees no VLAN tag, and what it sends goes out without one. With LRO a frame is
//! several packets glued together, which cannot be told apart again. What was on is remembered in a pinned map of one
//! number, so that also a `detach` after a crash finds it. The ioctls are those of linux/ethtool.h; where a driver does not
//! let a feature be changed, we say so and go on.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use libbpf_rs::{MapCore, MapFlags, MapHandle};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::super::error::DatapathError;
use super::links::{Kind, Links, pin, result};

/// linux/sockios.h and linux/ethtool.h.
const SIOCETHTOOL: nix::libc::Ioctl = 0x8946;
const ETHTOOL_GFLAGS: u32 = 0x25;
const ETHTOOL_SFLAGS: u32 = 0x26;
const ETH_FLAG_RXVLAN: u32 = 1 << 8;
const ETH_FLAG_LRO: u32 = 1 << 15;

const FEATURES: [(u32, &str); 2] = [(ETH_FLAG_RXVLAN, "rx-vlan-offload"), (ETH_FLAG_LRO, "large-receive-offload")];

/// Turns off what harms at this interface: LRO always, rx-vlan offload only under XDP.
pub(super) fn turn_off(links: &Links, name: &str, index: u32, xdp: bool) -> Result<(), DatapathError> {
    let harmful = if xdp { ETH_FLAG_RXVLAN | ETH_FLAG_LRO } else { ETH_FLAG_LRO };
    let Ok(flags) = get(name) else {
        // No ethtool, no offloads.
        return Ok(());
    };
    let mut changed = 0;
    for (flag, feature) in FEATURES {
        if flags & harmful & flag == 0 {
            continue;
        }
        let now = flags & !changed & !flag;
        match set(name, now) {
            Ok(()) if get(name).is_ok_and(|flags| flags & flag == 0) => {
                tracing::info!(interface = name, feature, "turned off");
                changed |= flag;
            }
            answer => {
                let error = answer.err().map(|error| error.to_string()).unwrap_or_default();
                tracing::warn!(interface = name, feature, %error, "cannot be turned off, and harms packets");
            }
        }
    }
    if changed != 0 { remember(&links.pin_of(Kind::Offloads, index), changed) } else { Ok(()) }
}

/// Turns on again what was turned off, if the interface is still there and the namespace is that one.
pub(super) fn restore(path: &Path, index: u32) -> Result<bool, DatapathError> {
    if !path.exists() {
        return Ok(false);
    }
    let map = MapHandle::from_pinned_path(path).map_err(DatapathError::map(format!("open the pinned map {path:?}")))?;
    let [changed, namespace] = recall(&map)?;
    if namespace == this_namespace()?
        && let Ok(name) = nix::net::if_::if_indextoname(index)
    {
        let name = name.to_string_lossy().into_owned();
        let restored = get(&name).and_then(|flags| set(&name, flags | changed as u32));
        if let Err(error) = restored {
            tracing::warn!(interface = name, %error, "cannot turn its offloads on again");
        }
    }
    fs::remove_file(path).map_err(|source| DatapathError::PinRoot { path: path.into(), source })?;
    Ok(true)
}

/// What was turned off before counts too: a restart finds it off.
pub(super) fn remember(path: &Path, changed: u32) -> Result<(), DatapathError> {
    let fail = || DatapathError::map("remember which offloads were on");
    let map = if path.exists() {
        MapHandle::from_pinned_path(path).map_err(fail())?
    } else {
        let map = create_map().map_err(DatapathError::system("remember which offloads were on"))?;
        pin(map.as_fd(), path)?;
        MapHandle::from_pinned_path(path).map_err(fail())?
    };
    let [before, _] = recall(&map)?;
    let mut value = [0; 16];
    value[..8].copy_from_slice(&(before | u64::from(changed)).to_ne_bytes());
    value[8..].copy_from_slice(&this_namespace()?.to_ne_bytes());
    map.update(&0_u32.to_ne_bytes(), &value, MapFlags::ANY).map_err(fail())
}

/// Flags, and the namespace they are about.
pub(super) fn recall(map: &MapHandle) -> Result<[u64; 2], DatapathError> {
    let fail = DatapathError::map("recall which offloads were on");
    let value = map.lookup(&0_u32.to_ne_bytes(), MapFlags::ANY).map_err(fail)?.unwrap_or_default();
    let mut words = value.chunks_exact(8).map(|word| word.try_into().map(u64::from_ne_bytes).unwrap_or_default());
    Ok([words.next().unwrap_or_default(), words.next().unwrap_or_default()])
}

fn create_map() -> io::Result<OwnedFd> {
    // SAFETY: the name ends in a NUL; a null pointer means no options.
    let descriptor = unsafe {
        libbpf_sys::bpf_map_create(libbpf_sys::BPF_MAP_TYPE_ARRAY, c"offloads".as_ptr(), 4, 16, 1, std::ptr::null())
    };
    let descriptor = result(descriptor)?;
    // SAFETY: the kernel has just given us this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

pub(super) fn this_namespace() -> Result<u64, DatapathError> {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/thread-self/ns/net")
        .map(|namespace| namespace.ino())
        .map_err(DatapathError::system("look at the network namespace"))
}

fn get(name: &str) -> io::Result<u32> {
    ioctl(name, ETHTOOL_GFLAGS, 0)
}

fn set(name: &str, flags: u32) -> io::Result<()> {
    ioctl(name, ETHTOOL_SFLAGS, flags).map(drop)
}

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

fn ioctl(name: &str, command: u32, data: u32) -> io::Result<u32> {
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let name = CString::new(name)?;
    let mut value = Value { command, data };
    // SAFETY: all zeros is a valid ifreq.
    let mut request: nix::libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.as_bytes_with_nul()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: the request names an interface and points to a value of the command's type; both outlive the call.
    let answer = unsafe { nix::libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(value.data) }
}
