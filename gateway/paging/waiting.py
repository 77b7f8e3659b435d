"""Who could not be reached, so that the network's word "it is back" brings what waits for it at once (C8, C11); must
never keep a number: under what the network names it by, it is found by a hash whose key lives as long as the process.
"""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from collections.abc import Callable

from gateway.config.operator_sections import Paging
from gateway.metrics import Metric, Metrics
from gateway.model.subscriber import NetworkIdKind, Subscriber

#: registrations that wait for one subscriber; a further one waits for its own timer
MOST_REGISTRATIONS = 64
#: kinds that a network may name who is back by
_NAMES = (NetworkIdKind.IMSI, NetworkIdKind.MSISDN, NetworkIdKind.NAI)


class Waiting:
    """One for all pagers of a gateway. In RAM: after a restart what waits goes by its own timers."""

    def __init__(self, paging: Paging, metrics: Metrics) -> None:
        self._most = paging.subscribers_counted
        self._metrics = metrics
        self._key = os.urandom(32)
        #: by handle: the registrations, and the names the subscriber is found by; who came longest ago first
        self._waiting: OrderedDict[bytes, tuple[set[int], frozenset[bytes]]] = OrderedDict()
        self._by_name: dict[bytes, bytes] = {}
        #: told the number of each registration whose subscriber is back; set by who can send again
        self.on_back: Callable[[int], None] = lambda _registration: None

    def add(self, subscriber: Subscriber, registration: int) -> None:
        """It could not be reached now."""
        known = self._waiting.pop(subscriber.handle, None)
        if known is None and len(self._waiting) >= self._most:
            self._metrics.count(Metric.NOTIFIER_BOUNDS, label="paging waiting")
            self._drop(next(iter(self._waiting)))
        names = frozenset(self._hash(kind, name) for kind in _NAMES for name in subscriber.all(kind))
        registrations = known[0] if known is not None else set()
        if len(registrations) < MOST_REGISTRATIONS:
            registrations.add(registration)
        for name in names:
            self._by_name[name] = subscriber.handle
        self._waiting[subscriber.handle] = (registrations, names | (known[1] if known is not None else frozenset()))

    def back(self, handle: bytes = b"", *, imsi: str = "", msisdn: str = "", nai: str = "") -> int:
        """The network says that this subscriber can be reached again. How many registrations waited for that."""
        for kind, name in ((NetworkIdKind.IMSI, imsi), (NetworkIdKind.MSISDN, msisdn), (NetworkIdKind.NAI, nai)):
            if not handle and name:
                handle = self._by_name.get(self._hash(kind, name), b"")
        if handle not in self._waiting:
            return 0
        registrations = self._drop(handle)
        for registration in registrations:
            self.on_back(registration)
        return len(registrations)

    def __len__(self) -> int:
        return len(self._waiting)

    def _drop(self, handle: bytes) -> set[int]:
        registrations, names = self._waiting.pop(handle)
        for name in names:
            if self._by_name.get(name) == handle:
                del self._by_name[name]
        return registrations

    def _hash(self, kind: NetworkIdKind, name: str) -> bytes:
        name = name.lstrip("+") if kind == NetworkIdKind.MSISDN else name
        return hashlib.blake2b(f"{kind:d}:{name}".encode(), key=self._key, digest_size=16).digest()
