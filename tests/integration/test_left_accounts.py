"""An account that a device left is left by every channel, whether there was a link when the user went or not (A5)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from open_house import House, until

from gateway.client import Connection, Device
from gateway.tour.stage import NotifierEndpoint


@pytest.mark.parametrize("replaced", [False, True], ids=["logs out", "is replaced"])
@pytest.mark.parametrize("link", ["there", "gone", "cut meanwhile"])
async def test_nothing_goes_to_another_channel_for_who_left(
    open_house: Callable[..., Awaitable[House]], endpoint: NotifierEndpoint, link: str, replaced: bool
) -> None:
    webhook = {"fallback": ["webhook"], "notifiers": {"webhook": {"url": endpoint.url, "secret": endpoint.secret}}}
    house = await open_house({"delivery.notifier_ack_ms": 100, "delivery.retry_ms": 100}, apps={"shop": webhook})
    may_connect = asyncio.Event()

    async def sleep(_: float) -> None:
        await may_connect.wait()

    async with Device("127.0.0.1", house.port, sleep=sleep) as device:
        anna = await device.register("shop", "1", account="anna")
        zoe = await device.register("shop", "1", account="zoe", keep=True)
        token = anna.token
        if link == "gone":
            device.cut()
            await until(lambda: device.state.connection is Connection.WAITING)
        leaving = asyncio.create_task(_replace(device) if replaced else anna.unregister())
        await asyncio.sleep(0)
        if link == "cut meanwhile":
            device.cut()
        may_connect.set()
        await leaving
        assert not anna.active
        bert = await device.register("shop", "1", account="bert", keep=True)
        directory = house.gateway.store.directory
        await until(lambda: directory.registry.signed_out(directory.find(token, "shop")))
        push = await house.shop.push(token, "secret of anna", text="x")
        await house.shop.push(bert.token, "for bert", text="x")
        assert (await anext(bert)).title == "for bert"
        # the notifier is asked for him while he is away: anna's would have come before
        device.cut()
        may_connect.clear()
        await until(lambda: device.state.connection is Connection.WAITING)
        await house.shop.push(bert.token, "for bert, away", text="x")
        await until(lambda: endpoint.has("for bert, away"))
        assert not endpoint.has("secret of anna")
        assert (await house.shop.delivery(push))["state"] == "waiting"
        may_connect.set()
        assert zoe.active is not replaced


async def _replace(device: Device) -> None:
    await device.register("shop", "1", account="bert")
