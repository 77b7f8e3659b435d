"""Is a subscriber on line, and at which address: the question, and who is asked in which order (C11); must never give
an address that the network says is another's.

An APP UID, which stands for a NAI or an address (C1), is the same question: a NAI is looked up like an IMSI, and an
address that was told once counts where neither accounting nor a GGSN is asked: they know addresses by names, and an
address alone is the next subscriber's tomorrow.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple, Protocol

from gateway.model.subscriber import NetworkIdKind, Subscriber
from gateway.paging.ip.sessions import Session, Sessions

Address = IPv4Address | IPv6Address
_NAMES = (NetworkIdKind.IMSI, NetworkIdKind.MSISDN, NetworkIdKind.NAI)


class Whereabouts(NamedTuple):
    """`addresses` empty though on line: only a prefix is known, or only contexts of other APNs."""

    is_online: bool
    addresses: tuple[Address, ...] = ()

    def __repr__(self) -> str:
        return f"Whereabouts(is_online={self.is_online})"


OFF_LINE = Whereabouts(False)


class OnlineRegister(Protocol):
    """Who knows whether a subscriber is on line."""

    async def look_up(self, subscriber: Subscriber) -> Whereabouts | None:
        """None: it can not be asked of this subscriber. TimeoutError, OSError or ValueError where it does not answer,
        or not in its own protocol."""
        ...

    async def close(self) -> None: ...


class SessionRegister:
    """OnlineRegister port over what accounting told."""

    def __init__(self, sessions: Sessions, apns: Sequence[str]) -> None:
        self._sessions = sessions
        self._apns = frozenset(apn.lower() for apn in apns)

    async def look_up(self, subscriber: Subscriber) -> Whereabouts | None:
        found = [each for each in self._sessions.of(names_of(subscriber)) if _is_of(each, subscriber)]
        if _is_shared(found, subscriber):
            return Whereabouts(True)
        told = told_address(subscriber)
        addresses = [each for session in found if self._is_asked(session) for each in _addresses(session, told)]
        return Whereabouts(True, tuple(dict.fromkeys(addresses))) if found else OFF_LINE

    def _is_asked(self, session: Session) -> bool:
        return not self._apns or session.apn in self._apns

    async def close(self) -> None:
        """Nothing is kept open."""


def names_of(subscriber: Subscriber) -> Iterator[tuple[NetworkIdKind, str]]:
    """As accounting has them: an MSISDN without its plus."""
    for kind in _NAMES:
        for value in subscriber.all(kind):
            yield kind, value.lstrip("+") if kind is NetworkIdKind.MSISDN else value


def told_address(subscriber: Subscriber) -> Address | None:
    """The address that identity was told of."""
    try:
        return ip_address(subscriber.ip) if subscriber.ip else None
    except ValueError:
        return None


def _addresses(session: Session, told: Address | None) -> Iterator[Address]:
    if session.ipv4:
        yield IPv4Address(session.ipv4)
    if session.ipv6:
        yield IPv6Address(session.ipv6)
    elif session.prefix is not None and isinstance(told, IPv6Address):
        number, bits = session.prefix
        if int(told) >> (128 - bits) == number >> (128 - bits):
            yield told  # which host of the prefix the terminal is, the network does not say


def _is_of(session: Session, subscriber: Subscriber) -> bool:
    """Is it the subscriber's own? What both have and is surest says so, the IMSI first."""
    mine: dict[NetworkIdKind, set[str]] = {}
    for kind, value in names_of(subscriber):
        mine.setdefault(kind, set()).add(value)
    for kind, value in session.names:  # in the order of _NAMES
        if kind in mine:
            return value in mine[kind]
    return False


def _is_shared(found: Sequence[Session], subscriber: Subscriber) -> bool:
    """Known by a NAI alone, and cards of several people have it: whose address it is nobody can tell."""
    if subscriber.imsi or subscriber.msisdn:
        return False
    return len({session.names[0] for session in found}) > 1


class _Cached(NamedTuple):
    until_ms: int
    where: Whereabouts


class Cached:
    """OnlineRegister port that remembers another's answers for a while. `clock`: Unix ms."""

    def __init__(self, register: OnlineRegister, cache_s: float, most: int, clock: Callable[[], int]) -> None:
        self._register = register
        self._cache_ms = int(cache_s * 1000)
        self._most = most
        self._clock = clock
        self._known: OrderedDict[bytes, _Cached] = OrderedDict()  # by Subscriber.handle, oldest first

    async def look_up(self, subscriber: Subscriber) -> Whereabouts | None:
        known = self._known.get(subscriber.handle)
        if known is not None and self._clock() < known.until_ms:
            return known.where
        return await self.ask(subscriber)

    async def ask(self, subscriber: Subscriber) -> Whereabouts | None:
        """Whatever is remembered."""
        where = await self._register.look_up(subscriber)
        if where is not None and self._cache_ms:
            self.forget(subscriber)
            while len(self._known) >= self._most:
                self._known.popitem(last=False)  # a cache: the next question is asked again
            self._known[subscriber.handle] = _Cached(self._clock() + self._cache_ms, where)
        return where

    def forget(self, subscriber: Subscriber) -> None:
        """What was said of it did not hold."""
        self._known.pop(subscriber.handle, None)

    async def close(self) -> None:
        await self._register.close()


class Finder:
    """Asks in order: accounting, the GGSN, and what identity was told once where there is neither."""

    def __init__(self, sessions: SessionRegister | None, ggsn: Cached | None) -> None:
        self._sessions = sessions
        self._ggsn = ggsn

    async def find(self, subscriber: Subscriber, *, fresh: bool = False) -> Whereabouts | None:
        """None: nothing is known that could be asked for. `fresh`: not from the cache. As `OnlineRegister`."""
        where: Whereabouts | None = None
        if self._sessions is not None:
            where = await self._sessions.look_up(subscriber)
            if where is not None and where.is_online:
                return where
        if self._ggsn is not None:
            try:
                asked = await (self._ggsn.ask(subscriber) if fresh else self._ggsn.look_up(subscriber))
            except (TimeoutError, OSError, ValueError):
                if self._sessions is None or fresh:
                    raise
                asked = None  # accounting has said that it is off line; its trouble must not hold up who is on line
            where = asked if asked is not None else where
        if self._sessions is None and self._ggsn is None:
            told = told_address(subscriber)
            return None if told is None else Whereabouts(True, (told,))
        can_be_found = told_address(subscriber) is not None or any(True for _ in names_of(subscriber))
        return where if can_be_found else None

    def forget(self, subscriber: Subscriber) -> None:
        if self._ggsn is not None:
            self._ggsn.forget(subscriber)

    async def close(self) -> None:
        if self._ggsn is not None:
            await self._ggsn.close()
