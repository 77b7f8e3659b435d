"""Providers at the doors, in a process of their own: as many requests as are answered, each on its own.

`python -m bench.system.door_clients`, with JSON on stdin: {"http2": …, "port": …, "seconds": …, "head": "…",
"paths": […], "body": "…"}. HTTP/1.1 keeps CONNECTIONS busy with one request each; HTTP/2 keeps STREAMS open on one
connection. Prints {"answered", "refused", "seconds", "per_s", "p99_ms"}.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import sys
import time
from typing import Any

import uvloop
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ConnectionTerminated, ResponseReceived, StreamEnded, StreamReset

CONNECTIONS = 32
STREAMS = 64


class Tally:
    def __init__(self) -> None:
        self.answered = 0
        self.refused = 0
        self.took_ms: list[float] = []

    def note(self, ok: bool, began: float) -> None:
        self.answered += ok
        self.refused += not ok
        self.took_ms.append((time.perf_counter() - began) * 1000)


async def keep_busy(ask: dict[str, Any], tally: Tally, end: float, paths: Any, body: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", ask["port"])
    fields = "".join(f"{name}: {value}\r\n" for name, value in ask["headers"].items())
    tail = f"host: 127.0.0.1:{ask['port']}\r\n{fields}content-length: {len(body)}\r\n\r\n".encode() + body
    while time.perf_counter() < end:
        began = time.perf_counter()
        writer.write(f"POST {next(paths)} HTTP/1.1\r\n".encode() + tail)
        head = await reader.readuntil(b"\r\n\r\n")
        length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
        if int(length or 0):
            await reader.readexactly(int(length))
        tally.note(head[9:10] == b"2", began)
    writer.close()


async def keep_streams(ask: dict[str, Any], tally: Tally, end: float, paths: Any, body: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", ask["port"])
    h2 = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
    h2.initiate_connection()
    fields = list(ask["headers"].items())
    began: dict[int, float] = {}
    status: dict[int, str] = {}

    def fill() -> None:
        while len(began) < STREAMS and time.perf_counter() < end:
            if h2.outbound_flow_control_window < len(body):
                return
            stream = h2.get_next_available_stream_id()
            began[stream] = time.perf_counter()
            authority = f"127.0.0.1:{ask['port']}"
            head = [(":method", "POST"), (":scheme", "http"), (":authority", authority), (":path", next(paths))]
            h2.send_headers(stream, head + fields)
            h2.send_data(stream, body, end_stream=True)

    fill()
    writer.write(h2.data_to_send())
    while began:
        data = await reader.read(65_536)
        if not data:
            raise SystemExit("the server closed the connection")
        for event in h2.receive_data(data):
            if isinstance(event, ResponseReceived):
                status[event.stream_id] = dict(event.headers)[":status"]  # type: ignore[arg-type, assignment]
            elif isinstance(event, StreamEnded):
                tally.note(status.pop(event.stream_id, "").startswith("2"), began.pop(event.stream_id))
            elif isinstance(event, StreamReset):
                tally.note(False, began.pop(event.stream_id, 0.0))
            elif isinstance(event, ConnectionTerminated):
                raise SystemExit(f"the server went away: error {event.error_code}")
        fill()
        writer.write(h2.data_to_send())
    writer.close()


async def main(ask: dict[str, Any]) -> dict[str, Any]:
    tally, paths, body = Tally(), itertools.cycle(ask["paths"]), base64.b64decode(ask["body"])
    began = time.perf_counter()
    end = began + ask["seconds"]
    if ask["http2"]:
        await keep_streams(ask, tally, end, paths, body)
    else:
        await asyncio.gather(*(keep_busy(ask, tally, end, paths, body) for _ in range(CONNECTIONS)))
    took = time.perf_counter() - began
    times = sorted(tally.took_ms)
    return {
        "answered": tally.answered,
        "refused": tally.refused,
        "seconds": took,
        "per_s": tally.answered / took,
        "p99_ms": times[int(len(times) * 0.99)] if times else 0.0,
    }


if __name__ == "__main__":
    print(json.dumps(uvloop.run(main(json.load(sys.stdin)))))
