"""The bytes between nodes: round trips, garbage, parts, and losses."""

from __future__ import annotations

import random
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.cluster.bus_frames import (
    BUNDLE_BYTES,
    HEADER_BYTES,
    BadMessage,
    Frame,
    Inbox,
    Message,
    Outbox,
    build_message,
    build_refusal,
    pack_frame,
    parse_frames,
    parse_message,
    parse_refusal,
)
from gateway.model.errors import ERRORS, GatewayError

frames = st.builds(
    Frame,
    st.integers(1, 4),
    st.text(max_size=30),
    st.integers(0, 2**64 - 1),
    st.binary(max_size=200),
)


@given(st.lists(frames, max_size=8))
def test_frames_come_back_as_they_were(sent: list[Frame]) -> None:
    assert parse_frames(b"".join(piece for frame in sent for piece in pack_frame(frame).pieces)) == sent


@given(st.integers(1, 65_535), st.integers(0, 2**64 - 1), st.booleans(), st.booleans(), st.binary(max_size=50))
def test_messages_come_back_as_they_were(sender: int, number: int, begins: bool, ends: bool, part: bytes) -> None:
    message = Message(sender, number, begins, ends, part)
    assert parse_message(build_message(message)) == message


@given(st.binary(max_size=300))
def test_garbage_is_a_bad_message_and_nothing_else(raw: bytes) -> None:
    for parse in (parse_message, parse_frames, parse_refusal):
        with suppress(BadMessage):
            parse(raw)  # type: ignore[operator]


@given(st.lists(frames, min_size=1, max_size=4), st.integers(0, 10_000), st.integers(0, 255))
def test_a_flipped_byte_is_a_bad_message_or_other_frames(sent: list[Frame], at: int, byte: int) -> None:
    raw = bytearray(b"".join(piece for frame in sent for piece in pack_frame(frame).pieces))
    raw[at % len(raw)] = byte
    with suppress(BadMessage):
        parse_frames(bytes(raw))


@pytest.mark.parametrize("kind", sorted(ERRORS.values(), key=lambda kind: kind.code))
def test_every_error_travels(kind: type[GatewayError]) -> None:
    told = parse_refusal(build_refusal(kind("words", field="a.b", after_ms=5)))
    assert type(told) is kind
    assert (told.message, told.field, told.after_ms) == ("words", "a.b", 5)


def test_an_error_of_a_newer_version_is_still_one() -> None:
    class Newer(GatewayError):
        code, name = 9_999, "newer"

    told = parse_refusal(build_refusal(Newer("words")))
    assert type(told) is GatewayError
    assert told.message == "newer: words"


@given(
    st.lists(st.integers(0, 2_000), min_size=1, max_size=30),
    st.integers(HEADER_BYTES + 1, 700),
    st.randoms(use_true_random=False),
)
def test_what_is_not_lost_arrives_whole_and_in_order_and_each_loss_is_seen(
    sizes: list[int], message_bytes: int, chance: random.Random
) -> None:
    outbox, inbox = Outbox(7, 1 << 20), Inbox(1 << 20)
    sent, arrived, lost_any, seen_any = [], [], False, False
    messages = []
    for n, size in enumerate(sizes):
        frame = Frame(1, f"k{n}", n, bytes([n]) * size)
        sent.append(frame)
        assert outbox.put(frame)
        if chance.random() < 0.5:
            messages += outbox.take(message_bytes)
    while outbox:
        messages += outbox.take(message_bytes)
    for raw in [*messages, outbox.mark()]:
        assert len(raw) <= message_bytes
        message = parse_message(raw)
        if not message.is_mark and chance.random() < 0.2:
            lost_any = True
            continue
        bundle, lost = inbox.take(message)
        seen_any |= lost
        arrived += parse_frames(bundle)
    assert seen_any == lost_any
    left = iter(sent)
    assert all(frame in left for frame in arrived)  # a subsequence
    if not lost_any:
        assert arrived == sent


def test_a_message_that_comes_twice_is_taken_once() -> None:
    outbox, inbox = Outbox(7, 1 << 20), Inbox(1 << 20)
    outbox.put(Frame(1, "k", 0, b"x"))
    (raw,) = outbox.take(1_000)
    assert inbox.take(parse_message(raw))[0]
    assert inbox.take(parse_message(raw)) == (b"", False)


def test_a_bundle_is_closed_in_time() -> None:
    outbox = Outbox(7, 1 << 24)
    for _ in range(10):
        outbox.put(Frame(1, "k", 0, bytes(100_000)))
    taken = []
    while outbox:
        taken += outbox.take(1 << 20)
    assert len(taken) == 5
    assert all(len(raw) <= BUNDLE_BYTES + HEADER_BYTES for raw in taken)
    assert outbox.waiting_bytes == 0


def test_a_sender_without_an_end_does_not_fill_the_receiver() -> None:
    inbox = Inbox(1_000)
    assert inbox.take(Message(7, 1, True, False, bytes(900))) == (b"", False)
    assert inbox.take(Message(7, 2, False, False, bytes(900))) == (b"", True)
    assert inbox._parts is None
    assert inbox.take(Message(7, 3, False, True, b"x")) == (b"", True)
    assert inbox.take(Message(7, 4, True, True, b"y")) == (b"y", False)


def test_what_was_dropped_leaves_a_gap_where_it_was() -> None:
    outbox, inbox = Outbox(7, 300), Inbox(1 << 20)
    first, third = (Frame(1, "k", 0, body) for body in (b"1", b"3"))
    assert outbox.put(first)
    assert not outbox.put(Frame(1, "k", 0, bytes(400)))
    assert outbox.put(third)
    got = [inbox.take(parse_message(raw)) for raw in (*outbox.take(1_000), *outbox.take(1_000))]
    assert [(parse_frames(bundle), lost) for bundle, lost in got] == [([first], False), ([third], True)]
