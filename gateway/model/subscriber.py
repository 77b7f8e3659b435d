"""Who a subscriber is in the operator's network, and the opaque ids that stand for it (C1, C2); nothing here may show
a network id by being printed or logged.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import NamedTuple

import msgspec

HIDDEN = "hidden"


class NetworkIdKind(IntEnum):
    """What an operator's network knows a subscriber or terminal by (C2); the number is stored, so never renumber."""

    IMSI = 1
    IMEI = 2
    IMPI = 3
    MSISDN = 4
    IMPU = 5
    NAI = 6
    IP = 7
    MAC = 8


class OpaqueKind(IntFlag):
    """What an opaque id stands for (C1); an id may be of two kinds at once. Stored, so never renumber."""

    O_TMSI = 1  # IMSI, IMPI
    O_TMSN = 2  # MSISDN, IMPU
    APP_UID = 4  # NAI, IP


#: kinds of network id that each kind of opaque id stands for (C1)
STANDS_FOR: dict[OpaqueKind, tuple[NetworkIdKind, ...]] = {
    OpaqueKind.O_TMSI: (NetworkIdKind.IMSI, NetworkIdKind.IMPI),
    OpaqueKind.O_TMSN: (NetworkIdKind.MSISDN, NetworkIdKind.IMPU),
    OpaqueKind.APP_UID: (NetworkIdKind.NAI, NetworkIdKind.IP),
}


@dataclass(frozen=True, slots=True, repr=False)
class NetworkId:
    """One network id in its normal form (gateway.identity.network_ids makes them)."""

    kind: NetworkIdKind
    value: str

    @property
    def pair(self) -> tuple[int, str]:
        """As it stands in a record."""
        return int(self.kind), self.value

    def __repr__(self) -> str:
        return f"NetworkId({self.kind.name}, {HIDDEN})"


class Granularity(IntEnum):
    """Who an id was made for (C1); stored, so never renumber."""

    TERMINAL = 1  # any app that was given it; an application id goes beside it (C12)
    APP = 2  # one app: the id selects it (C12)
    CLASS = 3  # apps of one service type, provider or APN


class Scope(NamedTuple):
    """`name`: empty for a terminal, an app's name, or a class such as `apn:internet`."""

    granularity: Granularity = Granularity.TERMINAL
    name: str = ""


class IssuedId(msgspec.Struct, array_like=True, frozen=True):
    """One opaque id of a subscriber, as it is kept."""

    local: str
    host: str
    kinds: int  # OpaqueKind
    granularity: int
    name: str  # of the scope
    from_ms: int
    until_ms: int  # 0 = permanent (C3)

    @property
    def scope(self) -> Scope:
        return Scope(Granularity(self.granularity), self.name)

    def is_live(self, now_ms: int) -> bool:
        return not self.until_ms or now_ms < self.until_ms

    def __repr__(self) -> str:
        return f"IssuedId({HIDDEN})"


class SubscriberRecord(msgspec.Struct, array_like=True, frozen=True):
    """All that is kept of one subscriber."""

    #: (NetworkIdKind, normal form), in the order they became known: the first of a kind is the one to use
    network: tuple[tuple[int, str], ...] = ()
    ids: tuple[IssuedId, ...] = ()
    #: what the subscriber opted out of: `*`, `app:<name>`, `class:<name>`
    out: tuple[str, ...] = ()
    #: hour (Unix) in which ids were drawn last, and how many in it
    hour: int = 0
    drawn: int = 0

    def network_ids(self) -> tuple[NetworkId, ...]:
        return tuple(NetworkId(NetworkIdKind(kind), value) for kind, value in self.network)

    def has_any(self, kinds: Iterable[NetworkIdKind]) -> bool:
        wanted = set(kinds)
        return any(kind in wanted for kind, _ in self.network)

    def count(self, kind: NetworkIdKind) -> int:
        return sum(known == kind for known, _ in self.network)

    def __repr__(self) -> str:
        return f"SubscriberRecord({HIDDEN})"


class PastId(NamedTuple):
    """One line of the history of an opaque id: what it stood for, from when until when."""

    network: tuple[NetworkId, ...]
    from_ms: int
    until_ms: int  # 0 = still, and without an end
    why: str  # of the end: revoked, replaced, …, changed (another line follows); empty: it lapsed, or is live


class Subscriber:
    """Whom an opaque id stands for. Not a struct on purpose: no encoder takes it, and printing shows nothing."""

    __slots__ = ("_ids", "app", "handle", "kinds")

    def __init__(self, handle: bytes, ids: Iterable[NetworkId], kinds: OpaqueKind, app: str) -> None:
        #: the gateway's own name for the subscriber: the same for all of its ids, so limits across apps can be kept
        self.handle = handle
        self.kinds = kinds
        #: the app that the id itself selects (C12); empty: an application id has to stand beside it
        self.app = app
        self._ids = tuple(ids)

    def all(self, kind: NetworkIdKind) -> tuple[str, ...]:
        """Every network id of a kind, the one to use first."""
        return tuple(each.value for each in self._ids if each.kind == kind)

    def _first(self, kind: NetworkIdKind) -> str:
        return next(iter(self.all(kind)), "")

    @property
    def imsi(self) -> str:
        """Empty where it is not known, as with all of these."""
        return self._first(NetworkIdKind.IMSI)

    @property
    def imei(self) -> str:
        return self._first(NetworkIdKind.IMEI)

    @property
    def impi(self) -> str:
        return self._first(NetworkIdKind.IMPI)

    @property
    def msisdn(self) -> str:
        return self._first(NetworkIdKind.MSISDN)

    @property
    def impu(self) -> str:
        return self._first(NetworkIdKind.IMPU)

    @property
    def nai(self) -> str:
        return self._first(NetworkIdKind.NAI)

    @property
    def ip(self) -> str:
        return self._first(NetworkIdKind.IP)

    @property
    def mac(self) -> str:
        return self._first(NetworkIdKind.MAC)

    def __repr__(self) -> str:
        return f"Subscriber({HIDDEN})"
