// SPDX-License-Identifier: GPL-3.0-only
//! Keep-alive HTTP/1.1 load. Each connection is a task that asks, reads the whole answer, waits for its next tick, and
//! reconnects when the server says goodbye properly.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::{MissedTickBehavior, timeout};

use crate::Http;
use crate::tally::Tally;

pub(crate) async fn blast(arguments: Http) -> Tally {
    let tally = Rc::new(RefCell::new(Tally::default()));
    let end = Instant::now() + Duration::from_secs_f64(arguments.seconds.clamp(0.0, 600.0));
    let arguments = Rc::new(arguments);
    let tasks: Vec<_> = (0..arguments.connections)
        .map(|index| tokio::task::spawn_local(connection(Rc::clone(&arguments), Rc::clone(&tally), end, index)))
        .collect();
    for task in tasks {
        if task.await.is_err() {
            tally.borrow_mut().fail("panic");
        }
    }
    tally.take()
}

type Sender = SendRequest<Full<Bytes>>;

/// How one attempt on a connection ended.
enum Attempt {
    /// Answered; the connection may serve again if hyper says so.
    Done,
    /// Not one byte of an answer came on a connection that had served before: to be asked again.
    Race,
    Failed(&'static str),
}

async fn connection(arguments: Rc<Http>, tally: Rc<RefCell<Tally>>, end: Instant, index: u32) {
    let mut tick = (arguments.rate > 0).then(|| {
        let every = Duration::from_secs_f64(f64::from(arguments.connections) / f64::from(arguments.rate));
        let mut tick = tokio::time::interval(every);
        // The connections take turns instead of all asking at once.
        tick.reset_after(every.mul_f64(f64::from(index) / f64::from(arguments.connections)));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tick
    });
    let mut open: Option<(Sender, u64)> = None;
    while Instant::now() < end {
        if let Some(tick) = &mut tick {
            tick.tick().await;
        }
        loop {
            let (mut sender, served) = match open.take() {
                Some(open) => open,
                None => match connect(&arguments).await {
                    Ok(sender) => {
                        tally.borrow_mut().connections += 1;
                        (sender, 0)
                    }
                    Err(kind) => {
                        tally.borrow_mut().fail(kind);
                        // Refused at once: without a pause this would be a busy loop.
                        tokio::time::sleep(Duration::from_millis(20)).await;
                        break;
                    }
                },
            };
            // A proper goodbye between requests costs nobody anything.
            if sender.ready().await.is_err() {
                continue;
            }
            let time = Duration::from_millis(arguments.timeout_ms);
            match timeout(time, ask(&arguments, &tally, &mut sender, served))
                .await
                .unwrap_or(Attempt::Failed("timeout"))
            {
                Attempt::Done => open = Some((sender, served + 1)),
                Attempt::Race => {
                    tally.borrow_mut().idle_close_races += 1;
                    continue;
                }
                Attempt::Failed(kind) => tally.borrow_mut().fail(kind),
            }
            break;
        }
    }
}

async fn connect(arguments: &Http) -> Result<Sender, &'static str> {
    let time = Duration::from_millis(arguments.timeout_ms);
    let stream = match timeout(time, TcpStream::connect(arguments.address)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => return Err("connect-refused"),
        Ok(Err(_)) => return Err("connect"),
        Err(_) => return Err("connect-timeout"),
    };
    stream.set_nodelay(true).map_err(|_| "connect")?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|_| "connect")?;
    // Its errors reach us through the request that they concern.
    tokio::task::spawn_local(async move { drop(connection.await) });
    Ok(sender)
}

async fn ask(arguments: &Http, tally: &RefCell<Tally>, sender: &mut Sender, served: u64) -> Attempt {
    let host = arguments.host.clone().unwrap_or_else(|| arguments.address.to_string());
    let request = http::Request::builder()
        .method(if arguments.body > 0 { "POST" } else { "GET" })
        .uri(&arguments.path)
        .header("host", host)
        .header("user-agent", "eg-blast")
        .body(Full::new(Bytes::from(vec![b'x'; arguments.body])));
    let Ok(request) = request else { return Attempt::Failed("request") };
    let began = Instant::now();
    let response = match sender.send_request(request).await {
        Ok(response) => response,
        // hyper never wrote it.
        Err(error) if error.is_canceled() => return Attempt::Race,
        Err(error) if served > 0 && closed(&error) => return Attempt::Race,
        Err(error) if closed(&error) => return Attempt::Failed("closed-before-answer"),
        Err(error) if error.is_parse() => return Attempt::Failed("malformed"),
        Err(_) => return Attempt::Failed("request"),
    };
    let status = response.status().as_u16();
    let backend = response.headers().get("x-backend").map(|name| String::from_utf8_lossy(name.as_bytes()).into_owned());
    *tally.borrow_mut().statuses.entry(status).or_default() += 1;
    let mut body = response.into_body();
    while let Some(frame) = body.frame().await {
        if frame.is_err() {
            return Attempt::Failed("truncated");
        }
    }
    let mut tally = tally.borrow_mut();
    tally.took(began.elapsed());
    if let Some(backend) = backend {
        tally.backend(&backend);
    }
    if status >= 500 {
        return Attempt::Failed("status-5xx");
    }
    tally.ok += 1;
    Attempt::Done
}

/// The connection ended before a whole response head.
fn closed(error: &hyper::Error) -> bool {
    use std::error::Error;
    error.is_incomplete_message()
        || error.is_closed()
        || error.source().and_then(|source| source.downcast_ref::<std::io::Error>()).is_some_and(|error| {
            matches!(error.kind(), std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe)
        })
}
