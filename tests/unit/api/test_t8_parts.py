"""Bodies, payloads and results of the T8 door: whatever comes in is a transaction or an error that names the field."""

from __future__ import annotations

import asyncio
import base64
import contextlib

import msgspec
import pytest
from api_doubles import Door
from hypothesis import given
from hypothesis import strategies as st

from gateway.api.media import JSON, decode
from gateway.api.t8.transactions import Transaction, Transactions, is_delivered, result_of
from gateway.api.t8.wire import DeviceTriggering, parse_payload, text_of
from gateway.model.errors import BadRequest
from gateway.model.outcome import Outcome, State, Step

BODY = {
    "externalId": "k3v7q2m5x4z6b7n2c3d4f5g6h7@push.example.com",
    "validityPeriod": 60,
    "priority": "PRIORITY",
    "applicationPortId": 16000,
    "triggerPayload": "d2FrZQ==",
    "notificationDestination": "https://app.example.com/r",
}
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


@pytest.mark.parametrize("is_removed", [False, True])
async def test_only_what_goes_with_a_push_needs_no_room_of_its_own(is_removed: bool) -> None:
    door = Door()
    transaction = Transaction("id", msgspec.convert(BODY, DeviceTriggering), "", is_removed=is_removed)
    await asyncio.gather(*Transactions(door.backend).keep("chat", transaction, 7, is_new=False))
    assert door.floors.joined == ([False] if is_removed else [True, True])


def parse(raw: bytes) -> DeviceTriggering | None:
    try:
        return decode(raw, DeviceTriggering, kind=JSON)
    except BadRequest:
        return None


@given(st.binary(max_size=200))
def test_any_bytes_are_a_transaction_or_a_bad_request(raw: bytes) -> None:
    parse(raw)


@given(st.dictionaries(st.sampled_from([*BODY, "msisdn", "self", "deliveryResult", "appSrcPortId", "x"]), ANY_JSON))
def test_any_members_are_a_transaction_or_a_bad_request(members: dict[str, object]) -> None:
    parsed = parse(msgspec.json.encode({**BODY, **members}))
    if parsed is not None:
        again = parse(msgspec.json.encode(parsed))
        assert again == parsed
        kept = Transaction("id", parsed, "https://push.example.com/3gpp-device-triggering/v1/chat")
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(kept), type=Transaction) == kept


@pytest.mark.parametrize("name", [name for name in BODY if name != "externalId"])
def test_what_the_standard_requires_is_required(name: str) -> None:
    assert parse(msgspec.json.encode({key: value for key, value in BODY.items() if key != name})) is None


@given(st.binary(max_size=300))
def test_a_payload_comes_back_as_it_was_given(payload: bytes) -> None:
    assert parse_payload(base64.b64encode(payload).decode()) == payload
    text = text_of(payload)
    assert text == "" or text.encode() == payload


@given(st.text(max_size=50))
def test_any_text_is_a_payload_or_a_bad_request(text: str) -> None:
    with contextlib.suppress(BadRequest):
        parse_payload(text)


def outcome(state: State, *steps: str) -> Outcome:
    return Outcome(1, 1, 1, "chat", state, 5, [Step(1, what, "sms") for what in steps])


@pytest.mark.parametrize(
    ("state", "steps", "result"),
    [
        (State.ACCEPTED, (), "TRIGGERED"),
        (State.NOTIFIED, ("notified",), "TRIGGERED"),
        (State.NOTIFIED, ("notified", "delivered"), "SUCCESS"),
        (State.NOTIFIED, ("notified", "delivered 1/2"), "TRIGGERED"),
        (State.NOTIFIED, ("notified", "delivered 2/2", "delivered 1/2"), "SUCCESS"),
        (State.ACKED, ("sent",), "SUCCESS"),
        (State.EXPIRED, (), "EXPIRED"),
        (State.EXPIRED, ("notified",), "UNCONFIRMED"),
        (State.EXPIRED, ("notified", "failed"), "EXPIRED"),
        (State.EXPIRED, ("notified", "failed 1/2"), "EXPIRED"),
        (State.EXPIRED, ("notified", "delivered"), "SUCCESS"),
        (State.RECALLED, (), "TERMINATE"),
        (State.REPLACED, (), "REPLACED"),
        (State.REJECTED, (), "FAILURE"),
        (State.LIMITED, (), "FAILURE"),
    ],
)
def test_results(state: State, steps: tuple[str, ...], result: str) -> None:
    assert result_of(outcome(state, *steps)) == result


def test_what_is_not_known_any_more() -> None:
    assert result_of(None) == "UNKNOWN"


@given(st.lists(st.text(max_size=12).map(lambda text: f"delivered {text}"), max_size=5))
def test_any_line_of_a_history_is_understood_or_passed_over(lines: list[str]) -> None:
    is_delivered(outcome(State.NOTIFIED, *lines))
