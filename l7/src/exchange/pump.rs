// SPDX-License-Identifier: GPL-3.0-only
//! Moves a request to a backend and its response to the client, both at once, with at most one frame in hand each way.
//!
//! Each direction is a small state machine that runs until something is not ready, so that whoever is not ready has the
//! task's waker. A direction that ends badly ends the exchange, with one exception: a backend that stops taking the request
//! may still answer it.

use super::{Request, hygiene};
use crate::error::Refusal;
use crate::head::Head;
use crate::stream::{Abort, Back, Frame, Front, Response, Sink};
use crate::worker::{Phase, Watch};
use bytes::Bytes;
use std::task::{Context, Poll};

/// How it ended.
pub(super) enum Ended {
    /// The response was sent to its end.
    Complete,
    /// It cannot go on, and the client has got nothing of a final response.
    Refused(Refusal),
    /// It cannot go on, in the middle of the response; or the client is gone.
    Broken(Abort),
}

enum Up {
    Read,
    Send(Bytes),
    Finish(Option<Head>),
    Done,
    /// The backend takes no more of it.
    Unwanted,
}

enum Down {
    Await,
    Inform(Head),
    Respond(Head, bool),
    Read,
    Send(Bytes),
    Finish(Option<Head>),
    Done,
}

pub(super) struct Pump<'a> {
    request: &'a Request,
    watch: &'a Watch,
    up: Up,
    down: Down,
    /// Something moved since the deadline was last set.
    moved: bool,
    written: u64,
    /// What the request's Content-Length says is still to come.
    declared: Option<u64>,
}

