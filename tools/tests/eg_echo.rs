// SPDX-License-Identifier: GPL-3.0-only
//! eg-echo does what its --help says, seen by clients that are not ours (curl, aioquic) and by eg-blast. What other tests
//! rely on is pinned here: a backend that misbehaves only in its own imagination proves nothing.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

/// Not a multiple of a chunk, a packet or a window.
const LARGE: u64 = 3_000_000;

struct Echo {
    child: Child,
    ready: String,
}

impl Echo {
    fn start() -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_eg-echo"))
            .args(["--name", "b1", "--bind", "127.0.0.1", "--bind", "::1"])
            .args(["--tcp", "0", "--udp", "0", "--http", "0", "--https", "0", "--h3", "0", "--threads", "2"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("eg-echo starts");
        let mut ready = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut ready).expect("a ready line");
        Self { child, ready }
    }

    /// The n-th address of a protocol in the ready line: 0 is IPv4, 1 IPv6.
    fn address(&self, label: &str, n: usize) -> SocketAddr {
        let mut found = self.ready.split_whitespace().filter_map(|word| word.strip_prefix(&format!("{label}=")));
        found.nth(n).expect("the ready line names every address").parse().expect("an address")
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// True if the test is to be skipped; EG_REQUIRE makes that a failure.
fn lacks(what: &str, there: bool) -> bool {
    if !there {
        let required = std::env::var("EG_REQUIRE").unwrap_or_default();
        assert!(!required.split(',').any(|word| word == what), "EG_REQUIRE names {what}, which is missing");
        eprintln!("skipped, because {what} is not installed");
    }
    !there
}

fn curl(arguments: &[&str]) -> Option<Output> {
    let output = Command::new("curl").args(["-sk", "--max-time", "20"]).args(arguments).output().ok();
    (!lacks("curl", output.is_some())).then(|| output.expect("checked"))
}

fn h3get(arguments: &[&str]) -> Option<Output> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let there = root.join(".venv/bin/python").exists();
    (!lacks("aioquic", there))
        .then(|| Command::new(root.join("tools/h3get")).args(arguments).output().expect("h3get runs"))
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn pattern(length: u64) -> Vec<u8> {
    (0..length).map(|i| (i / 8).to_be_bytes()[(i % 8) as usize]).collect()
}

#[test]
fn tcp_says_who_it_is_and_then_echoes() {
    let echo = Echo::start();
    for n in [0, 1] {
        let mut stream = TcpStream::connect(echo.address("tcp", n)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let own = stream.local_addr().unwrap();
        stream.write_all(b"hello").unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut all = String::new();
        stream.read_to_string(&mut all).unwrap();
        assert_eq!(all, format!("b1 {own}\nhello"));
    }
}

#[test]
fn udp_says_who_it_is_in_every_datagram() {
    let echo = Echo::start();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    socket.send_to(b"hello", echo.address("udp", 0)).unwrap();
    let mut buffer = [0; 100];
    let length = socket.recv(&mut buffer).unwrap();
    assert_eq!(String::from_utf8_lossy(&buffer[..length]), format!("b1 {}\nhello", socket.local_addr().unwrap()));
}

#[test]
fn every_http_version_reports_what_arrived() {
    let echo = Echo::start();
    let (http, https) = (echo.address("http", 0), echo.address("https", 1));
    let plain = format!("http://{http}/a?n=1");
    let secure = format!("https://{https}/a?n=1");
    for (protocol, arguments) in [
        ("http/1.1", vec!["-d", "hello", &plain]),
        ("h2c", vec!["-d", "hello", "--http2-prior-knowledge", &plain]),
        ("http/1.1", vec!["-d", "hello", "--http1.1", &secure]),
        ("h2", vec!["-d", "hello", &secure]),
    ] {
        let Some(output) = curl(&arguments) else { return };
        check_report(&text(&output), protocol);
    }
    let quic = format!("https://{}/a?n=1", echo.address("h3", 1));
    let Some(output) = h3get(&["-d", "hello", &quic]) else { return };
    check_report(&text(&output), "h3");
}

fn check_report(report: &str, protocol: &str) {
    let report: serde_json::Value = serde_json::from_str(report).unwrap_or_else(|_| panic!("{protocol}: {report:?}"));
    assert_eq!(report["backend"], "b1");
    assert_eq!(report["protocol"], protocol);
    assert_eq!(report["method"], "POST");
    assert_eq!(report["path"], "/a?n=1");
    assert_eq!(report["body_bytes"], 5);
    // sha256 of "hello".
    assert_eq!(report["body_sha256"], "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824");
}

#[test]
fn large_bodies_are_the_documented_pattern() {
    let echo = Echo::start();
    let wanted = pattern(LARGE);
    let of = |scheme: &str, at: SocketAddr| format!("{scheme}://{at}/?size={LARGE}&chunk=10007");
    for url in [of("http", echo.address("http", 0)), of("https", echo.address("https", 0))] {
        let Some(output) = curl(&[&url]) else { return };
        assert!(output.stdout == wanted, "{url}: {} bytes, or others", output.stdout.len());
    }
    let Some(output) = h3get(&["--timeout", "60", &of("https", echo.address("h3", 0))]) else { return };
    assert!(output.stdout == wanted, "h3: {} bytes, or others", output.stdout.len());
}

#[test]
fn cuts_come_where_asked_and_look_like_cuts() {
    let echo = Echo::start();
    let http = echo.address("http", 0);
    let https = echo.address("https", 0);
    // 56: reset by peer, 18: ended early, 92: the stream was reset.
    for (url, code) in [
        (format!("http://{http}/?size=1m&reset=100k"), 56),
        (format!("http://{http}/?size=1m&truncate=100k"), 18),
        (format!("https://{https}/?size=1m&reset=100k"), 92),
    ] {
        let Some(output) = curl(&[&url]) else { return };
        assert_eq!(output.status.code(), Some(code), "{url}");
        assert_eq!(output.stdout.len(), 100 << 10, "{url}");
    }
    let Some(output) = h3get(&[&format!("https://{}/?size=1m&reset=100k", echo.address("h3", 0))]) else { return };
    // RFC 9114 section 8.1: H3_INTERNAL_ERROR.
    assert!(String::from_utf8_lossy(&output.stderr).contains("stream reset: 0x102"), "{output:?}");
}

#[test]
fn interim_responses_and_trailers_are_sent_by_every_version() {
    let echo = Echo::start();
    let query = "/?inform=2&trailers&size=20";
    let plain = format!("http://{}{query}", echo.address("http", 0));
    let secure = format!("https://{}{query}", echo.address("https", 0));
    let quic = format!("https://{}{query}", echo.address("h3", 0));
    // curl -v shows HTTP/1.1 trailers only through -D; -i and -D - hold heads and trailers alike.
    let Some(h1) = curl(&["-D", "-", "-o", "/dev/null", "-H", "te: trailers", &plain]) else { return };
    let Some(h2) = curl(&["-D", "-", "-o", "/dev/null", &secure]) else { return };
    let Some(h3) = h3get(&["-i", &quic]) else { return };
    for (version, output) in [("HTTP/1.1 103", h1), ("HTTP/2 103", h2), ("HTTP/3 103", h3)] {
        let text = text(&output);
        assert_eq!(text.matches(version).count(), 2, "{text}");
        assert!(text.contains("x-echo-trailer: b1"), "{text}");
        assert!(text.contains("x-body-bytes: 20"), "{text}");
    }
}

#[test]
fn a_request_that_hangs_gets_no_answer_and_one_that_is_delayed_gets_a_late_one() {
    let echo = Echo::start();
    for scheme in ["http", "https"] {
        let at = echo.address(scheme, 0);
        let Some(hung) = curl(&["--max-time", "1", &format!("{scheme}://{at}/?hang")]) else { return };
        // 28: curl's own time limit.
        assert_eq!(hung.status.code(), Some(28));
        let Some(late) = curl(&["-w", "%{time_total}", "-o", "/dev/null", &format!("{scheme}://{at}/?delay=300ms")])
        else {
            return;
        };
        assert!(text(&late).parse::<f64>().unwrap() >= 0.3, "{}", text(&late));
    }
}

#[test]
fn an_unknown_parameter_is_refused() {
    let echo = Echo::start();
    let url = format!("http://{}/?siez=1", echo.address("http", 0));
    let Some(output) = curl(&["-w", "%{http_code}", &url]) else { return };
    assert_eq!(text(&output), "unknown parameter \"siez\" (see eg-echo --help)\n400");
}

fn blast(arguments: &[&str]) -> (serde_json::Value, Option<i32>) {
    let output = Command::new(env!("CARGO_BIN_EXE_eg-blast")).args(arguments).output().expect("eg-blast runs");
    let json = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    (json, output.status.code())
}

#[test]
fn blast_counts_what_succeeds_by_backend() {
    let echo = Echo::start();
    for kind in ["tcp", "udp"] {
        let at = echo.address(kind, 1).to_string();
        let (json, code) = blast(&[kind, &at, "--connections", "50"]);
        assert_eq!((&json["ok"], &json["failed"], code), (&50.into(), &0.into(), Some(0)), "{json}");
        assert_eq!(json["backends"]["b1"], 50, "{json}");
    }
    let at = echo.address("http", 0).to_string();
    let (json, code) = blast(&["http", &at, "--rate", "100", "--seconds", "1", "--connections", "2"]);
    assert_eq!((&json["failed"], &json["connections"], code), (&0.into(), &2.into(), Some(0)), "{json}");
    // A busy machine may fall behind the pace, never ahead of it.
    let ok = json["ok"].as_u64().unwrap();
    assert!((1..=104).contains(&ok), "{json}");
}

#[test]
fn blast_counts_what_fails_by_kind() {
    let echo = Echo::start();
    // A port that nobody listens on: bound and closed again.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let (json, code) = blast(&["tcp", &nobody, "--connections", "3"]);
    assert_eq!((&json["failures"]["connect-refused"], code), (&3.into(), Some(1)), "{json}");
    let at = echo.address("http", 0).to_string();
    for (path, kind) in [("/?status=503", "status-5xx"), ("/?size=1m&truncate=1k", "truncated"), ("/?hang", "timeout")]
    {
        let (json, code) =
            blast(&["http", &at, "--path", path, "--seconds", "0.5", "--rate", "10", "--timeout-ms", "300"]);
        assert!(json["failures"][kind].as_u64() >= Some(1), "{path}: {json}");
        assert_eq!(json["failures"].as_object().unwrap().len(), 1, "{path}: {json}");
        assert_eq!(code, Some(1));
    }
}
