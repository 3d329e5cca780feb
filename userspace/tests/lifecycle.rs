// SPDX-License-Identifier: GPL-3.0-only
//! The process from start to end: command line, start, failed start, drain, reload.

use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

#[allow(dead_code, reason = "shared by tests that each use a part")]
#[path = "process/backend.rs"]
mod backend;
#[allow(dead_code, reason = "shared by tests that each use a part")]
#[path = "process/run.rs"]
mod run;

use backend::Backend;
use run::{Process, command, curl, folder, output};

const ADMIN: &str = "[observability]\nmetrics_bind = \"127.0.0.1:0\"\n";

/// One cleartext listener in front of one backend.
fn config(head: &str, backend: &Backend) -> String {
    format!(
        "{head}\n{ADMIN}\n[[listeners]]\nname = \"web\"\naddress = \"127.0.0.1:0\"\nprotocol = \"http\"\n\
         [[routes]]\nlistener = \"web\"\npool = \"app\"\n[[pools.app.backends]]\naddress = \"{}\"\n",
        backend.address
    )
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// A request in the background; its status and body when joined.
fn request(url: String) -> std::thread::JoinHandle<(u16, String)> {
    std::thread::spawn(move || curl(&[&url]))
}

/// The shipped default file with free ports instead of its own.
fn default_on_free_ports() -> String {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/default.toml");
    let shipped = std::fs::read_to_string(shipped).unwrap();
    let mut text = shipped.clone();
    for (key, port) in [("metrics_bind", "9090"), ("address", "8080"), ("address", "8443")] {
        let own = format!("{key} = \"127.0.0.1:{port}\"");
        assert_eq!(text.matches(&own).count(), 1, "{own}");
        text = text.replace(&own, &format!("{key} = \"127.0.0.1:0\""));
    }
    text
}

#[test]
fn without_an_argument_the_default_file_is_served_and_the_log_says_what_to_try() {
    let folder = folder();
    std::fs::create_dir(folder.path().join("config")).unwrap();
    std::fs::write(folder.path().join("config/default.toml"), default_on_free_ports()).unwrap();
    let process = Process::spawn(command(folder.path()), folder);
    process.wait_for_line("serving");

    let (web, tls) = (process.address("web"), process.address("web-tls"));
    for line in [
        format!("try: curl http://{web}/"),
        format!("try: curl --insecure https://{tls}/"),
        format!("try: tools/h3get -i https://{tls}/"),
        format!("try: curl http://{}/metrics", process.admin()),
        "self-signed".to_owned(),
        "kernel datapath off".to_owned(),
    ] {
        process.wait_for_line(&line);
    }
    let (code, page) = curl(&[&format!("http://{web}/")]);
    assert!(code == 200 && page.contains("It works"), "{code} {page}");
    let (code, page) = curl(&["--insecure", &format!("https://{tls}/")]);
    assert!(code == 200 && page.contains("It works"), "{code} {page}");
    let echo = ["--data", "hello", "-H", "content-type: text/x-test", "-D", "-", &format!("http://{web}/any")];
    let (code, answer) = curl(&echo);
    assert!(code == 200 && answer.ends_with("\r\nhello"), "{code} {answer}");
    assert!(answer.to_lowercase().contains("content-type: text/x-test"), "{answer}");
}

#[test]
fn without_any_file_the_process_says_what_it_tried() {
    let folder = folder();
    let ended = output(&mut command(folder.path()));
    assert_eq!(ended.status.code(), Some(2));
    let expected = "no configuration: tried config/default.toml and /etc/expressgateway/default.toml; \
                    name one with `expressgateway FILE`\n";
    assert_eq!(text(&ended.stderr), expected);
}

#[test]
fn a_wrong_file_ends_the_process_with_every_error_and_without_a_trace() {
    let folder = folder();
    let config = "[observability]\nmetrics_bnd = 1\n[[listeners]]\nname = \"a\"\naddress = \"127.0.0.1:0\"\n\
                  protocol = \"https\"\n[[routes]]\nlistener = \"b\"\npool = \"p\"\n";
    std::fs::write(folder.path().join("f.toml"), config).unwrap();
    for arguments in [&["f.toml"][..], &["-c", "f.toml"], &["--config", "f.toml", "--check"], &["--dump", "f.toml"]] {
        let ended = output(command(folder.path()).args(arguments));
        assert_eq!(ended.status.code(), Some(2), "{arguments:?}");
        assert_eq!(
            text(&ended.stderr),
            "f.toml:2:1: observability.metrics_bnd: unknown key (did you mean \"metrics_bind\"?)\n\
             f.toml:3:1: listeners[0]: no route leads on from here: add [[routes]] with listener = \"a\"\n\
             f.toml:8:12: routes[0].listener: there is no listener \"b\"\n\
             f.toml:9:8: routes[0].pool: there is no pool \"p\"\n"
        );
        assert_eq!(text(&ended.stdout), "");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "something was made beside the file");
}

#[test]
fn check_says_nothing_and_makes_nothing() {
    let folder = folder();
    std::fs::write(folder.path().join("f.toml"), default_on_free_ports()).unwrap();
    let ended = output(command(folder.path()).args(["--check", "f.toml"]));
    assert_eq!(
        (ended.status.code(), text(&ended.stdout), text(&ended.stderr)),
        (Some(0), String::new(), String::new())
    );
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "something was made beside the file");
}

