// SPDX-License-Identifier: GPL-3.0-only
//! The built `expressgateway` as a process in a topology's gateway namespace.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::{Netns, Topology};

/// Longer than any step takes on a slow machine: building a thousand rings and resolving next hops included.
const PATIENCE: Duration = Duration::from_secs(60);
const ADMIN: &str = "127.0.0.1:9090";

/// The process; killed on drop.
pub struct Gateway<'t> {
    topology: &'t Topology,
    folder: TempDir,
    child: Option<Child>,
}

/// Where the built binaries are: `EG_BIN_DIR`, or the target folder that the test itself was built into.
pub fn binary(name: &str) -> PathBuf {
    match std::env::var_os("EG_BIN_DIR") {
        Some(folder) => PathBuf::from(folder).join(name),
        None => {
            let test = std::env::current_exe().expect("the test has a path");
            test.ancestors().nth(2).expect("target/<profile>/deps/<test>").join(name)
        }
    }
}

impl<'t> Gateway<'t> {
    /// Starts it with a configuration and waits until it is ready.
    pub fn start(topology: &'t Topology, configuration: &str) -> Gateway<'t> {
        let mut gateway = Gateway { topology, folder: TempDir::new().expect("a folder"), child: None };
        gateway.configure(configuration);
        gateway.launch();
        gateway
    }

    /// Its configuration file.
    pub fn file(&self) -> PathBuf {
        self.folder.path().join("gateway.toml")
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// Writes the configuration that the next start or reload reads.
    pub fn configure(&self, configuration: &str) {
        fs::write(self.file(), configuration).expect("write the configuration");
    }

    /// Starts the process; it must not be running.
    pub fn launch(&mut self) {
        assert!(self.child.is_none(), "the gateway runs already");
        let log = fs::File::options().create(true).append(true).open(self.log()).expect("a log file");
        let child = self
            .topology
            .gateway
            .command(binary("expressgateway"))
            .arg(self.file())
            .env("STATE_DIRECTORY", self.folder.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log file"))
            .stderr(log)
            .spawn()
            .expect("start expressgateway");
        self.child = Some(child);
        self.wait("readiness", |gateway| gateway.get("/readyz").is_some_and(|answer| answer.contains(" 200 ")));
    }

    /// Polls until `done`, and fails with the log when it takes too long or the process ends.
    pub fn wait(&mut self, what: &str, mut done: impl FnMut(&Gateway<'t>) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !done(self) {
            let ended = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten());
            if let Some(status) = ended {
                panic!("waiting for {what}: the gateway ended, {status}\n{}", self.said());
            }
            assert!(Instant::now() < deadline, "waiting for {what} took too long\n{}", self.said());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What it has logged.
    pub fn said(&self) -> String {
        fs::read_to_string(self.log()).unwrap_or_default()
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the gateway runs").id()
    }

    pub fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("the gateway runs");
        kill(Pid::from_raw(child.id().cast_signed()), signal).expect("signal");
    }

    /// Sends the signal and waits until the process is gone.
    pub fn end(&mut self, signal: Signal) {
        self.signal(signal);
        let mut child = self.child.take().expect("the gateway runs");
        let deadline = Instant::now() + PATIENCE;
        while child.try_wait().expect("wait").is_none() {
            if Instant::now() >= deadline {
                let _ = child.kill();
                let _ = child.wait();
                panic!("{signal} did not end the gateway\n{}", self.said());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Reloads with a new configuration and waits until the datapath says that it was applied.
    pub fn reload(&mut self, configuration: &str) {
        self.configure(configuration);
        let before = generation(self.topology);
        self.signal(Signal::SIGHUP);
        self.wait("the reload", |gateway| generation(gateway.topology) > before);
    }

    /// An admin page with its head; `None`: no answer.
    pub fn get(&self, path: &str) -> Option<String> {
        get(&self.topology.gateway, path)
    }
}

impl Drop for Gateway<'_> {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            println!("the gateway said:\n{}", self.said());
        }
    }
}

/// Runs the gateway, behind `wrapper` if there is one, with a configuration that it must refuse; gives what it said.
pub fn refusal(topology: &Topology, configuration: &str, wrapper: &[&str]) -> String {
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("gateway.toml");
    fs::write(&file, configuration).expect("write the configuration");
    let program = binary("expressgateway");
    let mut words: Vec<&std::ffi::OsStr> = wrapper.iter().map(|word| std::ffi::OsStr::new(*word)).collect();
    words.extend([program.as_os_str(), file.as_os_str()]);
    let (program, arguments) = words.split_first().expect("a program");
    let log = fs::File::create(folder.path().join("log")).expect("a log file");
    let mut child = topology
        .gateway
        .command(program)
        .args(arguments)
        .env("STATE_DIRECTORY", folder.path())
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a log file"))
        .stderr(log)
        .spawn()
        .expect("start expressgateway");
    let said = || fs::read_to_string(folder.path().join("log")).unwrap_or_default();
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().expect("wait") {
            assert!(!status.success(), "it should have refused, and ended well\n{}", said());
            return said();
        }
        if Instant::now() >= deadline {
            let _ = child.kill();
            let _ = child.wait();
            panic!("it should have refused, and runs\n{}", said());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The generation that the datapath wrote when it applied its last plan; 0: none yet.
pub fn generation(topology: &Topology) -> u64 {
    maps(topology).and_then(|maps| maps.meta.get(0).ok()).map_or(0, |meta| meta.generation)
}

/// The pinned maps, as any process may read them.
pub fn maps(topology: &Topology) -> Option<eg_skel::Maps> {
    eg_skel::Maps::open(&eg_skel::share::pin_dir(&topology.pin_root)).ok()
}

fn get(space: &Netns, path: &str) -> Option<String> {
    space.enter(|| {
        let mut stream = TcpStream::connect(ADMIN).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    })
}
