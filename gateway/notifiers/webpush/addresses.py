"""Where a subscription's host may lead: looked up once, checked, and connected to as it was checked, so that a name can
not change its address in between; must never let a device send the gateway into a private network."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from gateway.model.public_addresses import is_public

#: a name is looked up again after this time
KEEP_MS = 60_000
#: and not used any more after this one
STALE_MS = 3_600_000
#: lookups at once, in threads of their own: the process's others have other work
MAX_LOOKUPS = 16
#: of these, for apps with a name that lately took too long; the rest is for those without
SLOW_LOOKUPS = 12
#: a lookup that takes longer has failed for who waits; its place is taken until the resolver gives it up as well
LOOKUP_S = 5.0
#: an app is held to have slow names for this time after the last one
SLOW_MS = 600_000
#: names of one app that wait for a lookup
MAX_WAITING = 64
#: names remembered; past it the oldest is looked up again
MAX_NAMES = 4_096

Name = tuple[str, int]
Resolve = Callable[[str, int], Awaitable[list[str]]]


_threads = ThreadPoolExecutor(MAX_LOOKUPS, thread_name_prefix="webpush-names")


async def resolve(host: str, port: int) -> list[str]:
    """Addresses of a name or literal, as the system's resolver gives them. Raises OSError."""
    look_up = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    found = await asyncio.get_running_loop().run_in_executor(_threads, look_up)
    return [str(address[4][0]) for address in found]


class Addresses:
    """One address for a host, checked.

    Looking a name up may take as long as whoever runs its name servers likes, and a thread can not be taken back: so
    a few lookups at once, one for each name, and a name that is known is used while it is looked up again. Where
    `whose` says which app a name is of, each app has one under way or next, and the last places are kept for apps
    whose names answer: those of some that never do leave the others their turn.
    """

    def __init__(
        self,
        *,
        allows_private: bool,
        clock: Callable[[], int],
        resolve: Resolve = resolve,
        lookup_s: float = LOOKUP_S,
    ) -> None:
        self._allows_private = allows_private
        self._clock = clock
        self._resolve = resolve
        self._found: dict[Name, tuple[int, list[str]]] = {}
        self._looking: dict[Name, asyncio.Task[list[str]]] = {}
        self.lookup_s = lookup_s
        self._places = asyncio.Semaphore(MAX_LOOKUPS)
        self._slow_places = asyncio.Semaphore(SLOW_LOOKUPS)
        #: app → when a name of it took too long last
        self._slow_ms: dict[str, int] = {}
        #: lookups themselves, which go on where nobody waits any more
        self._running: set[asyncio.Task[list[str]]] = set()
        #: app → its turn, and how many of its names wait for it
        self._turns: dict[str, asyncio.Semaphore] = {}
        self._waiting: Counter[str] = Counter()

    def __len__(self) -> int:
        """Lookups under way, those that nobody waits for any more too."""
        return len(self._running)

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
        async with contextlib.AsyncExitStack() as places:
            if whose:
                await places.enter_async_context(self._turns.setdefault(whose, asyncio.Semaphore(1)))
            if self._is_slow(whose):
                await places.enter_async_context(self._slow_places)
            await places.enter_async_context(self._places)
            running = asyncio.get_running_loop().create_task(self._ask(name, places.pop_all()))
        self._running.add(running)
        running.add_done_callback(self._on_end)
        try:
            async with asyncio.timeout(self.lookup_s):
                return await asyncio.shield(running)
        except TimeoutError:
            self._slow_ms.pop(whose, None)
            if len(self._slow_ms) >= MAX_NAMES:
                del self._slow_ms[next(iter(self._slow_ms))]
            self._slow_ms[whose] = self._clock()
            raise OSError("the name could not be looked up in time") from None

    def _is_slow(self, whose: str) -> bool:
        return 0 <= self._clock() - self._slow_ms.get(whose, -SLOW_MS) < SLOW_MS

    async def _ask(self, name: Name, places: contextlib.AsyncExitStack) -> list[str]:
        async with places:
            found = sorted(await self._resolve(*name), key=lambda text: ":" in text)
        self._found.pop(name, None)
        if len(self._found) >= MAX_NAMES:
            del self._found[next(iter(self._found))]
        self._found[name] = (self._clock(), found)
        return found

    def _on_end(self, task: asyncio.Task[list[str]]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # who waits is told; what was known stays until it is stale

    def _on_answer(self, name: Name, whose: str, task: asyncio.Task[list[str]]) -> None:
        self._looking.pop(name, None)
        self._waiting[whose] -= 1
        if not task.cancelled():
            task.exception()

    async def close(self) -> None:
        tasks: list[asyncio.Task[list[str]]] = [*self._looking.values(), *self._running]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
