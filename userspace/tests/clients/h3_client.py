# SPDX-License-Identifier: GPL-3.0-only
"""An HTTP/3 client that is not ours (aioquic), told what to do by streams.py's order.

Some of aioquic's habits are worked around: it ignores GOAWAY (here it is recorded), it raises a stream's credit by
itself (a stream with "read": false stays at its first window), and it takes a length without a body for an error even in
the answer to HEAD. Uploads are fed piece by piece, because its send buffer costs time in proportion to what it holds.
"""

import asyncio
import ssl
import sys
import time

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.buffer import Buffer, BufferReadError
from aioquic.h3.connection import ErrorCode, FrameType, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, StopSendingReceived, StreamReset

from streams import Load, Stream, done, order, say

FEED = 262144


class H3(H3Connection):
    """Tells about GOAWAY, whose payload aioquic throws away: the control stream is read a second time here.

    It also knows that the answers to HEAD and 304 may have a length and no body.
    """

    def __init__(self, quic, on_goaway, by_id):
        super().__init__(quic)
        self.on_goaway = on_goaway
        self.by_id = by_id
        self.uni = {}

    def _check_content_length(self, stream):
        # Asked before we are told of the head: Stream.finish_whole looks again when the status is known.
        if stream.stream_id not in self.by_id or stream.content_length > 0:
            super()._check_content_length(stream)

    def _receive_stream_data_uni(self, stream, data, stream_ended):
        seen = self.uni.setdefault(stream.stream_id, bytearray())
        seen += data
        self.read_control(seen)
        return super()._receive_stream_data_uni(stream, data, stream_ended)

    def read_control(self, seen):
        """Takes whole frames from the front; the stream's type (0) stays as the first byte."""
        while seen and seen[0] == 0:
            buffer = Buffer(data=bytes(seen[1:]))
            try:
                frame_type, size = buffer.pull_uint_var(), buffer.pull_uint_var()
                payload = buffer.pull_bytes(size)
            except BufferReadError:
                return
            del seen[1 : 1 + buffer.tell()]
            if frame_type == FrameType.GOAWAY:
                self.on_goaway(Buffer(data=payload).pull_uint_var())


