"""Lanes of the queue in front of a notifier: what hangs, fails or rests holds up nobody else; bounds are kept."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from gateway.config.sections import Delivery
from gateway.delivery.notify_queue import Call, Job, NotifyQueue
from gateway.metrics import Metric, Metrics
from gateway.model.notification import Content, Notification, Target
from gateway.model.ports import NotifierResult
from gateway.model.registration import App, Registration

OK = NotifierResult(ok=True)


class LaneNotifier:
    """Its lane is the app's name; each lane answers as told."""

    name = "lanes"
    secrets: frozenset[str] = frozenset()

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.under_way: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.hanging: set[str] = set()
        self.answers: dict[str, list[NotifierResult]] = {}
        self.released = asyncio.Event()
        self.closed = False

    def check(self, settings: Mapping[str, str]) -> None: ...

    def lane(self, app: App, registration: Registration) -> str:
        return app.name

    async def notify(self, app: App, registration: Registration, notification: Notification) -> NotifierResult:
        lane = app.name
        self.calls.append(lane)
        self.under_way[lane] += 1
        self.under_way["all"] += 1
        for name in (lane, "all"):
            self.most[name] = max(self.most[name], self.under_way[name])
        try:
            if lane in self.hanging:
                await self.released.wait()
            else:
                await asyncio.sleep(0)
            answers = self.answers.get(lane)
            return answers.pop(0) if answers else OK
        finally:
            self.under_way[lane] -= 1
            self.under_way["all"] -= 1

    async def close(self) -> None:
        self.closed = True


class Bench:
    def __init__(self, **settings: Any) -> None:
        self.now_ms = 1_000_000
        self.notifier = LaneNotifier()
        self.metrics = Metrics(process=False)
        self.results: dict[int, NotifierResult] = {}
        self.lane_of: dict[int, str] = {}
        self.unwanted: set[int] = set()
        self.queue = NotifyQueue(
            self.notifier,
            delivery=Delivery(**settings),
            load=self.load,
            on_result=self.on_result,
            metrics=self.metrics,
            clock=lambda: self.now_ms,
        )
        self.seq = 0

    def load(self, job: Job) -> Call | None:
        if job.seq in self.unwanted:
            return None
        registration = Registration(number=1, token=b"t" * 16, device="d", app="a", version="1")
        notification = Notification(
            seq=job.seq,
            app="a",
            target=Target(),
            content=Content(),
            accepted_ms=0,
            expires_s=0,
            ack_ms=1,
            notifier_ack_ms=1,
        )
        return App(name=self.lane_of[job.seq]), registration, notification

    def on_result(self, job: Job, result: NotifierResult) -> None:
        assert job.seq not in self.results
        self.results[job.seq] = result

    def offer(self, lane: str, count: int = 1, *, app: str = "") -> list[NotifierResult | None]:
        """The refusals, None for each that was taken."""
        out = []
        for _ in range(count):
            self.seq += 1
            self.lane_of[self.seq] = lane
            out.append(self.queue.offer(Job(self.seq, "lanes"), app or lane, lane))
        return out

    def done(self, lane: str) -> list[NotifierResult]:
        return [result for seq, result in self.results.items() if self.lane_of[seq] == lane]

    async def until(self, lane: str, count: int) -> None:
        async with asyncio.timeout(60):
            while len(self.done(lane)) < count:
                await asyncio.sleep(0)

    async def turns(self, count: int = 50) -> None:
        for _ in range(count):
            await asyncio.sleep(0)

    def bound(self, name: str) -> float:
        return self.metrics.value(Metric.NOTIFIER_BOUNDS, f"lanes {name}")


@pytest.fixture
async def benches() -> AsyncIterator[list[Bench]]:
    made: list[Bench] = []
    yield made
    for bench in made:
        bench.notifier.released.set()
        await bench.queue.close()


@pytest.fixture
def build(benches: list[Bench]) -> Any:
    def make(**settings: Any) -> Bench:
        benches.append(Bench(**settings))
        return benches[-1]

    return make


