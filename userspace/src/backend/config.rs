// SPDX-License-Identifier: GPL-3.0-only
//! What an interface decapsulates, and its way into the maps: what is new is added before the program changes, what is
//! old is removed afterwards, so that a repeated attach never refuses what both the old and the new one allow.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use eg_skel::abi::Plain;
use eg_skel::abi::backend::{DecAddr, DecPrefix};
use eg_skel::maps::{Table, keys};
use eg_skel::{BackendMaps, MapError};

use super::Attach;
use super::error::BackendError;
use super::host::{Host, Link};
use super::prefix::Prefix;

/// The whole of it, defaults filled in.
#[derive(Clone, Debug)]
pub(super) struct Config {
    pub(super) vips: Vec<IpAddr>,
    pub(super) from: Vec<Prefix>,
    pub(super) to: Vec<IpAddr>,
}

/// What an attach has changed so far.
#[derive(Debug, Default)]
pub(super) struct Change {
    /// Entries that were not there before.
    fresh: Entries,
    /// Entries of an earlier attach that this one does not have.
    stale: Entries,
}

#[derive(Debug, Default)]
struct Entries {
    vips: Vec<DecAddr>,
    to: Vec<DecAddr>,
    from: Vec<DecPrefix>,
}

/// Any source of either family.
const ANY: Prefix = Prefix { address: IpAddr::V6(Ipv6Addr::UNSPECIFIED), length: 0 };
/// Where IPv4 lies among the 16-byte addresses.
const ALL_V4: Prefix = Prefix { address: IpAddr::V4(Ipv4Addr::UNSPECIFIED), length: 0 };

impl Config {
    pub(super) fn resolve(wanted: &Attach, host: &Host, link: &Link) -> Result<Config, BackendError> {
        let or = |given: &[IpAddr], default: Vec<IpAddr>| if given.is_empty() { default } else { given.to_vec() };
        let on_loopback = host.loopback().map(|lo| host.addresses_of(lo)).unwrap_or_default();
        let mut config = Config {
            vips: or(&wanted.vips, on_loopback),
            from: wanted.from.clone(),
            to: or(&wanted.to, host.addresses_of(link.index)),
        };
        if config.vips.is_empty() {
            return Err(BackendError::NoVip);
        }
        if config.to.is_empty() {
            return Err(BackendError::NoAddress { interface: link.name.clone() });
        }
        config.vips.sort_unstable();
        config.vips.dedup();
        config.from.sort_unstable();
        config.from.dedup();
        config.to.sort_unstable();
        config.to.dedup();
        Ok(config)
    }

    /// Writes it for the interface. What has changed is said even if not all of it could be written.
    pub(super) fn add(&self, maps: &BackendMaps, index: u32) -> (Change, Result<(), MapError>) {
        let addresses = |all: &[IpAddr]| all.iter().map(|ip| (DecAddr::new(index, *ip), 1)).collect::<Vec<_>>();
        let mut change = Change::default();
        let Change { fresh, stale } = &mut change;
        let written =
            add(&maps.vips, &addresses(&self.vips), |key| key.ifindex == index, &mut fresh.vips, &mut stale.vips)
                .and_then(|()| {
                    add(&maps.to, &addresses(&self.to), |key| key.ifindex == index, &mut fresh.to, &mut stale.to)
                })
                .and_then(|()| {
                    let prefixes = prefixes(&self.from, index);
                    add(&maps.from, &prefixes, |key| key.ifindex == index, &mut fresh.from, &mut stale.from)
                });
        (change, written)
    }
}

impl Change {
    /// Removes what is no longer wanted.
    pub(super) fn finish(&self, maps: &BackendMaps) -> Result<(), MapError> {
        self.stale.remove(maps)
    }

    /// Removes what was not there before.
    pub(super) fn undo(&self, maps: &BackendMaps) -> Result<(), MapError> {
        self.fresh.remove(maps)
    }
}

