// SPDX-License-Identifier: GPL-3.0-only
//! Several objects, one set of maps: `reuse_pinned` between open and load, `pin_missing` after load.
//!
//! Maps are pinned as `<dir>/<name>`, where `dir` is `<pin_root>/v<ABI>`. Only maps whose name begins with `eg_` are
//! shared; rodata and private maps belong to the one object that was loaded.

use std::fmt;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use eg_abi::ABI;
use libbpf_rs::{MapCore, MapHandle, Object, OpenMapMut, OpenObject};

/// Why maps could not be shared.
#[derive(Debug)]
pub enum ShareError {
    /// The pinned map is not the one the object wants; reusing it would fail, or read other things into it.
    Differs { map: String, property: &'static str, pinned: u32, wanted: u32 },
    /// The kernel or libbpf refused an operation on the pin.
    Pin { path: PathBuf, source: libbpf_rs::Error },
    /// The directory of the pins could not be made.
    Directory { path: PathBuf, source: io::Error },
}

impl fmt::Display for ShareError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ShareError::Differs { map, property, pinned, wanted } => {
                write!(f, "pinned map {map}: {property} is {pinned}, this program needs {wanted}")
            }
            ShareError::Pin { path, .. } => write!(f, "cannot use the pin {}", path.display()),
            ShareError::Directory { path, .. } => write!(f, "cannot make the pin directory {}", path.display()),
        }
    }
}

impl std::error::Error for ShareError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ShareError::Differs { .. } => None,
            ShareError::Pin { source, .. } => Some(source),
            ShareError::Directory { source, .. } => Some(source),
        }
    }
}

/// Where the maps of this ABI are pinned below a root.
pub fn pin_dir(pin_root: &Path) -> PathBuf {
    pin_root.join(format!("v{ABI}"))
}

/// Before load: lets each shared map of `object` that is pinned in `dir` be the pinned one, but the one called `except`.
/// Returns the names of those reused; the others are created by load. Fails, naming map and property, if a pinned map is of another shape (set
/// `max_entries` first where the size is the operator's choice).
pub fn reuse_pinned(object: &mut OpenObject, dir: &Path, except: Option<&str>) -> Result<Vec<String>, ShareError> {
    let mut reused = Vec::new();
    for mut map in object.maps_mut() {
        let name = map.name().to_string_lossy().into_owned();
        let path = dir.join(&name);
        if !is_shared(&name) || !path.exists() || except == Some(name.as_str()) {
            continue;
        }
        let pin = |source| ShareError::Pin { path: path.clone(), source };
        let pinned = MapHandle::from_pinned_path(&path).map_err(pin)?;
        compare(&map, &pinned, &name).map_err(pin)??;
        map.reuse_pinned_map(&path).map_err(pin)?;
        reused.push(name);
    }
    Ok(reused)
}

/// Before load: every shared map of `object` becomes the one that `find` gives by its name, whatever its size.
pub(crate) fn reuse_all(
    object: &mut OpenObject,
    mut find: impl FnMut(&str) -> libbpf_rs::Result<MapHandle>,
) -> Result<(), ShareError> {
    for mut map in object.maps_mut() {
        let name = map.name().to_string_lossy().into_owned();
        if !is_shared(&name) {
            continue;
        }
        let pin = |source| ShareError::Pin { path: PathBuf::from(&name), source };
        let found = find(&name).map_err(pin)?;
        map.set_max_entries(found.max_entries()).map_err(pin)?;
        compare(&map, &found, &name).map_err(pin)??;
        map.reuse_fd(found.as_fd()).map_err(pin)?;
    }
    Ok(())
}

/// Is this map what the program takes it for?
fn compare(map: &OpenMapMut<'_>, pinned: &MapHandle, name: &str) -> libbpf_rs::Result<Result<(), ShareError>> {
    // Not MapInfo::flags(): libbpf-rs 0.27 drops the bits that it has no name for, BPF_F_MMAPABLE among them.
    let flags = pinned.info()?.info.map_flags;
    let same = [
        ("type", u32::from(pinned.map_type()), u32::from(map.map_type())),
        ("key size", pinned.key_size(), map.key_size()),
        ("value size", pinned.value_size(), map.value_size()),
        ("max_entries", pinned.max_entries(), map.max_entries()),
        ("flags", flags, map.map_flags()),
    ];
    Ok(match same.into_iter().find(|(_, pinned, wanted)| pinned != wanted) {
        Some((property, pinned, wanted)) => Err(ShareError::Differs { map: name.to_owned(), property, pinned, wanted }),
        None => Ok(()),
    })
}

/// After load: pins each shared map of `object` that has no pin in `dir` yet, making the directory if needed.
pub fn pin_missing(object: &mut Object, dir: &Path) -> Result<(), ShareError> {
    fs::create_dir_all(dir).map_err(|source| ShareError::Directory { path: dir.to_owned(), source })?;
    for mut map in object.maps_mut() {
        let name = map.name().to_string_lossy().into_owned();
        let path = dir.join(&name);
        if is_shared(&name) && !path.exists() {
            map.pin(&path).map_err(|source| ShareError::Pin { path, source })?;
        }
    }
    Ok(())
}

fn is_shared(name: &str) -> bool {
    name.starts_with("eg_")
}
