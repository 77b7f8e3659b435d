"""The whole gateway on uvloop with an APNs, an FCM and a push service that run here: settings through the API, a
device that is away, and the notification where its phone or browser would get it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from open_house import House, until

from gateway.metrics import Metric
from gateway.notifiers.apns.local import LocalApns
from gateway.notifiers.fcm.local import LocalFcm
from gateway.notifiers.local_h2 import Trouble, build_json
from gateway.notifiers.local_tls import Authority
from gateway.notifiers.webpush.local import LocalPushService

Open = Callable[..., Any]
DEVICE = "0a1b2c3d" * 8
PRIVATE = {"delivery.webpush_private": True}


async def away(house: House, fallback: list[str], addresses: dict[str, str]) -> str:
    """Token of a device that registered and left."""
    device = house.device()
    await device.login()
    token = await device.register(addresses=addresses, fallback=fallback)
    device.close()

    async def is_away() -> bool:
        return not await house.shop.is_connected(token)

    await until(is_away)
    return token


async def notified(house: House, push: str) -> list[tuple[str, str, str]]:
    """The delivery's history, once a notifier took it. (The state itself begins when the call is queued.)"""
    steps: list[tuple[str, str, str]] = []

    async def probe() -> bool:
        delivery = await house.shop.delivery(push)
        steps[:] = [(step["what"], step["channel"], step["detail"]) for step in delivery["steps"]]
        return steps[-1][0] == "notified"

    await until(probe)
    return steps


async def test_a_device_that_is_away_is_reached_by_each_upstream(open_house: Open) -> None:
    authority = Authority()
    async with (
        LocalApns(authority=authority) as apns,
        LocalFcm(authority=authority) as fcm,
        LocalPushService(authority=authority) as service,
    ):
        notifiers = {"apns": apns.settings(), "fcm": fcm.settings(), "webpush": service.settings()}
        house = await open_house(PRIVATE, apps={"shop": {"notifiers": notifiers}})
        addresses = {
            "apns": apns.add_device(DEVICE),
            "fcm": fcm.add_device("fcm-token"),
            "webpush": service.subscribe(),
        }
        for name in notifiers:
            token = await away(house, [name], addresses)
            push = await house.shop.push(token, f"by {name}", text="hello")
            assert (await notified(house, push))[-1][:2] == ("notified", name)
        assert apns.taken[0].payload["aps"]["alert"] == {"title": "by apns", "body": "hello"}
        assert fcm.taken[0]["notification"] == {"title": "by fcm", "body": "hello"}
        assert service.taken[0].message["title"] == "by webpush"


async def test_a_dead_address_goes_on_to_the_next_of_the_chain(open_house: Open) -> None:
    async with LocalApns() as apns, LocalPushService() as service:
        notifiers = {"apns": apns.settings(), "webpush": service.settings()}
        house = await open_house(PRIVATE, apps={"shop": {"notifiers": notifiers}})
        addresses = {"apns": apns.add_device(DEVICE, "Unregistered"), "webpush": service.subscribe()}
        token = await away(house, ["apns", "fcm", "webpush"], addresses)
        push = await house.shop.push(token, "one of three")
        assert (await notified(house, push))[-3:] == [
            ("notifier_failed", "apns", "410 Unregistered"),
            ("notifier_failed", "fcm", "no settings"),
            ("notified", "webpush", "201 ok"),
        ]
        assert house.gateway.metrics.value(Metric.NOTIFIER_OUTCOMES, "apns Unregistered") == 1


async def test_retry_after_is_kept_to_and_then_it_arrives(open_house: Open) -> None:
    async with LocalApns() as apns:
        settings = {"delivery.retry_ms": 100, "delivery.notifier_hold_s": 0}
        house = await open_house(settings, apps={"shop": {"notifiers": {"apns": apns.settings()}}})
        apns.add_device(DEVICE)
        apns.expect(build_json(503, {"reason": "ServiceUnavailable"}, retry_after="1"))
        token = await away(house, ["apns"], {"apns": DEVICE})
        first = await house.shop.push(token, "first")
        await house.shop.reaches(first, "waiting")
        second = await house.shop.push(token, "second")
        for push in (first, second):
            await notified(house, push)
        assert len(apns.requests) == 3
        assert sorted(taken.payload["aps"]["alert"]["title"] for taken in apns.taken) == ["first", "second"]


async def test_a_call_under_way_at_a_stop_is_answered_and_not_made_again(
    open_house: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with LocalApns() as apns:
        settings = {"delivery.notifier_ack_ms": 200, "edge.drain_s": 30}
        house = await open_house(settings, apps={"shop": {"notifiers": {"apns": apns.settings()}}})
        apns.add_device(DEVICE)
        apns.expect(Trouble.HANG)
        token = await away(house, ["apns"], {"apns": DEVICE})
        push = await house.shop.push(token, "once")
        await apns.arrived(1)
        empty, drain = asyncio.Event(), house.gateway.edge.drain

        async def watched(seconds: float) -> None:
            await drain(seconds)
            empty.set()

        monkeypatch.setattr(house.gateway.edge, "drain", watched)
        draining = asyncio.ensure_future(house.gateway.drain())
        await empty.wait()
        for _ in range(20):
            await asyncio.sleep(0)
        assert not draining.done()
        apns.release()
        await draining
        await house.restart()
        assert (await notified(house, push))[-1][:2] == ("notified", "apns")
        other = await house.shop.push(token, "another")  # by then the first has had its look
        await notified(house, other)
        assert [taken.payload["aps"]["alert"]["title"] for taken in apns.taken] == ["once", "another"]