class Client(QuicConnectionProtocol):
    def __init__(self, quic, stream_handler=None, spec=None):
        super().__init__(quic, stream_handler)
        self.spec = spec
        self.streams = [Stream(index, one) for index, one in enumerate(spec.get("streams", []))]
        self.load = Load(spec["load"]) if "load" in spec else None
        self.by_id = {}
        self.goaway = []
        self.closed = None
        self.cut_now = False
        self.news = asyncio.Event()
        self.h3 = H3(quic, self.on_goaway, self.by_id)
        self.stop_raising_stalled()

    def stop_raising_stalled(self):
        raise_limits = self._quic._write_stream_limits

        def unless_stalled(builder, space, stream):
            ours = self.by_id.get(stream.stream_id)
            if ours is None or ours.read:
                raise_limits(builder=builder, space=space, stream=stream)

        self._quic._write_stream_limits = unless_stalled

    def on_goaway(self, stream_id):
        self.goaway.append([stream_id, 0])
        say("goaway", last=stream_id, code=0)

    def open(self, stream):
        stream_id = self._quic.get_next_available_stream_id()
        if stream.raw is not None:
            self.by_id[stream_id] = stream
            stream.upload_done = True
            self._quic.send_stream_data(stream_id, stream.raw, end_stream=stream.fin)
            return stream_id
        fields = stream.head("https", f"localhost:{self.spec['port']}")
        if stream.whole_head is None:
            fields = [(name.lower(), value) for name, value in fields]
        fields = [(name.encode(), value.encode()) for name, value in fields]
        self.by_id[stream_id] = stream
        self.h3.send_headers(stream_id, fields, end_stream=stream.upload_done)
        return stream_id

    def upload(self):
        for stream_id, stream in self.by_id.items():
            if stream.upload_done or stream.end is not None:
                continue
            limit = stream.upload_limit()
            sender = self._quic._streams[stream_id].sender
            while stream.sent < limit and len(sender._buffer) < FEED:
                piece = stream.body[stream.sent : min(stream.sent + 65536, limit)]
                self.h3.send_data(stream_id, piece, end_stream=False)
                stream.sent += len(piece)
            if stream.sent < limit or stream.hold_after is not None:
                if stream.hold_after is not None and self.cut_now:
                    self.cancel(stream_id, stream)
                continue
            if stream.cut_after is not None and len(sender._buffer) > 0:
                continue  # a reset would take back what is still buffered
            stream.upload_done = True
            if stream.cut_after is not None:
                self.cancel(stream_id, stream)
            elif stream.trailers:
                fields = [(name.lower().encode(), value.encode()) for name, value in stream.trailers]
                self.h3.send_headers(stream_id, fields, end_stream=True)
            else:
                self.h3.send_data(stream_id, b"", end_stream=True)

    def cancel(self, stream_id, stream):
        if not stream.upload_done or stream.cut_after is not None:
            self._quic.reset_stream(stream_id, ErrorCode.H3_REQUEST_CANCELLED)
        self._quic.stop_stream(stream_id, ErrorCode.H3_REQUEST_CANCELLED)
        stream.finish("cancelled by us")

    def quic_event_received(self, event):
        if isinstance(event, StreamReset) and event.stream_id in self.by_id:
            self.by_id[event.stream_id].finish(f"reset {event.error_code}")
        elif isinstance(event, StopSendingReceived) and event.stream_id in self.by_id:
            # aioquic answers with RESET_STREAM by itself; the response may still come whole.
            self.by_id[event.stream_id].upload_done = True
        elif isinstance(event, ConnectionTerminated):
            self.closed = f"closed {event.error_code} {event.reason_phrase}".strip()
            for stream in self.by_id.values():
                stream.finish(f"connection {self.closed}")
        for event in self.h3.handle_event(event):
            self.h3_event(event)
        self.news.set()

    def h3_event(self, event):
        stream = self.by_id.get(event.stream_id)
        if stream is None:
            return
        if isinstance(event, HeadersReceived):
            stream.on_head([(name.decode(), value.decode()) for name, value in event.headers])
        elif isinstance(event, DataReceived):
            stream.on_data(event.data)
            if stream.cancel_after is not None and stream.received >= stream.cancel_after and stream.end is None:
                self.cancel(event.stream_id, stream)
        if event.stream_ended:
            stream.finish_whole()

    def datagram_received(self, data, addr):
        super().datagram_received(data, addr)
        self.news.set()

    async def act(self):
        for stream in self.streams:
            self.open(stream)
        deadline = time.monotonic() + self.spec.get("limit_s", 60)
        if self.spec.get("cut_on_stdin"):
            asyncio.get_running_loop().add_reader(sys.stdin, self.on_stdin)
        while time.monotonic() < deadline and self.closed is None:
            if done(self.spec, self.streams, self.load, self.goaway):
                break
            if self.load is not None:
                while self.load.due(self.goaway):
                    stream = Stream(len(self.load.streams), {"path": self.load.path})
                    self.load.streams[self.open(stream)] = stream
            self.upload()
            self.transmit()
            self.news.clear()
            try:
                await asyncio.wait_for(self.news.wait(), 0.005)
            except asyncio.TimeoutError:
                pass
        self.transmit()
        if self.spec.get("stdin"):
            loop = asyncio.get_running_loop()
            await asyncio.wait_for(loop.run_in_executor(None, sys.stdin.read), 120)
        linger_until = time.monotonic() + self.spec.get("linger_s", 0)
        while self.closed is None and time.monotonic() < linger_until:
            await asyncio.sleep(0.02)

    def on_stdin(self):
        asyncio.get_running_loop().remove_reader(sys.stdin)
        self.cut_now = True
        self.news.set()

    def report(self):
        last = self.goaway[-1][0] if self.goaway else None
        say(
            "report",
            streams=[stream.report() for stream in self.streams],
            goaway=self.goaway,
            closed=self.closed,
            # An H3 GOAWAY names the first stream that is not processed, RFC 9114 section 5.2.
            load=self.load.report(None if last is None else last - 1) if self.load else None,
        )


async def main(spec):
    configuration = QuicConfiguration(is_client=True, alpn_protocols=spec.get("alpn", ["h3"]), server_name="localhost")
    configuration.verify_mode = ssl.CERT_REQUIRED
    configuration.load_verify_locations(spec["ca"])
    configuration.max_stream_data = spec.get("window", 1 << 20)
    configuration.max_data = spec.get("max_data", 64 << 20)

    def protocol(quic, stream_handler=None):
        return Client(quic, stream_handler, spec=spec)

    async with connect(spec["host"], spec["port"], configuration=configuration, create_protocol=protocol) as client:
        await client.act()
        client.report()


if __name__ == "__main__":
    asyncio.run(main(order()))
