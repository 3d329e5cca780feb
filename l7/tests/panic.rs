// SPDX-License-Identifier: GPL-3.0-only
//! A panic while a request is served ends its connection and nothing else. The hook that panics is armed by the
//! environment, so the test runs itself again with it.

#[path = "support/edge.rs"]
mod support;

use eg_l7::{Limits, Scheme};
use std::io::Write;
use support::*;

#[test]
fn a_panic_ends_one_connection_alone() {
    if std::env::var_os("EG_TEST_PANIC").is_none() {
        let me = std::env::current_exe().unwrap();
        let status = std::process::Command::new(me).env("EG_TEST_PANIC", "1").status().unwrap();
        assert!(status.success());
        return;
    }
    let (backend, _heads) = canned(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
    let (edge, address) = edge(Scheme::Http, &[backend], Limits::default());
    let mut bystander = connect(address);
    let mut ask = || {
        bystander.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        assert!(read_head(&mut bystander).unwrap().starts_with("HTTP/1.1 200 "));
        assert_eq!(read_exact(&mut bystander, 2), b"ok");
    };
    ask();
    for panics in 1..=3 {
        let mut victim = connect(address);
        victim.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nX-EG-Test-Panic: 1\r\n\r\n").unwrap();
        assert!(read_to_end(&mut victim).0.is_empty());
        // The connection is closed first, and then the panic is counted.
        eventually("the panic is counted", || edge.counters()[0].panics.get() == panics);
        ask();
    }
}
