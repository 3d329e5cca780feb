// SPDX-License-Identifier: GPL-3.0-only
//! The admin server of the running process: who may see what, and that the figures are those of the traffic.

use std::net::TcpStream;

#[allow(dead_code, reason = "shared by tests that each use a part")]
#[path = "process/backend.rs"]
mod backend;
#[allow(dead_code, reason = "shared by tests that each use a part")]
#[path = "process/run.rs"]
mod run;

#[path = "support/documented.rs"]
mod documented;

use backend::Backend;
use run::{Process, curl};

#[test]
fn the_metrics_of_process_and_l7_are_exactly_those_that_are_documented() {
    let backend = Backend::start("a");
    let process = Process::serve(&config("127.0.0.1:0", "", &backend));
    let web = process.address("web");
    assert_eq!(curl(&[&format!("http://{web}/a")]).0, 200);
    let expected = &documented::documented("Process\n") | &documented::documented("L7\n");
    assert!(expected.len() > 30, "the tables were not understood: {expected:#?}");
    run::wait_for(
        "the page to be as documented",
        || {
            let page = documented::printed(&process.ask("/metrics").1);
            format!("only documented: {:#?}\nonly printed: {:#?}", &expected - &page, &page - &expected)
        },
        || (documented::printed(&process.ask("/metrics").1) == expected).then_some(()),
    );
}

/// SHA-256 of "test".
const HASH: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

fn config(bind: &str, head: &str, backend: &Backend) -> String {
    format!(
        "{head}\n[observability]\nmetrics_bind = \"{bind}\"\n[[listeners]]\nname = \"web\"\naddress = \"127.0.0.1:0\"\n\
         protocol = \"http\"\n[[routes]]\nlistener = \"web\"\npath = \"/a\"\npool = \"app\"\n\
         [[pools.app.backends]]\nname = \"one\"\naddress = \"{}\"\n",
        backend.address
    )
}

fn value(metrics: &str, series: &str) -> Option<u64> {
    metrics.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
}

#[test]
fn health_needs_no_token_and_figures_do() {
    let backend = Backend::start("a");
    let head = format!("[admin]\napi_token_hash = \"sha256:{HASH}\"");
    let process = Process::serve(&config("0.0.0.0:0", &head, &backend));
    let admin = format!("http://127.0.0.1:{}", process.admin().port());
    for path in ["/livez", "/healthz", "/readyz", "/startupz"] {
        assert_eq!(curl(&[&format!("{admin}{path}")]), (200, "ok\n".to_owned()), "{path}");
    }
    for path in ["/metrics", "/status", "/drops"] {
        let url = format!("{admin}{path}");
        assert_eq!(curl(&[&url]).0, 401);
        assert_eq!(curl(&["-H", "Authorization: Bearer wrong", &url]).0, 401);
        assert_eq!(curl(&["-H", "Authorization: Basic test", &url]).0, 401);
        assert_eq!(curl(&["-H", "Authorization: Bearer test", &url]).0, 200);
    }
    let metrics = curl(&["-H", "Authorization: Bearer test", &format!("{admin}/metrics")]).1;
    assert_eq!(value(&metrics, "expressgateway_admin_refused_total"), Some(9));
}

#[test]
fn packets_are_for_root_and_for_no_page() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped, because it takes root to ask as somebody else");
        return;
    }
    let backend = Backend::start("a");
    let process = Process::serve(&config("127.0.0.1:0", "", &backend));
    let capture = format!("http://{}/capture", process.admin());
    // What root hears is what this gateway has to say of packets: no datapath is configured.
    let (status, said) = curl(&["-X", "POST", &capture]);
    assert_eq!(status, 503, "{said}");
    for header in ["Origin: https://example.org", "Sec-Fetch-Site: cross-site", "Host: localhost"] {
        let (status, said) = curl(&["-X", "POST", "-H", header, &capture]);
        assert_eq!(status, 403, "{header}: {said}");
    }
    let nobody = ["--reuid=65534", "--clear-groups", "curl", "-s", "-X", "POST", &capture];
    let asked = std::process::Command::new("setpriv").args(nobody).output().expect("setpriv, of util-linux");
    let said = String::from_utf8_lossy(&asked.stdout);
    assert!(said.contains("packets are for root and the gateway's own user"), "{said}");
}

#[test]
fn only_get_and_head_of_known_paths_are_answered() {
    let backend = Backend::start("a");
    let process = Process::serve(&config("127.0.0.1:0", "", &backend));
    let admin = process.admin();
    assert_eq!(curl(&["--data", "x", &format!("http://{admin}/status")]).0, 405);
    assert_eq!(curl(&["--head", &format!("http://{admin}/livez")]).0, 200);
    assert_eq!(process.ask("/").0, 404);
    assert_eq!(process.ask("/livez/").0, 404);
    assert_eq!(process.ask("/drops?before=1").0, 400);
    let (status, drops) = process.ask("/drops?after=1");
    assert_eq!((status, drops.contains("\"datapath\":false"), drops.contains("\"samples\":[]")), (200, true, true));
}

