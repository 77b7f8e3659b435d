"""Where a subscription's host may lead: looked up once, checked, and connected to as it was checked, so that a name can
not change its address in between; must never let a device send the gateway into a private network."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
from collections import Counter
from collections.abc import Awaitable, Callable

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

#: IPv6 with an IPv4 address inside that a translator of the network connects to (RFC 6052 §2.1, RFC 8215)
_NAT64 = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("64:ff9b:1::/48"))
#: for documentation (RFC 9637) and relays long gone (RFC 7526), which this Python may still call global
_NOT_GLOBAL = (ipaddress.ip_network("3fff::/20"), ipaddress.ip_network("192.88.99.0/24"))


def is_public(text: str) -> bool:
    """Is it an address of the public Internet, however it is written or wrapped?"""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address):
        if any(address in network for network in _NAT64):
            return is_public(str(ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)))
        for inner in (address.ipv4_mapped, address.sixtofour):
            if inner is not None:
                return is_public(str(inner))
        if address.teredo is not None or address.is_site_local:
            return False
    if any(address in network for network in _NOT_GLOBAL if network.version == address.version):
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved and not address.is_unspecified


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
