"""Where a subscription's host may lead: looked up once, checked, and connected to as it was checked, so that a name can
not change its address in between; must never let a device send the gateway into a private network."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable

#: a name is looked up again after this time
KEEP_MS = 60_000
#: names remembered; past it the oldest is looked up again
MAX_NAMES = 4_096

Resolve = Callable[[str, int], Awaitable[list[str]]]

#: IPv6 with an IPv4 address inside that a translator of the network connects to (RFC 6052 §2.1, RFC 8215)
_NAT64 = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("64:ff9b:1::/48"))


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
    return address.is_global and not address.is_multicast and not address.is_reserved and not address.is_unspecified


async def resolve(host: str, port: int) -> list[str]:
    """Addresses of a name or literal, as the system's resolver gives them. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[4][0]) for address in found]


class Addresses:
    """One address for a host, checked."""

    def __init__(self, *, allows_private: bool, clock: Callable[[], int], resolve: Resolve = resolve) -> None:
        self._allows_private = allows_private
        self._clock = clock
        self._resolve = resolve
        self._found: dict[tuple[str, int], tuple[int, list[str]]] = {}

    async def pick(self, host: str, port: int, *, allows_private: bool) -> str | None:
        """The address to connect to, IPv4 first; None where there is none that may be. Raises OSError."""
        key, now_ms = (host, port), self._clock()
        kept = self._found.get(key)
        if kept is None or not 0 <= now_ms - kept[0] < KEEP_MS:
            addresses = sorted(await self._resolve(host, port), key=lambda text: ":" in text)
            self._found.pop(key, None)
            if len(self._found) >= MAX_NAMES:
                del self._found[next(iter(self._found))]
            kept = self._found[key] = (now_ms, addresses)
        if allows_private or self._allows_private:
            return next(iter(kept[1]), None)
        return next((address for address in kept[1] if is_public(address)), None)
