"""Whom opaque ids stand for in an operator's network, and who knows it; must never show a number by being printed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from gateway.model.subscriber import NetworkId, Subscriber


class Numbered(Protocol):
    """What pagers ask of a subscriber."""

    @property
    def msisdn(self) -> str:
        """E.164, with or without its plus; empty where there is none, or it is not known."""
        ...

    @property
    def imsi(self) -> str:
        """6 to 15 digits; empty where it is not known."""
        ...


class Numbers(NamedTuple):
    """A subscriber as the network itself names it, for as long as a call takes."""

    msisdn: str = ""
    imsi: str = ""
    is_away: bool = False  # its terminal is known to have left the network

    def __repr__(self) -> str:
        return "Numbers(…)"


class Addresses(Protocol):
    """Who has which IP address now (C15)."""

    #: may somebody who has an address, and is not known by any other name yet, become a subscriber
    creates_subscribers: bool

    def whose(self, ip: str) -> Sequence[NetworkId] | None:
        """As the network names who has it, not in normal form; None: nothing is known of this address."""
        ...


class HomeRegister(Protocol):
    """The network's own register of subscribers (HLR, HSS), asked before something is sent (C8)."""

    async def look_up(self, subscriber: Numbered) -> Numbers | None:
        """As the register knows it, with what was missing; None where it knows no such subscriber. TimeoutError,
        OSError or ValueError where it can not be asked, or does not answer in its own protocol."""
        ...

    async def close(self) -> None: ...


class ImsHome(Protocol):
    """The home subscriber server, asked whom a public identity of IMS belongs to (C14)."""

    async def find(self, impu: str) -> Numbers | None:
        """`impu`: `sip:user@domain` or `tel:+number`. What the HSS has of MSISDN and IMSI; None where it knows no such
        identity. TimeoutError, OSError or ValueError where it can not be asked, or does not answer in its own
        protocol."""
        ...


class ExternalIds(Protocol):
    """The home subscriber server, asked whom an External Identifier stands for (C7, TS 23.682)."""

    async def find(self, external_id: str) -> Numbers | None:
        """`external_id`: `local@host`. MSISDN, IMSI or both; None where it stands for nobody. TimeoutError, OSError or
        ValueError where the HSS can not be asked, or does not answer in its own protocol."""
        ...


class Subscribers(Protocol):
    """Whom an opaque id stands for: the mapping is kept by this gateway, or asked of an HLR or HSS (C7)."""

    async def resolve(self, opaque: str, app: str) -> Subscriber | None:
        """None, after the same work, for an id that is unknown, expired, revoked, another app's, another gateway's, or
        of a subscriber who opted out of this app."""
        ...
