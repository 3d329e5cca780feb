// SPDX-License-Identifier: GPL-3.0-only
//! Runs curl, streaming its output through a digest instead of keeping it.

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};

use sha2::{Digest, Sha256};

use super::bytes;
use super::front::{Front, KEPT, Reply, Request, Upload};
use super::gateway::Gateway;

/// A curl process for `request`, its standard output piped, its heads going to `heads`.
#[track_caller]
pub(crate) fn spawn(front: Front, gateway: &Gateway, request: &Request, heads: &std::path::Path) -> Child {
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--max-time", "180", "--noproxy", "*", "-o", "-", "-D"]).arg(heads);
    curl.arg(match front {
        Front::H1 | Front::H1Tls => "--http1.1",
        Front::H2 => "--http2-prior-knowledge",
        Front::H2Tls => "--http2",
        Front::H3 => panic!("this curl speaks no HTTP/3"),
    });
    let (scheme, port) = match front {
        Front::H1 | Front::H2 => ("http", gateway.plain().port()),
        _ => ("https", gateway.secure().port()),
    };
    curl.arg("--cacert").arg(gateway.certificate());
    curl.args(["--resolve", &format!("localhost:{port}:127.0.0.1")]);
    if request.method == "HEAD" {
        curl.arg("--head");
    } else {
        curl.args(["-X", &request.method]);
    }
    if !request.fields.iter().any(|(name, _)| name.eq_ignore_ascii_case("expect")) {
        curl.args(["-H", "Expect:"]);
    }
    for (name, value) in &request.fields {
        curl.args(["-H", &format!("{name}: {value}")]);
    }
    let unknown = request.body.is_some() && !request.known_length;
    match &request.body {
        Some(_) if unknown => curl.args(["-T", "-"]),
        Some(Upload::Pattern(len)) => curl.arg("-T").arg(bytes::file(*len)),
        Some(Upload::Text(_)) => curl.args(["--data-binary", "@-", "-H", "Content-Type:"]),
        None => &mut curl,
    };
    assert!(request.trailers.is_empty(), "curl's command line sends no trailers");
    curl.arg(format!("{scheme}://localhost:{port}{}", request.path));
    let mut child =
        curl.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("start curl");
    let mut stdin = child.stdin.take().expect("curl's standard input is piped");
    let body = request.body.clone();
    std::thread::spawn(move || match body {
        Some(Upload::Text(text)) => drop(stdin.write_all(text.as_bytes())),
        Some(Upload::Pattern(len)) if unknown => {
            let _ = bytes::pieces(len).try_for_each(|piece| stdin.write_all(piece));
        }
        _ => {}
    });
    child
}

#[track_caller]
pub(crate) fn send(front: Front, gateway: &Gateway, request: &Request) -> Reply {
    let heads = tempfile::NamedTempFile::new_in(gateway.folder.path()).expect("make a file for curl's heads");
    let mut child = spawn(front, gateway, request, heads.path());
    let mut output = child.stdout.take().expect("curl's standard output is piped");
    let mut reply = Reply::default();
    let mut hash = Sha256::new();
    let mut piece = vec![0; 64 * 1024];
    while let Ok(count) = output.read(&mut piece)
        && count > 0
        && request.method != "HEAD"
    {
        hash.update(&piece[..count]);
        reply.len += count as u64;
        let room = KEPT.saturating_sub(reply.body.len());
        reply.body.extend_from_slice(&piece[..count.min(room)]);
    }
    reply.sha256 = bytes::hex(hash);
    drop(output);
    let output = child.wait_with_output().expect("wait for curl");
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        reply.end = format!("curl {}: {}", output.status.code().unwrap_or(-1), said.trim());
    } else {
        reply.end = "clean".to_owned();
    }
    read_heads(&std::fs::read_to_string(heads.path()).unwrap_or_default(), &mut reply);
    reply
}

/// curl writes every head it got, each ended by an empty line, and trailers after the last.
fn read_heads(text: &str, reply: &mut Reply) {
    let mut status = 0;
    let mut fields = Vec::new();
    let mut in_head = false;
    for line in text.split("\r\n").flat_map(|line| line.split('\n')) {
        if let Some(rest) = line.strip_prefix("HTTP/") {
            status = rest.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
            in_head = true;
        } else if line.is_empty() && in_head {
            in_head = false;
            let head = std::mem::take(&mut fields);
            if status < 200 {
                reply.informational.push((status, head));
            } else {
                (reply.status, reply.fields) = (status, head);
            }
        } else if let Some((name, value)) = line.split_once(':') {
            let field = (name.to_owned(), value.trim().to_owned());
            if in_head { fields.push(field) } else { reply.trailers.push(field) }
        }
    }
}
