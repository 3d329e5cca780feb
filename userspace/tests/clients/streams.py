# SPDX-License-Identifier: GPL-3.0-only
"""What the HTTP/2 and HTTP/3 test clients share: the order they are given, and what they say about each stream.

A client is started with one JSON object as its argument:

    host, port, tls, ca     where to connect, over TLS or not, and the certificate to trust
    streams                 a list of requests on one connection, see Stream
    load                    instead: {path, every_ms, limit_s, at_once}: one GET after another until the server says GOAWAY
    alpn                    HTTP/3: the protocols to offer, default ["h3"]
    window                  receive window of one stream, default 65535 (HTTP/2) or 1 MiB (HTTP/3)
    limit_s                 give up after this, default 60
    until                   "all" streams have ended (default), or all that are read ("read"), then `linger_s` more
    cut_on_stdin            true: when standard input closes, cancel the streams that have "hold_after"
    stdin                   true: when the streams are done, stay until standard input closes

It writes one JSON object a line: {"event": "head" | "end" | "goaway", ...} when it happens, and at last
{"event": "report", "streams": [...], "goaway": [...], "closed": ..., "load": {...}}. Its exit code is 0 whenever there
is a report: what the report says is for the test to judge.
"""

import hashlib
import json
import sys
import time

KEPT = 65536


def say(event, **more):
    print(json.dumps({"event": event, **more}), flush=True)


class Stream:
    """One request and what came back.

    Keys of its order: method, path, fields [[name, value]], body (text) or file (path), length (false: unknown),
    raw (HTTP/3: the stream's bytes in hexadecimal, instead of all else) with fin (true: they end it),
    head (all fields as they are, instead of method, path, fields and a length), trailers, read (false: never give credit back), cancel_after (response bytes, then cancel), cut_after (request bytes,
    then cancel), hold_after (request bytes, then send nothing more).
    """

    def __init__(self, index, order):
        self.index = index
        self.method = order.get("method", "GET")
        self.path = order.get("path", "/")
        self.whole_head = order.get("head")
        self.fields = [(name, value) for name, value in order.get("fields", [])]
        self.trailers = [(name, value) for name, value in order.get("trailers", [])]
        self.raw = bytes.fromhex(order["raw"]) if "raw" in order else None
        self.fin = order.get("fin", True)
        self.read = order.get("read", True)
        self.cancel_after = order.get("cancel_after")
        self.cut_after = order.get("cut_after")
        self.hold_after = order.get("hold_after")
        if order.get("file"):
            with open(order["file"], "rb") as body:
                self.body = body.read()
        else:
            text = order.get("body")
            self.body = None if text is None else text.encode()
        self.known_length = order.get("length", True)
        self.sent = 0
        self.upload_done = self.body is None and not self.trailers
        self.status = None
        self.answer_fields = []
        self.informational = []
        self.answer_trailers = []
        self.received = 0
        self.hash = hashlib.sha256()
        self.kept = b""
        self.end = None
        self.began = time.monotonic()

    def upload_limit(self):
        """How many body bytes this stream is ever to send."""
        limits = [len(self.body or b"")]
        limits += [limit for limit in (self.cut_after, self.hold_after) if limit is not None]
        return min(limits)

    def head(self, scheme, authority):
        if self.whole_head is not None:
            return [(name, value) for name, value in self.whole_head]
        fields = [(":method", self.method), (":scheme", scheme), (":authority", authority), (":path", self.path)]
        fields += self.fields
        if self.body is not None and self.known_length:
            fields.append(("content-length", str(len(self.body))))
        return fields

    def on_head(self, fields):
        if self.status is not None:
            self.answer_trailers = fields
            return
        status = int(dict(fields)[":status"])
        fields = [(name, value) for name, value in fields if not name.startswith(":")]
        if status < 200:
            self.informational.append([status, fields])
        else:
            self.status, self.answer_fields = status, fields
            say("head", stream=self.index, status=status)

    def on_data(self, data):
        self.received += len(data)
        self.hash.update(data)
        if len(self.kept) < KEPT:
            self.kept += data[: KEPT - len(self.kept)]

    def finish(self, how):
        """`how` is "clean", "reset CODE" or what else ended it; the first reason stays."""
        if self.end is None:
            self.end = how
            say("end", stream=self.index, how=how)

    def finish_whole(self):
        """The peer ended the stream properly: clean, unless a body is shorter than its head said."""
        declared = dict(self.answer_fields).get("content-length")
        bodiless = self.method == "HEAD" or self.status == 304
        short = declared is not None and not bodiless and int(declared) != self.received
        self.finish(f"{self.received} bytes of {declared}" if short else "clean")

    def report(self):
        return {
            "status": self.status,
            "fields": self.answer_fields,
            "informational": self.informational,
            "trailers": self.answer_trailers,
            "len": self.received,
            "sha256": self.hash.hexdigest(),
            "body": self.kept.decode("latin-1"),
            "sent": self.sent,
            "end": self.end or "unfinished",
        }


class Load:
    """One small request after another, at a pace, until the server says GOAWAY; then only what is in flight ends."""

    def __init__(self, order):
        self.path = order["path"]
        self.every = order.get("every_ms", 5) / 1000
        self.at_once = order.get("at_once", 16)
        self.until = time.monotonic() + order.get("limit_s", 30)
        self.streams = {}
        self.next = time.monotonic()

    def due(self, goaway):
        open_now = sum(1 for stream in self.streams.values() if stream.end is None)
        if goaway or time.monotonic() >= self.until or open_now >= self.at_once or time.monotonic() < self.next:
            return False
        self.next = max(self.next + self.every, time.monotonic() - 0.1)
        return True

    def over(self, goaway):
        stopped = bool(goaway) or time.monotonic() >= self.until
        return stopped and all(stream.end is not None for stream in self.streams.values())

    def report(self, last_accepted):
        """`last_accepted`: the greatest stream id that the last GOAWAY promises to process, or None."""
        clean, refused, failed = 0, 0, []
        for stream_id, stream in self.streams.items():
            if stream.end == "clean" and stream.status == 200:
                clean += 1
            elif last_accepted is not None and stream_id > last_accepted:
                refused += 1
            else:
                failed.append([stream_id, stream.status, stream.end])
        return {"opened": len(self.streams), "clean": clean, "refused": refused, "failed": failed}


def done(order, streams, load, goaway):
    if load is not None:
        return load.over(goaway)
    wanted = [stream for stream in streams if stream.read or order.get("until") != "read"]
    return all(stream.end is not None for stream in wanted)


def order():
    return json.loads(sys.argv[1])