impl<'a> Pump<'a> {
    pub(super) fn new(request: &'a Request, watch: &'a Watch) -> Pump<'a> {
        let up = if request.end { Up::Finish(None) } else { Up::Read };
        let declared = request.head.get("content-length").and_then(crate::h1::parse::length);
        Pump { request, watch, up, down: Down::Await, moved: true, written: 0, declared }
    }

    /// Whether the request was read to its end.
    pub(super) fn request_done(&self) -> bool {
        matches!(self.up, Up::Done | Up::Finish(_))
    }

    /// Whether the backend's next bytes are what everything waits for.
    pub(super) fn waits_for_backend(&self) -> bool {
        matches!(self.down, Down::Read)
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>, front: &mut impl Front, back: &mut impl Back) -> Poll<Ended> {
        if self.watch.worker().phase() == Phase::Aborting {
            return Poll::Ready(Ended::Broken(Abort::Internal));
        }
        if let Err(ended) = self.poll_up(cx, front, back) {
            return Poll::Ready(ended);
        }
        if let Err(ended) = self.poll_down(cx, front, back) {
            return Poll::Ready(ended);
        }
        if matches!(self.down, Down::Done) {
            return Poll::Ready(Ended::Complete);
        }
        if let Poll::Ready(why) = front.poll_cancelled(cx) {
            return Poll::Ready(Ended::Broken(why));
        }
        self.poll_deadline(cx, front, back)
    }

    fn poll_up(&mut self, cx: &mut Context<'_>, front: &mut impl Front, back: &mut impl Back) -> Result<(), Ended> {
        loop {
            self.up = match &mut self.up {
                Up::Done | Up::Unwanted => return Ok(()),
                Up::Read => match front.poll_frame(cx) {
                    Poll::Pending => {
                        if let Poll::Ready(Err(_)) = back.poll_flush(cx) {
                            self.up = Up::Unwanted;
                        }
                        return Ok(());
                    }
                    Poll::Ready(frame) => self.take(frame)?,
                },
                Up::Send(data) => {
                    let before = data.len();
                    let poll = back.poll_send(cx, data);
                    self.moved |= data.len() != before;
                    match poll {
                        Poll::Pending => return Ok(()),
                        Poll::Ready(Ok(())) => Up::Read,
                        Poll::Ready(Err(_)) => Up::Unwanted,
                    }
                }
                Up::Finish(trailers) => match back.poll_finish(cx, trailers.as_ref()) {
                    Poll::Pending => return Ok(()),
                    Poll::Ready(Ok(())) => Up::Done,
                    Poll::Ready(Err(_)) => Up::Unwanted,
                },
            };
            self.moved = true;
        }
    }

    /// What to do with the client's next frame.
    fn take(&mut self, frame: Result<Frame, Abort>) -> Result<Up, Ended> {
        let next = match frame {
            Ok(Frame::Data(data)) => {
                let len = data.len() as u64;
                self.request.view.counters.received_body_bytes.add(len);
                match self.declared.map(|declared| declared.checked_sub(len)) {
                    Some(None) => return Err(self.fail(Refusal::BadRequest, Abort::Malformed)),
                    Some(left) => self.declared = left,
                    None => {}
                }
                return Ok(Up::Send(data));
            }
            Ok(Frame::Trailers(mut trailers)) => {
                hygiene::trailers(&mut trailers);
                Up::Finish(Some(trailers))
            }
            Ok(Frame::End) => Up::Finish(None),
            Err(Abort::Malformed) => return Err(self.fail(Refusal::BadRequest, Abort::Malformed)),
            Err(why) => return Err(Ended::Broken(why)),
        };
        // RFC 9110 section 8.6 with RFC 9113 section 8.1.1: a length that disagrees with the content is malformed.
        match self.declared {
            Some(1..) => Err(self.fail(Refusal::BadRequest, Abort::Malformed)),
            _ => Ok(next),
        }
    }

    fn poll_down(&mut self, cx: &mut Context<'_>, front: &mut impl Front, back: &mut impl Back) -> Result<(), Ended> {
        loop {
            self.down = match &mut self.down {
                Down::Done => return Ok(()),
                Down::Await => match back.poll_response(cx) {
                    Poll::Pending => return Ok(()),
                    Poll::Ready(Err(_)) => return Err(Ended::Refused(Refusal::BadGateway)),
                    Poll::Ready(Ok(Response::Informational(mut head))) => {
                        hygiene::informational(&mut head);
                        Down::Inform(head)
                    }
                    Poll::Ready(Ok(Response::Final(mut head, end))) => {
                        hygiene::response(&mut head, self.request).map_err(Ended::Refused)?;
                        Down::Respond(head, end)
                    }
                },
                Down::Inform(head) => match front.poll_inform(cx, head) {
                    Poll::Pending => return Ok(()),
                    Poll::Ready(sent) => sent.map(|()| Down::Await).map_err(Ended::Broken)?,
                },
                Down::Respond(head, end) => match front.poll_respond(cx, head, *end) {
                    Poll::Pending => return Ok(()),
                    Poll::Ready(sent) => {
                        let view = &self.request.view;
                        view.counters.request(self.request.protocol, head.status());
                        sent.map_err(Ended::Broken)?;
                        if *end { Down::Finish(None) } else { Down::Read }
                    }
                },
                Down::Read => match back.poll_frame(cx) {
                    Poll::Pending => {
                        if let Poll::Ready(Err(why)) = front.poll_flush(cx) {
                            return Err(Ended::Broken(why));
                        }
                        return Ok(());
                    }
                    Poll::Ready(Ok(Frame::Data(data))) => {
                        self.request.view.counters.sent_body_bytes.add(data.len() as u64);
                        Down::Send(data)
                    }
                    Poll::Ready(Ok(Frame::Trailers(mut trailers))) => {
                        hygiene::trailers(&mut trailers);
                        Down::Finish(Some(trailers))
                    }
                    Poll::Ready(Ok(Frame::End)) => Down::Finish(None),
                    Poll::Ready(Err(why)) => return Err(Ended::Broken(why)),
                },
                Down::Send(data) => {
                    let before = data.len();
                    let poll = front.poll_send(cx, data);
                    self.moved |= data.len() != before;
                    match poll {
                        Poll::Pending => return Ok(()),
                        Poll::Ready(sent) => sent.map(|()| Down::Read).map_err(Ended::Broken)?,
                    }
                }
                Down::Finish(trailers) => match front.poll_finish(cx, trailers.as_ref()) {
                    Poll::Pending => return Ok(()),
                    Poll::Ready(sent) => sent.map(|()| Down::Done).map_err(Ended::Broken)?,
                },
            };
            self.moved = true;
        }
    }

    /// Sets the deadline anew when something moved; when it has passed, says whose fault that is.
    fn poll_deadline(&mut self, cx: &Context<'_>, front: &impl Sink, back: &impl Sink) -> Poll<Ended> {
        let written = front.written() + back.written();
        let waits_for_client = matches!(self.up, Up::Read);
        let waits_for_head = matches!(self.down, Down::Await);
        if self.moved || written != self.written {
            self.moved = false;
            self.written = written;
            let limits = self.request.limits();
            let only_head = waits_for_head && matches!(self.up, Up::Done | Up::Unwanted);
            self.watch.arm(if only_head { limits.upstream_head } else { limits.idle_body });
        }
        if !self.watch.expired(cx) {
            return Poll::Pending;
        }
        Poll::Ready(match (waits_for_head, waits_for_client) {
            (true, true) => Ended::Refused(Refusal::ClientTimeout),
            (true, false) => Ended::Refused(Refusal::BackendTimeout),
            (false, _) => Ended::Broken(Abort::Timeout),
        })
    }

    /// A refusal while that is still possible.
    fn fail(&self, refusal: Refusal, why: Abort) -> Ended {
        match self.down {
            Down::Await | Down::Inform(_) => Ended::Refused(refusal),
            _ => Ended::Broken(why),
        }
    }
}
