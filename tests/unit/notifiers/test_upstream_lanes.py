"""Circuit, rate and Retry-After of each lane; the clients behind them; and a real upstream that hangs beside one that
delivers."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest
import structlog
from upstream_rig import IDS, MovedClock, build_app, build_notification, build_registration, outcomes

from gateway.config.sections import Delivery
from gateway.delivery.notify_queue import Call, Job, NotifyQueue
from gateway.metrics import Metric, Metrics
from gateway.model.ports import NotifierResult
from gateway.notifiers.apns.client import ApnsNotifier
from gateway.notifiers.apns.local import LocalApns
from gateway.notifiers.connections import MAX_ANSWER_BYTES, Connections, build_client, build_context
from gateway.notifiers.local_h2 import LocalServer, Reply, Trouble
from gateway.notifiers.local_tls import Authority
from gateway.notifiers.upstream import (
    CIRCUIT,
    INTERNAL,
    NO_SETTINGS,
    PAUSED,
    RATE,
    SHARED,
    Answer,
    Fault,
    Gates,
    Limits,
    Row,
    Upstream,
    Verdict,
    build_limits,
    parse_trouble,
)

OK = Row(200, "ok", Verdict.OK, Fault.NONE, "")
BROKEN = Row(500, "broken", Verdict.RETRY, Fault.UPSTREAM, "")
KEY = Row(403, "key", Verdict.RETRY, Fault.CREDENTIAL, "")
SLOW_DOWN = Row(429, "slow_down", Verdict.RETRY, Fault.THROTTLE, "")
DEVICE = Row(410, "device", Verdict.GONE, Fault.ADDRESS, "")


class Way:
    """An upstream whose answers are told."""

    def __init__(self, **limits: Any) -> None:
        self.now_ms = 1_000_000
        self.metrics = Metrics(process=False)
        self.upstream = Upstream("way", Limits(**limits), self.metrics, lambda: self.now_ms)

    async def ask(self, answer: Answer | Exception, lane: str = "a") -> NotifierResult:
        async def call() -> Answer:
            if isinstance(answer, Exception):
                raise answer
            return answer

        return await self.upstream.ask(lane, call)


@pytest.mark.parametrize("row", [BROKEN, KEY, SLOW_DOWN])
async def test_failures_in_a_row_open_the_lane_and_no_other(row: Row) -> None:
    way = Way(failures=3, open_s=2)
    results = [await way.ask(Answer(row)) for _ in range(4)]
    assert [(r.asked, r.retry_after_ms) for r in results] == [(True, 0), (True, 0), (True, 2_000), (False, 2_000)]
    assert (await way.ask(Answer(OK), "b")).ok
    assert way.metrics.value(Metric.CIRCUITS_OPENED, "way") == 1


async def test_circuit_opens_longer_each_time_up_to_a_limit_and_closes_with_the_first_answer() -> None:
    way = Way(failures=1, open_s=1, open_max_s=5)
    pauses = []
    for _ in range(5):
        result = await way.ask(Answer(BROKEN))
        pauses.append(result.retry_after_ms)
        way.now_ms += result.retry_after_ms
    assert pauses == [1_000, 2_000, 4_000, 5_000, 5_000]
    assert (await way.ask(Answer(DEVICE))).gone  # an answer is an answer
    assert (await way.ask(Answer(BROKEN))).retry_after_ms == 1_000


async def test_answer_about_one_device_says_nothing_against_the_lane() -> None:
    way = Way(failures=1)
    for _ in range(20):
        assert (await way.ask(Answer(DEVICE, retry_after_ms=50_000))).retry_after_ms == 0
    assert (await way.ask(Answer(OK))).ok


@pytest.mark.parametrize("row", SHARED, ids=lambda row: row.reason)
async def test_result_says_whether_the_lane_is_at_fault(row: Row) -> None:
    result = await Way().ask(Answer(row))
    assert result.is_lanes is (row.fault in (Fault.UPSTREAM, Fault.CREDENTIAL, Fault.THROTTLE))


async def test_retry_after_is_believed_up_to_a_limit() -> None:
    way = Way(pause_max_s=100)
    assert (await way.ask(Answer(SLOW_DOWN, retry_after_ms=10**12))).retry_after_ms == 100_000
    refused = await way.ask(Answer(OK))
    assert (refused.asked, refused.retry_after_ms, refused.detail) == (False, 100_000, "upstream rests")
    way.now_ms += 100_000
    assert (await way.ask(Answer(OK))).ok


async def test_rate_lets_a_seconds_worth_through_at_once_and_then_so_many_a_second() -> None:
    way = Way(rate=10)
    results = [await way.ask(Answer(OK)) for _ in range(12)]
    assert [result.ok for result in results] == [True] * 10 + [False] * 2
    assert (results[-1].asked, results[-1].retry_after_ms, results[-1].detail) == (False, 100, "rate limit")
    assert (await way.ask(Answer(OK), "b")).ok
    way.now_ms += 300
    assert [(await way.ask(Answer(OK))).ok for _ in range(4)] == [True] * 3 + [False]
    way.now_ms -= 60_000  # a clock that is set back gives nothing and takes nothing
    assert not (await way.ask(Answer(OK))).ok


@pytest.mark.parametrize("answer", [Answer(DEVICE, is_call=False), Answer(DEVICE, asked=False)])
async def test_call_that_was_not_made_neither_closes_nor_opens_a_circuit_nor_is_its_probe(answer: Answer) -> None:
    way = Way(failures=3, open_s=1)
    for _ in range(2):
        await way.ask(Answer(BROKEN))
        await way.ask(answer)
    assert (await way.ask(Answer(BROKEN))).retry_after_ms == 1_000
    way.now_ms += 1_000
    await way.ask(answer)
    assert (await way.ask(Answer(BROKEN))).retry_after_ms == 2_000  # that was the probe


async def test_unusable_settings_do_not_open_the_circuit() -> None:
    way = Way(failures=1)
    assert (await way.ask(Answer(NO_SETTINGS, is_call=False))).dead
    assert (await way.ask(Answer(OK))).ok


async def test_lane_rests_as_long_as_it_was_told_whatever_becomes_of_the_clock() -> None:
    way = Way(failures=1, open_s=10)
    await way.ask(Answer(BROKEN))
    way.now_ms -= 86_400_000
    assert (await way.ask(Answer(OK))).retry_after_ms == 10_000
    way.now_ms += 4_000
    assert (await way.ask(Answer(OK))).retry_after_ms == 6_000
    way.now_ms -= 3_600_000
    way.now_ms += 6_000
    assert (await way.ask(Answer(OK), "b")).ok
    assert (await way.ask(Answer(OK))).retry_after_ms == 6_000  # nobody looked between the two
    way.now_ms += 6_000
    assert (await way.ask(Answer(OK))).ok


async def test_rate_below_one_still_lets_one_through() -> None:
    way = Way(rate=0.5)
    assert (await way.ask(Answer(OK))).ok
    refused = await way.ask(Answer(OK))
    assert refused.retry_after_ms == 2_000
    way.now_ms += 2_000
    assert (await way.ask(Answer(OK))).ok


async def test_call_that_is_cut_off_frees_the_probe() -> None:
    way = Way(failures=1, open_s=1)
    await way.ask(Answer(BROKEN))
    way.now_ms += 1_000

    async def never() -> Answer:
        await asyncio.Event().wait()
        raise AssertionError

    probe = asyncio.create_task(way.upstream.ask("a", never))
    await asyncio.sleep(0)
    assert (await way.ask(Answer(OK))).detail == "circuit open"
    probe.cancel()
    await asyncio.gather(probe, return_exceptions=True)
    way.now_ms += 2_000
    assert (await way.ask(Answer(OK))).ok


async def test_call_has_an_end_of_its_own() -> None:
    way = Way(timeout_s=0.02)

    async def never() -> Answer:
        await asyncio.Event().wait()
        raise AssertionError

    result = await way.upstream.ask("a", never)
    assert (result.ok, result.dead, result.detail) == (False, False, "timeout")


async def test_fault_of_ours_is_for_now_and_its_text_goes_nowhere() -> None:
    with structlog.testing.capture_logs() as logs:
        result = await Way().ask(RuntimeError("secret address"))
    assert (result.ok, result.dead, result.detail) == (False, False, "RuntimeError")
    assert [entry["event"] for entry in logs] == ["upstream_call_failed"]
    assert "secret" not in str(logs)


def test_trouble_by_its_kind() -> None:
    def inside(error: Exception, cause: BaseException) -> Exception:
        error.__cause__ = cause
        return error

    verify = ssl.SSLCertVerificationError("hostname mismatch for push.example")
    assert parse_trouble(inside(httpx.ConnectError("x"), verify)).detail.startswith("TLS: the upstream's certificate")
    assert parse_trouble(inside(httpx.ConnectError("x"), ssl.SSLError("x"))).detail == "TLS: handshake failed"
    assert parse_trouble(httpx.ReadTimeout("push.example")).detail == "timeout"
    assert parse_trouble(OSError("push.example")).detail == "connection"
    assert parse_trouble(KeyError("push.example")) == Answer(INTERNAL, detail="KeyError")


def test_gates_are_bounded_and_those_that_remember_something_stay() -> None:
    evicted: list[int] = []
    gates = Gates(Limits(failures=1, open_s=60, gates=3), on_evicted=lambda: evicted.append(1))
    assert gates.enter("bad", 0) is None
    gates.report("bad", ok=False, now_ms=0)
    for n in range(10):
        assert gates.enter(f"good {n}", 0) is None
        gates.report(f"good {n}", ok=True, now_ms=0)
    assert len(gates) == 3
    assert not evicted
    refused = gates.enter("bad", 1)
    assert refused is not None
    assert refused.row is CIRCUIT
    for n in range(3):
        gates.pause(f"resting {n}", 10_000, 1)
    assert (len(gates), len(evicted)) == (3, 1)  # the oldest of three that all remember something
    refused = gates.enter("resting 2", 2)
    assert refused is not None
    assert refused.row is PAUSED


async def test_every_outcome_is_counted_by_its_reason() -> None:
    way = Way(rate=3)
    for answer in (Answer(OK), Answer(DEVICE), OSError("x"), Answer(OK)):
        await way.ask(answer)
    way.upstream.refuse(SHARED[0])
    assert outcomes(way.metrics, "way") == {"ok": 1, "device": 1, "connection": 1, "rate_limit": 1, "no_address": 1}
    assert RATE.reason == "rate_limit"


def test_limits_come_from_the_configuration() -> None:
    limits = build_limits(Delivery(notifier_rate=7, notifier_failures=2, notifier_lanes=9, notifier_pause_max_s=8))
    assert (limits.rate, limits.failures, limits.gates, limits.pause_max_s) == (7, 2, 9, 8)


# --- clients


async def test_clients_are_bounded_and_those_in_use_stay(authority: Authority) -> None:
    async with LocalServer(authority=authority) as server:
        connections = Connections(2)

        def build() -> httpx.AsyncClient:
            return build_client(build_context(server.ca))

        async def post(key: str) -> int:
            return (await connections.post(key, build, server.url, headers={}, content=b"x")).status

        server.expect(Trouble.HANG)
        hung = asyncio.create_task(post("hung"))
        await server.arrived(1)
        for key in ("a", "b", "c"):
            assert await post(key) == 200
        assert len(connections) == 2
        server.release()
        assert await hung == 200  # nobody took its client away
        await connections.close()


async def test_client_that_was_not_used_for_long_is_closed_with_the_next_call_of_any(authority: Authority) -> None:
    async with LocalServer(authority=authority) as server:
        connections = Connections(9, keep_s=0.0)

        def build() -> httpx.AsyncClient:
            return build_client(build_context(server.ca))

        for key in ("a", "b", "c"):
            await connections.post(key, build, server.url, headers={}, content=b"x")
        assert len(connections) == 1
        while len(server.connections) > 1:
            await asyncio.sleep(0.001)
        await connections.close()


async def test_call_cut_off_leaves_the_client_to_those_it_answers(authority: Authority) -> None:
    async with LocalServer(authority=authority) as server:
        connections = Connections(2)

        def build() -> httpx.AsyncClient:
            return build_client(build_context(server.ca))

        async def post() -> int:
            return (await connections.post("a", build, server.url, headers={}, content=b"x")).status

        assert await post() == 200
        server.expect(Trouble.HANG)
        hung = asyncio.create_task(post())
        await server.arrived(2)
        assert await post() == 200
        hung.cancel()
        await asyncio.gather(hung, return_exceptions=True)
        assert await post() == 200
        assert server.opened == 1
        # While nothing else came back, the connection itself is under suspicion.
        server.expect(Trouble.HANG)
        hung = asyncio.create_task(post())
        await server.arrived(5)
        hung.cancel()
        await asyncio.gather(hung, return_exceptions=True)
        assert await post() == 200
        assert server.opened == 2
        await connections.close()


async def test_long_answer_is_cut(authority: Authority) -> None:
    async with LocalServer(authority=authority) as server:
        connections = Connections(2)
        server.expect(Reply(400, b"x" * 60_000))
        got = await connections.post(
            "a", lambda: build_client(build_context(server.ca)), server.url, headers={}, content=b""
        )
        assert len(got.body) == 60_000 <= MAX_ANSWER_BYTES
        await connections.close()


# --- all together


async def test_upstream_that_hangs_starves_no_other_of_the_same_notifier(authority: Authority) -> None:
    """Two apps with an APNs each: one takes every call and never answers, the other delivers all."""
    stuck, fine = LocalApns(authority=authority), LocalApns(authority=authority)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(stuck)
        await stack.enter_async_context(fine)
        await both_apns(stuck, fine, stack)


async def both_apns(stuck: LocalApns, fine: LocalApns, stack: AsyncExitStack) -> None:
    clock = MovedClock()
    stuck.expect(*[Trouble.HANG] * 200)
    apps = {"stuck": stuck, "fine": fine}
    device = "0a1b2c3d" * 8
    fine.add_device(device)
    metrics = Metrics(process=False)
    delivery = Delivery(notifier_concurrency=8, notifier_timeout_s=60)
    results: dict[int, NotifierResult] = {}
    all_there = asyncio.Event()

    def load(job: Job) -> Call:
        name = "stuck" if job.seq < 200 else "fine"
        app = build_app("apns", apps[name].settings(), app=name)
        return app, build_registration("apns", device), build_notification(seq=job.seq)

    def on_result(job: Job, result: NotifierResult) -> None:
        results[job.seq] = result
        if len(results) == 200:
            all_there.set()

    notifier = ApnsNotifier(build_limits(delivery), push_ids=IDS, metrics=metrics, clock=clock.now_ms)
    stack.push_async_callback(notifier.close)
    queue = NotifyQueue(
        notifier,
        delivery=delivery,
        load=load,
        on_result=on_result,
        metrics=metrics,
        clock=clock.now_ms,
    )
    stack.push_async_callback(queue.close)
    for seq in range(400):
        app, registration, _ = load(Job(seq, "apns"))
        assert queue.offer(Job(seq, "apns"), app.name, queue.lane(app, registration)) is None
    await stuck.arrived(1)
    await all_there.wait()
    assert sorted(results) == list(range(200, 400))
    assert all(result.ok for result in results.values())
    assert len(fine.taken) == 200
    while queue.lanes > 1:
        await asyncio.sleep(0)
