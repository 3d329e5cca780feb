// SPDX-License-Identifier: GPL-3.0-only
//! From a file to a [`plan::Plan`]: parse with positions, resolve, report every error at once.

pub mod plan;
