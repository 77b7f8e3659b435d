"""Whatever bytes come, an HTTP/2 connection answers or ends: nothing is raised, nothing stays behind."""

from __future__ import annotations

import asyncio
from typing import Any

import hpack
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.api.http2_frames import PREFACE
from gateway.api.http2_protocol import Http2Protocol
from gateway.api.http_protocol import Limits
from gateway.metrics import Metrics

NAMES = st.sampled_from([":method", ":status", ":path", ":scheme", ":authority", "te", "host", "content-length", "x"])
VALUES = st.sampled_from(["GET", "100", "POST", "/", "http", "trailers", "5", "", "a\r\nb"]) | st.text(max_size=5)
BLOCKS = st.lists(st.tuples(NAMES, VALUES), max_size=8).map(lambda fields: hpack.Encoder().encode(fields))
GOOD = hpack.Encoder().encode([(":method", "POST"), (":scheme", "http"), (":authority", "door"), (":path", "/")])
STREAMS = st.sampled_from([1, 3, 5, 7, 2])


def headers(stream: int, block: bytes, flags: list[str]) -> bytes:
    frame = HeadersFrame(stream, data=block)
    frame.flags |= set(flags)
    return frame.serialize()


FRAMES = st.one_of(
    st.builds(
        headers,
        STREAMS,
        st.just(GOOD) | BLOCKS | st.binary(max_size=20),
        st.sampled_from([[], ["END_HEADERS"], ["END_STREAM"], ["END_HEADERS", "END_STREAM"]]),
    ),
    st.builds(lambda s, b: ContinuationFrame(s, data=b).serialize(), STREAMS, st.binary(max_size=20)),
    st.builds(lambda s, b: DataFrame(s, data=b).serialize(), STREAMS, st.binary(max_size=50)),
    st.builds(lambda s, c: RstStreamFrame(s, error_code=c).serialize(), STREAMS, st.integers(0, 20)),
    st.builds(lambda s: PriorityFrame(s, depends_on=0).serialize(), STREAMS),
    st.builds(lambda n, v: SettingsFrame(0, settings={n: v}).serialize(), st.integers(1, 9), st.integers(0, 2**32 - 1)),
    st.builds(lambda s, n: WindowUpdateFrame(s, window_increment=n).serialize(), STREAMS, st.integers(1, 2**31 - 1)),
    st.builds(lambda b: PingFrame(0, opaque_data=b).serialize(), st.binary(min_size=8, max_size=8)),
    st.builds(lambda c: GoAwayFrame(0, last_stream_id=1, error_code=c).serialize(), st.integers(0, 20)),
    st.binary(max_size=30),
)


class Wire:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.written = b""
        self.closing = False

    def write(self, data: bytes) -> None:
        assert not self.closing
        self.written += data

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    abort = close

    def pause_reading(self) -> None: ...

    resume_reading = pause_reading


class State:
    def __init__(self) -> None:
        self.connections: set[Any] = set()
        self.tasks: set[asyncio.Task[None]] = set()
        self.default_headers: list[tuple[bytes, bytes]] = []
        self.total_requests = 0


async def echo(scope: dict[str, Any], receive: Any, send: Any) -> None:
    size = 0
    while (message := await receive())["type"] == "http.request":
        size += len(message["body"])
        if not message["more_body"]:
            break
    await send({"type": "http.response.start", "status": 200, "headers": [(b"connection", b"close")]})
    await send({"type": "http.response.body", "body": b"x" * size, "more_body": True})
    await send({"type": "http.response.body"})


async def refuse(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Before anything of a body came."""
    await send({"type": "http.response.start", "status": 401, "headers": []})
    await send({"type": "http.response.body", "body": b"no"})


@given(st.sampled_from([echo, refuse]), st.lists(FRAMES, max_size=25), st.integers(1, 60))
@settings(max_examples=500, suppress_health_check=[HealthCheck.too_slow])
def test_any_frames_in_any_pieces(app, frames, step):
    async def run() -> None:
        state, wire = State(), Wire()
        connection = Http2Protocol(
            app, state, Limits(headers_bytes=2_000, linger_bytes=60), Metrics(process=False), {"scheme": "http"}
        )
        connection.connection_made(wire)  # type: ignore[arg-type]
        raw = PREFACE + SettingsFrame(0).serialize() + b"".join(frames)
        for at in range(0, len(raw), step):
            connection.data_received(raw[at : at + step])
            await asyncio.sleep(0)
        for _ in range(5):
            await asyncio.sleep(0)
        connection.connection_lost(None)
        for _ in range(5):
            await asyncio.sleep(0)
        assert not state.connections
        assert not state.tasks
        assert connection._running == 0
        assert connection._exchanges == {}
        assert len(connection._lingering) == 0

    asyncio.run(run())


@given(st.binary(max_size=200))
def test_any_bytes_after_the_preface(data):
    async def run() -> None:
        state, wire = State(), Wire()
        connection = Http2Protocol(echo, state, Limits(), Metrics(process=False), {"scheme": "http"})
        connection.connection_made(wire)  # type: ignore[arg-type]
        connection.data_received(PREFACE + data)
        await asyncio.sleep(0)
        connection.connection_lost(None)
        assert not state.connections

    asyncio.run(run())
