// SPDX-License-Identifier: GPL-3.0-only
//! A listener as one worker sees it, and the connections that are open on it.

use super::{Slot, Worker};
use crate::back::pool::Choice;
use crate::observe::{ListenerCounters, Protocol};
use crate::route::Route;
use crate::snapshot::{Listener, Snapshot};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

/// One listener of one snapshot, with what this worker counts for it. A request holds the view that it began with; cloning
/// it touches no memory that other threads write.
pub struct View {
    /// The listener.
    pub listener: Arc<Listener>,
    /// The snapshot that it is from.
    pub snapshot: Arc<Snapshot>,
    /// This worker's figures for it.
    pub counters: Arc<ListenerCounters>,
    /// The Alt-Svc value that tells HTTP/1 and HTTP/2 clients of HTTP/3 on the same port (RFC 7838 section 3).
    pub alt_svc: Option<String>,
    /// In the order of the listener's routes.
    choices: Vec<Rc<Choice>>,
}

impl View {
    pub(super) fn new(worker: &Worker, listener: &Arc<Listener>, snapshot: &Arc<Snapshot>) -> Rc<View> {
        let port = listener.addresses.first().filter(|_| listener.scheme.http3()).map(|address| address.port());
        let choice =
            |route: &Route| Rc::new(Choice::new(worker, &route.pool, |backend| worker.server(backend.address)));
        Rc::new(View {
            choices: listener.routes.iter().map(choice).collect(),
            counters: worker.counters.listener(&listener.name),
            listener: Arc::clone(listener),
            snapshot: Arc::clone(snapshot),
            alt_svc: port.map(|port| format!("h3=\":{port}\"; ma=86400")),
        })
    }
}

impl View {
    /// The pool for a request's path, as this worker sees it.
    pub(crate) fn choice(&self, path: &[u8]) -> Option<&Rc<Choice>> {
        self.choices.get(self.listener.routes.position(path)?)
    }
}

/// A listener's sockets in this worker: they outlive snapshots, their view is always the newest.
pub struct Binding {
    name: Arc<str>,
    view: RefCell<Rc<View>>,
}

impl Binding {
    pub(super) fn new(view: Rc<View>) -> Rc<Binding> {
        let name = Arc::clone(&view.listener.name);
        Rc::new(Binding { name, view: RefCell::new(view) })
    }

    /// The listener's name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The listener as the newest snapshot has it; for a retired one as the last that had it.
    pub fn view(&self) -> Rc<View> {
        Rc::clone(&self.view.borrow())
    }

    pub(super) fn adopt(&self, view: Rc<View>) {
        *self.view.borrow_mut() = view;
    }
}

/// An open client connection; dropping it says that it is closed.
pub struct Live {
    worker: Rc<Worker>,
    counters: Arc<ListenerCounters>,
    protocol: Cell<Option<Protocol>>,
    _slot: Slot,
}

impl Live {
    /// A connection was accepted; `None` when there are as many as there may be.
    pub(crate) fn accept(worker: &Rc<Worker>, binding: &Binding) -> Option<Live> {
        let slot = worker.clients.take()?;
        worker.live.set(worker.live.get() + 1);
        if let Some(gauge) = &worker.gauge {
            gauge.up();
        }
        let counters = Arc::clone(&binding.view.borrow().counters);
        counters.connections(None).active.add(1);
        Some(Live { worker: Rc::clone(worker), counters, protocol: Cell::new(None), _slot: slot })
    }

    /// Now it is known what it speaks. Only the first call counts.
    pub fn speaks(&self, protocol: Protocol) {
        if self.protocol.get().is_none() {
            self.protocol.set(Some(protocol));
            self.counters.connections(None).active.sub(1);
            let connections = self.counters.connections(Some(protocol));
            connections.accepted.add(1);
            connections.active.add(1);
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.worker.live.set(self.worker.live.get().saturating_sub(1));
        if let Some(gauge) = &self.worker.gauge {
            gauge.down();
        }
        let protocol = self.protocol.get();
        let connections = self.counters.connections(protocol);
        connections.active.sub(1);
        if protocol.is_none() {
            connections.accepted.add(1);
        }
    }
}
