"""A batch told apart by slots, sequences put back to their places, results packed: whatever the bytes are."""

from __future__ import annotations

from array import array
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway._native.batch_parts import scatter
from gateway._native.batch_parts import split as split_native
from gateway._native.push_results import build_blocks, pack_results


def split(pushes: bytes, slots: array[int], otherwise: int, most: int) -> list[tuple[int, int, bytes, bytes, bool]]:
    return split_native(pushes, slots, otherwise, most, push_bytes=4_096, inline_bytes=2_048, most_ttl_s=86_400)


SLOTS = array("H", (slot // 64 for slot in range(1024)))


@given(raw=st.binary(max_size=200), most=st.integers(0, 9))
def test_any_bytes_are_told_apart_or_refused(raw: bytes, most: int) -> None:
    for body in (raw, b"\xdd\x00\x00\x00\x02" + raw, b"\x91" + raw):
        with suppress(ValueError):
            parts = split(body, SLOTS, 3, most)
            assert sum(length for _, length, *_ in parts) <= most


_VALUE: Any = st.recursive(
    st.none() | st.integers(-(1 << 40), 1 << 40) | st.text(max_size=40) | st.binary(max_size=40) | st.floats(width=32),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(pushes=st.lists(_VALUE, max_size=20), flip=st.integers(0, 1 << 20), byte=st.integers(0, 255))
def test_every_push_is_in_one_part_as_it_came(pushes: list[Any], flip: int, byte: int) -> None:
    packed = msgspec.msgpack.encode(pushes)
    raws = msgspec.msgpack.decode(packed, type=list[msgspec.Raw])
    met: set[int] = set()
    for _, length, part, places, _ in split(packed, SLOTS, 3, len(pushes)):
        theirs = memoryview(places).cast("I").tolist()
        assert part[5:] == b"".join(raws[place] for place in theirs)
        assert length == len(theirs) == int.from_bytes(part[1:5], "big")
        assert theirs == sorted(theirs)
        met.update(theirs)
    assert met == set(range(len(pushes)))
    broken = bytearray(packed)
    broken[flip % len(broken)] = byte
    with suppress(ValueError):
        split(bytes(broken), SLOTS, 3, 1 << 20)


@pytest.mark.parametrize("slots", [array("H"), array("H", [0] * 1023), array("H", [0xFFFF] * 1024)])
def test_slots_that_are_not_the_fleets_are_refused(slots: array[int]) -> None:
    push = msgspec.msgpack.encode([{"target": {"token": "AAAA"}}])
    with pytest.raises(ValueError, match="slot"):
        split(push, slots, 3, 9)


def test_a_partition_past_all_slots_is_refused_too() -> None:
    with pytest.raises(ValueError, match="slots"):
        split(b"\x90", SLOTS, 1024, 9)


def test_a_place_behind_the_end_changes_nothing() -> None:
    seqs = array("Q", [0, 0])
    with pytest.raises(IndexError):
        scatter(seqs, array("I", [1, 2]).tobytes(), 5)
    assert list(seqs) == [0, 0]
    scatter(seqs, array("I", [1, 0]).tobytes(), 5)
    assert list(seqs) == [6, 5]


@given(seqs=st.lists(st.integers(0, (1 << 64) - 1), max_size=40), others=st.lists(st.binary(max_size=9), max_size=40))
def test_results_are_packed_only_where_they_fit(seqs: list[int], others: list[bytes]) -> None:
    packed = array("Q", seqs)
    blocks = build_blocks(packed)
    assert len(blocks) == 16 * len(seqs)
    if seqs.count(0) != len(others):
        with pytest.raises(ValueError, match="sequence"):
            pack_results(packed, blocks, others)
    else:
        assert pack_results(packed, blocks, others)
    with pytest.raises(ValueError, match="block"):
        pack_results(packed, blocks + b"x", others)
