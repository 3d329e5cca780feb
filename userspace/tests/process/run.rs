// SPDX-License-Identifier: GPL-3.0-only
//! The built binary as an operator meets it: a file, a process, its log, its admin port. Everything it makes is in a
//! folder of its own and goes with it; the process is killed when the value is dropped.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

/// Far beyond what anything here takes on a loaded machine.
pub(crate) const SOON: Duration = Duration::from_secs(30);

pub(crate) struct Process {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
    /// In a network namespace of its own.
    pub(crate) elsewhere: bool,
    pub(crate) folder: TempDir,
}

/// The binary with a state directory in `folder` and nothing of the tester's environment that it reads.
pub(crate) fn command(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_expressgateway"));
    let state = folder.join("state");
    command.current_dir(folder).env("XDG_STATE_HOME", state).env_remove("STATE_DIRECTORY").env_remove("RUST_LOG");
    command
}

pub(crate) fn folder() -> TempDir {
    tempfile::Builder::new().prefix("eg-process-").tempdir().unwrap()
}

/// Runs the binary to its end; for what is not meant to serve.
pub(crate) fn output(command: &mut Command) -> Output {
    command.output().unwrap()
}

impl Process {
    /// Starts with this configuration and waits until it serves.
    #[track_caller]
    pub(crate) fn serve(config: &str) -> Process {
        let folder = folder();
        std::fs::write(folder.path().join("gateway.toml"), config).unwrap();
        let mut command = command(folder.path());
        command.arg("gateway.toml");
        let process = Process::spawn(command, folder);
        process.wait_for_line("serving");
        process
    }

    pub(crate) fn spawn(mut command: Command, folder: TempDir) -> Process {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let into = Arc::clone(&log);
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| into.lock().unwrap().push(line)));
        Process { child, log, elsewhere: false, folder }
    }

    pub(crate) fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    /// The first line of the log with this text.
    #[track_caller]
    pub(crate) fn wait_for_line(&self, text: &str) -> String {
        wait_for(
            &format!("{text:?} in the log"),
            || self.log().join("\n"),
            || self.log().into_iter().find(|line| line.contains(text)),
        )
    }

    #[track_caller]
    pub(crate) fn admin(&self) -> SocketAddr {
        let line = self.wait_for_line("admin=");
        let text = line.split("admin=").nth(1).unwrap();
        text.split_whitespace().next().unwrap().parse().unwrap()
    }

    /// GET on the admin server, in the process's own network namespace: status and body.
    #[track_caller]
    pub(crate) fn ask(&self, path: &str) -> (u16, String) {
        let url = format!("http://{}{path}", self.admin());
        if !self.elsewhere {
            return curl(&[&url]);
        }
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.child.id())).arg("curl");
        run_curl(command, &[&url])
    }

    #[track_caller]
    pub(crate) fn status(&self) -> Value {
        let (code, body) = self.ask("/status");
        assert_eq!(code, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    /// A listener's first TCP address, as `/status` has it.
    #[track_caller]
    pub(crate) fn address(&self, listener: &str) -> SocketAddr {
        let status = self.status();
        let found = status["listeners"].as_array().unwrap().iter().find(|found| found["name"] == listener);
        let found = found.unwrap_or_else(|| panic!("no listener {listener} in {status:#}"));
        found["addresses"][0]["address"].as_str().unwrap().parse().unwrap()
    }

    pub(crate) fn configure(&self, config: &str) {
        std::fs::write(self.config_path(), config).unwrap();
    }

    pub(crate) fn config_path(&self) -> PathBuf {
        self.folder.path().join("gateway.toml")
    }

    /// Writes the file, sends SIGHUP, and waits until the reload has ended.
    #[track_caller]
    pub(crate) fn reload(&self, config: &str) -> Value {
        self.configure(config);
        let count = |status: &Value| {
            status["reload"]["applied"].as_u64().unwrap() + status["reload"]["failed"].as_u64().unwrap()
        };
        let before = count(&self.status());
        self.signal(Signal::SIGHUP);
        wait_for(
            "the reload to end",
            || self.log().join("\n"),
            || Some(self.status()).filter(|now| count(now) > before),
        )
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }

    #[track_caller]
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let log = Arc::clone(&self.log);
        let child = &mut self.child;
        wait_for("the process to end", || log.lock().unwrap().join("\n"), || child.try_wait().unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Polls until there is an answer.
#[track_caller]
pub(crate) fn wait_for<T>(what: &str, context: impl Fn() -> String, mut poll: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + SOON;
    loop {
        if let Some(found) = poll() {
            return found;
        }
        assert!(Instant::now() < end, "waited {SOON:?} for {what}\n{}", context());
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Status (0 when there was no answer) and body.
pub(crate) fn curl(arguments: &[&str]) -> (u16, String) {
    run_curl(Command::new("curl"), arguments)
}

fn run_curl(mut command: Command, arguments: &[&str]) -> (u16, String) {
    let output = command
        .args(["--silent", "--noproxy", "*", "--max-time", "30", "--write-out", "\n%{http_code}"])
        .args(arguments)
        .output()
        .expect("curl is installed");
    let text = String::from_utf8(output.stdout).unwrap();
    let (body, code) = text.rsplit_once('\n').unwrap();
    (code.parse().unwrap(), body.to_owned())
}
