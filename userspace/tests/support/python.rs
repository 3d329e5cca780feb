// SPDX-License-Identifier: GPL-3.0-only
//! Runs the Python clients of tests/clients: HTTP/2 by the `h2` package, HTTP/3 by aioquic.
//!
//! They live in the project's `.venv`, which tools/bootstrap makes; `EG_PYTHON` names another interpreter.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::gateway::Gateway;

/// Which client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Client {
    H2Cleartext,
    H2,
    H3,
}

impl Client {
    fn script(self) -> &'static str {
        if self == Client::H3 { "h3_client.py" } else { "h2_client.py" }
    }
}

/// The interpreter that can import the clients' packages, or why there is none.
pub(crate) fn interpreter() -> Result<&'static Path, &'static str> {
    static FOUND: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let found = FOUND.get_or_init(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
        let ours = root.join(".venv/bin/python");
        let python = std::env::var_os("EG_PYTHON").map_or(ours, PathBuf::from);
        let tried = Command::new(&python).args(["-c", "import aioquic, h2"]).output();
        match tried {
            Ok(output) if output.status.success() => Ok(python),
            _ => Err(format!("{} cannot import aioquic and h2: run tools/bootstrap", python.display())),
        }
    });
    found.as_deref().map_err(String::as_str)
}

/// True when the Python clients can run; else says so, or fails if `EG_REQUIRE` names aioquic.
#[track_caller]
pub(crate) fn available() -> bool {
    interpreter().map_err(|why| super::skip("aioquic", why)).is_ok()
}

/// A client at work: its lines as they come. Killed when dropped.
pub(crate) struct Session {
    child: Child,
    lines: Receiver<Value>,
    seen: Vec<Value>,
}

impl Session {
    /// Starts `client` with `order` (see tests/clients/streams.py); the address is filled in.
    #[track_caller]
    pub(crate) fn start(client: Client, gateway: &Gateway, mut order: Value) -> Session {
        let address = if client == Client::H2Cleartext { gateway.plain() } else { gateway.secure() };
        order["host"] = json!("127.0.0.1");
        order["port"] = json!(address.port());
        order["tls"] = json!(client != Client::H2Cleartext);
        order["ca"] = json!(gateway.certificate());
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
        let mut child = Command::new(interpreter().expect("available() was asked first"))
            .arg(folder.join(client.script()))
            .arg(order.to_string())
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start a Python client");
        let stdout = child.stdout.take().expect("its standard output is piped");
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let value = serde_json::from_str(&line).unwrap_or_else(|_| json!({ "event": "noise", "line": line }));
                if sender.send(value).is_err() {
                    return;
                }
            }
        });
        Session { child, lines, seen: Vec::new() }
    }

    pub(crate) fn pid(&self) -> nix::unistd::Pid {
        nix::unistd::Pid::from_raw(self.child.id() as i32)
    }

    /// Closing it tells a client with `"stdin": true` to finish.
    pub(crate) fn stdin(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    /// The next line for which `wanted` holds; fails the test after `limit`.
    #[track_caller]
    pub(crate) fn wait(&mut self, what: &str, limit: Duration, wanted: impl Fn(&Value) -> bool) -> Value {
        let end = Instant::now() + limit;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(value) => {
                    self.seen.push(value.clone());
                    if wanted(&value) {
                        return value;
                    }
                }
                Err(_) => panic!("{what}: the client said only {:?}", self.seen),
            }
        }
    }

    #[track_caller]
    pub(crate) fn report(&mut self, limit: Duration) -> Value {
        self.wait("the client's report", limit, |value| value["event"] == "report")
    }

    /// How many lines for which `wanted` holds have come so far.
    pub(crate) fn count(&mut self, wanted: impl Fn(&Value) -> bool) -> usize {
        while let Ok(value) = self.lines.try_recv() {
            self.seen.push(value);
        }
        self.seen.iter().filter(|value| wanted(value)).count()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs `streams` on one connection to their end and returns the whole report.
#[track_caller]
pub(crate) fn run(client: Client, gateway: &Gateway, order: Value) -> Value {
    Session::start(client, gateway, order).report(Duration::from_secs(180))
}
