// SPDX-License-Identifier: GPL-3.0-only
//! SYN cookies in the maps: how many SYNs to an address the stack may answer, and the mark that sends SYNs there to the program
//! that makes them. And whether this network namespace lets cookies be made at all.

use std::fs;

use eg_skel::abi::{self, Addr, ListenerKey};

use super::super::error::DatapathError;
use super::{Tables, guards};
use crate::config::plan::DatapathPlan;

impl Tables {
    /// Called before `add_vips`. What is the same already keeps what is left in its bucket.
    pub(crate) fn apply_cookies(&mut self, plan: &DatapathPlan) -> Result<(), DatapathError> {
        let key = |address| ListenerKey::new(address, abi::PROTO_TCP);
        // First, so that there is room for all that come.
        for (stale, _) in self.maps.cookies.entries()? {
            if !plan.cookies.iter().any(|cookie| key(cookie.address) == stale) {
                self.maps.cookies.delete(&stale)?;
            }
        }
        for cookie in &plan.cookies {
            let (key, budget) = (key(cookie.address), guards::budget(cookie.stack_per_second)?);
            let now = self.maps.cookies.get(&key)?;
            if now.is_none_or(|now| (now.step, now.window) != (budget.step, budget.window)) {
                self.maps.cookies.set(&key, &budget)?;
            }
        }
        self.cookies = plan.cookies.iter().map(|cookie| Addr::from(cookie.address.ip())).collect();
        self.write_uses()
    }
}

/// What an operator should know of `net.ipv4.tcp_syncookies`, which is the namespace's: with 2 the kernel makes cookies
/// whenever it is asked, with 1 once a listener's queue is full, with 0 never.
pub(crate) fn say(plan: &DatapathPlan) {
    const FIX: &str = "sysctl -w net.ipv4.tcp_syncookies=2";
    if plan.cookies.is_empty() {
        return;
    }
    let always = plan.cookies.iter().any(|cookie| cookie.stack_per_second == 0);
    let value = fs::read_to_string("/proc/sys/net/ipv4/tcp_syncookies").unwrap_or_default();
    match value.trim() {
        "2" => {}
        "1" if always => tracing::warn!(fix = FIX, "syn_cookies = \"always\": not before a listener's queue is full"),
        "1" => tracing::info!(fix = FIX, "SYN cookies from a listener's full queue on, not from syn_cookie_rate on"),
        "" => tracing::warn!("no SYN cookies: this kernel makes none"),
        _ => tracing::warn!(fix = FIX, "no SYN cookies: net.ipv4.tcp_syncookies is 0"),
    }
}
