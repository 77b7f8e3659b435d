"""Push ids, signatures, forms, timelines, bounded memory, slices."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.delivery.backlog import MAX_WORKS, Backlog
from gateway.delivery.forms import build_notify, goes_light
from gateway.delivery.lookup import timeline
from gateway.delivery.push_ids import PushIds
from gateway.delivery.signature import build_signature, verify_signature
from gateway.delivery.spread import Spread
from gateway.delivery.trails import Remembered
from gateway.metrics import Metric, Metrics
from gateway.model.frames import FrameReader, Notify, parse_body
from gateway.model.notification import Body, Content, Notification, Target
from gateway.model.outcome import Outcome, State, Step

IDS = PushIds(b"k" * 32)


def notification(**options: object) -> Notification:
    fields: dict[str, object] = {
        "seq": 7,
        "app": "shop",
        "target": Target(token="t"),
        "content": Content(title="a", text="b", data=msgspec.msgpack.encode([1])),
        "accepted_ms": 5_000_500,
        "expires_s": 5_060,
        "ack_ms": 3_000,
        "notifier_ack_ms": 30_000,
    }
    return Notification(**{**fields, **options})  # type: ignore[arg-type]


@given(st.integers(0, 2**63 - 1), st.text(max_size=20))
def test_push_id_comes_back_for_its_app_only(seq: int, app: str) -> None:
    text = IDS.build(app, seq)
    assert IDS.parse(text, app) == seq
    assert IDS.parse(text, app + "x") is None
    assert PushIds(b"l" * 32).parse(text, app) is None
    assert str(seq) not in text or seq < 10_000


@pytest.mark.parametrize("text", ["", "x" * 23, "x" * 24, "ä" * 24, "=" * 24, "A" * 23 + "!", "A" * 25])
def test_what_is_no_push_id_is_none(text: str) -> None:
    assert IDS.parse(text, "shop") is None


def test_every_changed_character_of_a_push_id_is_noticed() -> None:
    text = IDS.build("shop", 12_345)
    for i, char in enumerate(text):
        assert IDS.parse(text[:i] + ("A" if char != "A" else "B") + text[i + 1 :], "shop") is None


def test_short_keys_are_refused() -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        PushIds(b"short")


def test_signature_holds_for_body_secret_and_time() -> None:
    header = build_signature("s3cret", b"body", 1_000)
    # HMAC-SHA256("s3cret", "1000.body"), computed with openssl
    assert header.startswith("t=1000,v1=")
    assert len(header) == len("t=1000,v1=") + 64
    assert verify_signature("s3cret", b"body", header, 1_200)
    assert not verify_signature("other", b"body", header, 1_200)
    assert not verify_signature("s3cret", b"bodY", header, 1_200)
    assert not verify_signature("s3cret", b"body", header, 1_301)
    for bad in ("", "t=,v1=", "v1=ab", "t=1000", "t=１,v1=x", header + "0"):
        assert not verify_signature("s3cret", b"body", bad, 1_000)


@pytest.mark.parametrize(
    ("body", "size", "light"),
    [
        (Body.AUTO, 0, False),
        (Body.AUTO, 4_096, False),
        (Body.AUTO, 4_097, True),
        (Body.AT_ONCE, 30_000, False),
        (Body.ON_DEMAND, 1, True),
        (Body.ON_DEMAND, 0, False),
    ],
)
def test_which_form_goes_first(body: Body, size: int, light: bool) -> None:
    assert goes_light(notification(body=body, content=Content(data=b"x" * size)), 4_096) is light


def test_frame_holds_what_the_device_needs_and_no_more() -> None:
    def parse(frame: bytes) -> Notify:
        [(_, body)] = FrameReader().feed(frame)
        return parse_body(body, Notify)

    n = notification(urgency=3, collapse_key="k")
    whole = parse(build_notify(n, 9, "tok", light=False))
    assert (whole.id, whole.token, whole.app, whole.title, whole.text) == (9, "tok", "", "a", "b")
    assert (whole.urgency, whole.at, whole.expires, whole.collapse, whole.more) == (3, 5_000, 5_060, "k", False)
    assert msgspec.msgpack.decode(bytes(whole.data)) == [1]
    light = parse(build_notify(n, 9, "", light=True))
    assert (light.more, bytes(light.data), light.app) == (True, b"", "shop")
    assert parse(build_notify(notification(expires_s=5_000), 9, "tok", light=False)).expires == 0  # TTL 0


def test_timeline_is_in_order_and_begins_with_acceptance() -> None:
    n = notification()
    settled = Outcome(7, 7, 1, "shop", State.ACKED, 9, [Step(5_001_000, "acked"), Step(5_000_600, "sent")])
    assert [s.what for s in timeline(n, settled)] == ["accepted", "sent", "acked"]
    flying = Outcome(7, 7, 1, "shop", State.SENT, 5_000_700, [])
    assert [(s.what, s.at_ms) for s in timeline(n, flying)] == [("accepted", 5_000_500), ("sent", 5_000_700)]
    waiting = Outcome(7, 7, 1, "shop", State.WAITING, 0, [Step(5_000_600, "lost")])
    assert [s.what for s in timeline(n, waiting)] == ["accepted", "lost"]


def test_a_step_is_never_told_before_what_was_written_before_it() -> None:
    """The reactor that heard the ack has a clock of its own, a millisecond behind here."""
    steps = [
        Step(5_000_600, "sent"),
        Step(5_000_700, "ack_timeout"),
        Step(5_000_700, "notified"),
        Step(5_000_800, "recheck"),
        Step(5_000_799, "sent"),
        Step(5_000_799, "acked"),
    ]
    told = timeline(notification(), Outcome(7, 7, 1, "shop", State.ACKED, 5_000_799, steps))
    whats = [step.what for step in told]
    assert [what for what in whats if what != "sent"] == ["accepted", "ack_timeout", "notified", "recheck", "acked"]
    assert [step.at_ms for step in told] == sorted(step.at_ms for step in told)
    early = timeline(notification(), Outcome(7, 7, 1, "shop", State.ACKED, 9, [Step(1, "sent"), Step(1, "acked")]))
    assert [(step.what, step.at_ms - 5_000_500) for step in early] == [("accepted", 0), ("sent", 0), ("acked", 0)]


def test_memory_forgets_the_oldest_and_counts_it() -> None:
    metrics = Metrics(process=False)
    memory: Remembered[str] = Remembered(2, metrics, "trail")
    for seq in (1, 2, 2, 3):
        memory.put(seq, str(seq))
    assert (len(memory), 1 in memory, memory.get(2), memory.pop(3), memory.pop(3)) == (2, False, "2", "3", None)
    assert metrics.value(Metric.DELIVERY_MEMORY_EVICTED, "trail") == 1


async def test_backlog_runs_works_side_by_side_and_survives_a_bad_one() -> None:
    seen: list[str] = []

    def work(name: str, slices: int) -> Iterator[None]:
        for i in range(slices):
            seen.append(f"{name}{i}")
            yield

    def bad() -> Iterator[None]:
        yield
        raise RuntimeError("broken")

    backlog = Backlog()
    backlog.add(work("a", 3))
    backlog.add(bad())
    backlog.add(work("b", 2))
    assert not seen
    await asyncio.wait_for(backlog.wait_idle(), 30)
    assert seen == ["a0", "b0", "a1", "b1", "a2"]
    backlog.add(work("c", 1))
    await asyncio.wait_for(backlog.wait_idle(), 30)
    assert seen[-1] == "c0"
    await backlog.close()


async def test_the_works_of_one_app_do_not_hold_up_those_of_another() -> None:
    seen: list[str] = []

    def work(name: str, slices: int) -> Iterator[None]:
        for _ in range(slices):
            seen.append(name)
            yield

    backlog = Backlog()
    given = 0
    while backlog.has_room("flood"):
        backlog.add(work("flood", 3), "flood")
        given += 1
    assert given == MAX_WORKS * 3 // 4
    assert backlog.has_room("other")
    backlog.add(work("other", 3), "other")
    for _ in range(MAX_WORKS):  # given without a look at the room: it takes no place of others
        backlog.add(work("flood", 1), "flood")
    assert backlog.has_room("newcomer")
    assert len(backlog) == given + 1 + MAX_WORKS
    await asyncio.wait_for(backlog.wait_idle(), 30)
    assert seen[:6] == ["flood", "other"] * 3
    assert len(seen) == 3 * given + 3 + MAX_WORKS
    assert not len(backlog)
    assert backlog.has_room("flood")


def test_a_registration_that_asks_again_and_again_waits_in_a_spread_broadcast_once() -> None:
    pushed = notification(over_s=4)
    spread = Spread(pushed)
    for _ in range(10_000):
        for registration in range(1, 9):
            spread.add(registration)
    assert spread.waiting <= 4 * 128
    handed = [number for part in spread.due(pushed.accepted_ms + 4_000) for number in part]
    assert sorted(handed) == list(range(1, 9))
    assert spread.waiting == 0


@given(
    seqs=st.lists(st.integers(0, (1 << 64) - 1), max_size=70),
    other=st.none() | st.integers(0, 1 << 40) | st.dictionaries(st.text(max_size=3), st.text(max_size=300), max_size=2),
)
def test_packed_results_are_the_ids_of_each_and_what_has_none_in_its_place(seqs: list[int], other: Any) -> None:
    ids = PushIds(b"k" * 16)
    others = {place: [other, place] for place, seq in enumerate(seqs) if seq == 0}
    packed = ids.pack_results("shop", array("Q", seqs), others)
    results = [ids.build("shop", seq) if seq else [other, place] for place, seq in enumerate(seqs)]
    assert packed == msgspec.msgpack.encode(results)
    assert [ids.parse(text, "shop") for text in results if isinstance(text, str)] == [seq for seq in seqs if seq]


def test_a_result_without_a_push_or_a_push_without_a_result_is_a_fault() -> None:
    ids = PushIds(b"k" * 16)
    for seqs, others in (([5, 0], {}), ([5], {0: "x"}), ([0], {0: "x", 1: "y"})):
        with pytest.raises(ValueError, match="sequence"):
            ids.pack_results("shop", array("Q", seqs), others)


@pytest.mark.parametrize("count", [15, 16, 65_535, 65_536])
def test_results_of_any_number_are_one_array(count: int) -> None:
    packed = PushIds(b"k" * 16).pack_results("shop", array("Q", range(1, count + 1)), {})
    assert len(msgspec.msgpack.decode(packed)) == count
