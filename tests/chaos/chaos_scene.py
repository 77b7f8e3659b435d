"""A gateway process, a provider's door and some devices: the scene on which one kind of trouble is played."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
from chaos_crowd import ChaosDevice, Crowd, Link
from chaos_gateway import Deadline, GatewayProcess
from chaos_ledger import Ledger, Push
from chaos_provider import Door

from gateway.model.frames import FrameType

UNAVAILABLE = "the store can not be written"


async def eventually(probe: Callable[[], Awaitable[object]], what: str, timeout_s: float = 60.0) -> None:
    """Ask over the wire until the answer is true: for what the gateway tells nobody by itself."""
    async with Deadline(timeout_s, what):
        while not await probe():
            await asyncio.sleep(0.05)


class Scene:
    """`async with Scene(folder, settings…) as scene`: the gateway runs and the app is there."""

    def __init__(self, store: Path, *settings: str) -> None:
        self.ledger = Ledger()
        self.gateway = GatewayProcess(store, "edge.device_logins_per_minute=0", "edge.drain_s=0.2", *settings)
        self.door = Door(self.gateway)
        self.crowd = Crowd(self.gateway, self.ledger, random.Random(1))
        self._marks = itertools.count(1)

    async def __aenter__(self) -> Scene:
        try:
            await self.gateway.start()
            await self.door.create_app()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.crowd.stop()
        await self.door.__aexit__()
        await self.gateway.kill()

    async def device(self, **about: Any) -> ChaosDevice:
        """One more, registered and connected."""
        device = self.crowd.add(**about)
        await device.connect(self.gateway)
        return device

    async def push(self, device: ChaosDevice, filling: int = 0) -> httpx.Response:
        """To one device; what is answered 201 is written down."""
        push = self.ledger.intend(Push(f"s{next(self._marks)}", "token", frozenset((device.number,)), False))
        fields = {"data": "x" * filling, "body": "at_once"} if filling else {}
        answer = await self.door.push({"token": device.token}, push.mark, **fields)
        if answer.status_code == 201:
            self.ledger.accepted(push, answer.json()["id"], replay=False, targeted=answer.json()["targeted"])
        elif answer.json()["error"]["name"] == "store_unavailable":
            self.ledger.refused(push)
        return answer

    async def accept(self, device: ChaosDevice, filling: int = 0) -> Push:
        answer = await self.push(device, filling)
        assert answer.status_code == 201, answer.text
        return next(push for push in self.ledger.pushes.values() if push.answered == answer.json()["id"])

    async def is_ready(self) -> bool:
        status, _ = await self.door.ready()
        return status == 200

    async def leave(self, device: ChaosDevice) -> None:
        """The device goes, and the gateway has noticed."""
        assert device.link is not None
        device.link.close()

        async def gone() -> bool:
            answer = await self.door.call("GET", f"/v1/registrations/{device.token}")
            return answer.json()["connected"] is False

        await eventually(gone, "the end of the connection")

    async def heartbeat(self, link: Link) -> None:
        """PING, and the PONG is there."""
        before = link.pongs
        link.send(FrameType.PING)
        await link.until(lambda: link.pongs > before, "PONG")

    async def settled(self, *devices: ChaosDevice) -> None:
        """They are connected, fetch and ack until nothing waits."""
        for device in devices:
            if device.link is None or not device.link.is_up:
                await device.connect(self.gateway)
            await device.drain()

    async def follow(self) -> None:
        """The receipts feed up to now, with all that was processed."""
        await self.door.two_commits()
        while rows := await self.door.receipts(self.ledger.cursor):
            for row in rows:
                self.ledger.receipt(row["cursor"], row["push"], row["delivery"], row["state"], row["token"] or "")

    async def receipts_of(self, pushes: int) -> None:
        """Wait until the feed tells of so many deliveries."""

        async def fed() -> bool:
            await self.follow()
            return self.ledger.counts["receipts acked"] >= pushes

        await eventually(fed, f"{pushes} receipts")

    def ended_cleanly(self) -> None:
        """The process ended by itself: what it had processed is durable."""
        generation = self.gateway.generation
        self.ledger.durable(self.ledger.unproved(generation))

    def judge(self) -> None:
        """Nothing answered 201 is missing, and no rule was broken."""
        assert not self.ledger.violations, self.ledger.verdict()
        assert not self.ledger.missing(), self.ledger.missing()
