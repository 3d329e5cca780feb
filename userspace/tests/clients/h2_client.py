# SPDX-License-Identifier: GPL-3.0-only
"""An HTTP/2 client that is not ours (the `h2` package), told what to do by streams.py's order.

Over TLS by ALPN, or cleartext with prior knowledge. GOAWAY frames are taken out before `h2` sees them: that library
gives up a connection at the first one, and a graceful goodbye is just what must be watched. `{"raw": HEX}` in the order
writes those bytes after the preface and SETTINGS instead, for frames that `h2` would not make.
"""

import select
import socket
import ssl
import sys
import time

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings

from streams import Load, Stream, done, order, say

GOAWAY = 7


class Client:
    def __init__(self, spec):
        self.spec = spec
        self.streams = [Stream(index, one) for index, one in enumerate(spec.get("streams", []))]
        self.load = Load(spec["load"]) if "load" in spec else None
        self.by_id = {}
        self.goaway = []
        self.closed = None
        self.pending = b""
        self.partial = b""
        self.settled = False
        self.cut_now = False
        config = h2.config.H2Configuration(
            client_side=True,
            header_encoding="utf-8",
            validate_outbound_headers=spec.get("validate", True),
            normalize_outbound_headers=spec.get("validate", True),
        )
        self.h2 = h2.connection.H2Connection(config=config)

    def connect(self):
        plain = socket.create_connection((self.spec["host"], self.spec["port"]), timeout=30)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if not self.spec.get("tls"):
            self.socket = plain
        else:
            context = ssl.create_default_context(cafile=self.spec["ca"])
            context.set_alpn_protocols(["h2"])
            self.socket = context.wrap_socket(plain, server_hostname="localhost")
            if self.socket.selected_alpn_protocol() != "h2":
                raise RuntimeError("the server did not choose h2 by ALPN")
        self.socket.setblocking(False)
        self.h2.initiate_connection()
        self.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: self.spec.get("window", 65535)})
        # The connection's window is out of the way: what a test stalls is a stream.
        self.h2.increment_flow_control_window(2**31 - 1 - 65535)

    def open(self, stream):
        stream_id = self.h2.get_next_available_stream_id()
        scheme = "https" if self.spec.get("tls") else "http"
        self.h2.send_headers(stream_id, stream.head(scheme, f"localhost:{self.spec['port']}"), end_stream=stream.upload_done)
        self.by_id[stream_id] = stream
        return stream_id

    def upload(self):
        for stream_id, stream in self.by_id.items():
            if stream.upload_done or stream.end is not None:
                continue
            limit = stream.upload_limit()
            # Not more than this waits in our own buffer: what is unsent is not "sent".
            while stream.sent < limit and len(self.pending) < 262144:
                credit = self.h2.local_flow_control_window(stream_id)
                size = min(credit, self.h2.max_outbound_frame_size, limit - stream.sent)
                if size <= 0:
                    break
                self.h2.send_data(stream_id, stream.body[stream.sent : stream.sent + size])
                stream.sent += size
                self.pending += self.h2.data_to_send()
            if stream.sent < limit or stream.hold_after is not None:
                if stream.hold_after is not None and self.cut_now:
                    self.h2.reset_stream(stream_id, 8)
                    stream.finish("cancelled by us")
                continue
            stream.upload_done = True
            if stream.cut_after is not None:
                self.h2.reset_stream(stream_id, 8)
                stream.finish("cancelled by us")
            elif stream.trailers:
                self.h2.send_headers(stream_id, stream.trailers, end_stream=True)
            else:
                self.h2.end_stream(stream_id)

    def frames(self, data):
        """Whole frames of `data` for `h2`, GOAWAY taken out and recorded."""
        self.partial += data
        rest = []
        at = 0
        while len(self.partial) - at >= 9:
            size = 9 + int.from_bytes(self.partial[at : at + 3], "big")
            if len(self.partial) - at < size:
                break
            frame = self.partial[at : at + size]
            if frame[3] == GOAWAY:
                last = int.from_bytes(frame[9:13], "big") & 0x7FFFFFFF
                code = int.from_bytes(frame[13:17], "big")
                self.goaway.append([last, code])
                say("goaway", last=last, code=code)
            else:
                rest.append(frame)
            at += size
        self.partial = self.partial[at:]
        return b"".join(rest)

    def receive(self):
        try:
            data = self.socket.recv(262144)
        except (ssl.SSLWantReadError, BlockingIOError):
            return
        except OSError as error:
            self.over(f"broken: {error}")
            return
        if not data:
            self.over("closed by server")
            return
        for event in self.h2.receive_data(self.frames(data)):
            self.handle(event)

    def handle(self, event):
        stream = self.by_id.get(getattr(event, "stream_id", None))
        if isinstance(event, h2.events.RemoteSettingsChanged):
            self.settled = True
        elif isinstance(event, h2.events.StreamReset):
            if stream and event.remote_reset:
                stream.finish(f"reset {int(event.error_code)}")
        elif isinstance(event, (h2.events.ResponseReceived, h2.events.InformationalResponseReceived)):
            stream.on_head(event.headers)
        elif isinstance(event, h2.events.TrailersReceived):
            stream.on_head(event.headers)
        elif isinstance(event, h2.events.DataReceived):
            stream.on_data(event.data)
            if stream.read and stream.end is None:
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            if stream.cancel_after is not None and stream.received >= stream.cancel_after and stream.end is None:
                self.h2.reset_stream(event.stream_id, 8)
                stream.finish("cancelled by us")
        elif isinstance(event, h2.events.StreamEnded):
            stream.finish("clean")

    def over(self, why):
        self.closed = self.closed or why
        for stream in self.by_id.values():
            stream.finish(f"connection {why}")

    def run(self):
        self.connect()
        waiting = list(self.streams)
        deadline = time.monotonic() + self.spec.get("limit_s", 60)
        linger_until = None
        if "raw" in self.spec:
            self.pending += self.h2.data_to_send() + bytes.fromhex(self.spec["raw"])
        while time.monotonic() < deadline and self.closed is None:
            if "raw" not in self.spec and done(self.spec, self.streams, self.load, self.goaway):
                if self.spec.get("stdin"):
                    if select.select([sys.stdin], [], [], 0)[0]:
                        break
                else:
                    linger_until = linger_until or time.monotonic() + self.spec.get("linger_s", 0)
                    if time.monotonic() >= linger_until:
                        break
            # RFC 9113 section 5.1.2: not more at once than the server allows, once it has said so.
            while waiting and self.settled and self.h2.open_outbound_streams < self.h2.remote_settings.max_concurrent_streams:
                self.open(waiting.pop(0))
            if self.load is not None and self.settled:
                while self.load.due(self.goaway):
                    stream = Stream(len(self.load.streams), {"path": self.load.path})
                    self.load.streams[self.open(stream)] = stream
            if self.spec.get("cut_on_stdin") and not self.cut_now:
                self.cut_now = bool(select.select([sys.stdin], [], [], 0)[0])
            self.upload()
            self.pending += self.h2.data_to_send()
            if not (isinstance(self.socket, ssl.SSLSocket) and self.socket.pending()):
                writers = [self.socket] if self.pending else []
                select.select([self.socket], writers, [], 0.005)
            if self.pending:
                try:
                    count = self.socket.send(self.pending[:262144])
                    self.pending = self.pending[count:]
                except (ssl.SSLWantWriteError, ssl.SSLWantReadError, BlockingIOError):
                    pass
                except OSError as error:
                    self.receive()
                    self.over(f"broken: {error}")
                    break
            self.receive()
        last = self.goaway[-1][0] if self.goaway else None
        say(
            "report",
            streams=[stream.report() for stream in self.streams],
            goaway=self.goaway,
            closed=self.closed,
            load=self.load.report(last) if self.load else None,
        )


if __name__ == "__main__":
    Client(order()).run()
