"""The one way of every pager: limits of a subscriber over all apps, one wake for several, a random moment (C8, C11)."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from gateway.config.operator_sections import Paging
from gateway.config.sections import Delivery
from gateway.metrics import Metric, Metrics
from gateway.model.ports import NotifierResult
from gateway.model.registration import App, Registration
from gateway.model.subscriber import NetworkId, NetworkIdKind, OpaqueKind, Subscriber
from gateway.notifiers.upstream import Answer, Fault, Row, Upstream, Verdict, build_limits
from gateway.paging.guard import HOUR_MS, Guard
from gateway.paging.waiting import MOST_REGISTRATIONS, Waiting

TAKEN = Row(0, "ok", Verdict.OK, Fault.NONE, "taken")
REFUSED = Row(1, "refused", Verdict.RETRY, Fault.MESSAGE, "not now")
ABSENT = Row(2, "off", Verdict.RETRY, Fault.ABSENT, "the terminal is off")


class Scene:
    """Ids `a`, `b` and `c` stand for one subscriber, `other` for another; time stands still unless it is moved."""

    def __init__(self, **paging: Any) -> None:
        self.now_ms = 1_000_000
        values = {"jitter_s": 0.0, "coalesce_s": 5.0, "subscriber_burst": 3, "subscriber_per_hour": 60.0, **paging}
        self.paging = replace(Paging(), **values)
        self.metrics = Metrics(process=False)
        self.waiting = Waiting(self.paging, self.metrics)
        self.guard = Guard(self.paging, self, self.waiting, self.metrics, lambda: self.now_ms)
        self.upstreams: dict[str, Upstream] = {}
        self.paged: list[bytes] = []
        self.row = TAKEN
        self.trouble: Exception | None = None
        self.is_out = False
        self.go = asyncio.Event()
        self.go.set()

    async def resolve(self, opaque: str, app: str) -> Subscriber | None:
        if self.trouble is not None:
            raise self.trouble
        if opaque not in ("a", "b", "c", "other") or self.is_out:
            return None
        who = b"other" if opaque == "other" else b"one"
        return Subscriber(who, [NetworkId(NetworkIdKind.MSISDN, f"+49{len(who)}")], OpaqueKind.O_TMSN, app)

    async def page(
        self, opaque: str = "a", *, number: int = 1, pager: str = "sms", wakes: bool = False
    ) -> NotifierResult:
        async def send(subscriber: Subscriber) -> Answer:
            await self.go.wait()
            self.paged.append(subscriber.handle)
            return Answer(self.row)

        upstream = self.upstreams.setdefault(
            pager, Upstream(pager, build_limits(Delivery()), self.metrics, lambda: self.now_ms)
        )
        registration = Registration(
            number=number,
            token=b"t" * 16,
            device="d",
            app="shop",
            version="1",
            addresses={pager: opaque} if opaque else {},
        )
        return await self.guard.page(upstream, "lane", App(name="shop"), registration, send, wakes=wakes)

    def outcomes(self, reason: str, pager: str = "sms") -> float:
        return self.metrics.value(Metric.NOTIFIER_OUTCOMES, f"{pager} {reason}")


async def test_who_has_no_id_or_one_that_stands_for_nobody_is_not_paged() -> None:
    scene = Scene()
    assert (await scene.page("")).dead
    nobody = await scene.page("nobody")
    assert nobody.dead
    assert nobody.detail == "unknown subscriber"
    assert scene.paged == []


@pytest.mark.parametrize("trouble", [TimeoutError("001010000000001"), OSError("x"), ValueError("x")])
async def test_a_mapping_that_can_not_be_asked_is_asked_again_later(trouble: Exception) -> None:
    scene = Scene()
    scene.trouble = trouble
    result = await scene.page()
    assert (result.ok, result.dead, result.detail) == (False, False, "lookup failed")


async def test_pages_of_one_subscriber_are_counted_over_all_its_ids_and_pagers() -> None:
    scene = Scene()
    assert [(await scene.page(opaque, pager=pager)).ok for opaque, pager in (("a", "sms"), ("b", "wap"), ("c", "ip"))]
    paced = await scene.page("a", pager="trigger")
    assert (paced.ok, paced.dead, paced.asked, paced.retry_after_ms) == (False, False, False, 0)
    assert scene.outcomes("paced", "trigger") == 1
    assert (await scene.page("other")).ok
    assert len(scene.paged) == 4
    scene.now_ms += HOUR_MS // 60
    assert (await scene.page("b")).ok
    assert not (await scene.page("b")).ok


async def test_what_was_not_sent_is_not_counted() -> None:
    scene = Scene(subscriber_burst=1)
    gate = scene.upstreams.setdefault(
        "sms", Upstream("sms", build_limits(Delivery(notifier_failures=1)), scene.metrics, lambda: scene.now_ms)
    )
    gate.settle("lane", Answer(Row(0, "down", Verdict.RETRY, Fault.UPSTREAM, "")))  # the circuit opens
    assert not (await scene.page()).asked
    scene.now_ms += 60_000
    assert (await scene.page()).ok


async def test_no_limit_where_it_is_set_to_nothing() -> None:
    scene = Scene(subscriber_per_hour=0.0, subscriber_burst=1)
    assert all([(await scene.page()).ok for _ in range(50)])


async def test_past_the_bound_who_was_paged_longest_ago_is_forgotten_and_that_is_counted() -> None:
    scene = Scene(subscribers_counted=1, subscriber_burst=1)
    await scene.page("a")
    assert not (await scene.page("a")).ok
    await scene.page("other")
    assert scene.metrics.value(Metric.NOTIFIER_BOUNDS, "paging subscribers") == 1
    assert (await scene.page("a")).ok


async def test_one_wake_stands_for_those_that_come_soon_after_it() -> None:
    scene = Scene()
    assert (await scene.page(wakes=True)).ok
    again = await scene.page(wakes=True)
    assert (again.ok, again.detail) == (True, "coalesced")
    assert len(scene.paged) == 1
    assert scene.outcomes("coalesced") == 1
    assert (await scene.page(wakes=True, number=2)).ok  # another registration
    assert (await scene.page(wakes=False)).ok  # what the user is to read always goes
    assert len(scene.paged) == 3
    scene.now_ms += 5_001
    scene.paging.subscriber_per_hour = 0.0
    await scene.page(wakes=True)
    assert len(scene.paged) == 4


async def test_wakes_at_the_same_time_wait_for_the_first_and_share_what_becomes_of_it() -> None:
    scene = Scene(subscriber_per_hour=0.0)
    scene.go.clear()
    pages = [asyncio.create_task(scene.page(wakes=True)) for _ in range(5)]
    for _ in range(5):
        await asyncio.sleep(0)
    scene.go.set()
    assert all(result.ok for result in await asyncio.gather(*pages))
    assert len(scene.paged) == 1


async def test_a_wake_that_failed_stands_for_nobody() -> None:
    scene = Scene(subscriber_per_hour=0.0)
    scene.row = REFUSED
    results = await asyncio.gather(*(scene.page(wakes=True) for _ in range(3)))
    assert not any(result.ok for result in results)
    assert len(scene.paged) == 3


async def test_a_wake_that_is_cancelled_does_not_hold_up_the_next() -> None:
    scene = Scene()
    scene.go.clear()
    first = asyncio.create_task(scene.page(wakes=True))
    second = asyncio.create_task(scene.page(wakes=True))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    first.cancel()
    scene.go.set()
    assert (await second).ok
    assert len(scene.paged) == 1


async def test_wakes_long_past_are_forgotten() -> None:
    scene = Scene(subscriber_per_hour=0.0)
    for number in range(100):
        await scene.page(number=number, wakes=True)
    scene.now_ms += 6_000
    await scene.page(number=1_000, wakes=True)
    assert len(scene.guard._wakes) == 1


async def test_the_moment_of_a_page_is_random_within_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(jitter_s=0.2, subscriber_per_hour=0.0)
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr("gateway.paging.guard.asyncio.sleep", sleep)
    for _ in range(20):
        await scene.page()
    assert len(set(waits)) == 20
    assert all(0 <= wait <= 0.2 for wait in waits)


async def test_an_opt_out_holds_for_a_page_that_waits_for_its_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(jitter_s=0.2)

    async def sleep(_seconds: float) -> None:
        scene.is_out = True

    monkeypatch.setattr("gateway.paging.guard.asyncio.sleep", sleep)
    assert (await scene.page()).dead
    assert scene.paged == []
    assert scene.outcomes("unknown_subscriber") == 1


async def test_an_absent_terminal_uses_up_no_try_and_its_return_is_told_once() -> None:
    scene = Scene()
    backs: list[int] = []
    scene.waiting.on_back = backs.append
    scene.row = ABSENT
    result = await scene.page("a", number=7)
    assert (result.ok, result.dead, result.asked) == (False, False, False)
    await scene.page("b", number=8)
    assert scene.waiting.back(msisdn="493") == 2
    assert sorted(backs) == [7, 8]
    assert scene.waiting.back(msisdn="+493") == 0
    assert len(scene.waiting) == 0


def subscriber(n: int) -> Subscriber:
    ids = [NetworkId(NetworkIdKind.IMSI, f"00101{n:010}"), NetworkId(NetworkIdKind.MSISDN, f"+49{n:08}")]
    return Subscriber(n.to_bytes(4, "big"), ids, OpaqueKind.O_TMSI, "")


def test_who_waits_is_bounded_and_whom_nobody_waits_for_is_nothing() -> None:
    metrics = Metrics(process=False)
    waiting = Waiting(replace(Paging(), subscribers_counted=2), metrics)
    backs: list[int] = []
    waiting.on_back = backs.append
    for n in range(3):
        waiting.add(subscriber(n), n)
    assert len(waiting) == 2
    assert metrics.value(Metric.NOTIFIER_BOUNDS, "paging waiting") == 1
    assert waiting.back(imsi="001010000000000") == 0
    assert waiting.back(imsi="001010000000002") == 1
    assert waiting.back((1).to_bytes(4, "big")) == 1
    assert backs == [2, 1]
    assert waiting.back() == waiting.back(imsi="") == 0
    assert not waiting._by_name


def test_registrations_of_one_subscriber_are_bounded() -> None:
    waiting = Waiting(Paging(), Metrics(process=False))
    for number in range(MOST_REGISTRATIONS + 10):
        waiting.add(subscriber(1), number)
    assert waiting.back((1).to_bytes(4, "big")) == MOST_REGISTRATIONS


def test_what_is_remembered_of_who_waits_holds_no_number() -> None:
    waiting = Waiting(Paging(), Metrics(process=False))
    waiting.add(subscriber(1234567), 1)
    assert "1234567" not in repr(vars(waiting))


async def test_a_page_that_was_cut_off_counts_for_it_may_have_gone_out() -> None:
    scene = Scene(subscriber_burst=1)
    scene.go.clear()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await scene.page()
    scene.go.set()
    assert not (await scene.page()).ok


async def test_who_opts_out_while_a_page_waits_for_another_is_not_paged() -> None:
    scene = Scene()
    scene.go.clear()
    first = asyncio.create_task(scene.page(wakes=True))
    await asyncio.sleep(0)
    second = asyncio.create_task(scene.page(wakes=True))
    await asyncio.sleep(0)
    scene.now_ms += 5_000

    async def nobody(opaque: str, app: str) -> Subscriber | None:
        return None

    scene.resolve = nobody  # type: ignore[method-assign]
    first.cancel()
    scene.go.set()
    result = await second
    assert (result.ok, result.dead) == (False, True)
    assert scene.paged == []


async def test_wakes_that_wait_for_one_that_fails_do_not_go_out_one_after_the_other() -> None:
    scene = Scene()
    scene.go.clear()
    scene.row = REFUSED
    pages = [asyncio.create_task(scene.page(wakes=True)) for _ in range(6)]
    await asyncio.sleep(0)
    scene.go.set()
    results = await asyncio.gather(*pages)
    assert [(result.ok, result.asked) for result in results] == [(False, True)] + 5 * [(False, False)]
    assert len(scene.paged) == 1
