// SPDX-License-Identifier: GPL-3.0-only
//! One request answered as it asks, whatever protocol it came by. The protocol modules turn their requests into [`Request`],
//! spawn [`answer`] and put the [`Out`]s that it sends on the wire; the channel between them is short, so a slow client holds
//! the answer back and a slow answer holds the client back.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use serde_json::json;
use tokio::sync::{Notify, mpsc};

use crate::ask::{Ask, Cut};
use crate::pattern::{Pattern, Sum};

pub(crate) type Fields = Vec<(String, String)>;

/// Pieces under way between an answer and its connection.
pub(crate) const IN_FLIGHT: usize = 4;

pub(crate) struct Request {
    pub(crate) backend: Rc<str>,
    pub(crate) protocol: &'static str,
    pub(crate) peer: SocketAddr,
    pub(crate) method: String,
    pub(crate) scheme: String,
    pub(crate) authority: String,
    pub(crate) path: String,
    pub(crate) fields: Fields,
    pub(crate) body: Incoming,
}

/// The request's body, as each protocol has it.
pub(crate) enum Incoming {
    Empty,
    H1(hyper::body::Incoming),
    H2(h2::RecvStream),
    /// HTTP/3: the driver fills the channel; it is told when there is room again.
    H3(mpsc::Receiver<Piece>, Rc<Notify>),
}

pub(crate) enum Piece {
    Data(Bytes),
    Trailers(Fields),
    Aborted,
}

impl Incoming {
    /// The next piece; None at the proper end.
    async fn next(&mut self) -> Option<Piece> {
        match self {
            Self::Empty => None,
            Self::H1(body) => Some(match body.frame().await? {
                Ok(frame) => match frame.into_data() {
                    Ok(data) => Piece::Data(data),
                    Err(frame) => Piece::Trailers(frame.into_trailers().map(|map| fields(&map)).unwrap_or_default()),
                },
                Err(_) => Piece::Aborted,
            }),
            Self::H2(stream) => match stream.data().await {
                Some(Ok(data)) => {
                    drop(stream.flow_control().release_capacity(data.len()));
                    Some(Piece::Data(data))
                }
                Some(Err(_)) => Some(Piece::Aborted),
                None => match stream.trailers().await {
                    Ok(trailers) => trailers.map(|map| Piece::Trailers(fields(&map))),
                    Err(_) => Some(Piece::Aborted),
                },
            },
            Self::H3(pieces, room) => {
                let piece = pieces.recv().await;
                room.notify_one();
                piece
            }
        }
    }
}

/// What goes on the wire, in order: any number of Inform, one Head, any number of Data, then End or Cut.
pub(crate) enum Out {
    Inform(u16, Fields),
    Head { status: u16, fields: Fields, end: bool },
    Data(Bytes),
    End(Option<Fields>),
    Cut(Cut),
}

/// The sending half; an H3 driver is woken by `wake`, the others poll the channel themselves.
pub(crate) struct Reply {
    pub(crate) channel: mpsc::Sender<Out>,
    pub(crate) wake: Option<Rc<Notify>>,
}

/// The client is gone; there is nobody to tell.
pub(crate) struct Gone;

impl Reply {
    async fn send(&self, out: Out) -> Result<(), Gone> {
        let sent = self.channel.send(out).await.map_err(|_| Gone);
        if let Some(wake) = &self.wake {
            wake.notify_one();
        }
        sent
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if let Some(wake) = &self.wake {
            wake.notify_one();
        }
    }
}

/// Answers one request; to be spawned on the thread's LocalSet.
pub(crate) async fn answer(request: Request, reply: Reply) {
    // Gone is how most of these tests end: the client left on purpose.
    drop(answer_inner(request, &reply).await);
}

async fn answer_inner(mut request: Request, reply: &Reply) -> Result<(), Gone> {
    let ask = match Ask::parse(&request.path) {
        Ok(ask) => ask,
        Err(why) => return refuse(&request, reply, &why).await,
    };
    if ask.stall {
        reply.channel.closed().await;
        return Err(Gone);
    }
    if ask.echo && !ask.early {
        return stream_back(&ask, &mut request, reply).await;
    }

    let mut sum = Sum::new();
    let mut trailers = Vec::new();
    if !ask.early {
        while let Some(piece) = request.body.next().await {
            match piece {
                Piece::Data(data) => sum.add(&data),
                Piece::Trailers(fields) => trailers = fields,
                Piece::Aborted => return Err(Gone),
            }
            pause(ask.read_pace).await;
        }
    }
    if ask.hang {
        reply.channel.closed().await;
        return Err(Gone);
    }
    preface(&ask, reply).await?;

    let mut answer = Answer::new(&ask, &request, reply);
    if let Some(size) = ask.size {
        answer.head("application/octet-stream", (!ask.chunked).then_some(size)).await?;
        let mut pattern = Pattern::new();
        let mut left = size;
        while left > 0 {
            let length = left.min(ask.chunk as u64);
            answer.data(pattern.take(length as usize)).await?;
            left -= length;
        }
    } else {
        let body_bytes = sum.bytes;
        let report = json!({
            "backend": *request.backend,
            "protocol": request.protocol,
            "peer": request.peer.to_string(),
            "method": request.method,
            "scheme": request.scheme,
            "authority": request.authority,
            "path": request.path,
            "headers": request.fields,
            "body_bytes": body_bytes,
            "body_sha256": sum.hex(),
            "trailers": trailers,
        });
        let body = Bytes::from(format!("{report}\n"));
        answer.head("application/json", (!ask.chunked).then_some(body.len() as u64)).await?;
        answer.data(body).await?;
    }
    answer.end().await
}

