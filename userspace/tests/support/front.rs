// SPDX-License-Identifier: GPL-3.0-only
//! The five ways into the gateway, and one request through any of them by a client that is not ours:
//! curl for HTTP/1.1 and HTTP/2, aioquic for HTTP/3 (and the `h2` package where curl cannot, as for request trailers).

use std::time::Duration;

use serde_json::{Value, json};

use super::bytes;
use super::gateway::Gateway;
use super::{curl, python};

/// How much of a response body a [`Reply`] keeps; the digest covers all of it.
pub(crate) const KEPT: usize = 64 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Front {
    H1,
    H1Tls,
    H2,
    H2Tls,
    H3,
}

#[derive(Debug, Clone)]
pub(crate) enum Upload {
    Text(String),
    /// That many bytes of the pattern.
    Pattern(u64),
}

#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) body: Option<Upload>,
    /// Whether the request says how long its body is.
    pub(crate) known_length: bool,
    pub(crate) trailers: Vec<(String, String)>,
}

/// What a client says it got.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) informational: Vec<(u16, Vec<(String, String)>)>,
    pub(crate) body: Vec<u8>,
    pub(crate) len: u64,
    pub(crate) sha256: String,
    pub(crate) trailers: Vec<(String, String)>,
    /// "clean", or how it ended in the client's words.
    pub(crate) end: String,
}

impl Front {
    pub(crate) const ALL: [Front; 5] = [Front::H1, Front::H1Tls, Front::H2, Front::H2Tls, Front::H3];

    /// The fronts whose client is here; what is missing is said (or fails the test, see `skip`).
    #[track_caller]
    pub(crate) fn available() -> Vec<Front> {
        let python = python::available();
        Front::ALL.into_iter().filter(|front| *front != Front::H3 || python).collect()
    }

    /// The Python client for this front, if one exists.
    pub(crate) fn python(self) -> Option<python::Client> {
        match self {
            Front::H2 => Some(python::Client::H2Cleartext),
            Front::H2Tls => Some(python::Client::H2),
            Front::H3 => Some(python::Client::H3),
            Front::H1 | Front::H1Tls => None,
        }
    }

    #[track_caller]
    pub(crate) fn send(self, gateway: &Gateway, request: &Request) -> Reply {
        match self.python() {
            Some(_) if self == Front::H3 || !request.trailers.is_empty() => self.send_by_python(gateway, request),
            _ => curl::send(self, gateway, request),
        }
    }

    /// As `send`, where curl would do but has a defect of its own.
    #[track_caller]
    pub(crate) fn send_by_python(self, gateway: &Gateway, request: &Request) -> Reply {
        let client = self.python().expect("a Python client for this front");
        // aioquic moves some 6 MB a second where it shares its core.
        let limit = if super::full() { 900 } else { 170 };
        let mut session =
            python::Session::start(client, gateway, json!({ "streams": [request.order()], "limit_s": limit }));
        let report = session.report(Duration::from_secs(limit + 10));
        Reply::of_stream(&report["streams"][0])
    }
}

impl Request {
    pub(crate) fn new(method: &str, path: &str) -> Request {
        Request {
            method: method.to_owned(),
            path: path.to_owned(),
            fields: Vec::new(),
            body: None,
            known_length: true,
            trailers: Vec::new(),
        }
    }

    pub(crate) fn get(path: &str) -> Request {
        Request::new("GET", path)
    }

    pub(crate) fn post(path: &str, body: Upload) -> Request {
        Request { body: Some(body), ..Request::new("POST", path) }
    }

    pub(crate) fn field(mut self, name: &str, value: &str) -> Request {
        self.fields.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn trailer(mut self, name: &str, value: &str) -> Request {
        self.trailers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn unknown_length(mut self) -> Request {
        self.known_length = false;
        self
    }

    /// As tests/clients/streams.py wants it.
    pub(crate) fn order(&self) -> Value {
        let mut order = json!({
            "method": self.method,
            "path": self.path,
            "fields": self.fields,
            "length": self.known_length,
            "trailers": self.trailers,
        });
        match &self.body {
            Some(Upload::Text(text)) => order["body"] = json!(text),
            Some(Upload::Pattern(len)) => order["file"] = json!(bytes::file(*len)),
            None => {}
        }
        order
    }
}

impl Reply {
    /// From one entry of a Python client's report.
    pub(crate) fn of_stream(value: &Value) -> Reply {
        let informational = value["informational"].as_array().cloned().unwrap_or_default();
        Reply {
            status: value["status"].as_u64().unwrap_or(0) as u16,
            fields: pairs(&value["fields"]),
            informational: informational
                .iter()
                .map(|one| (one[0].as_u64().unwrap_or(0) as u16, pairs(&one[1])))
                .collect(),
            // The client keeps latin-1: one character a byte.
            body: value["body"].as_str().unwrap_or_default().chars().map(|one| one as u8).collect(),
            len: value["len"].as_u64().unwrap_or(0),
            sha256: value["sha256"].as_str().unwrap_or_default().to_owned(),
            trailers: pairs(&value["trailers"]),
            end: value["end"].as_str().unwrap_or_default().to_owned(),
        }
    }

    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        let own = self.fields.iter().filter(|(own, _)| own.eq_ignore_ascii_case(name));
        own.map(|(_, value)| value.as_str()).collect()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn trailer(&self, name: &str) -> Option<&str> {
        let own = self.trailers.iter().find(|(own, _)| own.eq_ignore_ascii_case(name));
        own.map(|(_, value)| value.as_str())
    }

    #[track_caller]
    pub(crate) fn expect(&self, status: u16) -> &Reply {
        assert_eq!((self.status, self.end.as_str()), (status, "clean"), "{self:?}");
        self
    }
}

fn pairs(value: &Value) -> Vec<(String, String)> {
    let list = value.as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    list.iter().map(|pair| (text(&pair[0]), text(&pair[1]))).collect()
}
