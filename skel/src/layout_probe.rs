// SPDX-License-Identifier: GPL-3.0-only
//! The proof of [`crate::layout`], for the types of probes, which only `bpf/tc/egress.bpf.c` uses.

use std::mem::offset_of;

use eg_abi::Probe;

use crate::tc_egress::types::eg_probe;

const _: () = {
    assert!(size_of::<Probe>() == size_of::<eg_probe>());
    assert!(offset_of!(Probe, vip) == offset_of!(eg_probe, vip));
    assert!(offset_of!(Probe, epoch) == offset_of!(eg_probe, epoch));
    assert!(offset_of!(Probe, backend) == offset_of!(eg_probe, backend));
    assert!(offset_of!(Probe, generation) == offset_of!(eg_probe, generation));
};

#[cfg(test)]
mod tests {
    #[test]
    fn the_mark_is_the_headers() {
        let line = format!("#define EG_PROBE_MARK {:#x}", eg_abi::PROBE_MARK);
        assert!(include_str!("../../bpf/abi.h").lines().any(|known| known == line), "{line}");
    }
}