impl Entries {
    fn remove(&self, maps: &BackendMaps) -> Result<(), MapError> {
        self.vips.iter().try_for_each(|key| maps.vips.delete(key).map(drop))?;
        self.to.iter().try_for_each(|key| maps.to.delete(key).map(drop))?;
        self.from.iter().try_for_each(|key| maps.from.delete(key).map(drop))
    }
}

/// Removes all of an interface's.
pub(super) fn clear(maps: &BackendMaps, index: u32) -> Result<(), MapError> {
    let of = |keys: Vec<DecAddr>| keys.into_iter().filter(|key| key.ifindex == index).collect();
    let prefixes = keys(&maps.from)?.into_iter().filter(|key| key.ifindex == index).collect();
    Entries { vips: of(keys(&maps.vips)?), to: of(keys(&maps.to)?), from: prefixes }.remove(maps)
}

/// As the trie holds them. IPv4 lies within the 16-byte addresses, so a short IPv6 prefix would cover it: where none
/// of IPv4 was named, an entry of its own says no.
fn prefixes(from: &[Prefix], index: u32) -> Vec<(DecPrefix, u32)> {
    let key = |prefix: &Prefix| DecPrefix::new(index, prefix.address, prefix.length);
    if from.is_empty() {
        return vec![(key(&ANY), 1)];
    }
    let mut entries: Vec<_> = from.iter().map(|prefix| (key(prefix), 1)).collect();
    if from.iter().any(Prefix::covers_mapped) && !from.contains(&ALL_V4) {
        entries.push((key(&ALL_V4), 0));
    }
    entries
}

fn add<K: Plain + PartialEq>(
    table: &Table<K, u32>,
    wanted: &[(K, u32)],
    mine: impl Fn(&K) -> bool,
    fresh: &mut Vec<K>,
    stale: &mut Vec<K>,
) -> Result<(), MapError> {
    let before = keys(table)?;
    fresh.extend(wanted.iter().map(|(key, _)| *key).filter(|key| !before.contains(key)));
    stale.extend(before.into_iter().filter(|key| mine(key) && !wanted.iter().any(|(new, _)| new == key)));
    wanted.iter().try_for_each(|(key, value)| table.set(key, value))
}

/// The prefixes of an interface, read back; empty: any.
pub(super) fn accepted(maps: &BackendMaps, index: u32) -> Result<Vec<Prefix>, MapError> {
    let mut found = Vec::new();
    for key in keys(&maps.from)?.into_iter().filter(|key| key.ifindex == index) {
        if maps.from.get(&key)? == Some(1) {
            let (address, length) = key.prefix();
            found.push(Prefix { address, length: u8::try_from(length).unwrap_or(u8::MAX) });
        }
    }
    found.sort_unstable();
    let any = found == [ANY] && maps.from.get(&DecPrefix::new(index, ALL_V4.address, 0))?.is_none();
    Ok(if any { Vec::new() } else { found })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(from: &[&str]) -> Vec<(IpAddr, u32, u32)> {
        let from: Vec<Prefix> = from.iter().map(|text| text.parse().unwrap()).collect();
        prefixes(&from, 7).iter().map(|(key, value)| (key.prefix().0, key.prefix().1, *value)).collect()
    }

    #[test]
    fn no_prefix_is_any_of_both_families() {
        assert_eq!(entries(&[]), [("::".parse().unwrap(), 0, 1)]);
    }

    #[test]
    fn all_of_ipv6_does_not_mean_ipv4() {
        let v6: IpAddr = "::".parse().unwrap();
        let v4: IpAddr = "0.0.0.0".parse().unwrap();
        assert_eq!(entries(&["::/0"]), [(v6, 0, 1), (v4, 0, 0)]);
        assert_eq!(entries(&["0.0.0.0/0", "::/0"]), [(v4, 0, 1), (v6, 0, 1)]);
        assert_eq!(entries(&["2001:db8::/32"]), [("2001:db8::".parse().unwrap(), 32, 1)]);
        let ten: IpAddr = "10.0.0.0".parse().unwrap();
        assert_eq!(entries(&["10.0.0.0/8", "::/0"]), [(ten, 8, 1), (v6, 0, 1), (v4, 0, 0)]);
    }
}