async def test_lane_that_hangs_starves_no_other(build: Any) -> None:
    bench = build(notifier_concurrency=8, notifier_lane_concurrency=8, notifier_timeout_s=60)
    bench.notifier.hanging = {"stuck"}
    assert bench.offer("stuck", 500) == [None] * 500
    await bench.turns()
    assert bench.notifier.under_way["stuck"] == 6  # three quarters, and not one more
    assert bench.offer("fine", 500) == [None] * 500
    await bench.until("fine", 500)
    assert all(result.ok for result in bench.done("fine"))
    assert not bench.done("stuck")
    # Another one that hangs takes a place of the last quarter; a third still gets through.
    bench.notifier.hanging.add("stuck too")
    bench.offer("stuck too", 50)
    bench.offer("third", 50)
    await bench.until("third", 50)
    assert bench.notifier.most["all"] <= 8


async def test_slow_lanes_leave_a_healthy_one_more_than_a_call_at_a_time(build: Any) -> None:
    bench = build(notifier_concurrency=32, notifier_lane_concurrency=8, notifier_timeout_s=60)
    slow = {f"slow {n}" for n in range(4)}
    bench.notifier.hanging = set(slow)
    for lane in slow:
        bench.offer(lane, 20)
    await bench.turns()
    under_way = [bench.notifier.under_way[lane] for lane in slow]
    assert sum(under_way) >= 24
    bench.offer("fine", 50)
    await bench.until("fine", 50)
    left = 32 - sum(bench.notifier.under_way[lane] for lane in slow)
    assert bench.notifier.most["fine"] == (left + 1) // 2 > 2


async def test_app_with_a_thousand_upstreams_that_hang_leaves_room_for_another(build: Any) -> None:
    bench = build(notifier_concurrency=16, notifier_lanes=64, notifier_queue=400, notifier_timeout_s=60)
    lanes = [f"evil {n}" for n in range(1_000)]
    bench.notifier.hanging = set(lanes)
    taken = [lane for lane in lanes if bench.offer(lane, 2, app="evil") == [None, None]]
    await bench.turns()
    assert len(taken) == 48  # three quarters of the lanes
    assert bench.notifier.under_way["all"] == 12  # and of the calls under way
    assert bench.offer("good", 50) == [None] * 50
    await bench.until("good", 50)
    # What waited for its app's share has its turn when a call ends.
    bench.notifier.hanging.clear()
    bench.notifier.released.set()
    for lane in taken:
        await bench.until(lane, 2)
    assert (bench.queue.lanes, len(bench.queue)) == (0, 0)


async def test_apps_that_share_an_upstream_wait_each_in_a_lane_of_its_own(build: Any) -> None:
    bench = build(notifier_concurrency=4, notifier_queue=40)
    for _ in range(5):  # what one app took is never given back to another
        for app in ("a", "b"):
            assert bench.offer("smsc", 10, app=app) == [None] * 10
        assert bench.queue.lanes == 2
        await bench.until("smsc", len(bench.lane_of))
    assert (bench.queue.lanes, len(bench.queue)) == (0, 0)


async def test_waiting_calls_of_one_app_leave_places_for_others(build: Any) -> None:
    bench = build(notifier_concurrency=1, notifier_queue=40)
    bench.notifier.hanging = {"a"}
    refused = [answer for answer in bench.offer("a", 100) if answer is not None]
    assert len(refused) == 100 - 30
    assert bench.offer("b", 5) == [None] * 5


async def test_lanes_take_turns(build: Any) -> None:
    bench = build(notifier_concurrency=1)
    bench.offer("busy", 50)
    bench.offer("late", 3)
    await bench.until("late", 3)
    assert len(bench.done("busy")) <= 6
    await bench.until("busy", 50)


async def test_calls_of_one_lane_are_bounded_and_those_of_all(build: Any) -> None:
    bench = build(notifier_concurrency=16, notifier_lane_concurrency=3)
    for lane in range(10):
        bench.offer(f"lane {lane}", 20)
    for lane in range(10):
        await bench.until(f"lane {lane}", 20)
    assert max(count for name, count in bench.notifier.most.items() if name != "all") <= 3
    assert bench.notifier.most["all"] <= 16
    bench.offer("alone", 20)
    await bench.until("alone", 20)
    assert bench.notifier.most["alone"] == 3


