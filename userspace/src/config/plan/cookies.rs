// SPDX-License-Identifier: GPL-3.0-only
//! SYN cookies for what the process terminates.

use std::net::SocketAddr;

/// When the kernel programs answer a listener's SYNs in the stack's place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SynCookies {
    Off,
    /// Those beyond a rate.
    #[default]
    Flood,
    Always,
}

impl SynCookies {
    /// The configuration's words.
    pub const WORDS: [(&'static str, SynCookies); 3] =
        [("off", SynCookies::Off), ("flood", SynCookies::Flood), ("always", SynCookies::Always)];

    /// The configuration's word.
    pub fn word(self) -> &'static str {
        match self {
            SynCookies::Off => "off",
            SynCookies::Flood => "flood",
            SynCookies::Always => "always",
        }
    }
}

/// One address of a listener that has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CookiePlan {
    pub address: SocketAddr,
    /// SYNs a second that the stack answers; 0: none, all get a cookie.
    pub stack_per_second: u32,
}
