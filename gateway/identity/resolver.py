"""From an opaque id to the subscriber it stands for (C7, C12); must never take another way, nor another time, for an id
that is refused than for one that is unknown.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from gateway.identity.classes import Classes
from gateway.identity.hosts import Hosts
from gateway.identity.opaque_ids import MAX_CHARS, OpaqueId, parse_opaque_id
from gateway.metrics import Metric, Metrics
from gateway.model.subscriber import (
    Granularity,
    IssuedId,
    NetworkIdKind,
    OpaqueKind,
    Scope,
    Subscriber,
    SubscriberRecord,
)
from gateway.model.subscriber_records import SubscriberRecords

#: opted out of everything
EVERYTHING = "*"

#: looked at where there is nothing
_NO_ID = IssuedId("", "", int(OpaqueKind.O_TMSI), int(Granularity.APP), "", 1, 1)
_NOBODY = (
    b"",
    SubscriberRecord(((int(NetworkIdKind.IMSI), ""), (int(NetworkIdKind.MSISDN), "")), (_NO_ID, _NO_ID)),
)


def is_out(record: SubscriberRecord, app: str, classes: frozenset[str]) -> bool:
    """Did the subscriber opt out of this app, or of one of these classes?"""
    out = set(record.out)
    return bool(out & {EVERYTHING, f"app:{app}", *(f"class:{name}" for name in classes)})


def is_in_scope(scope: Scope, app: str, classes: Classes) -> bool:
    """May this app use an id of this scope?"""
    if scope.granularity == Granularity.APP:
        return scope.name == app
    return scope.granularity == Granularity.TERMINAL or classes.has(scope.name, app)


class Found(NamedTuple):
    subscriber: Subscriber
    issued: IssuedId

    @property
    def canonical(self) -> str:
        return OpaqueId(self.issued.local, self.issued.host).canonical


class Resolver:
    """model.ports.Subscribers over records of this gateway's own."""

    def __init__(
        self, records: SubscriberRecords, hosts: Hosts, classes: Classes, metrics: Metrics, clock: Callable[[], int]
    ) -> None:
        self._records = records
        self._hosts = hosts
        self._classes = classes
        self._metrics = metrics
        self._clock = clock

    async def resolve(self, opaque: str, app: str) -> Subscriber | None:
        return self.find(opaque, app)

    def find(self, opaque: str, app: str) -> Subscriber | None:
        """`resolve`, which for records of this gateway's own needs no waiting."""
        found = self.look_up(opaque, app)
        return None if found is None else found.subscriber

    def look_up(self, opaque: str, app: str) -> Found | None:
        """The same, with the id as it was issued."""
        parsed = parse_opaque_id(opaque)
        # what can not be ours is looked up all the same: each look-up does the same work
        local = parsed.local if parsed is not None else opaque[:MAX_CHARS]
        return self._look(local, parsed.host if parsed is not None else "", app)

    def select(self, local: str) -> Found | None:
        """By what stands in the path of an id's URL form, where no app stands beside it: ids of one app alone (C12)."""
        return self._look(local.lower(), None, None)

    def _look(self, local: str, host: str | None, app: str | None) -> Found | None:
        handle, record = self._records.by_local(local) or _NOBODY
        issued = next((each for each in record.ids if each.local == local), _NO_ID)
        if app is None:
            app = issued.name if issued.granularity == Granularity.APP else ""
        if host is None:
            host = issued.host
        # every check is made, and an answer built, whatever comes of it
        checks = (
            record is not _NOBODY[1],
            issued is not _NO_ID,
            bool(app) and host == issued.host,
            self._hosts.is_own(issued.host),
            issued.is_live(self._clock()),
            is_in_scope(issued.scope, app, self._classes),
            not is_out(record, app, self._classes.of_app(app)),
        )
        selected = app if issued.granularity == Granularity.APP else ""
        subscriber = Subscriber(handle, record.network_ids(), OpaqueKind(issued.kinds), selected)
        is_good = sum(checks) == len(checks)
        self._metrics.count(Metric.SUBSCRIBER_LOOKUPS, label="found" if is_good else "none")
        return Found(subscriber, issued) if is_good else None
