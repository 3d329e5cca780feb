// SPDX-License-Identifier: GPL-3.0-only
//! The layer 7 side of the gateway: TLS, HTTP/1.1, HTTP/2 and HTTP/3 in front, HTTP/1.1 behind.
//!
//! A request meets the modules in this order: [`listen`] accepts, [`tls`] decrypts, [`front`] speaks the client's
//! protocol, [`exchange`] normalises, picks by [`route`] and pumps, [`back`] speaks to the backend, [`observe`] counts.
//! [`edge`] is the facade that the process uses; [`worker`] is one thread of it. This crate knows nothing of BPF: what
//! it wants from the kernel beyond sockets it asks for through [`steering`].
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::unreachable)
)]

mod back;
mod date;
pub mod edge;
pub mod error;
pub mod exchange;
mod front;
#[doc(hidden)]
pub mod h1;
pub mod head;
mod io;
pub mod listen;
pub mod observe;
pub(crate) mod quic;
pub mod route;
pub mod snapshot;
pub mod steering;
pub mod stream;
pub mod tls;
pub mod worker;

pub use edge::{Drained, Edge, Options};
pub use error::EdgeError;
pub use observe::Counters;
pub use route::pool::{Algorithm, Backend, Pool};
pub use route::{Route, Routes};
pub use snapshot::{Limits, Listener, Scheme, Snapshot};
pub use steering::{LiveGauge, Steering, Transport};
