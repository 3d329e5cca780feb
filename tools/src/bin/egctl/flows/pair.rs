// SPDX-License-Identifier: GPL-3.0-only
//! From entries of the flow table to flows: two halves make one line.
//!
//! A flow is read from its forward half (client to VIP), which names everything; the reverse half is looked up beside it.
//! A reverse half is a line of its own only while its forward half is gone and it still counts: then the next packet
//! writes the forward half anew. One that no longer counts is nobody's, and is not shown.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;

use eg_skel::abi::{Backend, BackendState, Flow, FlowDir, FlowKey, FlowState, Forward, Miss, PROTO_UDP, Vip};
use eg_skel::loaded::Tunables;
use eg_skel::maps::Table;
use eg_skel::{MapError, Maps};
use expressgateway::datapath::Kind;

use super::filter::State;
use crate::kernel::{Pins, at};

/// One flow.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) protocol: u8,
    pub(crate) client: SocketAddr,
    /// `None`: only the reverse half is left, and its VIP is gone.
    pub(crate) vip: Option<SocketAddr>,
    pub(crate) listener: Option<String>,
    /// Pool and name; `None`: it has left.
    pub(crate) backend: Option<(String, String)>,
    pub(crate) backend_address: Option<SocketAddr>,
    /// What we write as the source; with `snat = false` the client's own.
    pub(crate) source: SocketAddr,
    pub(crate) state: State,
    /// Since the last packet of either direction, by the second.
    pub(crate) idle: u64,
    /// both, forward, reverse; single where replies bypass us; `None`: the backend is gone, and with it the reverse half's key.
    pub(crate) halves: Option<&'static str>,
    /// Why the next packet will not follow this flow.
    pub(crate) stale: Option<Miss>,
}

/// What flows are read with.
pub(crate) struct Reader<'p> {
    pins: &'p Pins,
    tunables: Tunables,
    /// Jiffies when the reading began.
    now: u32,
    names: HashMap<(u32, u32), (u32, &'p str)>,
    // A VIP's or backend's array element costs a system call, and most flows share a few.
    vips: RefCell<HashMap<u32, Vip>>,
    backends: RefCell<HashMap<u32, Backend>>,
}

/// The tables that hold flows, all with the same key and value.
pub(crate) fn tables(maps: &Maps) -> Vec<&Table<FlowKey, Flow>> {
    vec![&maps.flows, &maps.opening]
}

impl<'p> Reader<'p> {
    pub(crate) fn new(pins: &'p Pins, tunables: Tunables, now: u32) -> Self {
        let names = pins.names.iter().map(|named| ((named.kind as u32, named.id), (named.pool, named.name.as_str())));
        Self { pins, tunables, now, names: names.collect(), vips: RefCell::default(), backends: RefCell::default() }
    }

    /// What an entry alone says, without its other half; `None`: it is no line of its own.
    pub(crate) fn line(&self, key: &FlowKey, flow: &Flow) -> Result<Option<Line>, MapError> {
        // The claim of a port that is changing hands is no flow.
        if key.pad != [0; 3] {
            return Ok(None);
        }
        let vip = self.vip(flow.vip)?;
        let backend = self.backend(flow.backend)?;
        let mut stale = None;
        if backend.generation != flow.generation || u32::from(backend.state) == BackendState::None.code() {
            stale = Some(Miss::Generation);
        }
        if vip.epoch != flow.epoch {
            stale = Some(Miss::Epoch);
        }
        let forward = u32::from(flow.dir) == FlowDir::Forward.code();
        if !forward && stale.is_some() {
            return Ok(None);
        }
        let other = at(flow.addr, flow.port);
        let (from, to) = (at(key.saddr, key.sport), at(key.daddr, key.dport));
        let stands = backend.generation == flow.generation;
        Ok(Some(Line {
            protocol: key.proto,
            client: if forward { from } else { other },
            vip: Some(if forward { to } else { at(vip.addr, vip.port) }),
            listener: (vip.epoch == flow.epoch).then(|| self.name(Kind::Vip, flow.vip)).flatten().map(|(_, name)| name),
            backend: stands.then(|| self.name(Kind::Backend, flow.backend)).flatten(),
            backend_address: stands.then(|| at(backend.addr, backend.port)),
            source: if forward { other } else { to },
            state: state(flow.state),
            idle: self.idle(flow),
            halves: None,
            stale,
        }))
    }

