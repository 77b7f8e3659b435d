"""Frame codec of the data plane beside one in Python with msgpack: cutting a stream, and the ids of acks."""

from __future__ import annotations

from typing import Any

import msgpack

from bench.units.pairs import PEER, UNIT, take
from gateway._native.frame import FrameScanner, parse_ids
from gateway.model.frames import FrameReader, FrameType, build_frame

ACKS = b"".join(build_frame(FrameType.ACK, [10_000 + n, 10_001 + n]) for n in range(2_000))
IDS = [build_frame(FrameType.ACK, list(range(70_000 + n, 70_020 + n)))[2:] for n in range(1_000)]
CUT = "frames: cutting a stream"
PARSE = "frames: ids of acks, beside msgpack"


def test_scanner(benchmark: Any) -> None:
    take(benchmark, CUT, UNIT, lambda: FrameScanner().feed(ACKS))


def test_reader_in_python(benchmark: Any) -> None:
    take(benchmark, CUT, PEER, lambda: FrameReader().feed(ACKS))


def test_ids(benchmark: Any) -> None:
    take(benchmark, PARSE, UNIT, lambda: [parse_ids(body) for body in IDS])


def test_ids_with_msgpack(benchmark: Any) -> None:
    unpack = msgpack.unpackb
    take(benchmark, PARSE, PEER, lambda: [unpack(body) for body in IDS])
