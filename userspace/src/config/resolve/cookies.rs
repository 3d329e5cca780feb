// SPDX-License-Identifier: GPL-3.0-only
//! `syn_cookies` of listeners that the process terminates, and what an operator may have overlooked.

use super::{File, number, of_kind};
use crate::config::error::Problems;
use crate::config::plan::{CookiePlan, SynCookies};
use crate::config::schema::{Listener, Protocol};

/// SYNs a second to one address that the stack answers before cookies begin. It costs the stack some hundredths of a core,
/// and is more new connections than a busy address has; what is over it still gets in, with smaller windows.
const RATE: u64 = 10_000;

/// What this listener has, and its rate.
pub(super) fn chosen(listener: &Listener) -> (SynCookies, u32) {
    let when = listener.syn_cookies.as_ref().map_or(SynCookies::default(), |when| when.value);
    (when, number(&listener.syn_cookie_rate, RATE) as u32)
}

/// Every address that is to have them. `on`: the kernel datapath is.
pub(super) fn cookies(file: &File, on: bool, problems: &Problems) -> Vec<CookiePlan> {
    let mut found = Vec::new();
    for (listener, _) in of_kind(file, |protocol| !protocol.is_l4()) {
        let (when, rate) = chosen(listener);
        overlooked(listener, when, on, problems);
        if when == SynCookies::Off {
            continue;
        }
        let stack_per_second = if when == SynCookies::Always { 0 } else { rate };
        let named = listener.addresses.iter().map(|at| at.value).filter(|address| {
            let ip = address.ip();
            !ip.is_unspecified() && !ip.to_canonical().is_loopback()
        });
        found.extend(named.map(|address| CookiePlan { address, stack_per_second }));
    }
    found
}

fn overlooked(listener: &Listener, when: SynCookies, on: bool, problems: &Problems) {
    if let Some(rate) = listener.syn_cookie_rate.as_ref().filter(|_| when != SynCookies::Flood) {
        problems.note(&rate.place, format!("has no effect with syn_cookies = {:?}", when.word()));
    }
    let Some(said) = listener.syn_cookies.as_ref().filter(|said| said.value != SynCookies::Off) else { return };
    if !on {
        problems.note(&said.place, "has no effect: the kernel datapath is off");
    } else if let Some(any) = listener.addresses.iter().find(|address| address.value.ip().is_unspecified()) {
        problems.note(&said.place, format!("has no effect at {}: cookies are for addresses by name", any.value));
    }
}

/// A listener that the process does not terminate.
pub(super) fn misplaced(listener: &Listener, protocol: Protocol, problems: &Problems) {
    let places =
        [listener.syn_cookies.as_ref().map(|at| &at.place), listener.syn_cookie_rate.as_ref().map(|at| &at.place)];
    for place in places.into_iter().flatten() {
        problems.error(place, format!("is for http and https listeners, this one is {}", protocol.word()));
    }
}
