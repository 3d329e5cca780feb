// SPDX-License-Identifier: GPL-3.0-only
//! A backend that answers each request with its name, when it is told to. One thread a connection; ends with the test.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};

use crate::run::SOON;

pub(crate) struct Backend {
    pub(crate) address: SocketAddr,
    state: Arc<(Mutex<State>, Condvar)>,
}

struct State {
    open: bool,
    arrived: usize,
}

impl Backend {
    /// Answers at once.
    pub(crate) fn start(name: &'static str) -> Backend {
        Backend::new(name, true)
    }

    /// Holds every request until [`Backend::open`].
    pub(crate) fn held(name: &'static str) -> Backend {
        Backend::new(name, false)
    }

    fn new(name: &'static str, open: bool) -> Backend {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new((Mutex::new(State { open, arrived: 0 }), Condvar::new()));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let state = Arc::clone(&shared);
                std::thread::spawn(move || serve(stream, name, &state));
            }
        });
        Backend { address, state }
    }

    pub(crate) fn open(&self) {
        self.state.0.lock().unwrap().open = true;
        self.state.1.notify_all();
    }

    /// Until a request has come this far.
    #[track_caller]
    pub(crate) fn wait_for_request(&self) {
        let guard = self.state.0.lock().unwrap();
        let (guard, _) = self.state.1.wait_timeout_while(guard, SOON, |state| state.arrived == 0).unwrap();
        assert!(guard.arrived > 0, "no request reached the backend");
    }
}

fn serve(stream: TcpStream, name: &str, state: &(Mutex<State>, Condvar)) {
    let mut writer = stream.try_clone().unwrap();
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        loop {
            line.clear();
            match reader.read_line(&mut line) {
                Ok(0) | Err(_) => return,
                Ok(_) if line == "\r\n" => break,
                Ok(_) => {}
            }
        }
        let mut guard = state.0.lock().unwrap();
        guard.arrived += 1;
        state.1.notify_all();
        drop(state.1.wait_while(guard, |state| !state.open).unwrap());
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{name}", name.len());
        if writer.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}
