// SPDX-License-Identifier: GPL-3.0-only
//! The maps of probes, opened and typed. A gateway has them once it has forwarded a VIP without nat.

use std::path::Path;

use eg_abi::{Count, Probe};
use libbpf_rs::MapHandle;

use super::{MapError, PerCpu, Table};

const PROBES: &str = "eg_probes";
const PROBED: &str = "eg_probed";

/// Every map of `bpf/maps/probes.h`.
#[derive(Debug)]
pub struct ProbeMaps {
    /// By mark.
    pub probes: Table<u32, Probe>,
    /// By [`eg_abi::Probed`].
    pub probed: PerCpu<Count>,
}

impl ProbeMaps {
    /// Opens them from their pins in `dir`; `None`: there are none.
    pub fn open(dir: &Path) -> Result<Option<ProbeMaps>, MapError> {
        if !dir.join(PROBES).exists() {
            return Ok(None);
        }
        let find = |map: &'static str| {
            MapHandle::from_pinned_path(dir.join(map)).map_err(|e| MapError::Missing { map, source: Some(e) })
        };
        Ok(Some(ProbeMaps { probes: Table::new(find(PROBES)?)?, probed: PerCpu::new(find(PROBED)?)? }))
    }
}
