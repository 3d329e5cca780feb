// SPDX-License-Identifier: GPL-3.0-only
//! A network namespace of a test's own.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::thread::{self, JoinHandle};

use nix::sched::{CloneFlags, setns};

/// Removed on drop. Threads and processes in it keep it alive until they end, but unreachable by name.
pub struct Netns {
    name: String,
}

impl Netns {
    /// Makes it, with loopback up.
    pub fn new(name: &str) -> Netns {
        run("ip", &["netns", "add", name]);
        let space = Netns { name: name.into() };
        space.ip("link set lo up");
        space
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    fn open(&self) -> File {
        File::open(format!("/run/netns/{}", self.name)).expect("the namespace has a name")
    }

    /// Runs `work` on a thread inside and gives its result. A panic inside is a panic here.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let space = self.open();
        thread::scope(|scope| {
            let inside = scope.spawn(move || {
                setns(space.as_fd(), CloneFlags::CLONE_NEWNET).expect("setns");
                work()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Starts a thread inside.
    pub fn spawn<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        let space = self.open();
        thread::Builder::new()
            .stack_size(128 << 10)
            .spawn(move || {
                setns(space.as_fd(), CloneFlags::CLONE_NEWNET).expect("setns");
                work()
            })
            .expect("a thread")
    }

    /// A command that will run inside. Unlike `ip netns exec` it keeps the mounts, so bpffs stays visible.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let space = self.open();
        let mut command = Command::new(program);
        // SAFETY: between fork and exec only setns is called, which is async-signal-safe and allocates nothing.
        unsafe {
            command.pre_exec(move || setns(space.as_fd(), CloneFlags::CLONE_NEWNET).map_err(std::io::Error::from));
        }
        command
    }

    /// Runs a command inside to its end.
    ///
    /// # Panics
    /// If it fails.
    pub fn run(&self, program: &str, arguments: &[&str]) {
        check(self.command(program).args(arguments), program, arguments);
    }

    /// Runs `ip` with the words of `arguments`.
    pub fn ip(&self, arguments: &str) {
        self.run("ip", &arguments.split(' ').collect::<Vec<_>>());
    }

    /// What a command prints.
    pub fn output(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.command(program).args(arguments).output().expect(program);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.name]).stderr(Stdio::null()).status();
    }
}

fn run(program: &str, arguments: &[&str]) {
    check(Command::new(program).args(arguments), program, arguments);
}

fn check(command: &mut Command, program: &str, arguments: &[&str]) {
    let output = command.output().unwrap_or_else(|error| panic!("{program}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {}: {}", arguments.join(" "), said.trim());
}
