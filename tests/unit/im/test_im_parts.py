"""The small parts of supervision and messaging, each alone: turns, pauses, pace, keys, tips."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.im.backoff import Backoff
from gateway.im.messaging.draft import Draft, Recipient
from gateway.im.messaging.once import Once
from gateway.im.messaging.pace import Pace
from gateway.im.messaging.tip import TEXT, TITLE, build_tip
from gateway.im.operations.messages import SendAsk
from gateway.im.supervision.admission import Admission
from gateway.im.ust.rates import Rate
from gateway.metrics import Metrics
from gateway.model.errors import Conflict, InvalidField
from gateway.model.im import Conversation, ConversationKind, Envelope, Kind, Person
from gateway.model.im_people import Item, ItemKind


@given(st.floats(0.01, 10), st.floats(0.01, 500), st.integers(1, 60))
def test_pauses_stay_in_their_bounds(first_s: float, most_s: float, tries: int) -> None:
    backoff = Backoff(first_s, most_s)
    for number in range(tries):
        assert 0 <= backoff.next_s() <= min(first_s * 2**number, most_s)
    assert 7.0 <= backoff.next_s(7.0) <= 7.0 + first_s


def test_pauses_are_spread_and_begin_anew() -> None:
    backoff = Backoff(1.0, 64.0)
    for _ in range(10):
        backoff.next_s()
    assert max(backoff.next_s() for _ in range(200)) > 32
    backoff.reset()
    assert backoff.next_s() <= 1.0


async def test_turns_keep_both_bounds_and_the_active_go_first() -> None:
    admission = Admission(at_once=3, per_s=500.0)
    begun: list[tuple[float, int]] = []
    running = most = 0

    async def connect(rank: int) -> None:
        nonlocal running, most
        await admission.enter(float(rank))
        running += 1
        most = max(most, running)
        begun.append((asyncio.get_running_loop().time(), rank))
        await asyncio.sleep(0.001)
        running -= 1
        admission.leave()

    await asyncio.gather(*(connect(rank) for rank in range(200)))
    admission.close()
    assert most <= 3
    times = [at for at, _ in begun]
    for number, at in enumerate(times):
        assert sum(1 for other in times[number:] if other < at + 0.1) <= 500 * (0.1 + 0.05) + 2
    waited = [rank for _, rank in begun[30:]]
    # three of four turns go to the highest rank, the fourth to the one who waits longest
    assert sum(waited[:80]) > sum(waited[-80:])
    assert {0, 1, 2, 3, 4, 5} <= {rank for _, rank in begun[:60]}


async def test_who_gives_up_waiting_takes_no_turn() -> None:
    admission = Admission(at_once=1, per_s=100_000.0)
    await admission.enter(0)
    waiting = [asyncio.create_task(admission.enter(1)) for _ in range(100)]
    await asyncio.sleep(0)
    for task in waiting[:-1]:
        task.cancel()
    await asyncio.sleep(0.01)
    assert admission.waiting == 1
    admission.leave()
    await waiting[-1]
    late = asyncio.create_task(admission.enter(1))
    await asyncio.sleep(0)
    admission.leave()
    late.cancel()  # its turn has come in the same moment
    with pytest.raises(asyncio.CancelledError):
        await late
    await asyncio.wait_for(admission.enter(0), 1)
    assert admission.waiting == 0
    admission.close()


async def test_an_unused_turn_costs_nobody_anything() -> None:
    admission = Admission(at_once=1, per_s=2.0)
    begun = asyncio.get_running_loop().time()
    for _ in range(50):
        await admission.enter(0)
        admission.leave(unused=True)
    assert asyncio.get_running_loop().time() - begun < 5  # 50 turns would take 25 s


@given(st.integers(1, 200), st.lists(st.tuples(st.integers(0, 20_000), st.integers(1, 5)), max_size=200))
def test_nobody_sends_more_than_two_minutes_worth_in_a_minute(per_minute: int, asks: list[tuple[int, int]]) -> None:
    pace = Pace(per_minute)
    now_ms, taken = 1_000_000, []
    for step_ms, count in asks:
        now_ms += step_ms
        wait_ms = pace.take(b"user", now_ms, count)
        if not wait_ms:
            taken.append((now_ms, count))
        else:
            assert wait_ms <= 60_000 * 6
    for at, _ in taken:
        assert sum(count for other, count in taken if at <= other < at + 60_000) <= 2 * per_minute + 10


def test_the_pace_remembers_so_many_users_only() -> None:
    pace = Pace(1, most=2)
    assert [pace.take(user, 0, 1) for user in (b"a", b"b", b"c")] == [0, 0, 0]
    assert pace.take(b"a", 0, 1) == 0
    assert pace.take(b"c", 0, 1) > 0


async def test_a_key_belongs_to_its_user_and_its_message() -> None:
    once: Once[int] = Once(most=2)
    asked = 0

    async def ask() -> int:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0)
        return asked

    async def fail() -> int:
        raise InvalidField("no")

    assert await asyncio.gather(once.run(b"u", "k", b"d", ask), once.run(b"u", "k", b"d", ask)) == [1, 1]
    assert await once.run(b"v", "k", b"d", ask) == 2
    with pytest.raises(Conflict):
        await once.run(b"u", "k", b"other", ask)
    assert await once.run(b"u", "", b"d", ask) == 3
    with pytest.raises(InvalidField):
        await once.run(b"w", "k", b"d", fail)
    assert await once.run(b"w", "k", b"d", ask) == 4


@given(st.text(max_size=500), st.text(max_size=500), st.sampled_from(Kind), st.booleans())
def test_a_tip_is_short_and_ones_own_message_wakes_nobody(name: str, text: str, kind: Kind, is_self: bool) -> None:
    envelope = Envelope(
        "xmpp", Conversation(ConversationKind.DM, "x"), Person("x", name, is_self), "1", kind=kind, text=text
    )
    tip = build_tip(Item(ItemKind.MESSAGE, 0, envelope=envelope))
    assert len(tip.title) <= TITLE
    assert len(tip.text) <= TEXT
    assert not (is_self and (tip.urgent or tip.text))


@given(st.binary(max_size=300))
def test_any_bytes_are_an_ask_or_a_validation_error(data: bytes) -> None:
    with suppress(msgspec.DecodeError, UnicodeDecodeError):
        msgspec.json.decode(data, type=SendAsk)


@given(
    st.builds(
        Recipient,
        st.none() | st.integers(0, 5) | st.text(max_size=5),
        st.text(max_size=5),
        st.sampled_from(ConversationKind),
        st.text(max_size=5),
        st.text(max_size=5),
        st.text(max_size=5),
    ),
    st.builds(Draft, st.text(st.characters(), max_size=300), st.text(max_size=10)),
)
def test_a_recipient_and_a_draft_are_good_or_name_their_field(recipient: Recipient, draft: Draft) -> None:
    try:
        recipient.check("to[0]")
        draft.check(256)
    except InvalidField as exc:
        refused = exc
    else:
        refused = None
    if refused is not None:
        assert refused.field
        return
    assert sum([recipient.account is not None, bool(recipient.user), bool(recipient.group), bool(recipient.site)]) == 1
    assert len(draft.text.encode()) <= 256


def test_a_clock_that_ran_ahead_locks_nobody_out() -> None:
    pace = Pace(2)
    assert [pace.take(b"anna", 10**12, 1) for _ in range(2)] == [0, 0]
    assert pace.take(b"anna", 0, 1) == 0
    rate = Rate("numbers", 1, 1_000, Metrics())
    assert rate.take(b"anna", 10**12) == 0
    assert rate.take(b"anna", 0) > 0
    assert rate.after_ms(0) <= 1_000
    assert rate.take(b"anna", 1_000) == 0
