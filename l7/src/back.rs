// SPDX-License-Identifier: GPL-3.0-only
//! The backends' side: who can be picked, the connections kept to them, and one adapter per HTTP version to the traits in
//! `stream`.

pub(crate) mod connect;
pub(crate) mod h1;
pub(crate) mod pool;
