"""The reader of a NATS connection against the parser of nats-py, in pieces of any size, and what is no NATS."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from nats.protocol.parser import Parser

from gateway._native.nats_reader import NatsReader

MOST = 1 << 20
WORD = st.text(st.sampled_from("abc.>*$_1"), min_size=1, max_size=12).map(str.encode)
PAYLOAD = st.one_of(
    st.binary(max_size=40), st.integers(0, 90_000).map(lambda size: random.Random(size).randbytes(size))
)


def put(reader: NatsReader, data: bytes, most: int = MOST) -> None:
    """As a socket would, at most so many bytes at a time."""
    at = 0
    while at < len(data):
        with memoryview(reader) as room:
            size = min(len(room), len(data) - at, most)
            room[:size] = data[at : at + size]
        reader.received(size)
        at += size


def message(subject: bytes, sid: int, reply: bytes, payload: bytes, header: bytes = b"") -> bytes:
    words = [subject, b"%d" % sid, *([reply] if reply else [])]
    if not header:
        return b"MSG %b %d\r\n%b\r\n" % (b" ".join(words), len(payload), payload)
    return b"HMSG %b %d %d\r\n%b%b\r\n" % (b" ".join(words), len(header), len(header) + len(payload), header, payload)


MESSAGE = st.builds(
    message,
    WORD,
    st.integers(0, 10**9),
    st.one_of(st.just(b""), WORD),
    PAYLOAD,
    st.sampled_from([b"", b"NATS/1.0 503\r\n\r\n"]),
)
OTHER = st.sampled_from(
    [
        b"PING\r\n",
        b"PONG\r\n",
        b"+OK\r\n",
        b"-ERR 'Stale Connection'\r\n",
        b'INFO {"server_id":"x","max_payload":1}\r\n',
    ]
)


class Heard:
    """What nats-py's parser tells its client."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, payload: bytes, header: bytes | None) -> None:
        self.events.append((b"MSG", sid, subject, reply, payload, header))

    async def _process_ping(self) -> None:
        self.events.append((b"PING",))

    async def _process_pong(self) -> None:
        self.events.append((b"PONG",))

    async def _process_info(self, info: dict[str, Any]) -> None:
        self.events.append((b"INFO", info))

    async def _process_err(self, text: str) -> None:
        self.events.append((b"-ERR", text))


def as_heard(events: list[Any]) -> list[Any]:
    """Events in the words in which that parser tells them."""
    told = []
    for event in events:
        if event[0] == b"INFO":
            told.append((b"INFO", json.loads(event[1])))
        elif event[0] == b"-ERR":
            told.append((b"-ERR", event[1].decode().lower()))
        elif event[0] != b"+OK":  # that one tells nothing of it
            told.append(event)
    return told


@given(st.lists(st.one_of(MESSAGE, OTHER), max_size=12), st.randoms(use_true_random=False))
def test_it_reads_what_the_library_reads_however_it_comes(lines: list[bytes], chance: random.Random) -> None:
    data = b"".join(lines)
    heard = Heard()

    async def hear() -> None:
        await Parser(heard).parse(data)

    asyncio.run(hear())
    reader = NatsReader(MOST)
    reader.begin()
    events = []
    at = 0
    while at < len(data):
        size = chance.choice((1, 2, 7, 100, 40_000, 200_000))
        put(reader, data[at : at + size], chance.choice((1_000, 70_000)) if size > 100 else MOST)
        at += size
        if chance.random() < 0.3:
            events += reader.take()
            assert reader.waiting_bytes == 0
    events += reader.take()
    assert as_heard(events) == heard.events


def test_a_large_payload_is_received_into_what_is_handed_out() -> None:
    reader = NatsReader(MOST)
    reader.begin()
    payload = random.Random(1).randbytes(200_000)
    put(reader, b"MSG a 1 200000\r\n" + payload[:10])
    with memoryview(reader) as room:
        assert len(room) == 199_990
    put(reader, payload[10:] + b"\r\nMSG b 2 1\r\n")
    assert 200_000 < reader.waiting_bytes < 201_000
    assert reader.take() == [(b"MSG", 1, b"a", b"", payload, None)]
    put(reader, b"x\r\n")
    assert reader.take() == [(b"MSG", 2, b"b", b"", b"x", None)]


def test_lines_come_first_and_what_is_behind_them_becomes_events() -> None:
    reader = NatsReader(MOST)
    put(reader, b'INFO {"a": 1}\r\nPON')
    assert [reader.take_line(), reader.take_line()] == [b'INFO {"a": 1}\r\n', None]
    put(reader, b"G\r\nPING\r\nMSG a 1 2\r\nhi")
    assert reader.take_line() == b"PONG\r\n"
    reader.begin()
    put(reader, b"\r\n")
    assert reader.take() == [(b"PING",), (b"MSG", 1, b"a", b"", b"hi", None)]
    with pytest.raises(ValueError, match="before messages"):
        reader.take_line()


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"HELLO\r\n", "unknown kind"),
        (b"\r\n", "unknown kind"),
        (b"MSG a 1\r\n", "other words"),
        (b"MSG a 1 r 5 6\r\n", "other words"),
        (b"MSG a 1 r s t u v w\r\n", "other words"),
        (b"MSG a x 5\r\n", "no number"),
        (b"MSG a 1 -5\r\n", "no number"),
        (b"MSG a 1 99999999999999999999\r\n", "no number"),
        (b"HMSG a 1 12 11\r\n", "no number"),
        (b"MSG a 1 1048577\r\n", "larger"),
        (b"MSG a 1 2\r\nhix\n", "longer than it said"),
        (b"x" * 32_768, "without an end"),
    ],
)
def test_what_is_no_nats_is_an_error(data: bytes, why: str) -> None:
    reader = NatsReader(MOST)
    reader.begin()
    with pytest.raises(ValueError, match=why):
        put(reader, data)


def test_a_line_without_an_end_is_an_error_before_messages_too() -> None:
    reader = NatsReader(MOST)
    put(reader, b"x" * 32_768)
    with pytest.raises(ValueError, match="without an end"):
        reader.take_line()


@given(st.lists(st.one_of(st.binary(max_size=60), MESSAGE.map(lambda raw: raw[:50]), OTHER), max_size=8))
@example([b"MSG  a\t1  0 \r\n\r\n", b"HMSG a 1 0 0\r\n\r\n"])
def test_whatever_comes_is_events_or_an_error(pieces: list[bytes]) -> None:
    reader = NatsReader(10_000)
    reader.begin()
    try:
        for piece in pieces:
            put(reader, piece)
    except ValueError:
        return
    assert all(isinstance(event, tuple) for event in reader.take())


def test_more_than_there_is_room_for_is_not_counted() -> None:
    reader = NatsReader(MOST)
    for count in (32_769, -1):
        with pytest.raises(ValueError, match="room"):
            reader.received(count)
