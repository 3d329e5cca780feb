// SPDX-License-Identifier: GPL-3.0-only
//! Another capacity of the flow table, without losing the flows: a kernel map keeps the size that it was made with, so a
//! new one takes its place.
//!
//! `load` finds that the pinned table has another size than the plan wants and lets the programs have a new one. The flows
//! are copied, the programs replaced, and what began or changed in between is copied again (`finish`). A flow that was
//! established between the copy and the replacement is unknown for as long as the second pass takes, some microseconds an
//! entry: its packets are dropped as if lost. If the new table is smaller than what it is to hold, the least recently
//! used flows go, as always.

use std::fs;
use std::path::{Path, PathBuf};

use eg_skel::Maps;
use eg_skel::abi::{Flow, FlowKey};
use eg_skel::maps::Table;
use libbpf_rs::{MapCore, MapHandle};

use super::error::DatapathError;

/// The table's pin, and its name.
pub(super) const FLOWS: &str = "eg_flows";

/// A flow table that is about to take another's place.
pub(crate) struct Resize {
    old: Table<FlowKey, Flow>,
    new: MapHandle,
    folder: PathBuf,
}

/// The capacity of the pinned table; `None`: nothing is pinned yet.
pub(super) fn pinned(folder: &Path) -> Result<Option<u32>, DatapathError> {
    let path = folder.join(FLOWS);
    if !path.exists() {
        return Ok(None);
    }
    let table = MapHandle::from_pinned_path(&path).map_err(DatapathError::map("open the pinned flow table"))?;
    Ok(Some(table.max_entries()))
}

impl Resize {
    /// `new` is the loaded programs' own table, the pinned one is to go. Copies every flow.
    pub(super) fn begin(folder: &Path, new: MapHandle) -> Result<Resize, DatapathError> {
        let old = Maps::open_flows(folder)?;
        let (from, to) = (old.capacity(), new.max_entries());
        let copied = old.copy_to(&table(&new)?)?;
        tracing::info!(from, to, copied, "flow table grows or shrinks: flows copied");
        Ok(Resize { old, new, folder: folder.to_path_buf() })
    }

    /// The new table, for a program that is loaded meanwhile.
    pub(super) fn table(&self) -> &MapHandle {
        &self.new
    }

    /// The programs over the new table run everywhere: copies what the old ones did since, and gives the new table the
    /// old one's name.
    pub(crate) fn finish(self) -> Result<(), DatapathError> {
        let late = self.old.copy_missing_to(&table(&self.new)?)?;
        let (pin, beside) = (self.folder.join(FLOWS), self.folder.join("new_flows"));
        let fail = |source| DatapathError::PinRoot { path: pin.clone(), source };
        if beside.exists() {
            fs::remove_file(&beside).map_err(fail)?;
        }
        let mut new = self.new;
        new.pin(&beside).map_err(DatapathError::map("pin the new flow table"))?;
        fs::rename(&beside, &pin).map_err(fail)?;
        tracing::info!(late, "flow table replaced");
        Ok(())
    }
}

fn table(map: &MapHandle) -> Result<Table<FlowKey, Flow>, DatapathError> {
    Ok(Table::of(MapHandle::try_from(map).map_err(DatapathError::map("hold the new flow table"))?)?)
}
