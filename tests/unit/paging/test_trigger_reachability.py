"""A device that could not be triggered is watched by the network, and what waits for it goes when it is back (C10)."""

from __future__ import annotations

import asyncio
import datetime
from typing import Any

import pytest
from trigger_scene import HANDLE, MSISDN, OPAQUE, QUIET, TriggerScene, until

from gateway.metrics import Metric
from gateway.model.subscriber import Subscriber
from gateway.paging.trigger.local import Behaviour


@pytest.fixture(autouse=True)
async def in_time() -> Any:
    async with asyncio.timeout(30):
        yield


def watches(scene: TriggerScene, result: str) -> float:
    return scene.metrics.value(Metric.TRIGGER_WATCHES, result)


AWAY = [Behaviour(results=("FAILURE",)), Behaviour(results=("EXPIRED",))]


@pytest.mark.parametrize("behaviour", [*AWAY, Behaviour(status=504, cause="UE_NOT_REACHABLE")])
async def test_it_is_watched_once_and_brings_back_what_waits(behaviour: Behaviour) -> None:
    async with TriggerScene(watch_reachability=True) as scene:
        for registration in (3, 4):
            scene.scef.next.append(behaviour)
            await scene.push(registration=registration)
            await until(lambda n=registration - 2: len(scene.waiting._waiting.get(HANDLE, [()])[0]) == n)  # type: ignore[misc]
            await until(lambda: not scene.notifier._asking)
        assert watches(scene, "taken") == 1
        (watch,) = scene.scef.watches
        body = watch.body
        assert (body["msisdn"], body["monitoringType"], body["reachabilityType"]) == (MSISDN, "UE_REACHABILITY", "DATA")
        assert body["maximumNumberOfReports"] == 1
        ends = datetime.datetime.fromisoformat(body["monitorExpireTime"]).timestamp()
        assert 86_300 < ends - scene.clock() / 1000 <= 86_400
        assert scene.backs == []
        assert await scene.scef.reachable(watch) == 204
        assert sorted(scene.backs) == [3, 4]
        assert len(scene.waiting) == 0
        assert await scene.scef.reachable(watch) == 404  # it was asked for one report
        assert sorted(scene.backs) == [3, 4]
        assert watches(scene, "reachable") == 1
        scene.assert_strict()


async def test_after_a_report_it_can_be_watched_again() -> None:
    async with TriggerScene(watch_reachability=True, watch_for="sms", identify="opaque_id") as scene:
        for number in (1, 2):
            scene.scef.next.append(AWAY[0])
            await scene.push(seq=number)
            await until(lambda n=number: watches(scene, "taken") == n)  # type: ignore[misc]
            assert scene.scef.watches[-1].body["externalId"] == OPAQUE
            assert scene.scef.watches[-1].body["reachabilityType"] == "SMS"
            assert await scene.scef.reachable(scene.scef.watches[-1]) == 204
        assert scene.backs == [3, 3]


async def test_delivered_is_not_watched_and_nothing_is_where_that_is_off() -> None:
    async with TriggerScene(watch_reachability=True) as scene:
        assert (await scene.push()).ok
        await until(lambda: scene.history.words == ["delivered"])
        assert not scene.notifier._asking
        assert len(scene.waiting) == 0
    async with TriggerScene() as scene:
        scene.scef.behaviour = AWAY[0]
        assert (await scene.push()).ok
        await until(lambda: len(scene.waiting) == 1)  # another pager may hear that it is back
        await until(lambda: not scene.notifier._asking)
        assert scene.scef.watches == []


async def test_a_device_that_is_there_is_said_in_the_answer() -> None:
    async with TriggerScene(watch_reachability=True) as scene:
        scene.scef.next += [AWAY[0], Behaviour(body=b'{"monitoringEventReport":{"monitoringType":"UE_REACHABILITY"}}')]
        assert (await scene.push()).ok
        await until(lambda: scene.backs == [3])