async def test_full_lane_refuses_and_the_others_do_not(build: Any) -> None:
    bench = build(notifier_concurrency=1, notifier_lane_queue=3, notifier_queue=6)
    bench.notifier.hanging = {"a"}
    bench.offer("a")
    await bench.turns()
    assert bench.offer("a", 3) == [None] * 3
    [refused] = bench.offer("a")
    assert refused is not None
    assert (refused.asked, refused.dead, refused.detail) == (False, False, "queue full")
    assert bench.offer("b", 2) == [None] * 2
    assert bench.bound("lane_queue") == 1
    assert bench.offer("b")[0] is not None
    assert (bench.bound("queue"), bench.metrics.value(Metric.NOTIFIER_QUEUE_FULL, "lanes")) == (1, 2)
    assert len(bench.queue) == 5


async def test_what_a_full_lane_refused_is_told_when_it_is_half_empty(build: Any) -> None:
    bench = build(notifier_concurrency=4, notifier_lane_queue=10)
    bench.notifier.hanging = {"a"}
    bench.offer("a", 3)
    await bench.turns()
    assert bench.offer("a", 10) == [None] * 10
    told: list[int] = []
    bench.queue._on_room = lambda seq: told.append(seq)
    assert all(bench.queue.keep(seq, "a", "a") for seq in range(100, 108))
    await bench.turns()
    assert not told  # it is full still
    bench.notifier.hanging.clear()
    bench.notifier.released.set()
    await bench.until("a", 13)
    assert told == list(range(100, 108))


async def test_what_is_remembered_of_refused_calls_is_bounded_and_shared(build: Any) -> None:
    bench = build(notifier_concurrency=1, notifier_queue=8, notifier_lanes=3)
    bench.notifier.hanging = {"a"}
    bench.offer("a", 8)
    await bench.turns()
    kept = [bench.queue.keep(seq, "a", "a") for seq in range(200)]
    assert kept.count(True) == kept.index(False) == 60  # three quarters of ten times the queue
    assert bench.queue.keep(1_000, "b", "b")
    assert bench.queue.keep(1_001, "c", "c")
    assert not bench.queue.keep(1_002, "d", "d")  # a lane more


async def test_lanes_are_bounded_and_idle_ones_are_forgotten(build: Any) -> None:
    bench = build(notifier_lanes=4)
    for n in range(100):
        assert bench.offer(f"lane {n}") == [None]
        await bench.until(f"lane {n}", 1)
    assert bench.queue.lanes == 0
    bench.notifier.hanging = {"lane 0", "lane 1", "lane 2", "lane 3"}
    for n in range(4):
        bench.offer(f"lane {n}")
    assert bench.offer("lane 4")[0] is not None
    assert bench.bound("lanes") == 1


async def test_lane_that_only_rests_gives_way_to_a_new_one(build: Any) -> None:
    bench = build(notifier_lanes=2)
    for lane in ("a", "b"):
        bench.notifier.answers[lane] = [NotifierResult(ok=False, retry_after_ms=60_000)]
        bench.offer(lane)
        await bench.until(lane, 1)
    assert bench.queue.lanes == 2
    assert bench.offer("c") == [None]
    await bench.until("c", 1)
    assert bench.bound("resting_lanes") == 1


async def test_lane_that_has_to_rest_for_long_gives_its_calls_back_and_asks_nobody(build: Any) -> None:
    bench = build(notifier_concurrency=2, notifier_lane_concurrency=1, notifier_hold_s=5)
    bench.notifier.answers["a"] = [NotifierResult(ok=False, retry_after_ms=60_000, detail="429")]
    bench.offer("a", 400)
    bench.offer("b", 10)
    await bench.until("a", 400)
    await bench.until("b", 10)
    assert bench.notifier.calls.count("a") == 1
    first, *rest = bench.done("a")
    assert (first.asked, first.detail) == (True, "429")
    assert {(r.asked, r.retry_after_ms, r.detail) for r in rest} == {(False, 60_000, "upstream rests")}
    [refused] = bench.offer("a")
    assert refused is not None
    assert (refused.asked, refused.retry_after_ms) == (False, 60_000)
    assert bench.metrics.value(Metric.NOTIFIER_RESTS, "lanes") == 1
    assert len(bench.queue) == 0
    bench.now_ms += 60_000
    assert bench.offer("a") == [None]
    await bench.until("a", 401)
    assert bench.done("a")[-1].ok