    /// Completes a line by its other half. `false`: it is a reverse half, and its forward half is the line.
    pub(crate) fn complete(&self, key: &FlowKey, flow: &Flow, line: &mut Line) -> Result<bool, MapError> {
        let forward = u32::from(flow.dir) == FlowDir::Forward.code();
        if u32::from(self.vip(flow.vip)?.forward) != Forward::Nat.code() {
            line.halves = Some("single");
            if self.expired(flow, key.proto) {
                line.stale = line.stale.or(Some(Miss::Expired));
            }
            return Ok(true);
        }
        let Some(other_key) = self.other_key(key.proto, line, forward) else { return Ok(forward) };
        let other = self.find(&other_key)?;
        let own = other.filter(|other| {
            let (addr, port) = if forward { (key.saddr, key.sport) } else { (key.daddr, key.dport) };
            same(flow, other) && other.dir != flow.dir && (other.addr, other.port) == (addr, port)
        });
        if !forward && own.is_some() {
            return Ok(false);
        }
        if let (Some(_), None) = (other, own) {
            line.stale = line.stale.or(Some(Miss::Taken));
        }
        if let Some(own) = own {
            line.idle = line.idle.min(self.idle(&own));
            if u32::from(own.state) == FlowState::Closing.code() {
                line.state = State::Closing;
            }
        }
        line.halves = Some(match (forward, own.is_some()) {
            (true, true) => "both",
            (true, false) => "forward",
            (false, _) => "reverse",
        });
        let halves = std::iter::once(*flow).chain(own);
        if halves.into_iter().all(|half| self.expired(&half, key.proto)) {
            line.stale = line.stale.or(Some(Miss::Expired));
        }
        Ok(true)
    }

    fn other_key(&self, proto: u8, line: &Line, forward: bool) -> Option<FlowKey> {
        if forward {
            Some(FlowKey::new(line.backend_address?, line.source, proto))
        } else {
            Some(FlowKey::new(line.client, line.vip?, proto))
        }
    }

    fn find(&self, key: &FlowKey) -> Result<Option<Flow>, MapError> {
        for table in tables(&self.pins.maps) {
            if let Some(flow) = table.get(key)? {
                return Ok(Some(flow));
            }
        }
        Ok(None)
    }

    fn vip(&self, id: u32) -> Result<Vip, MapError> {
        cached(&self.vips, id, || self.pins.maps.vips.get(id))
    }

    fn backend(&self, id: u32) -> Result<Backend, MapError> {
        cached(&self.backends, id, || self.pins.maps.backends.get(id))
    }

    /// The pool's name, which only a backend has, and its own.
    fn name(&self, kind: Kind, id: u32) -> Option<(String, String)> {
        let (pool, name) = self.names.get(&(kind as u32, id))?;
        let pool = self.names.get(&(Kind::Pool as u32, *pool)).map_or("", |(_, name)| name);
        Some((pool.to_owned(), (*name).to_owned()))
    }

    /// Entries may have been written since the reading began: those are not idle at all. As to the kernel, a long time
    /// wraps around.
    fn ticks(&self, flow: &Flow) -> u32 {
        const JUST_NOW: u32 = 1 << 24;
        let ticks = self.now.wrapping_sub(flow.seen);
        if ticks > u32::MAX - JUST_NOW { 0 } else { ticks }
    }

    fn idle(&self, flow: &Flow) -> u64 {
        u64::from(self.ticks(flow) / self.tunables.jiffies_hz.max(1))
    }

    fn expired(&self, flow: &Flow, proto: u8) -> bool {
        let told = &self.tunables;
        let timeout = match state(flow.state) {
            _ if proto == PROTO_UDP => told.timeout_udp_s,
            State::Opening => told.timeout_opening_s,
            State::Closing => told.timeout_closing_s,
            State::Open => told.timeout_open_s,
        };
        u64::from(self.ticks(flow)) >= u64::from(timeout) * u64::from(told.jiffies_hz)
    }
}

fn cached<V: Copy>(
    cache: &RefCell<HashMap<u32, V>>,
    id: u32,
    read: impl FnOnce() -> Result<V, MapError>,
) -> Result<V, MapError> {
    if let Some(value) = cache.borrow().get(&id) {
        return Ok(*value);
    }
    let value = read()?;
    cache.borrow_mut().insert(id, value);
    Ok(value)
}

fn same(one: &Flow, other: &Flow) -> bool {
    (one.vip, one.epoch, one.backend, one.generation) == (other.vip, other.epoch, other.backend, other.generation)
}

/// What is neither open nor closing is on its way to be open.
fn state(code: u8) -> State {
    match FlowState::from_code(code.into()) {
        Some(FlowState::Open) => State::Open,
        Some(FlowState::Closing) => State::Closing,
        _ => State::Opening,
    }
}
