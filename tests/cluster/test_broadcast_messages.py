"""Messages of the broadcast stream: whole again, or refused."""

from __future__ import annotations

import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.fleet.broadcast_message import MalformedMessage, TakenBack, Told, build_message, parse_message
from gateway.model.condition import Condition
from gateway.model.notification import Content, Notification, Target, Words

TARGETS = st.one_of(
    st.just(Target(everyone=True)),
    st.sampled_from([">=1", "<2,!=1.5"]).map(lambda versions: Target(versions=versions)),
    st.text(min_size=1, max_size=8).map(lambda locale: Target(where=Condition(locale=locale))),
)


@st.composite
def notifications(draw: st.DrawFn) -> Notification:
    return Notification(
        seq=0,
        app=draw(st.text(min_size=1, max_size=20)),
        target=draw(TARGETS),
        content=Content(
            title=draw(st.text(max_size=20)),
            text=draw(st.text(max_size=20)),
            data=draw(st.binary(max_size=50)),
            localized={"de": Words(text=draw(st.text(max_size=10)))},
        ),
        accepted_ms=draw(st.integers(0, 1 << 45)),
        expires_s=draw(st.integers(0, 1 << 35)),
        ack_ms=3_000,
        notifier_ack_ms=30_000,
        fallback=draw(st.none() | st.lists(st.sampled_from(["apns", "fcm"]))),
        push=draw(st.integers(1, 1 << 59)),
    )


@given(
    message=st.one_of(notifications().map(Told), st.builds(TakenBack, st.integers(1, 1 << 59), st.integers(0, 1 << 35)))
)
def test_a_message_comes_through_whole(message: Told | TakenBack) -> None:
    assert parse_message(build_message(message)) == message


@given(raw=st.binary(max_size=300))
def test_any_bytes_are_a_message_or_refused(raw: bytes) -> None:
    with contextlib.suppress(MalformedMessage):
        parse_message(raw)


@given(message=notifications().map(Told), data=st.data())
def test_a_message_with_a_byte_changed_is_a_message_or_refused(message: Told, data: st.DataObject) -> None:
    raw = bytearray(build_message(message))
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(MalformedMessage):
        parse_message(bytes(raw))


def test_what_is_for_one_alone_is_no_broadcast() -> None:
    told = Told(
        Notification(
            seq=0,
            app="shop",
            target=Target(token="x" * 22),
            content=Content(),
            accepted_ms=0,
            expires_s=0,
            ack_ms=1,
            notifier_ack_ms=1,
            push=7,
        )
    )
    with pytest.raises(MalformedMessage):
        parse_message(build_message(told))
    with pytest.raises(MalformedMessage):
        parse_message(msgspec.msgpack.encode(["of a newer version", 1]))