/// What precedes the final head: the asked-for wait and interim responses.
async fn preface(ask: &Ask, reply: &Reply) -> Result<(), Gone> {
    for _ in 0..ask.inform {
        let hint = vec![("link".to_owned(), "</style.css>; rel=preload".to_owned())];
        reply.send(Out::Inform(103, hint)).await?;
    }
    pause(ask.delay).await;
    Ok(())
}

async fn stream_back(ask: &Ask, request: &mut Request, reply: &Reply) -> Result<(), Gone> {
    preface(ask, reply).await?;
    let mut body = std::mem::replace(&mut request.body, Incoming::Empty);
    let mut answer = Answer::new(ask, request, reply);
    answer.head("application/octet-stream", None).await?;
    while let Some(piece) = body.next().await {
        match piece {
            Piece::Data(data) => answer.data(data).await?,
            Piece::Trailers(_) => {}
            Piece::Aborted => return reply.send(Out::Cut(Cut::Reset)).await,
        }
        pause(ask.read_pace).await;
    }
    answer.end().await
}

async fn refuse(request: &Request, reply: &Reply, why: &str) -> Result<(), Gone> {
    let fields = vec![
        ("x-backend".to_owned(), request.backend.to_string()),
        ("content-type".to_owned(), "text/plain".to_owned()),
        ("content-length".to_owned(), (why.len() + 1).to_string()),
    ];
    reply.send(Out::Head { status: 400, fields, end: false }).await?;
    reply.send(Out::Data(Bytes::from(format!("{why}\n")))).await?;
    reply.send(Out::End(None)).await
}

/// A final response under way: counts what it sends, and cuts where it was told to.
struct Answer<'a> {
    ask: &'a Ask,
    request: &'a Request,
    reply: &'a Reply,
    sum: Sum,
    cut: bool,
}

impl<'a> Answer<'a> {
    fn new(ask: &'a Ask, request: &'a Request, reply: &'a Reply) -> Self {
        Self { ask, request, reply, sum: Sum::new(), cut: false }
    }

    async fn head(&mut self, content_type: &str, length: Option<u64>) -> Result<(), Gone> {
        let mut fields = vec![
            ("x-backend".to_owned(), self.request.backend.to_string()),
            ("content-type".to_owned(), content_type.to_owned()),
        ];
        // RFC 9110 section 8.6: no Content-Length with 204; and with trailers HTTP/1.1 needs the chunked coding.
        let bodiless = matches!(self.ask.status, 204 | 304);
        if let Some(length) = length.filter(|_| !self.ask.trailers && !bodiless) {
            fields.push(("content-length".to_owned(), length.to_string()));
        }
        if self.ask.trailers {
            fields.push(("trailer".to_owned(), "x-echo-trailer, x-body-bytes, x-body-sha256".to_owned()));
        }
        fields.extend(self.ask.fields.iter().cloned());
        let end = bodiless || self.request.method == "HEAD";
        self.cut |= end;
        self.reply.send(Out::Head { status: self.ask.status, fields, end }).await
    }

    async fn data(&mut self, mut data: Bytes) -> Result<(), Gone> {
        if self.cut {
            return Ok(());
        }
        if let Some((at, how)) = self.ask.cut
            && self.sum.bytes + data.len() as u64 >= at
        {
            data.truncate((at - self.sum.bytes) as usize);
            self.cut = true;
            if !data.is_empty() {
                self.reply.send(Out::Data(data)).await?;
            }
            return self.reply.send(Out::Cut(how)).await;
        }
        self.sum.add(&data);
        self.reply.send(Out::Data(data)).await?;
        pause(self.ask.pace).await;
        Ok(())
    }

    async fn end(self) -> Result<(), Gone> {
        if self.cut {
            return Ok(());
        }
        let trailers = self.ask.trailers.then(|| {
            vec![
                ("x-echo-trailer".to_owned(), self.request.backend.to_string()),
                ("x-body-bytes".to_owned(), self.sum.bytes.to_string()),
                ("x-body-sha256".to_owned(), self.sum.hex()),
            ]
        });
        self.reply.send(Out::End(trailers)).await
    }
}

async fn pause(time: Option<Duration>) {
    if let Some(time) = time {
        tokio::time::sleep(time).await;
    }
}

/// Field lines as text; bytes that are no UTF-8 show as U+FFFD.
pub(crate) fn fields(map: &http::HeaderMap) -> Fields {
    map.iter().map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())).collect()
}

/// The other way; what cannot be a field (the request may ask for anything) is left out.
pub(crate) fn map(fields: &Fields) -> http::HeaderMap {
    let mut map = http::HeaderMap::new();
    for (name, value) in fields {
        if let (Ok(name), Ok(value)) = (name.parse::<http::HeaderName>(), value.parse()) {
            map.append(name, value);
        }
    }
    map
}
