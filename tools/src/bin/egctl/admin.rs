// SPDX-License-Identifier: GPL-3.0-only
//! Asks the process over its admin address.

use std::fmt::Write;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

/// Tens of thousands of backends make some megabytes.
const ANSWER_MAX: usize = 64 << 20;
const PATIENCE: Duration = Duration::from_secs(5);

/// Where the process answers, and with which token.
pub(crate) struct Admin {
    pub(crate) address: SocketAddr,
    pub(crate) token: Option<String>,
}

impl Admin {
    /// The JSON under `path`.
    pub(crate) fn json(&self, path: &str) -> Result<Value, String> {
        let admin = self.address;
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
        let body = runtime.block_on(async {
            tokio::time::timeout(PATIENCE, get(admin, path, self.token.clone()))
                .await
                .unwrap_or_else(|_| Err(format!("{admin}: no answer within {} s", PATIENCE.as_secs())))
        })?;
        serde_json::from_slice(&body).map_err(|error| format!("{admin}: {path} is no JSON: {error}"))
    }
}

pub(crate) fn status(admin: &Admin, json: bool) -> Result<String, String> {
    let status = admin.json("/status")?;
    Ok(if json { format!("{status}\n") } else { text(&status) })
}

/// An answer that comes bit by bit.
pub(crate) struct Stream(Incoming);

impl Stream {
    /// `None`: it is over, or was cut short.
    pub(crate) async fn next(&mut self) -> Option<Bytes> {
        loop {
            match self.0.frame().await?.ok()?.into_data() {
                Ok(data) => return Some(data),
                // Trailers.
                Err(_) => continue,
            }
        }
    }
}

impl Admin {
    /// Asks for something to be done, and gives the answer as it comes. Waits for its head as long as it takes.
    pub(crate) async fn post(&self, path: &str) -> Result<Stream, String> {
        let (admin, response) = (self.address, send(self.address, Method::POST, path, self.token.clone()).await?);
        match response.status().as_u16() {
            200 => Ok(Stream(response.into_body())),
            401 => Err(no_token(admin, response.status())),
            _ => {
                let body = Limited::new(response.into_body(), ANSWER_MAX).collect().await;
                let why = body.map_err(|error| format!("{admin}: {error}"))?.to_bytes();
                Err(String::from_utf8_lossy(&why).trim_end().to_owned())
            }
        }
    }
}

async fn get(admin: SocketAddr, path: &str, token: Option<String>) -> Result<Bytes, String> {
    let response = send(admin, Method::GET, path, token).await?;
    let code = response.status();
    let body = Limited::new(response.into_body(), ANSWER_MAX);
    let body = body.collect().await.map_err(|error| format!("{admin}: {error}"))?.to_bytes();
    match code.as_u16() {
        200 => Ok(body),
        401 | 403 => Err(no_token(admin, code)),
        _ => Err(format!("{admin}: {path} answered {code}")),
    }
}

fn no_token(admin: SocketAddr, code: StatusCode) -> String {
    format!("{admin}: {code}: give the admin token by --token or EG_ADMIN_TOKEN")
}

async fn send(
    admin: SocketAddr,
    method: Method,
    path: &str,
    token: Option<String>,
) -> Result<Response<Incoming>, String> {
    let stream = TcpStream::connect(admin).await.map_err(|error| {
        format!("{admin}: {error} (is the gateway running, and is this its [observability].metrics_bind? see --admin)")
    })?;
    let broken = |error: hyper::Error| format!("{admin}: {}", crate::chain(&error));
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await.map_err(broken)?;
    // What ends the connection early also ends the request, which reports it.
    tokio::spawn(connection);
    let mut request = http::Request::builder().method(method).uri(path).header("host", admin.to_string());
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|error| format!("the token: {error}"))?;
    sender.send_request(request).await.map_err(broken)
}

/// The parts that an operator looks at first.
fn text(status: &Value) -> String {
    let mut out = String::new();
    let word = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "expressgateway {} (pid {}): {}, up {} s, generation {}, {} workers",
        word(&status["version"]),
        status["pid"],
        word(&status["phase"]),
        status["uptime_seconds"],
        status["generation"],
        status["workers"],
    );
    let reload = &status["reload"];
    if let Some(message) = reload["last"]["message"].as_str() {
        let outcome = if reload["last"]["applied"] == Value::Bool(true) { "applied" } else { "refused" };
        let _ = writeln!(out, "last reload {outcome}: {message}");
    }
    for needed in list(&reload["restart_needed"]) {
        let _ = writeln!(out, "needs a restart: {}", word(needed));
    }
    match &status["datapath"] {
        Value::Null => out.push_str("datapath off\n"),
        datapath => {
            let interfaces: Vec<String> = list(&datapath["interfaces"]).iter().map(word).collect();
            let _ = writeln!(out, "datapath on {}, pinned in {}", interfaces.join(", "), word(&datapath["pin_root"]));
        }
    }
    for listener in list(&status["listeners"]) {
        let addresses: Vec<String> = list(&listener["addresses"])
            .iter()
            .map(|at| format!("{}/{}", word(&at["address"]), word(&at["transport"])))
            .collect();
        let to = match &listener["pool"] {
            Value::Null => list(&listener["routes"])
                .iter()
                .map(|route| format!("{} -> {}", word(&route["path"]), word(&route["pool"])))
                .collect::<Vec<_>>()
                .join(", "),
            pool => format!("-> {}", word(pool)),
        };
        let _ = writeln!(
            out,
            "listener {} (L{} {}) on {}: {to}",
            word(&listener["name"]),
            listener["layer"],
            word(&listener["protocol"]),
            addresses.join(" ")
        );
    }
    for pool in list(&status["pools"]) {
        let _ = writeln!(out, "pool {} (L{} {})", word(&pool["name"]), pool["layer"], word(&pool["algorithm"]));
        for backend in list(&pool["backends"]) {
            let at = if backend["address"].is_null() { &backend["builtin"] } else { &backend["address"] };
            let _ = writeln!(out, "  {} at {}, weight {}", word(&backend["name"]), word(at), backend["weight"]);
        }
    }
    out
}

pub(crate) fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn status_reads_as_sentences() {
        let status = json!({
            "version": "0.1.0", "pid": 7, "phase": "serving", "uptime_seconds": 3, "generation": 2, "workers": 2,
            "reload": { "last": { "applied": false, "message": "pools.web: no backend" }, "restart_needed": ["runtime.workers"] },
            "datapath": null,
            "listeners": [{ "name": "web", "layer": 7, "protocol": "http", "routes": [{ "path": "/", "pool": "p" }],
                            "addresses": [{ "address": "127.0.0.1:80", "transport": "tcp" }] }],
            "pools": [{ "name": "p", "layer": 7, "algorithm": "round-robin",
                        "backends": [{ "name": "w", "builtin": "welcome", "weight": 1 }] }],
        });
        assert_eq!(
            text(&status),
            "expressgateway 0.1.0 (pid 7): serving, up 3 s, generation 2, 2 workers\n\
             last reload refused: pools.web: no backend\nneeds a restart: runtime.workers\ndatapath off\n\
             listener web (L7 http) on 127.0.0.1:80/tcp: / -> p\npool p (L7 round-robin)\n  w at welcome, weight 1\n"
        );
    }
}
