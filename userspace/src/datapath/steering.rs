// SPDX-License-Identifier: GPL-3.0-only
//! Socket lookup for the edge: puts its workers' sockets where `bpf/sock/lookup.bpf.c` finds them.
//!
//! Each listener and transport gets a block of `workers` slots in `eg_socks`. An address begins to point to its block
//! only when every worker has put its socket there, so a new listener takes an address over in one step and a
//! connection never meets an empty slot. Withdrawing removes only addresses that still point to the withdrawn block.
//!
//! The live-connection gauges are the `eg_workers` map itself, which the kernel reads in place.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, PoisonError};

use eg_l7::{LiveGauge, Steering, Transport};
use eg_skel::Maps;
use eg_skel::abi::{self, Listener, ListenerKey};
use eg_skel::maps::Gauge;

use super::error::DatapathError;

/// Implements the edge's `Steering` over the pinned maps.
pub(crate) struct SocketLookup {
    maps: Arc<Maps>,
    /// Guards the allocation of slots; taken at start, reload and stop only, never for a connection.
    blocks: Mutex<HashMap<BlockKey, Block>>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct BlockKey {
    listener: String,
    transport: Transport,
    addresses: Vec<SocketAddr>,
}

struct Block {
    base: u32,
    workers: u32,
    published: BTreeSet<usize>,
}

impl SocketLookup {
    /// Takes over the maps. What a process before this one published is forgotten: its sockets are gone.
    pub(crate) fn new(maps: Arc<Maps>) -> Result<SocketLookup, DatapathError> {
        for (key, _) in maps.listeners.entries()? {
            maps.listeners.delete(&key)?;
        }
        for gauge in (0..abi::MAX_WORKERS as usize).filter_map(|worker| maps.workers.gauge(worker)) {
            gauge.set(0);
        }
        Ok(SocketLookup { maps, blocks: Mutex::new(HashMap::new()) })
    }
}

impl Steering for SocketLookup {
    fn publish(
        &self,
        listener: &str,
        transport: Transport,
        addresses: &[SocketAddr],
        worker: usize,
        workers: usize,
        socket: BorrowedFd<'_>,
    ) -> io::Result<()> {
        let count = u32::try_from(workers).ok().filter(|count| (1..=abi::MAX_WORKERS).contains(count));
        let Some(count) = count.filter(|_| worker < workers) else {
            let limit = abi::MAX_WORKERS;
            return Err(io::Error::other(format!(
                "worker {worker} of {workers}: socket lookup tells at most {limit} apart"
            )));
        };
        let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        let key = BlockKey { listener: listener.into(), transport, addresses: addresses.to_vec() };
        if !blocks.contains_key(&key) {
            let base = free_block(&blocks, count).ok_or_else(|| {
                io::Error::other(format!("listener {listener}: more than {} sockets", abi::MAX_SOCKS))
            })?;
            blocks.insert(key.clone(), Block { base, workers: count, published: BTreeSet::new() });
        }
        let Some(block) = blocks.get_mut(&key) else { return Ok(()) };
        if block.workers != count {
            return Err(io::Error::other(format!(
                "listener {listener}: published for {} workers before",
                block.workers
            )));
        }
        self.maps.socks.set(block.base + worker as u32, socket).map_err(io::Error::other)?;
        block.published.insert(worker);
        if block.published.len() == workers {
            let value = Listener { base: block.base, workers: count };
            for address in addresses {
                let key = listener_key(*address, transport);
                self.maps.listeners.set(&key, &value).map_err(io::Error::other)?;
            }
        }
        Ok(())
    }

    fn withdraw(&self, listener: &str, transport: Transport, addresses: &[SocketAddr]) -> io::Result<()> {
        let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        let key = BlockKey { listener: listener.into(), transport, addresses: addresses.to_vec() };
        let Some(block) = blocks.remove(&key) else { return Ok(()) };
        for address in addresses {
            let key = listener_key(*address, transport);
            let current = self.maps.listeners.get(&key).map_err(io::Error::other)?;
            if current.is_some_and(|current| current.base == block.base) {
                self.maps.listeners.delete(&key).map_err(io::Error::other)?;
            }
        }
        for slot in block.base..block.base + block.workers {
            self.maps.socks.delete(slot).map_err(io::Error::other)?;
        }
        Ok(())
    }

    fn live(&self, worker: usize) -> Arc<dyn LiveGauge> {
        Arc::new(LiveConnections(self.maps.workers.gauge(worker)))
    }
}

fn listener_key(address: SocketAddr, transport: Transport) -> ListenerKey {
    let proto = match transport {
        Transport::Tcp => abi::PROTO_TCP,
        Transport::Udp => abi::PROTO_UDP,
    };
    ListenerKey::new(address, proto)
}

/// The lowest run of `count` slots that no block has.
fn free_block(blocks: &HashMap<BlockKey, Block>, count: u32) -> Option<u32> {
    let mut taken: Vec<(u32, u32)> = blocks.values().map(|block| (block.base, block.base + block.workers)).collect();
    taken.sort_unstable();
    let mut base = 0;
    for (start, end) in taken {
        if start >= base + count {
            break;
        }
        base = base.max(end);
    }
    (base + count <= abi::MAX_SOCKS).then_some(base)
}

struct LiveConnections(Option<Gauge>);

impl LiveGauge for LiveConnections {
    fn up(&self) {
        if let Some(gauge) = &self.0 {
            gauge.add();
        }
    }

    fn down(&self) {
        if let Some(gauge) = &self.0 {
            gauge.sub();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(base: u32, workers: u32) -> (BlockKey, Block) {
        let key = BlockKey { listener: format!("at {base}"), transport: Transport::Tcp, addresses: Vec::new() };
        (key, Block { base, workers, published: BTreeSet::new() })
    }

    #[test]
    fn a_block_takes_the_lowest_gap_that_holds_it() {
        let blocks: HashMap<_, _> = [block(2, 2), block(6, 2)].into();
        assert_eq!(free_block(&blocks, 2), Some(0));
        assert_eq!(free_block(&blocks, 3), Some(8));
        assert_eq!(free_block(&HashMap::new(), 4), Some(0));
    }

    #[test]
    fn no_block_reaches_beyond_the_map() {
        let blocks: HashMap<_, _> = [block(0, abi::MAX_SOCKS - 1)].into();
        assert_eq!(free_block(&blocks, 1), Some(abi::MAX_SOCKS - 1));
        assert_eq!(free_block(&blocks, 2), None);
    }
}