#[test]
fn each_request_is_counted_once_with_the_status_that_the_client_got() {
    let backend = Backend::start("a");
    let process = Process::serve(&config("127.0.0.1:0", "", &backend));
    let web = process.address("web");
    for _ in 0..3 {
        assert_eq!(curl(&[&format!("http://{web}/a")]), (200, "a".to_owned()));
    }
    assert_eq!(curl(&[&format!("http://{web}/b")]).0, 404);
    assert_eq!(curl(&["--http2-prior-knowledge", &format!("http://{web}/a")]), (200, "a".to_owned()));
    let requests = |metrics: &str, protocol: &str, status: u16| {
        let series =
            format!("expressgateway_requests_total{{listener=\"web\",protocol=\"{protocol}\",status=\"{status}\"}}");
        value(metrics, &series)
    };
    // The counters are bumped when a request is over, which curl may notice first.
    let metrics = run::wait_for("the last request to be counted", String::new, || {
        Some(process.ask("/metrics").1).filter(|metrics| requests(metrics, "h2", 200).is_some())
    });
    assert_eq!(requests(&metrics, "h1", 200), Some(3), "{metrics}");
    assert_eq!(requests(&metrics, "h1", 404), Some(1), "{metrics}");
    assert_eq!(requests(&metrics, "h2", 200), Some(1), "{metrics}");
    assert_eq!(
        value(&metrics, "expressgateway_connections_total{listener=\"web\",protocol=\"h1\"}"),
        Some(4),
        "{metrics}"
    );
    assert_eq!(
        value(&metrics, "expressgateway_sent_body_bytes_total{listener=\"web\"}").unwrap_or(0) / 4,
        1,
        "{metrics}"
    );
    let connects = value(&metrics, "expressgateway_upstream_connects_total").unwrap();
    let reuses = value(&metrics, "expressgateway_upstream_reuses_total").unwrap();
    assert_eq!(connects + reuses, 4, "{metrics}");
    assert_eq!(value(&metrics, "panic_total"), Some(0));
    assert_eq!(value(&metrics, "shutdown_aborted_connections_total"), Some(0));
}

#[test]
fn metrics_are_open_metrics() {
    let backend = Backend::start("a");
    let process = Process::serve(&config("127.0.0.1:0", "", &backend));
    let (code, answer) = curl(&["-D", "-", &format!("http://{}/metrics", process.admin())]);
    assert_eq!(code, 200);
    assert!(
        answer.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n"),
        "{answer}"
    );
    let body = answer.split_once("\r\n\r\n").unwrap().1;
    assert!(body.ends_with("# EOF\n"), "{body}");
    let mut types = Vec::new();
    for line in body.lines() {
        if let Some(family) = line.strip_prefix("# TYPE ") {
            let name = family.split(' ').next().unwrap();
            assert!(!types.contains(&name.to_owned()), "{name} is described twice");
            types.push(name.to_owned());
        } else if !line.starts_with('#') {
            let name = line.split(['{', ' ']).next().unwrap();
            let last = types.last().unwrap();
            assert!(name == last || name == format!("{last}_total"), "{line} is not below its family");
        }
    }
}

#[test]
fn status_tells_what_is_served() {
    let backend = Backend::start("a");
    let process = Process::serve(&config("127.0.0.1:0", "", &backend));
    let status = process.status();
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(status["phase"], "serving");
    assert_eq!(status["generation"], 1);
    assert_eq!(status["datapath"], serde_json::Value::Null);
    assert_eq!(status["listeners"][0]["routes"], serde_json::json!([{ "path": "/a", "pool": "app" }]));
    let backends = serde_json::json!([{ "name": "one", "address": backend.address, "weight": 1 }]);
    assert_eq!(
        status["pools"],
        serde_json::json!([{ "name": "app", "layer": 7, "algorithm": "round-robin", "backends": backends }])
    );
    let port = process.address("web").port();
    assert_ne!(port, 0);
}

#[test]
fn idle_connections_do_not_lock_the_operator_out() {
    let backend = Backend::start("a");
    let process = Process::serve(&config("127.0.0.1:0", "", &backend));
    let idle: Vec<TcpStream> = (0..100).map(|_| TcpStream::connect(process.admin()).unwrap()).collect();
    // All slots are theirs until their time for a request's head is over.
    assert_eq!(process.ask("/livez"), (200, "ok\n".to_owned()));
    drop(idle);
}
