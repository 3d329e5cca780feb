// SPDX-License-Identifier: GPL-3.0-only
//! Who is who behind the numbers: a pinned map from ids to the operator's names, read by no program.
//!
//! Packets know VIPs, pools and backends by small numbers that must mean the same after a restart: flows carry them.
//! `tables` writes each name here when it gives out a number, and reads them back when it starts. `egctl` shows names
//! from it when no process is there to ask. Decision 0002 says why this is a map.

use std::hash::Hasher;
use std::path::Path;

use libbpf_rs::{ErrorKind, MapCore, MapFlags, MapHandle, MapType};
use siphasher::sip::SipHasher13;

use super::error::DatapathError;

const NAME: &str = "eg_names";
const TEXT: usize = 64;
const KEY: usize = 8;
const VALUE: usize = 8 + TEXT;
/// One for each VIP, pool and backend that the other maps can hold.
const ENTRIES: u32 = eg_skel::abi::MAX_VIPS + eg_skel::abi::MAX_POOLS + eg_skel::abi::MAX_BACKENDS;

/// What a number counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The name is the listener's.
    Vip = 1,
    Pool = 2,
    /// `pool` says whose.
    Backend = 3,
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    pub kind: Kind,
    pub id: u32,
    pub pool: u32,
    /// As `stored` gives it.
    pub name: String,
}

/// What is named under the pins in `folder`; nothing where no process has pinned names there.
///
/// # Errors
/// The map cannot be read: no privilege, or it is another program's.
pub fn names(folder: &Path) -> Result<Vec<Named>, DatapathError> {
    if folder.join(NAME).exists() { Names::open(folder)?.all() } else { Ok(Vec::new()) }
}

/// The map. Key: kind, id. Value: pool id, length, text, all in host byte order.
pub(crate) struct Names {
    map: MapHandle,
}

impl Names {
    /// Opens the pin in `folder`, or makes it.
    pub(crate) fn open(folder: &Path) -> Result<Names, DatapathError> {
        let path = folder.join(NAME);
        if path.exists() {
            let map = MapHandle::from_pinned_path(&path).map_err(DatapathError::map("open the pinned map eg_names"))?;
            if map.key_size() as usize != KEY || map.value_size() as usize != VALUE {
                return Err(DatapathError::Plan { problem: format!("{path:?} is not a map of names") });
            }
            return Ok(Names { map });
        }
        let options = libbpf_sys::bpf_map_create_opts {
            sz: size_of::<libbpf_sys::bpf_map_create_opts>() as libbpf_sys::size_t,
            map_flags: libbpf_sys::BPF_F_NO_PREALLOC,
            ..Default::default()
        };
        let mut map = MapHandle::create(MapType::Hash, Some(NAME), KEY as u32, VALUE as u32, ENTRIES, &options)
            .map_err(DatapathError::map("create the map eg_names"))?;
        map.pin(&path).map_err(DatapathError::map("pin the map eg_names"))?;
        Ok(Names { map })
    }

    /// Everything that is named.
    pub(crate) fn all(&self) -> Result<Vec<Named>, DatapathError> {
        let mut all = Vec::new();
        for key in self.map.keys() {
            let value = self.map.lookup(&key, MapFlags::ANY).map_err(DatapathError::map("read eg_names"))?;
            all.extend(value.and_then(|value| parse(&key, &value)));
        }
        Ok(all)
    }

    pub(crate) fn set(&self, kind: Kind, id: u32, pool: u32, name: &str) -> Result<(), DatapathError> {
        let text = stored(name);
        let mut value = Vec::with_capacity(VALUE);
        value.extend(pool.to_ne_bytes());
        value.extend((text.len() as u32).to_ne_bytes());
        value.extend(text.as_bytes());
        value.resize(VALUE, 0);
        self.map.update(&key(kind, id), &value, MapFlags::ANY).map_err(DatapathError::map("write eg_names"))
    }

    pub(crate) fn remove(&self, kind: Kind, id: u32) -> Result<(), DatapathError> {
        match self.map.delete(&key(kind, id)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(DatapathError::map("write eg_names")(error)),
            _ => Ok(()),
        }
    }
}

/// How a name is stored: as it is, or, beyond 64 bytes, its beginning and a hash of the whole, so that two long names
/// stay two.
pub(crate) fn stored(name: &str) -> String {
    if name.len() <= TEXT {
        return name.to_string();
    }
    let mut hasher = SipHasher13::new();
    hasher.write(name.as_bytes());
    let mut short = String::new();
    for character in name.chars() {
        if short.len() + character.len_utf8() > TEXT - 17 {
            break;
        }
        short.push(character);
    }
    format!("{short}#{:016x}", hasher.finish())
}

fn key(kind: Kind, id: u32) -> Vec<u8> {
    [(kind as u32).to_ne_bytes(), id.to_ne_bytes()].concat()
}

fn parse(key: &[u8], value: &[u8]) -> Option<Named> {
    let number = |bytes: &[u8], at: usize| {
        bytes.get(at..at + 4).and_then(|four| <[u8; 4]>::try_from(four).ok()).map(u32::from_ne_bytes)
    };
    let kind = match number(key, 0)? {
        1 => Kind::Vip,
        2 => Kind::Pool,
        3 => Kind::Backend,
        _ => return None,
    };
    let length = number(value, 4)? as usize;
    let name = std::str::from_utf8(value.get(8..8 + length)?).ok()?;
    Some(Named { kind, id: number(key, 4)?, pool: number(value, 0)?, name: name.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_name_is_stored_as_it_is_and_a_long_one_keeps_its_identity() {
        assert_eq!(stored("web"), "web");
        let (a, b) = (format!("{}a", "x".repeat(80)), format!("{}b", "x".repeat(80)));
        assert_eq!(stored(&a).len(), TEXT);
        assert_ne!(stored(&a), stored(&b));
        assert_eq!(stored(&a), stored(&a), "the hash has a fixed key: it must outlive the process");
        assert!(stored(&"é".repeat(40)).len() <= TEXT);
    }

    #[test]
    fn entries_of_unknown_kind_or_length_are_skipped() {
        let mut value = vec![0; VALUE];
        assert_eq!(parse(&key(Kind::Pool, 7), &value).map(|named| (named.id, named.name)), Some((7, String::new())));
        assert_eq!(parse(&[9, 0, 0, 0, 1, 0, 0, 0], &value), None);
        value[4..8].copy_from_slice(&1000u32.to_ne_bytes());
        assert_eq!(parse(&key(Kind::Pool, 7), &value), None);
    }
}
