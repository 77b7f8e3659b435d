"""A batch to tokens that lie elsewhere than their first bits say reaches their partitions, in order."""

from __future__ import annotations

import os
from array import array

import msgspec
import pytest

from gateway._native.batch_parts import split
from gateway.fleet.stray_pushes import place_strays
from gateway.model.cluster import SLOTS, first_bits, learn_strays, partition_of
from gateway.model.registration import build_token

PARTITIONS = 8
BOUNDS = {"push_bytes": 4_096, "inline_bytes": 2_048, "most_ttl_s": 86_400}
PLAIN = array("H", (slot * PARTITIONS // SLOTS for slot in range(SLOTS)))


@pytest.fixture(autouse=True)
def _no_strays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.model.cluster._strays", {})


def push(token: bytes, text: str) -> dict[str, object]:
    return {"title": text, "target": {"token": build_token(token)}}


def test_where_there_are_none_the_parts_are_left_as_they_are() -> None:
    parts = split(msgspec.msgpack.encode([push(os.urandom(16), "a")]), PLAIN, 0, 10, **BOUNDS)
    assert place_strays(parts, PARTITIONS) is parts


def test_each_push_is_in_a_part_of_its_partition_once_and_in_order() -> None:
    tokens = [os.urandom(16) for _ in range(60)]
    strays = {token: (first_bits(token) + 300) % SLOTS for token in tokens[::3]}
    learn_strays(strays)
    batch = [push(tokens[at % 60], f"{at}") for at in range(180)]
    parts = place_strays(split(msgspec.msgpack.encode(batch), PLAIN, 0, 1_000, **BOUNDS), PARTITIONS)
    places: list[int] = []
    for partition, count, packed, raw, is_plain in parts:
        theirs = list(memoryview(raw).cast("I"))
        pushes = msgspec.msgpack.decode(packed)
        assert len(theirs) == len(pushes) == count
        assert theirs == sorted(theirs)
        assert is_plain
        for place, each in zip(theirs, pushes, strict=True):
            assert each == batch[place]
            assert partition == partition_of(tokens[place % 60], PARTITIONS)
        places += theirs
    assert sorted(places) == list(range(180))
    # all pushes to one token are in one part
    for at in range(60):
        assert sum(at in {place % 60 for place in memoryview(raw).cast("I")} for _, _, _, raw, _ in parts) == 1


def test_what_is_no_push_stays_where_it_is_told_so() -> None:
    stray = os.urandom(16)
    learn_strays({stray: (first_bits(stray) + 512) % SLOTS})
    batch = [7, {"target": 5}, push(stray, "a"), {"target": {"token": "x" * 22}}, {"target": {"alias": "me"}}]
    parts = place_strays(split(msgspec.msgpack.encode(batch), PLAIN, 3, 1_000, **BOUNDS), PARTITIONS)
    found = {place: partition for partition, _, _, raw, _ in parts for place in memoryview(raw).cast("I")}
    assert found[2] == partition_of(stray, PARTITIONS)
    assert found[0] == found[1] == found[4] == 3
    assert sorted(found) == [0, 1, 2, 3, 4]
