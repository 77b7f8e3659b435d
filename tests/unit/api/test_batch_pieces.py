"""The cutters give the same items however the bytes are split, bounded, and say why where there is no sense in it."""

from __future__ import annotations

import json

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.api.media import JSON, MSGPACK, NDJSON
from gateway.api.pieces import build_cutter
from gateway.model.errors import BadRequest, GatewayError, PayloadTooLarge

LIMIT = 4_096
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**31), 2**31) | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
maps = st.dictionaries(st.text(max_size=8), values | st.binary(max_size=300), max_size=20)


def cut(kind: str, data: bytes, sizes: list[int], limit: int = LIMIT):
    cutter = build_cutter(kind, limit)
    out, at = [], 0
    for size in sizes:
        out += cutter.feed(data[at : at + size])
        at += size
    out += cutter.feed(data[at:])
    return out + cutter.end()


splits = st.lists(st.integers(0, 40), max_size=30)


@given(st.lists(values, max_size=6), splits, st.sampled_from([None, 1]), st.booleans())
def test_json_array_items_survive_any_split(items, sizes, indent, escaped):
    data = b" \r\n" + json.dumps(items, indent=indent, ensure_ascii=escaped).encode() + b"\n"
    assert [json.loads(piece) for piece in cut(JSON, data, sizes)] == items


@given(st.lists(values, max_size=6), splits)
def test_lines_survive_any_split(items, sizes):
    data = b"\n\r\n".join(json.dumps(item).encode() for item in items)
    assert [json.loads(piece) for piece in cut(NDJSON, data, sizes)] == items


@given(st.lists(maps, max_size=20), splits, st.booleans())
def test_msgpack_items_survive_any_split(items, sizes, as_array):
    if not as_array and not items:
        return
    limit = 1 << 20
    data = msgpack.packb(items) if as_array else b"".join(map(msgpack.packb, items))
    assert [msgpack.unpackb(piece) for piece in cut(MSGPACK, data, sizes, limit)] == items


@pytest.mark.parametrize(
    "value",
    [
        msgpack.Timestamp(1, 2),
        msgpack.ExtType(5, b"x" * 7),
        msgpack.ExtType(5, b"x" * 300),
        msgpack.ExtType(5, b"x" * 70_000),
        *(msgpack.ExtType(5, b"x" * n) for n in (1, 2, 4, 8, 16)),
        2**64 - 1,
        -(2**63),
        1.5,
        "s" * 70_000,
        b"b" * 70_000,
        "s" * 300,
        list(range(20)),
        [0] * 70_000,
        {str(i): i for i in range(20)},
        {str(i): i for i in range(70_000)},
    ],
    ids=lambda v: type(v).__name__,
)
def test_every_msgpack_type_is_skipped_whole(value):
    data = msgpack.packb([{"v": value}, {"after": 1}])
    pieces = cut(MSGPACK, data, [1] * 12, limit=1 << 22)
    assert pieces == [msgpack.packb({"v": value}), msgpack.packb({"after": 1})]


@given(st.sampled_from([JSON, NDJSON, MSGPACK]), st.binary(max_size=200), splits)
def test_rubbish_gives_items_or_a_gateway_error_and_split_does_not_matter(kind, data, sizes):
    def outcome(pieces: list[int]):
        try:
            return [p if isinstance(p, bytes) else type(p) for p in cut(kind, data, pieces)]
        except GatewayError as exc:
            return type(exc)

    assert outcome(sizes) == outcome([])


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (JSON, b'{"a":1}'),
        (JSON, b'[{"a":1}'),
        (JSON, b'[{"a":1},]'),
        (JSON, b"[,1]"),
        (JSON, b"[1] 2"),
        (JSON, b"[1}"),
        (JSON, b""),
        (JSON, b'["abc'),
        (MSGPACK, b""),
        (MSGPACK, b"\xc1"),
        (MSGPACK, b"\x92\x80"),
        (MSGPACK, b"\x91\x80\x80"),
        (MSGPACK, b"\x91\xc1"),
        (MSGPACK, b"\x81\xa1a"),
        (MSGPACK, b"\xdc\x00"),
    ],
)
def test_what_is_no_batch_is_said_so(kind, data):
    for sizes in ([], [1] * len(data)):
        with pytest.raises(BadRequest):
            cut(kind, data, sizes)


def test_a_long_line_is_refused_alone_and_not_kept():
    cutter = build_cutter(NDJSON, 100)
    out = cutter.feed(b"1\n")
    for _ in range(50):
        out += cutter.feed(b"x" * 99)
    assert len(cutter._buf) <= 100
    out += cutter.feed(b"\n2\n") + cutter.end()
    assert [type(p) for p in out] == [bytes, PayloadTooLarge, bytes]
    assert out[2] == b"2"


@pytest.mark.parametrize(
    ("kind", "head", "more"),
    [(JSON, b'["', b"x" * 50), (JSON, b"[" * 2, b"[" * 50), (MSGPACK, b"\x91", b"\x91" * 50)],
)
def test_an_endless_item_is_cut_off_at_the_limit(kind, head, more):
    cutter = build_cutter(kind, 1_000)
    cutter.feed(head)
    for _ in range((1_000 - len(head)) // len(more)):
        assert cutter.feed(more) == []
    with pytest.raises(PayloadTooLarge):
        cutter.feed(more * 2)
    assert len(cutter._buf) <= 1_100


def test_a_string_that_comes_byte_by_byte_is_scanned_once():
    # Were each byte to start the string over, 200 kB would be 20 GB of scanning and the test would time out.
    cutter = build_cutter(JSON, 1 << 20)
    cutter.feed(b'["')
    for _ in range(200_000):
        assert cutter.feed(b"x") == []
    assert len(cutter.feed(b'"]')) == 1


@pytest.mark.parametrize(
    "head", [b"\x91\xdb\x00\x01\x00\x00", b"\x91\xc6\xff\xff\xff\xff", b"\x81\xc9\xff\xff\xff\xff"]
)
def test_a_length_that_is_too_large_is_refused_before_its_bytes_come(head):
    with pytest.raises(PayloadTooLarge):
        build_cutter(MSGPACK, 1_000).feed(head)
