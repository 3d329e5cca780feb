// SPDX-License-Identifier: GPL-3.0-only
//! The objects that no packet table runs: that this kernel takes them, and what its verifier walks for them.

use std::mem::MaybeUninit;

use eg_kernel_tests::{require, verifier};
use eg_skel::{tc_capture, tc_egress, xdp_capture};
use libbpf_rs::skel::{OpenSkel, Skel, SkelBuilder};

/// Loads a capture's twin that records everything: nothing is pruned from it.
macro_rules! walked_in_captures {
    ($skeleton:ident) => {{
        let mut object = MaybeUninit::uninit();
        let mut open = $skeleton::CaptureSkelBuilder::default().open(&mut object).expect("open the twin");
        let rodata = open.maps.rodata_data.as_deref_mut().expect("rodata");
        (rodata.eg_capture_until, rodata.eg_capture_snap, rodata.eg_capture_verdicts) = (u64::MAX, 2048, u32::MAX);
        (rodata.eg_capture_vips, rodata.eg_capture_client, rodata.eg_capture_mask) = ([1, 2], [1; 4], [u32::MAX; 4]);
        let loaded = open.load().expect("load the twin");
        let walked = verifier::walked(loaded.object());
        walked.into_iter().map(|(name, walked)| (format!("capture_{name}"), walked)).collect::<Vec<_>>()
    }};
}

#[test]
fn the_other_objects_load() {
    if !require("xdp") || !require("tc") {
        return;
    }
    verifier::judge(&walked_in_captures!(xdp_capture));
    verifier::judge(&walked_in_captures!(tc_capture));
    let mut object = MaybeUninit::uninit();
    let egress = tc_egress::EgressSkelBuilder::default().open(&mut object).expect("open tc/egress");
    verifier::judge(&verifier::walked(egress.load().expect("load tc/egress").object()));
}
