// SPDX-License-Identifier: GPL-3.0-only
//! The built binary as a process: a configuration on free ports, started, watched, signalled and never left behind.
//!
//! [`Config`] writes the usual file (one cleartext and one TLS listener, each with one pool); a test that wants another
//! file hands over its text. [`Gateway`] is ready when it exists, and is killed when dropped.

use std::fmt::Write as _;
use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::metrics::Metrics;
use super::ports::Port;
use super::raw::Raw;
use super::{SOON, wait_for};

/// What the usual configuration file says. Listeners `plain` and `secure`, pool `origin`.
pub(crate) struct Config {
    pub(crate) backends: Vec<SocketAddr>,
    pub(crate) workers: usize,
    /// 0: by the descriptors.
    pub(crate) max_connections: u64,
    pub(crate) drain_timeout_ms: u64,
    pub(crate) drain_settle_ms: u64,
    /// Appended as it is.
    pub(crate) more: String,
    /// Added to the process's environment.
    pub(crate) environment: Vec<(String, String)>,
    /// `ulimit -n` for the process.
    pub(crate) descriptors: Option<u64>,
}

impl Config {
    pub(crate) fn to(backend: SocketAddr) -> Config {
        Config::over(vec![backend])
    }

    pub(crate) fn over(backends: Vec<SocketAddr>) -> Config {
        Config {
            backends,
            workers: 2,
            max_connections: 0,
            drain_timeout_ms: 10_000,
            drain_settle_ms: 0,
            more: String::new(),
            environment: Vec::new(),
            descriptors: None,
        }
    }

    fn text(&self, ports: &Ports, folder: &Path) -> String {
        let mut text = String::new();
        let _ = write!(
            text,
            r#"
[runtime]
workers = {workers}
max_connections = {connections}
drain_timeout_ms = {drain}
drain_settle_ms = {settle}

[observability]
metrics_bind = "127.0.0.1:{admin}"
log = "info"

[[listeners]]
name = "plain"
address = "127.0.0.1:{plain}"
protocol = "http"

[[listeners]]
name = "secure"
address = "127.0.0.1:{secure}"
protocol = "https"
http3 = true
tls = {{ cert = "{cert}", key = "{key}" }}

[[routes]]
listener = "plain"
path = "/"
pool = "origin"

[[routes]]
listener = "secure"
path = "/"
pool = "origin"

[pools.origin]
"#,
            workers = self.workers,
            connections = self.max_connections,
            drain = self.drain_timeout_ms,
            settle = self.drain_settle_ms,
            admin = ports.admin.number,
            plain = ports.plain.number,
            secure = ports.secure.number,
            cert = folder.join("cert.pem").display(),
            key = folder.join("key.pem").display(),
        );
        for backend in &self.backends {
            let _ = write!(text, "\n[[pools.origin.backends]]\naddress = \"{backend}\"\n");
        }
        text + &self.more
    }
}

/// The ports of the usual configuration.
pub(crate) struct Ports {
    pub(crate) admin: Port,
    pub(crate) plain: Port,
    pub(crate) secure: Port,
}

impl Ports {
    pub(crate) fn take() -> Ports {
        Ports { admin: Port::take(), plain: Port::take(), secure: Port::take() }
    }
}

/// A running gateway.
pub(crate) struct Gateway {
    child: Child,
    exited: Option<ExitStatus>,
    pub(crate) ports: Ports,
    pub(crate) folder: TempDir,
}

/// What /proc/PID/status says, in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    pub(crate) resident: u64,
    pub(crate) peak: u64,
}

impl Gateway {
    /// Starts the usual configuration and waits until /readyz answers 200.
    #[track_caller]
    pub(crate) fn start(config: &Config) -> Gateway {
        super::check_required();
        let ports = Ports::take();
        let folder = tempfile::Builder::new().prefix("eg-blackbox-").tempdir().expect("make a folder for the gateway");
        write_certificate(folder.path());
        let text = config.text(&ports, folder.path());
        Gateway::spawn(&text, ports, folder, &config.environment, config.descriptors)
    }

    /// Starts `text` as the configuration; its admin address must be that of `ports`.
    #[track_caller]
    pub(crate) fn start_text(text: &str, ports: Ports, folder: TempDir, environment: &[(String, String)]) -> Gateway {
        Gateway::spawn(text, ports, folder, environment, None)
    }