#[test]
fn what_dump_prints_dumps_as_itself() {
    let folder = folder();
    std::fs::write(folder.path().join("f.toml"), default_on_free_ports()).unwrap();
    let first = output(command(folder.path()).args(["--dump", "f.toml"]));
    assert!(first.status.success());
    assert!(text(&first.stdout).contains("drain_timeout_ms = 10000"), "defaults are missing");
    for default in ["[datapath]\ninterfaces = []\nxdp = \"auto\"\n", "flows = 1048576", "[datapath.guards]"] {
        assert!(text(&first.stdout).contains(default), "no {default:?} although no listener needs it");
    }
    std::fs::write(folder.path().join("dumped.toml"), &first.stdout).unwrap();
    let second = output(command(folder.path()).args(["--dump", "dumped.toml"]));
    assert_eq!(text(&second.stdout), text(&first.stdout));
}

#[test]
fn version_names_the_features_and_what_the_kernel_has() {
    let folder = folder();
    let ended = output(command(folder.path()).arg("--version"));
    let said = text(&ended.stdout);
    assert!(ended.status.success());
    assert!(said.starts_with(&format!("expressgateway {}\n", env!("CARGO_PKG_VERSION"))), "{said}");
    for word in ["xdp:", "sk_lookup:", "HTTP/3", "abi: v2"] {
        assert!(said.contains(word), "no {word} in {said}");
    }
}

#[test]
fn a_port_that_is_taken_ends_the_start_and_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = (taken.local_addr().unwrap(), taken);
    let folder = folder();
    let config =
        config("", &Backend::start("a")).replace("address = \"127.0.0.1:0\"", &format!("address = \"{}\"", taken.0));
    std::fs::write(folder.path().join("f.toml"), config).unwrap();
    let ended = output(command(folder.path()).arg("f.toml"));
    assert_eq!(ended.status.code(), Some(1));
    let said = text(&ended.stderr);
    let expected = format!("cannot start: start the edge: listener \"web\": cannot bind {}/tcp: ", taken.0);
    assert!(said.contains(&expected), "{said}");
}

