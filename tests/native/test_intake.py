"""Batches of pushes read, looked up and built natively: the same frames, decisions and bounds as the Python way."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reactor_rig import Rig

from gateway._native.batches import BATCH_MOST, PART, Batches, merge
from gateway._native.intake import APART, FULL, UNKNOWN_TOKEN, Batch, Router
from gateway._native.pending import Pending
from gateway._native.registry import Registry
from gateway.delivery.forms import build_notify
from gateway.delivery.policy import Facts, decide, every_facts
from gateway.model import ports
from gateway.model.frames import FrameReader, FrameType, Urgency
from gateway.model.notification import Content, Notification, Target
from gateway.model.outcome import Event, State
from gateway.model.registration import build_token
from gateway.store.batch_rows import RECORD_BYTES, parse_batch_head, parse_batched

APP, GROUP, NUMBER, DEVICE = 3, 5, 7, 99
TOKEN = bytes(range(16))
NOW_MS = 1_800_000_000_123
TEXTS = st.text(max_size=40)
DATA = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=10,
)


class House:
    """A registry with one registration, and what a batch is read with."""

    def __init__(self) -> None:
        self.registry = Registry()
        self.registry.add(NUMBER, TOKEN, GROUP)
        self.registry.set_group_app(GROUP, APP)
        self.registry.set_plain(NUMBER, True)
        self.pending = Pending(NOW_MS)
        self.batches = Batches(self.pending)

    def read(self, pushes: bytes | list[Any], **bounds: Any) -> Batch:
        return self.read_all([pushes if isinstance(pushes, bytes) else msgspec.msgpack.encode(pushes)], **bounds)

    def read_all(self, arrays: list[bytes | memoryview], **bounds: Any) -> Batch:
        limits = {
            "most": 1_000,
            "push_bytes": 60_000,
            "inline_bytes": 4_096,
            "pending_of_one": 1_000,
            "ttl_s": 60,
            "most_ttl_s": 1_000_000,
        }
        return Batch(self.registry, self.pending, self.batches, arrays, APP, **(limits | bounds))


def to(**fields: Any) -> dict[str, Any]:
    return {"target": {"token": build_token(TOKEN)}, **fields}


def test_places_mean_the_same_to_the_delivery_floor() -> None:
    assert (UNKNOWN_TOKEN, FULL, APART) == (ports.UNKNOWN_TOKEN, ports.FULL, ports.APART)


@settings(max_examples=25)
@given(TEXTS, TEXTS, DATA, st.sampled_from([*Urgency]), st.integers(1, 1_000_000), st.integers(1, 2**63 - 1))
def test_a_notify_frame_is_the_one_that_python_builds(
    title: str, text: str, data: Any, urgency: Urgency, ttl: int, first: int
) -> None:
    names = {0: "very-low", 1: "low", 2: "normal", 3: "high"}
    house = House()
    with Rig() as rig:
        device, link = rig.login(DEVICE)
        house.registry.login(DEVICE, link)
        house.registry.bind(NUMBER, DEVICE)
        batch = house.read([to(title=title, text=text, data=data, urgency=names[urgency], ttl=ttl)])
        row, _, odd = batch.accept(first, NOW_MS, 3_000, 30_000, True, Router([rig.reactor], set(), {}))
        assert odd == []
        got = device.receive()
    wanted = Notification(
        seq=first,
        app="shop",
        target=Target(token=build_token(TOKEN)),
        content=Content(title=title, text=text, data=b"" if data is None else msgspec.msgpack.encode(data)),
        accepted_ms=NOW_MS,
        expires_s=(NOW_MS + ttl * 1000 + 999) // 1000,
        urgency=int(urgency),
        ack_ms=3_000,
        notifier_ack_ms=30_000,
    )
    frame = build_notify(wanted, first, build_token(TOKEN), light=False)
    assert [got] == FrameReader(1 << 20).feed(frame)
    assert frame[0] == FrameType.NOTIFY
    assert parse_batched(row, 0, first, "shop") == wanted
    assert parse_batch_head(row).pushes == 1


def _arrays(*sizes: int) -> list[list[dict[str, Any]]]:
    """Pushes in so many arrays; each third is looked at alone."""
    pushes = [to(title=f"push {at}", **({"colour": "red"} if at % 3 == 2 else {})) for at in range(sum(sizes))]
    return [[pushes.pop(0) for _ in range(size)] for size in sizes]


@settings(max_examples=25)
@given(st.lists(st.integers(0, 7), max_size=5))
def test_arrays_one_behind_the_other_are_one_batch(sizes: list[int]) -> None:
    arrays = _arrays(*sizes)
    together = House().read([push for array in arrays for push in array])
    packed = [msgspec.msgpack.encode(array) for array in arrays]
    views = [memoryview(b"in front" + raw)[8:] if at % 2 else raw for at, raw in enumerate(packed)]
    apart = House().read_all(views)
    assert (apart.count, apart.ready, apart.places) == (together.count, together.ready, together.places)
    assert [apart.raw(at) for at in range(apart.count)] == [together.raw(at) for at in range(together.count)]
    if apart.ready:
        rows = [batch.accept(9, NOW_MS, 3_000, 30_000, True, Router([], set(), {}))[0] for batch in (together, apart)]
        assert rows[0] == rows[1]


@pytest.mark.parametrize("place", [0, 1, 2])
def test_one_array_that_is_none_refuses_all(place: int) -> None:
    packed: list[bytes | memoryview] = [msgspec.msgpack.encode(array) for array in _arrays(3, 4, 5)]
    whole = packed[place]
    for wrong in (b"", b"\x80", bytes(whole[:-1]), bytes(whole) + b"\xc0", b"\xdd\xff\xff\xff\xff"):
        packed[place] = wrong
        with pytest.raises((ValueError, OverflowError), match="pushes"):
            House().read_all(packed)


def test_arrays_have_one_bound_together() -> None:
    packed: list[bytes | memoryview] = [msgspec.msgpack.encode(array) for array in _arrays(3, 4)]
    assert House().read_all(packed, most=7).count == 7
    with pytest.raises(OverflowError, match="at most 6"):
        House().read_all(packed, most=6)


def test_only_what_has_bytes_is_read() -> None:
    with pytest.raises(TypeError):
        House().read_all([b"\x90", None])  # type: ignore[list-item]


def test_the_two_decisions_taken_natively_are_those_of_the_policy_table() -> None:
    for facts in every_facts():
        decision = decide(State.ACCEPTED, Event.ROUTE, facts)
        if facts.connected and facts.wanted:
            assert (decision.state, [str(a) for a in decision.actions]) == (State.SENT, ["send"])
        if not facts.connected and not facts.more_notifiers and facts.ttl_left:
            assert (decision.state, decision.actions) == (State.WAITING, ())
    assert isinstance(facts, Facts)


@given(st.binary(max_size=60) | st.builds(lambda raw: b"\x93" + raw, st.binary(max_size=60)))
def test_any_bytes_are_read_or_refused(raw: bytes) -> None:
    try:
        batch = House().read(raw)
    except (ValueError, OverflowError):
        return
    values = msgspec.msgpack.Decoder(msgspec.Raw)
    assert batch.count == len(msgspec.msgpack.decode(raw, type=list[msgspec.Raw]))
    assert [batch.raw(i) for i in range(batch.count)] == [
        bytes(values.decode(part)) for part in msgspec.msgpack.decode(raw, type=list[msgspec.Raw])
    ]


def test_every_truncation_of_a_batch_is_refused() -> None:
    house = House()
    packed = msgspec.msgpack.encode([to(title="Anna", text="é" * 40, data={"a": [1, 2.5, None]}, ttl=70_000)] * 3)
    assert house.read(packed).ready == 3
    for size in range(len(packed)):
        with pytest.raises(ValueError, match="pushes"):
            house.read(packed[:size])


@pytest.mark.parametrize(
    "push",
    [
        to(collapse_key="k"),
        to(ttl=0),
        to(ttl=-1),
        to(ttl="60"),
        to(ttl=2_000_000),
        to(urgency="urgent"),
        to(title=5),
        to(title="x" * 4_097),
        to(text="x" * 16_385),
        to(data=b"bin"),
        to(data={1: 2}),
        to(data="x" * 5_000),
        {"target": {"token": build_token(TOKEN), "alias": "a"}},
        {"target": {"token": build_token(TOKEN)[:-1] + "B"}},
        {"target": {"token": "é" * 11}},
        {"title": "no target"},
        {},
        [],
        None,
        7,
    ],
    ids=repr,
)
def test_what_is_not_plain_is_handed_back(push: Any) -> None:
    batch = House().read([push, to()])
    assert batch.places == [APART, 0]
    assert msgspec.msgpack.decode(batch.raw(0)) == push


def test_bad_text_is_handed_back() -> None:
    good = msgspec.msgpack.encode([to(text="abcd")])
    for bad in (b"\xc0\x80bc", b"\xed\xa0\x80d", b"abc\xff", b"\xf5\x80\x80\x80", b"ab\xe2\x82"):
        assert House().read(good.replace(b"abcd", bad)).places == [APART]
    nested: Any = []
    for _ in range(64):
        nested = [nested]
    assert House().read([to(data=nested)]).places == [APART]
    assert House().read([to(data=nested[0])]).places == [0]


def test_a_batch_is_accepted_once() -> None:
    house = House()
    batch = house.read([to()])
    router = Router([], set(), {})
    batch.accept(10, NOW_MS, 3_000, 30_000, True, router)
    with pytest.raises(ValueError, match="already"):
        batch.accept(11, NOW_MS, 3_000, 30_000, True, router)
    with pytest.raises(ValueError, match="nothing is ready"):
        house.read([to(ttl=0)]).accept(12, NOW_MS, 3_000, 30_000, True, router)
    with pytest.raises(IndexError):
        batch.raw(1)


def test_acks_are_settled_once_and_only_as_sent() -> None:
    house = House()
    batch = house.read([to()] * 130)
    _, slot, _ = batch.accept(1, NOW_MS, 3_000, 30_000, True, Router([], set(), {}))
    table = house.batches
    assert not table.ack(1, NUMBER, NOW_MS, NOW_MS + 5)  # it waits: nobody was sent anything
    for seq in (1, 65, 130):
        assert table.note(seq, State.EXPIRED, NOW_MS)
        house.pending.remove(seq)
    ((changed, first, is_over, parts, records),) = table.take_changed()
    assert (changed, first, is_over, parts) == (slot, 1, False, 0b111)
    assert len(records) == 130 * RECORD_BYTES
    assert table.take_changed() == []
    with pytest.raises(ValueError, match="not over"):
        table.close(slot)
    with pytest.raises(KeyError):
        table.close(slot + 1)
    assert merge(records, bytes(len(records))) == records
    with pytest.raises(ValueError, match="same batch"):
        merge(records, records[:-1])
    assert PART * 64 == BATCH_MOST
    assert table.memory_bytes > 0
