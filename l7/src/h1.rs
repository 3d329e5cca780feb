// SPDX-License-Identifier: GPL-3.0-only
//! HTTP/1.x on the wire (RFC 9112), shared by the front and the back: heads parsed and written, bodies framed, output
//! gathered. Nothing here does I/O or knows the time, so raw bytes test all of it.
//!
//! It is strict where leniency is what request smuggling lives on; `parse` and `body` cite the rules. What is forwarded is
//! always written anew from what was parsed, never copied.

pub(crate) mod body;
pub(crate) mod encode;
#[doc(hidden)]
pub mod fuzz;
pub(crate) mod out;
pub(crate) mod parse;
pub(crate) mod wire;

#[doc(hidden)]
pub use fuzz::{First, first, fuzz};

use crate::error::Refusal;

/// How long a message's body is, as its head says (RFC 9112 section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Length {
    /// There is none.
    None,
    /// That many bytes, at least one.
    Exact(u64),
    /// In chunks.
    Chunked,
    /// Until the connection closes (responses only).
    Close,
}

/// What a head may measure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) bytes: usize,
    pub(crate) fields: usize,
}

/// Why bytes are not a message that we take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bad {
    /// Malformed or ambiguous.
    Malformed,
    /// More bytes or fields than allowed.
    TooLarge,
    /// CONNECT: its answer would turn the connection into something else.
    Connect,
}

impl From<Bad> for Refusal {
    fn from(bad: Bad) -> Refusal {
        match bad {
            Bad::Malformed => Refusal::BadRequest,
            Bad::TooLarge => Refusal::HeadTooLarge,
            Bad::Connect => Refusal::Method,
        }
    }
}

#[cfg(test)]
mod tests;
