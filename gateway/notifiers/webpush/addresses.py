"""Where a subscription's host may lead: looked up once, checked, and connected to as it was checked, so that a name can
not change its address in between; must never let a device send the gateway into a private network."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import Counter
from collections.abc import Awaitable, Callable

from gateway.model.public_addresses import is_public

#: a name is looked up again after this time
KEEP_MS = 60_000
#: and not used any more after this one
STALE_MS = 3_600_000
#: lookups at once; the rest of the resolver's threads is for the other notifiers
MAX_LOOKUPS = 2
#: names of one app that wait for a lookup
MAX_WAITING = 64
#: names remembered; past it the oldest is looked up again
MAX_NAMES = 4_096

Name = tuple[str, int]
Resolve = Callable[[str, int], Awaitable[list[str]]]


async def resolve(host: str, port: int) -> list[str]:
    """Addresses of a name or literal, as the system's resolver gives them. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[4][0]) for address in found]


class Addresses:
    """One address for a host, checked.

    Looking a name up may take as long as whoever runs its name servers likes, and the process has few threads for it:
    so a few lookups at once, one for each name, and a name that is known is used while it is looked up again. Where
    `whose` says which app a name is of, each app has one under way or next: names of one that never answer leave the
    others their turn.
    """

    def __init__(self, *, allows_private: bool, clock: Callable[[], int], resolve: Resolve = resolve) -> None:
        self._allows_private = allows_private
        self._clock = clock
        self._resolve = resolve
        self._found: dict[Name, tuple[int, list[str]]] = {}
        self._looking: dict[Name, asyncio.Task[list[str]]] = {}
        self._places = asyncio.Semaphore(MAX_LOOKUPS)
        #: app → its turn, and how many of its names wait for it
        self._turns: dict[str, asyncio.Semaphore] = {}
        self._waiting: Counter[str] = Counter()

    async def pick(self, host: str, port: int, *, allows_private: bool, whose: str = "") -> str | None:
        """The address to connect to, IPv4 first; None where there is none that may be. Raises OSError."""
        name = (host, port)
        found_ms, addresses = self._found.get(name, (-STALE_MS, []))
        age_ms = self._clock() - found_ms
        if not addresses or not 0 <= age_ms < STALE_MS:
            # One who is cut off must not end it for the others.
            addresses = await asyncio.shield(self._look_up(name, whose))
        elif age_ms >= KEEP_MS:
            with contextlib.suppress(OSError):
                self._look_up(name, whose)
        if allows_private or self._allows_private:
            return next(iter(addresses), None)
        return next((address for address in addresses if is_public(address)), None)

    def _look_up(self, name: Name, whose: str) -> asyncio.Task[list[str]]:
        task = self._looking.get(name)
        if task is None:
            if whose and self._waiting[whose] >= MAX_WAITING:
                raise OSError("too many names of this app wait to be looked up")
            self._waiting[whose] += 1
            task = self._looking[name] = asyncio.get_running_loop().create_task(self._in_turn(name, whose))
            task.add_done_callback(lambda done: self._on_answer(name, whose, done))
        return task

    async def _in_turn(self, name: Name, whose: str) -> list[str]:
        if not whose:
            return await self._ask(name)
        async with self._turns.setdefault(whose, asyncio.Semaphore(1)):
            return await self._ask(name)

    async def _ask(self, name: Name) -> list[str]:
        async with self._places:
            return sorted(await self._resolve(*name), key=lambda text: ":" in text)

    def _on_answer(self, name: Name, whose: str, task: asyncio.Task[list[str]]) -> None:
        self._looking.pop(name, None)
        self._waiting[whose] -= 1
        if task.cancelled() or task.exception() is not None:
            return  # who waits is told; what was known stays until it is stale
        self._found.pop(name, None)
        if len(self._found) >= MAX_NAMES:
            del self._found[next(iter(self._found))]
        self._found[name] = (self._clock(), task.result())

    async def close(self) -> None:
        tasks = list(self._looking.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