/// A port of 127.0.0.1 that nobody has, for TCP or UDP.
fn free_port() -> u16 {
    loop {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = tcp.local_addr().unwrap().port();
        if UdpSocket::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// A listener with TLS and HTTP/3 on this port.
fn both_transports(name: &str, port: u16) -> String {
    format!(
        "{ADMIN}\n[[listeners]]\nname = \"{name}\"\naddress = \"127.0.0.1:{port}\"\nprotocol = \"https\"\nhttp3 = true\n\
         [[routes]]\nlistener = \"{name}\"\npool = \"app\"\n[[pools.app.backends]]\nbuiltin = \"welcome\"\n"
    )
}

fn refused_start(config: &str) -> String {
    let folder = folder();
    std::fs::write(folder.path().join("f.toml"), config).unwrap();
    let mut process = Process::spawn(
        {
            let mut command = command(folder.path());
            command.arg("f.toml");
            command
        },
        folder,
    );
    assert_eq!(process.wait().code(), Some(1));
    process.wait_for_line("cannot start")
}

#[test]
fn a_second_process_is_refused_the_ports_of_the_first_and_may_have_them_after_it() {
    let config = both_transports("web", free_port());
    let mut first = Process::serve(&config);
    let at = first.address("web");
    let said = refused_start(&config);
    let expected = format!("listener \"web\": cannot bind {at}/tcp: Address already in use");
    assert!(said.contains(&expected), "{said}");
    assert_eq!(curl(&["--insecure", &format!("https://{at}/")]).0, 200, "the first goes on");
    first.signal(Signal::SIGTERM);
    assert!(first.wait().success());
    let second = Process::serve(&config);
    assert_eq!(curl(&["--insecure", &format!("https://{at}/")]).0, 200);
    drop(second);
}

#[test]
fn ports_are_not_shared_with_whoever_would_share_them() {
    use nix::sys::socket::{setsockopt, sockopt::ReusePort};
    let port = free_port();
    let config = both_transports("web", port);
    let udp = UdpSocket::bind(("127.0.0.1", port)).unwrap();
    setsockopt(&udp, ReusePort, &true).unwrap();
    let said = refused_start(&config);
    assert!(said.contains(&format!("listener \"web\": cannot bind 127.0.0.1:{port}/udp: ")), "{said}");
    drop(udp);
    let tcp = TcpListener::bind(("127.0.0.1", port)).unwrap();
    setsockopt(&tcp, ReusePort, &true).unwrap();
    let said = refused_start(&config);
    assert!(said.contains(&format!("listener \"web\": cannot bind 127.0.0.1:{port}/tcp: ")), "{said}");
}

#[test]
fn a_reload_that_renames_a_listener_takes_its_own_ports_over() {
    let port = free_port();
    let process = Process::serve(&both_transports("web", port));
    for name in ["renamed", "again", "web"] {
        let status = process.reload(&both_transports(name, port));
        assert_eq!(status["reload"]["last"]["applied"], true, "{status:#}");
        assert_eq!(process.address(name).port(), port);
        assert_eq!(curl(&["--insecure", &format!("https://127.0.0.1:{port}/")]).0, 200);
    }
}

#[test]
fn the_self_signed_certificate_is_private_kept_and_reused() {
    let folder = folder();
    std::fs::write(folder.path().join("f.toml"), default_on_free_ports()).unwrap();
    let state = folder.path().join("state/expressgateway/self-signed.pem");
    let mut first = command(folder.path());
    first.arg("f.toml");
    let mut process = Process::spawn(first, folder);
    process.wait_for_line("serving");
    process.wait_for_line("a new self-signed one");
    let made = std::fs::read(&state).unwrap();
    assert_eq!(std::fs::metadata(&state).unwrap().permissions().mode() & 0o777, 0o600);
    process.signal(Signal::SIGTERM);
    assert!(process.wait().success());

    let mut second = command(process.folder.path());
    second.arg("f.toml");
    let again = Process::spawn(second, run::folder());
    again.wait_for_line("serving");
    again.wait_for_line("use the self-signed one");
    assert_eq!(std::fs::read(&state).unwrap(), made);
}

#[test]
fn an_unusable_state_directory_means_memory_only_and_is_said() {
    let folder = folder();
    std::fs::write(folder.path().join("f.toml"), default_on_free_ports()).unwrap();
    let mut command = command(folder.path());
    command.arg("f.toml").env("STATE_DIRECTORY", "/proc/no-such-place");
    let process = Process::spawn(command, folder);
    process.wait_for_line("in memory only");
    process.wait_for_line("serving");
}

#[test]
fn the_soft_descriptor_limit_rises_to_the_hard_one() {
    let folder = folder();
    std::fs::write(folder.path().join("f.toml"), default_on_free_ports()).unwrap();
    let mut shell = Command::new("sh");
    shell.args(["-c", "ulimit -Sn 200; ulimit -Hn 4000; exec \"$0\" f.toml", env!("CARGO_BIN_EXE_expressgateway")]);
    shell.current_dir(folder.path()).env("XDG_STATE_HOME", folder.path().join("state")).env_remove("RUST_LOG");
    let process = Process::spawn(shell, folder);
    process.wait_for_line("descriptors limit=4000 was=200");
}

#[test]
fn json_logs_are_one_object_a_line() {
    let backend = Backend::start("a");
    let head = config("", &backend).replace("[observability]\n", "[observability]\nlog_format = \"json\"\n");
    let folder = folder();
    std::fs::write(folder.path().join("f.toml"), head).unwrap();
    let mut command = command(folder.path());
    command.arg("f.toml");
    let process = Process::spawn(command, folder);
    process.wait_for_line("serving");
    for line in process.log() {
        let object: serde_json::Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(object["time"].is_f64() && object["level"] == "info" && object["message"].is_string(), "{line}");
    }
}

#[test]
fn sigterm_turns_readyz_settles_while_accepting_and_exits_with_0() {
    let backend = Backend::start("a");
    let mut process = Process::serve(&config("[runtime]\ndrain_settle_ms = 2000", &backend));
    let web = process.address("web");
    assert_eq!(process.ask("/readyz"), (200, "ok\n".to_owned()));
    let began = Instant::now();
    process.signal(Signal::SIGTERM);
    process.wait_for_line("draining");
    assert_eq!(process.ask("/readyz"), (503, "draining\n".to_owned()));
    assert_eq!(process.ask("/livez").0, 200);
    assert_eq!(process.ask("/startupz").0, 200);
    assert_eq!(process.status()["phase"], "draining");
    assert_eq!(curl(&[&format!("http://{web}/")]), (200, "a".to_owned()), "settling still accepts");
    assert!(began.elapsed() < Duration::from_secs(2), "this machine is too slow for this test's settle time");
    assert_eq!(process.wait().code(), Some(0));
    assert!(began.elapsed() >= Duration::from_secs(2));
    assert_eq!(curl(&[&format!("http://{web}/")]).0, 0, "still listening");
}

#[test]
fn work_in_flight_finishes_during_a_drain() {
    let backend = Backend::held("late");
    let mut process = Process::serve(&config("", &backend));
    let web = process.address("web");
    let waiting = request(format!("http://{web}/"));
    backend.wait_for_request();
    process.signal(Signal::SIGTERM);
    process.wait_for_line("no new connections");
    backend.open();
    assert_eq!(waiting.join().unwrap(), (200, "late".to_owned()));
    assert_eq!(process.wait().code(), Some(0));
    process.wait_for_line("shutdown_aborted_connections_total=0");
}

#[test]
fn work_that_outlives_the_drain_is_cut_and_counted() {
    let backend = Backend::held("never");
    let mut process = Process::serve(&config("[runtime]\ndrain_timeout_ms = 300", &backend));
    let web = process.address("web");
    let waiting = request(format!("http://{web}/"));
    backend.wait_for_request();
    process.signal(Signal::SIGTERM);
    assert_eq!(process.wait().code(), Some(0));
    process.wait_for_line("shutdown_aborted_connections_total=1");
    assert_ne!(waiting.join().unwrap().0, 200);
}

#[test]
fn a_second_sigterm_does_not_wait() {
    let backend = Backend::held("never");
    let mut process = Process::serve(&config("[runtime]\ndrain_timeout_ms = 600000", &backend));
    let waiting = request(format!("http://{}/", process.address("web")));
    backend.wait_for_request();
    process.signal(Signal::SIGTERM);
    process.wait_for_line("no new connections");
    process.signal(Signal::SIGTERM);
    assert_eq!(process.wait().code(), Some(1));
    assert_ne!(waiting.join().unwrap().0, 200);
}

#[test]
fn sighup_changes_the_backend_and_leaves_the_request_in_flight_alone() {
    let (old, new) = (Backend::held("old"), Backend::start("new"));
    let process = Process::serve(&config("", &old));
    let web = process.address("web");
    let waiting = request(format!("http://{web}/"));
    old.wait_for_request();
    let status = process.reload(&config("", &new));
    assert_eq!(status["generation"], 2, "{status:#}");
    assert_eq!(status["reload"]["last"]["applied"], true);
    assert_eq!(process.address("web"), web, "the listener moved");
    assert_eq!(curl(&[&format!("http://{web}/")]), (200, "new".to_owned()));
    old.open();
    assert_eq!(waiting.join().unwrap(), (200, "old".to_owned()));
}

#[test]
fn sighup_adds_and_removes_listeners() {
    let backend = Backend::start("a");
    let one = config("", &backend);
    let more = "[[listeners]]\nname = \"more\"\naddress = \"127.0.0.1:0\"\nprotocol = \"http\"\n\
                [[routes]]\nlistener = \"more\"\npool = \"app\"\n";
    let process = Process::serve(&one);
    process.reload(&format!("{one}{more}"));
    let added = process.address("more");
    assert_eq!(curl(&[&format!("http://{added}/")]), (200, "a".to_owned()));
    process.reload(&one);
    run::wait_for("the removed listener to close", String::new, || {
        (curl(&[&format!("http://{added}/")]).0 == 0).then_some(())
    });
    assert_eq!(curl(&[&format!("http://{}/", process.address("web"))]), (200, "a".to_owned()));
}

#[test]
fn a_wrong_file_at_sighup_changes_nothing_and_is_counted() {
    let backend = Backend::start("a");
    let process = Process::serve(&config("", &backend));
    let status = process.reload("[[listeners]]\nnme = \"x\"\n");
    assert_eq!(status["generation"], 1);
    assert_eq!(status["reload"]["failed"], 1);
    assert_eq!(status["reload"]["last"]["applied"], false);
    let message = status["reload"]["last"]["message"].as_str().unwrap();
    assert!(message.contains("gateway.toml:2:1: listeners[0].nme: unknown key (did you mean \"name\"?)"), "{message}");
    process.wait_for_line("reload refused: gateway.toml:2:1: listeners[0].nme");
    let metrics = process.ask("/metrics").1;
    assert!(metrics.contains("expressgateway_config_reloads_total{result=\"failed\"} 1\n"), "{metrics}");
    assert_eq!(curl(&[&format!("http://{}/", process.address("web"))]), (200, "a".to_owned()));
}

#[test]
fn sighup_takes_what_it_can_and_names_what_needs_a_restart() {
    let backend = Backend::start("a");
    let process = Process::serve(&config("[runtime]\nworkers = 1", &backend));
    let status = process.reload(&config("[runtime]\nworkers = 2\ndrain_timeout_ms = 77", &backend));
    assert_eq!(status["generation"], 2);
    assert_eq!(status["workers"], 1);
    assert_eq!(status["reload"]["restart_needed"], serde_json::json!(["runtime.workers: 1 -> 2"]));
    process.wait_for_line("runtime.drain_timeout_ms: 10s -> 77ms");
    assert!(process.ask("/metrics").1.contains("expressgateway_config_restart_needed 1\n"));
    let status = process.reload(&config("[runtime]\nworkers = 1\ndrain_timeout_ms = 77", &backend));
    assert_eq!(status["reload"]["restart_needed"], serde_json::json!([]));
    assert_eq!(status["generation"], 2, "nothing was left to apply");
}

#[test]
fn sighup_cannot_bind_and_the_old_configuration_goes_on() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let backend = Backend::start("a");
    let one = config("", &backend);
    let process = Process::serve(&one);
    let more = format!(
        "[[listeners]]\nname = \"more\"\naddress = \"{}\"\nprotocol = \"http\"\n[[routes]]\nlistener = \"more\"\npool = \"app\"\n",
        taken.local_addr().unwrap()
    );
    let status = process.reload(&format!("{one}{more}"));
    assert_eq!(status["generation"], 1);
    let message = status["reload"]["last"]["message"].as_str().unwrap();
    assert!(message.contains("listener \"more\": cannot bind") && message.contains("nothing was applied"), "{message}");
    assert_eq!(curl(&[&format!("http://{}/", process.address("web"))]), (200, "a".to_owned()));
}

#[test]
fn the_log_filter_changes_at_sighup() {
    let backend = Backend::start("a");
    let process = Process::serve(&config("", &backend));
    let quiet = config("", &backend).replace("[observability]\n", "[observability]\nlog = \"error\"\n");
    process.reload(&quiet);
    let lines = process.log().len();
    process.reload(&quiet.replace("[[routes]]", "[runtime]\ndrain_timeout_ms = 5\n[[routes]]"));
    assert_eq!(process.log().len(), lines, "{:#?}", process.log());
}

/// The binary without any capability, whoever runs the test.
fn unprivileged(folder: &Path) -> Command {
    let mut command = Command::new("setpriv");
    if nix::unistd::geteuid().is_root() {
        command.args(["--bounding-set", "-all", "--inh-caps", "-all"]);
    }
    command.args([env!("CARGO_BIN_EXE_expressgateway"), "f.toml"]).current_dir(folder);
    command.env("XDG_STATE_HOME", folder.join("state")).env_remove("STATE_DIRECTORY").env_remove("RUST_LOG");
    command
}

#[test]
fn without_privilege_l7_binds_ordinary_sockets_and_says_so() {
    let backend = Backend::start("a");
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let config = config("[datapath]\ninterfaces = [\"lo\"]", &backend)
        .replace("\naddress = \"127.0.0.1:0\"", &format!("\naddress = \"{free}\""));
    let folder = folder();
    std::fs::write(folder.path().join("f.toml"), &config).unwrap();
    let process = Process::spawn(unprivileged(folder.path()), folder);
    process.wait_for_line("serving");
    let said = process.wait_for_line("kernel datapath off: listeners are ordinary sockets");
    assert!(said.contains("CAP_BPF"), "{said}");
    assert_eq!(curl(&[&format!("http://{free}/")]), (200, "a".to_owned()));
    assert_eq!(process.status()["datapath"], serde_json::Value::Null);

    // What it cannot carry it does not pretend to have taken.
    let l4 = "[[listeners]]\nname = \"l4\"\naddress = \"192.0.2.1:80\"\nprotocol = \"tcp\"\npool = \"l4\"\n\
              [[pools.l4.backends]]\naddress = \"192.0.2.2:80\"\n";
    std::fs::write(process.folder.path().join("f.toml"), format!("{config}{l4}")).unwrap();
    process.signal(Signal::SIGHUP);
    process.wait_for_line("reload refused: the kernel datapath could not be started");
    assert_eq!(process.status()["generation"], 1);
}

#[test]
fn without_privilege_an_l4_listener_ends_the_start() {
    let folder = folder();
    let config = "[datapath]\ninterfaces = [\"lo\"]\n[observability]\nmetrics_bind = \"127.0.0.1:0\"\n\
                  [[listeners]]\nname = \"l4\"\naddress = \"192.0.2.1:80\"\nprotocol = \"tcp\"\npool = \"l4\"\n\
                  [[pools.l4.backends]]\naddress = \"192.0.2.2:80\"\n";
    std::fs::write(folder.path().join("f.toml"), config).unwrap();
    let ended = output(&mut unprivileged(folder.path()));
    let said = text(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(said.contains("cannot start: start the kernel datapath: datapath: the process lacks CAP_BPF"), "{said}");
}