@pytest.mark.parametrize(
    ("behaviour", "result"),
    [
        (Behaviour(status=404), "refused"),
        (Behaviour(status=500), "refused"),
        (Behaviour(resets=True), "failed"),
        (Behaviour(hangs=True), "failed"),
        (Behaviour(raw=b"garbage"), "failed"),
    ],
)
async def test_a_network_that_does_not_watch_is_asked_again_another_time(behaviour: Behaviour, result: str) -> None:
    async with TriggerScene(watch_reachability=True, timeout_s=1.0) as scene:
        scene.scef.next += [AWAY[0], behaviour, behaviour]
        assert (await scene.push()).ok
        await until(lambda: watches(scene, result) == 1)
        await until(lambda: not scene.notifier._asking)
        assert len(scene.waiting) == 1
        scene.scef.next.clear()
        scene.scef.next.append(AWAY[0])
        assert (await scene.push(registration=4)).ok
        await until(lambda: watches(scene, "taken") == 1)


async def test_what_the_network_may_say_of_a_watch() -> None:
    async with TriggerScene(watch_reachability=True) as scene:
        scene.scef.next.append(AWAY[0])
        assert (await scene.push()).ok
        await until(lambda: watches(scene, "taken") == 1)
        (watch,) = scene.scef.watches
        url = watch.body["notificationDestination"]
        other = {"subscription": watch.url, "monitoringEventReports": [{"monitoringType": "ROAMING_STATUS"}]}
        for body, status in (
            ({"subscription": watch.url}, 204),  # a test
            (other, 204),
            ({"subscription": watch.url, "monitoringEventReports": []}, 400),
            ({"subscription": watch.url, "monitoringEventReports": [7]}, 400),
            ({"monitoringEventReports": [{"monitoringType": "UE_REACHABILITY"}]}, 400),
            ([], 400),
            (b"\xff", 400),
        ):
            assert await scene.scef.post(url, body) == status
        assert scene.backs == []
        # a trigger's report on a watch's name, and the other way round, is on neither
        assert await scene.scef.post(url.replace("monitoring-", "device-triggering-"), {}) == 404
        assert await scene.scef.post(url, {"subscription": watch.url, "cancelInd": True}) == 204
        assert watches(scene, "cancelled") == 1
        assert await scene.scef.reachable(watch) == 404
        assert scene.backs == []


async def test_past_the_bound_nobody_more_is_watched_until_one_ends() -> None:
    async with TriggerScene(watch_reachability=True, watches=1, watch_s=60) as scene:
        way = scene.notifier._way
        known = await scene.subscribers.resolve(OPAQUE, "shop")
        assert known is not None
        other = Subscriber(b"\x08" * 16, scene.subscribers.ids, known.kinds, "shop")
        await way.watch(known, OPAQUE)  # type: ignore[attr-defined]
        await way.watch(other, OPAQUE)  # type: ignore[attr-defined]
        assert len(scene.scef.watches) == 1
        assert scene.metrics.value(Metric.NOTIFIER_BOUNDS, "trigger watches") == 1
        scene.moved_ms = 61_000
        await way.watch(other, OPAQUE)  # type: ignore[attr-defined]
        assert len(scene.scef.watches) == 2
        assert await scene.scef.reachable(scene.scef.watches[0]) == 404


async def test_more_that_are_away_at_once_than_are_asked_about_wait_for_their_timers() -> None:
    async with TriggerScene(watch_reachability=True) as scene:
        scene.scef.behaviour = QUIET
        for number in range(70):
            assert (await scene.push(registration=number)).ok
        scene.scef.behaviour = Behaviour(delay_s=0.2, results=())
        for trigger in list(scene.scef.triggers):
            await scene.scef.report(trigger, "FAILURE")
        await until(lambda: len(scene.history.words) == 70)
        assert len(scene.notifier._asking) <= 64
        await until(lambda: not scene.notifier._asking)
        assert len(scene.scef.watches) == 1
