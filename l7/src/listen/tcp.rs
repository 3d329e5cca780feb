// SPDX-License-Identifier: GPL-3.0-only
//! Accepts TCP connections and gives each a task of its own.

use super::Retired;
use crate::worker::{Binding, Live, Phase, Watch, Worker};
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};

/// How long accepting rests when there are as many connections as there may be, or no descriptor left: the socket stays
/// readable, so trying again at once would only spin. Who came meanwhile waits in the kernel's backlog.
const PAUSE: Duration = Duration::from_millis(100);

pub(super) fn serve(worker: &Rc<Worker>, binding: Rc<Binding>, socket: std::net::TcpListener, retired: Retired) {
    let owner = Rc::clone(worker);
    worker.spawn("accept", async move {
        let socket = match TcpListener::from_std(socket) {
            Ok(socket) => socket,
            Err(error) => {
                tracing::error!(worker = owner.index, listener = &**binding.name(), %error, "cannot serve a socket");
                return;
            }
        };
        accept(&owner, &binding, &socket, &retired).await;
    });
}

async fn accept(worker: &Rc<Worker>, binding: &Rc<Binding>, socket: &TcpListener, retired: &Retired) {
    let watch = Watch::new(worker);
    let mut full = false;
    loop {
        let next = poll_fn(|cx| {
            watch.expired(cx);
            let over = retired.is_set() || worker.phase() >= Phase::Draining;
            // Asked before accepting: a connection that we cannot serve is better off in the backlog.
            if !worker.clients.has_one() {
                return Poll::Ready(if over { Next::Over } else { Next::Full });
            }
            // Whoever the kernel has already accepted for us is served, and only then do we stop.
            match socket.poll_accept(cx) {
                Poll::Pending if over => Poll::Ready(Next::Over),
                poll => poll.map(Next::Accepted),
            }
        });
        match next.await {
            Next::Over => return,
            Next::Full => {
                if !std::mem::replace(&mut full, true) {
                    paused(worker, binding, &"as many connections as there may be");
                }
                tokio::time::sleep(PAUSE).await;
            }
            Next::Accepted(Ok((stream, peer))) => {
                full = false;
                let Some(live) = Live::accept(worker, binding) else { continue };
                crate::front::tcp(worker, binding, stream, peer, live);
            }
            Next::Accepted(Err(error)) if exhausted(&error) => {
                paused(worker, binding, &error);
                tokio::time::sleep(PAUSE).await;
            }
            // The connection was gone before we took it (accept(2) names a dozen such errors): on to the next.
            Next::Accepted(Err(_)) => {}
        }
    }
}

enum Next {
    Accepted(io::Result<(TcpStream, SocketAddr)>),
    /// There are as many connections as there may be.
    Full,
    /// The listener takes no more.
    Over,
}

fn paused(worker: &Worker, binding: &Binding, why: &dyn std::fmt::Display) {
    worker.counters.accept_pauses.add(1);
    if let Some(unsaid) = worker.paused.say(worker.now()) {
        let (limit, listener) = (worker.clients.total(), &**binding.name());
        tracing::warn!(worker = worker.index, listener, limit, unsaid, %why, "accepting pauses");
    }
}

fn exhausted(error: &io::Error) -> bool {
    use nix::libc::{EMFILE, ENFILE, ENOBUFS, ENOMEM};
    matches!(error.raw_os_error(), Some(EMFILE | ENFILE | ENOBUFS | ENOMEM))
}