async def test_short_rest_keeps_the_calls_in_their_order(build: Any) -> None:
    bench = build(notifier_concurrency=4, notifier_lane_concurrency=1)
    order: list[int] = []
    bench.queue._on_result = lambda job, result: (order.append(job.seq), bench.on_result(job, result))
    refusal = NotifierResult(ok=False, retry_after_ms=20, detail="rate limit", asked=False)
    bench.notifier.answers["a"] = [OK, refusal, OK, refusal, refusal]
    bench.offer("a", 6)

    async with asyncio.timeout(60):
        while len(order) < 6:
            bench.now_ms += 10
            await asyncio.sleep(0.01)
    assert order == sorted(order)
    assert all(result.ok for result in bench.results.values())
    assert bench.notifier.calls.count("a") == 9


async def test_call_refused_for_a_moment_goes_back_where_the_lane_rests_for_long_meanwhile(build: Any) -> None:
    bench = build(notifier_lane_concurrency=2)
    moment = NotifierResult(ok=False, retry_after_ms=250, detail="circuit open", asked=False)
    bench.notifier.answers["a"] = [NotifierResult(ok=False, retry_after_ms=60_000, detail="429"), moment]
    bench.offer("a", 2)
    await bench.until("a", 2)
    assert [result.detail for result in bench.done("a")] == ["429", "circuit open"]
    assert len(bench.queue) == 0


async def test_call_that_is_not_wanted_any_more_is_not_made(build: Any) -> None:
    bench = build()
    bench.offer("a", 3)
    bench.unwanted = {1, 3}
    await bench.until("a", 1)
    await bench.turns()
    assert set(bench.results) == {2}
    assert bench.queue.lanes == 0


async def test_fault_of_ours_ends_one_call_and_no_more(build: Any) -> None:
    bench = build()
    load = bench.load

    def failing(job: Job) -> Call | None:
        if job.seq == 1:
            raise RuntimeError("ours")
        return load(job)

    bench.queue._load = failing
    bench.offer("a", 2)
    await bench.until("a", 1)
    assert set(bench.results) == {2}


async def test_drain_lets_calls_under_way_end_and_begins_no_more(build: Any) -> None:
    bench = build(notifier_concurrency=2)
    bench.notifier.hanging = {"a"}
    bench.offer("a", 5)
    await bench.turns()
    assert bench.notifier.under_way["a"] == 2
    draining = asyncio.create_task(bench.queue.drain(60))
    await bench.turns()
    assert not draining.done()
    assert bench.offer("b") == [None]  # it waits, and is pending in the journal
    bench.notifier.released.set()
    await draining
    await bench.turns()
    assert [result.ok for result in bench.results.values()] == [True, True]
    assert len(bench.notifier.calls) == 2


async def test_drain_has_an_end(build: Any) -> None:
    bench = build()
    bench.notifier.hanging = {"a"}
    bench.offer("a")
    await bench.turns()
    await bench.queue.drain(0.01)
    assert not bench.results
    assert bench.notifier.under_way["a"] == 1


async def test_close_ends_what_is_under_way_and_takes_nothing_more(build: Any) -> None:
    bench = build()
    bench.notifier.hanging = {"a"}
    bench.offer("a", 100)
    await bench.turns()
    await bench.queue.close()
    assert not bench.notifier.closed  # it is others' too
    assert not bench.results
    assert bench.notifier.under_way["all"] == 0
    assert bench.offer("a")[0] is not None


async def test_many_lanes_under_random_trouble_lose_no_call(build: Any) -> None:
    import random

    chance = random.Random(7)
    bench = build(notifier_concurrency=6, notifier_lane_concurrency=2, notifier_lanes=12)
    kinds = [
        OK,
        NotifierResult(ok=False, dead=True),
        NotifierResult(ok=False),
        NotifierResult(ok=False, retry_after_ms=60_000),
    ]
    for lane in range(20):
        bench.notifier.answers[str(lane)] = [chance.choice(kinds) for _ in range(30)]
    refused = 0
    for _ in range(1_000):
        lane = chance.randrange(20)
        refused += bench.offer(str(lane), app=str(lane % 3))[0] is not None
        if not chance.randrange(5):
            await asyncio.sleep(0)
        bench.now_ms += chance.randrange(5_000)
    async with asyncio.timeout(60):
        while len(bench.results) + refused < 1_000:
            bench.now_ms += 1_000
            await asyncio.sleep(0)
    assert len(bench.queue) == 0
