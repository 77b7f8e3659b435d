"""A thousand simulated devices over real TCP, each the SDK's own Device with one registration."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable

from gateway.client import Device, MemoryCredentials
from gateway.client.content import Notification
from gateway.client.registration import Registration
from gateway.tour.stage import APP, Failed

VERSIONS = ("1.0", "1.5", "2.0", "2.3", "3.0")
COLOURS = ("red", "green", "blue")
LOGINS_AT_ONCE = 64


class Member:
    """One device of the fleet and what came to it."""

    def __init__(self, number: int, port: int) -> None:
        self.number = number
        self.version = VERSIONS[number % len(VERSIONS)]
        self.tag = COLOURS[number % len(COLOURS)]
        self.alias = f"user-{number}"
        self.device = Device("127.0.0.1", port, store=MemoryCredentials(), label=f"member-{number}")
        self.titles: Counter[str] = Counter()
        self.registration: Registration | None = None
        self._fleet_changed: Callable[[], None] = lambda: None

    @property
    def token(self) -> str:
        assert self.registration is not None
        return self.registration.token

    def _on_message(self, notification: Notification) -> None:
        self.titles[notification.title] += 1
        self._fleet_changed()

    async def connect(self, changed: Callable[[], None]) -> None:
        self._fleet_changed = changed
        self.device.start()
        self.registration = await self.device.register(
            APP,
            self.version,
            account=f"account-{self.number}",
            alias=self.alias,
            tags=[self.tag],
            on_message=self._on_message,
        )


class Fleet:
    def __init__(self, size: int, port: int) -> None:
        self.members = [Member(number, port) for number in range(size)]
        self._changed = asyncio.Event()

    async def connect(self, progress: Callable[[int], None]) -> None:
        gate = asyncio.Semaphore(LOGINS_AT_ONCE)
        up = 0

        async def bring_up(member: Member) -> None:
            nonlocal up
            async with gate:
                await member.connect(self._changed.set)
            up += 1
            progress(up)

        async with asyncio.TaskGroup() as group:
            for member in self.members:
                group.create_task(bring_up(member))

    async def close(self) -> None:
        await asyncio.gather(*(member.device.aclose() for member in self.members if member.registration is not None))

    def pick(self) -> Member:
        return random.choice(self.members)  # noqa: S311 - which device is shown is no secret

    async def got(self, title: str, wanted: Callable[[Member], bool], timeout_s: float = 20.0) -> int:
        """Wait until exactly the wanted members have the notification, each once; returns how many."""
        expected = {member.number for member in self.members if wanted(member)}
        try:
            async with asyncio.timeout(timeout_s):
                while {m.number for m in self.members if m.titles[title]} != expected:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            have = sum(1 for m in self.members if m.titles[title])
            raise Failed(f"{have} devices got it, {len(expected)} should have, inside {timeout_s:g} s") from None
        twice = sum(1 for m in self.members if m.titles[title] > 1)
        if twice:
            raise Failed(f"{twice} devices showed it twice")
        return len(expected)
