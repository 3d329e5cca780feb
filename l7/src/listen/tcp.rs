// SPDX-License-Identifier: GPL-3.0-only
//! Accepts TCP connections and gives each a task of its own.

use super::Retired;
use crate::worker::{Binding, Live, Phase, Watch, Worker};
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};

/// How long accepting rests when the process or the host has no descriptor left: the socket stays readable, so trying again
/// at once would only spin.
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
    loop {
        let next = poll_fn(|cx| {
            watch.expired(cx);
            let poll = poll_accept(socket, cx);
            // Whoever the kernel has already accepted for us is served, and only then do we stop.
            let over = retired.is_set() || worker.phase() >= Phase::Draining;
            if over && poll.is_pending() { Poll::Ready(None) } else { poll.map(Some) }
        });
        match next.await {
            None => return,
            Some(Ok((stream, peer))) => {
                let live = Live::accept(worker, binding);
                crate::front::tcp(worker, binding, stream, peer, live);
            }
            Some(Err(error)) if exhausted(&error) => {
                worker.counters.accept_pauses.add(1);
                tokio::time::sleep(PAUSE).await;
            }
            // The connection was gone before we took it (accept(2) names a dozen such errors): on to the next.
            Some(Err(_)) => {}
        }
    }
}

fn poll_accept(socket: &TcpListener, cx: &mut Context<'_>) -> Poll<io::Result<(TcpStream, SocketAddr)>> {
    socket.poll_accept(cx)
}

fn exhausted(error: &io::Error) -> bool {
    use nix::libc::{EMFILE, ENFILE, ENOBUFS, ENOMEM};
    matches!(error.raw_os_error(), Some(EMFILE | ENFILE | ENOBUFS | ENOMEM))
}
