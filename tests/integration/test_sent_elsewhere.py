"""A gateway that knows others: whom it sends away is told where to go."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from open_house import House, until

from gateway.edge.farewell import Refuge
from gateway.model.device_address import DeviceAddress
from gateway.model.errors import Overloaded
from gateway.model.frames import FrameType

Open = Callable[..., Awaitable[House]]
OTHERS = [Refuge(DeviceAddress("a.example", 7400, 7443), 2), Refuge(DeviceAddress("b.example", 7401), 1)]


async def told(house: House, count: int) -> list[dict[str, Any]]:
    devices = [house.device() for _ in range(count)]
    for device in devices:
        await device.login()
    await house.gateway.edge.drain(0.1)
    bodies = []
    for device in devices:
        frames = await device.end()
        assert frames[-1].kind == FrameType.GOAWAY
        bodies.append(frames[-1].body)
    return bodies


async def test_a_drain_spreads_devices_over_the_other_nodes_by_weight(open_house: Open) -> None:
    house = await open_house({"edge.reactors": 2})
    house.gateway.edge.elsewhere = lambda: OTHERS
    bodies = await told(house, 30)
    places = Counter((body["host"], body["port"], body.get("tls_port", 0)) for body in bodies)
    assert set(places) == {("a.example", 7400, 7443), ("b.example", 7401, 0)}
    # each reactor gives two to one, wherever the kernel put the connections
    assert abs(places["a.example", 7400, 7443] - 20) <= 2
    assert all(body["name"] == "draining" and body["retry"] and "after_ms" not in body for body in bodies)


async def test_a_login_too_many_is_sent_to_a_node_that_has_room(open_house: Open) -> None:
    house = await open_house({"edge.logins_per_s": 1, "edge.reactors": 1})
    house.gateway.edge.elsewhere = lambda: OTHERS[:1]

    async def is_named() -> bool:
        device = await house.device().connect()
        device.send(FrameType.HELLO, {"v": 1})
        await until(lambda: device.closed or device.waiting(FrameType.WELCOME))
        if device.waiting(FrameType.WELCOME):
            device.vanish()
            return False
        body = (await device.end())[-1].body
        assert body["name"] == Overloaded.name
        return body.get("host") == "a.example"

    await until(is_named, pause_s=0.05)
