"""Devices that come again and again because their logins were not decided in time: the storm ends by itself."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from bare_device import BareDevice
from open_house import until

from gateway.metrics import Metric
from gateway.model.frames import FrameType

#: together they want three times as many logins a second as are decided
DEVICES = 300
DECIDING_S = 0.003
LOGIN_TIMEOUT_S = 0.3


class Crowd:
    """Devices on a thread of their own, each at it until it is in."""

    def __init__(self, port: int) -> None:
        self._port = port
        #: how many are not in
        self.still_away = DEVICES
        self._is_over = False
        self._thread = threading.Thread(target=lambda: asyncio.run(self._come()), daemon=True)

    def start(self) -> None:
        self._thread.start()

    async def _come(self) -> None:
        devices = [BareDevice(self._port) for _ in range(DEVICES)]
        await asyncio.gather(*(self._try(device) for device in devices))
        while not self._is_over:
            await asyncio.sleep(0.02)
        for device in devices:
            if not device.closed:
                device.vanish()

    async def _try(self, device: BareDevice) -> None:
        while not self._is_over:
            await device.connect()
            device.send(FrameType.HELLO, {"v": 1, "device": f"d{id(device)}"})
            with contextlib.suppress(AssertionError):  # the gateway closed the link
                await device.receive(FrameType.WELCOME)
                self.still_away -= 1
                return

    async def end(self) -> None:
        self._is_over = True
        await asyncio.to_thread(self._thread.join, 10.0)


async def test_a_storm_that_comes_again_faster_than_it_is_decided_ends(
    open_house: Callable[..., Awaitable[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    house = await open_house(
        {
            "auth.device": "open",
            "edge.reactors": 1,
            "edge.login_timeout_s": LOGIN_TIMEOUT_S,
            "edge.device_logins_per_minute": 0,
        }
    )
    first = house.device()
    await first.login(device="first")
    decide = house.gateway.edge._login.decide

    cost = threading.Event()  # never set

    def slowly(hello: Any) -> Any:
        cost.wait(DECIDING_S)
        return decide(hello)

    monkeypatch.setattr(house.gateway.edge._login, "decide", slowly)
    crowd = Crowd(house.port)
    crowd.start()
    try:
        await until(lambda: crowd.still_away == 0, 20.0)
    finally:
        await crowd.end()
    assert house.value(Metric.LOGINS, "late") > 0
    assert not first.closed


async def test_a_device_whose_link_carries_echoes_has_its_fetches_answered_each_once(
    open_house: Callable[..., Awaitable[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    house = await open_house({"auth.device": "open", "edge.reactors": 1})
    first = house.device()
    token = await first.join(device="first")
    monkeypatch.setattr(house.gateway.edge._queue, "_pause_s", 0.0)  # with each login
    for number in range(10):
        await house.shop.push(token, "light", data={"number": number}, body="on_demand")
        light = await first.note(ack=True)
        others = [house.device() for _ in range(5)]
        for other in others:
            await other.connect()
            other.send(FrameType.HELLO, {"v": 1, "device": f"d{id(other)}"})
        answer = await first.ask(FrameType.FETCH, FrameType.FETCHED, token=token, ids=[light["id"]])
        assert answer["count"] == 1
        assert (await first.note(ack=True))["data"] == {"number": number}
        for other in others:
            await other.receive(FrameType.WELCOME)
    assert not first.waiting(FrameType.FETCHED)
    assert not house.value(Metric.LOGINS, "late")
