"""What nodes say about devices: round trips of everything, and ValueError alone for anything else."""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.cluster import far_wire as wire

U8, U16, U32, U64 = (st.integers(0, (1 << bits) - 1) for bits in (8, 16, 32, 64))
RECORDS = st.builds(wire.Record, U8, U8, U32, U32, U64, U64, U64, U64, st.binary(max_size=200))
TEXT = st.text(max_size=20)
MAYBE = st.none() | TEXT
BODIES = st.one_of(
    st.builds(wire.Cohort, TEXT, TEXT),
    st.builds(wire.Fan, TEXT, st.binary(max_size=50), st.integers(0, 3), st.lists(st.tuples(U32, TEXT), max_size=5)),
    st.builds(wire.Returned, st.binary(max_size=16), TEXT, TEXT),
    st.builds(
        wire.AskRegister,
        st.just(wire.WIRE_VERSION),
        U16,
        U64,
        TEXT,
        TEXT,
        TEXT,
        TEXT,
        MAYBE,
        st.none() | st.lists(TEXT, max_size=3),
        st.none() | st.dictionaries(TEXT, TEXT, max_size=3),
        st.none() | st.lists(TEXT, max_size=3),
        MAYBE,
        MAYBE,
        MAYBE,
        MAYBE,
        MAYBE,
        st.booleans(),
    ),
    st.builds(wire.Registered, U32, st.binary(max_size=16), st.booleans(), st.booleans(), TEXT, st.lists(TEXT)),
    st.builds(wire.AskEnd, st.just(wire.WIRE_VERSION), U16, U64, U32, U64, st.booleans()),
    st.builds(wire.AskFetch, st.just(wire.WIRE_VERSION), U16, U64, U32, U64, st.lists(U64, max_size=5)),
    st.builds(wire.Fetched, st.lists(U64, max_size=5), st.booleans()),
)


@given(U16, U64, st.lists(RECORDS, max_size=10))
def test_a_message_is_read_as_it_was_built(partition: int, epoch: int, records: list[wire.Record]) -> None:
    message = wire.build_head(partition, epoch) + b"".join(wire.build_record(*record) for record in records)
    assert wire.parse_head(message) == (partition, epoch)
    assert wire.parse_records(message) == records


@given(st.lists(RECORDS, min_size=1, max_size=4), st.data())
def test_a_message_that_is_cut_is_none_at_all(records: list[wire.Record], data: st.DataObject) -> None:
    parts = [wire.build_record(*record) for record in records]
    message = wire.build_head(1, 1) + b"".join(parts)
    whole = {wire.HEAD_BYTES}
    for part in parts:
        whole.add(max(whole) + len(part))
    cut = data.draw(st.integers(0, len(message) - 1).filter(lambda at: at not in whole))
    with pytest.raises(ValueError, match=r"head|cut"):
        _parse(message[:cut])


def _parse(message: bytes) -> list[wire.Record]:
    wire.parse_head(message)
    return wire.parse_records(message)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_message_or_a_value_error(raw: bytes) -> None:
    try:
        wire.parse_head(raw)
        records = wire.parse_records(raw)
    except ValueError:
        return
    assert sum(wire.RECORD_BYTES + len(record.payload) for record in records) == len(raw) - wire.HEAD_BYTES


@given(st.lists(U32, max_size=20), st.lists(U64, max_size=20))
def test_numbers_and_sequences_are_read_as_they_were_packed(numbers: list[int], seqs: list[int]) -> None:
    packed = wire.pack_numbers(numbers, seqs)
    assert wire.parse_numbers(packed, len(numbers)) == (tuple(numbers), tuple(seqs))


FLIGHTS = st.dictionaries(st.integers(0, (1 << 31) - 1), st.lists(U64, max_size=5), max_size=8)


@given(FLIGHTS)
def test_what_is_in_flight_is_read_as_it_was_packed(flights: dict[int, list[int]]) -> None:
    registrations, in_flight = wire.parse_flights(*wire.pack_flights(flights))
    assert registrations == list(flights)
    assert in_flight == [(seq, number) for number, seqs in flights.items() for seq in seqs]