    #[track_caller]
    fn spawn(
        text: &str,
        ports: Ports,
        folder: TempDir,
        environment: &[(String, String)],
        descriptors: Option<u64>,
    ) -> Gateway {
        let file = folder.path().join("gateway.toml");
        std::fs::write(&file, text).expect("write the configuration");
        let log = File::create(folder.path().join("log")).expect("make the log");
        let binary = env!("CARGO_BIN_EXE_expressgateway");
        let mut command = match descriptors {
            None => Command::new(binary),
            Some(limit) => {
                let mut shell = Command::new("sh");
                shell.args(["-c", "ulimit -n \"$0\" && exec \"$@\"", &limit.to_string(), binary]);
                shell
            }
        };
        let child = command
            .arg(&file)
            .env("STATE_DIRECTORY", folder.path().join("state"))
            .envs(environment.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("share the log"))
            .stderr(log)
            .spawn()
            .expect("start the gateway");
        let mut gateway = Gateway { child, exited: None, ports, folder };
        wait_for("the gateway is ready", SOON, || {
            if let Some(status) = gateway.status() {
                panic!("the gateway ended at start with {status}:\n{}", gateway.log());
            }
            gateway.admin("/readyz").is_some_and(|(status, _)| status == 200).then_some(())
        });
        gateway
    }

    pub(crate) fn plain(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.ports.plain.number))
    }

    pub(crate) fn secure(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.ports.secure.number))
    }

    /// The certificate that clients are to trust.
    pub(crate) fn certificate(&self) -> PathBuf {
        self.folder.path().join("cert.pem")
    }

    /// GET `path` from the admin address; `None` when nobody answers there.
    pub(crate) fn admin(&self, path: &str) -> Option<(u16, String)> {
        let address = SocketAddr::from(([127, 0, 0, 1], self.ports.admin.number));
        let mut raw = Raw::try_connect(address).ok()?;
        raw.send(format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"));
        let answer = raw.answer(false).ok()?;
        Some((answer.status, String::from_utf8_lossy(&answer.body).into_owned()))
    }

    #[track_caller]
    pub(crate) fn metrics(&self) -> Metrics {
        let (status, text) = self.admin("/metrics").expect("the admin address answers");
        assert_eq!(status, 200, "/metrics: {text}");
        Metrics::parse(&text)
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("signal the gateway");
    }

    /// How it ended, if it has.
    pub(crate) fn status(&mut self) -> Option<ExitStatus> {
        if self.exited.is_none() {
            self.exited = self.child.try_wait().expect("ask after the gateway");
        }
        self.exited
    }

    #[track_caller]
    pub(crate) fn wait_exit(&mut self, limit: Duration) -> ExitStatus {
        wait_for("the gateway exits", limit, || self.status())
    }

    /// SIGTERM and a clean exit, for the end of a test that has nothing in flight. Returns how long it took.
    #[track_caller]
    pub(crate) fn stop(mut self) -> Duration {
        let begun = Instant::now();
        self.signal(Signal::SIGTERM);
        let status = self.wait_exit(SOON);
        assert!(status.success(), "the gateway ended with {status}:\n{}", self.log());
        begun.elapsed()
    }

    pub(crate) fn memory(&self) -> Memory {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("read /proc/PID/status");
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            line.trim().trim_end_matches(" kB").parse::<u64>().map_or(0, |kib| kib * 1024)
        };
        Memory { resident: field("VmRSS:"), peak: field("VmHWM:") }
    }

    /// Lets the next `memory().peak` be the highest since now.
    pub(crate) fn forget_peak(&self) {
        std::fs::write(format!("/proc/{}/clear_refs", self.child.id()), "5").expect("reset VmHWM");
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    pub(crate) fn configuration(&self) -> PathBuf {
        self.folder.path().join("gateway.toml")
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if self.status().is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let from = lines.len().saturating_sub(40);
            eprintln!("--- the gateway's last {} lines ---\n{}", lines.len() - from, lines[from..].join("\n"));
        }
    }
}

/// A certificate for localhost and 127.0.0.1 that signs itself, with its key.
fn write_certificate(folder: &Path) {
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).expect("make a certificate");
    std::fs::write(folder.join("cert.pem"), made.cert.pem()).expect("write the certificate");
    std::fs::write(folder.join("key.pem"), made.signing_key.serialize_pem()).expect("write the key");
}