@given(FLIGHTS)
def test_an_owner_of_the_version_before_finds_its_registrations_and_what_is_in_flight(
    flights: dict[int, list[int]],
) -> None:
    numbers, seqs = wire.parse_numbers(*wire.pack_flights(flights))
    assert [number for number in numbers if number < 1 << 31] == list(flights)
    assert list(seqs) == [seq for seqs in flights.values() for seq in seqs]


def test_what_a_node_of_the_version_before_has_in_flight_is_held_to_be_so_to_each() -> None:
    packed = wire.pack_numbers([5, 6], [70, 71])
    assert wire.parse_flights(packed, 2) == ([5, 6], [(70, 5), (71, 5), (70, 6), (71, 6)])


@given(st.lists(U32, max_size=6), st.lists(U64, max_size=6))
def test_any_numbers_and_sequences_are_registrations_with_what_is_in_flight_or_a_value_error(
    numbers: list[int], seqs: list[int]
) -> None:
    try:
        registrations, in_flight = wire.parse_flights(wire.pack_numbers(numbers, seqs), len(numbers))
    except ValueError:
        return
    assert registrations == [number for number in numbers if number < 1 << 31]
    assert {number for _, number in in_flight} <= set(registrations)
    assert not registrations or {seq for seq, _ in in_flight} == set(seqs)


@given(st.binary(max_size=80), U64)
def test_numbers_that_do_not_fit_are_a_value_error(packed: bytes, count: int) -> None:
    try:
        numbers, seqs = wire.parse_numbers(packed, count)
    except ValueError:
        return
    assert (len(numbers), 4 * len(numbers) + 8 * len(seqs)) == (count, len(packed))


@given(BODIES)
def test_a_question_or_an_answer_is_read_as_it_was_built(body: Any) -> None:
    read = wire.parse_body(wire.build_body(body), type(body))
    assert read == body or msgspec.to_builtins(read) == msgspec.to_builtins(body)


@given(st.sampled_from([wire.AskRegister, wire.AskEnd, wire.AskFetch, wire.Fan, wire.Cohort]), st.binary(max_size=120))
def test_any_bytes_are_a_body_or_a_value_error(kind: type, raw: bytes) -> None:
    with contextlib.suppress(ValueError):
        assert isinstance(wire.parse_body(raw, kind), kind)


def test_another_version_is_not_read() -> None:
    ask = wire.AskEnd(wire.WIRE_VERSION + 1, 0, 1, 1, 1, False)
    with pytest.raises(ValueError, match="version"):
        wire.parse_body(wire.build_body(ask), wire.AskEnd)
    head = bytearray(wire.build_head(1, 1))
    head[0] += 1
    with pytest.raises(ValueError, match="version"):
        wire.parse_head(bytes(head))


@given(st.integers(0, 254), st.integers(0, (1 << 24) - 1), st.integers(0, 1 << 20))
def test_links_that_follow_each_other_have_attachments_of_their_own(reactor: int, slot: int, generation: int) -> None:
    links = [reactor << 56 | (slot + i) % (1 << 24) << 32 | generation + j for i in range(8) for j in range(8)]
    attachments = {wire.attachment_of(link) for link in links}
    assert len(attachments) == len(set(links))
    assert all(0 <= attachment < 1 << 40 for attachment in attachments)


def test_tellings_go_by_node_partition_and_epoch_in_the_order_they_began() -> None:
    tellings = wire.Tellings()
    assert not tellings
    first, second = wire.build_record(1, seq=1), wire.build_record(2, seq=2)
    assert tellings.add(7, 1, 1, first) == wire.HEAD_BYTES + len(first)
    tellings.add(8, 1, 1, first)
    assert tellings.add(7, 1, 1, second) == wire.HEAD_BYTES + len(first) + len(second)
    tellings.add(7, 2, 1, first)
    assert tellings
    assert list(tellings.take()) == [
        (7, wire.build_head(1, 1) + first + second),
        (8, wire.build_head(1, 1) + first),
        (7, wire.build_head(2, 1) + first),
    ]
    assert list(tellings.take()) == []
