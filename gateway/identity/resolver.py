"""From an opaque id to the subscriber it stands for (C7, C12); must never take another way, nor another time, for an id
that is refused than for one that is unknown.
"""

from __future__ import annotations

from collections.abc import Callable

from gateway.identity.classes import Classes
from gateway.identity.hosts import Hosts
from gateway.identity.opaque_ids import MAX_CHARS, parse_opaque_id
from gateway.metrics import Metric, Metrics
from gateway.model.subscriber import Granularity, IssuedId, OpaqueKind, Scope, Subscriber, SubscriberRecord
from gateway.model.subscriber_records import SubscriberRecords

#: opted out of everything
EVERYTHING = "*"


def is_out(record: SubscriberRecord, app: str, classes: frozenset[str]) -> bool:
    """Did the subscriber opt out of this app, or of one of these classes?"""
    out = set(record.out)
    return bool(out & {EVERYTHING, f"app:{app}", *(f"class:{name}" for name in classes)})


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

    def resolve(self, opaque: str, app: str) -> Subscriber | None:
        parsed = parse_opaque_id(opaque)
        # what can not be ours is looked up all the same: each look-up does the same work
        local = parsed.local if parsed is not None else opaque[:MAX_CHARS]
        found = self._records.by_local(local)
        subscriber = None
        if found is not None and parsed is not None:
            handle, record = found
            issued = next((each for each in record.ids if each.local == local and each.host == parsed.host), None)
            is_good = issued is not None and self._hosts.is_own(parsed.host) and self._may_use(record, issued, app)
            if issued is not None and is_good:
                selected = app if issued.granularity == Granularity.APP else ""
                subscriber = Subscriber(handle, record.network_ids(), OpaqueKind(issued.kinds), selected)
        self._metrics.count(Metric.SUBSCRIBER_LOOKUPS, label="none" if subscriber is None else "found")
        return subscriber

    def _may_use(self, record: SubscriberRecord, issued: IssuedId, app: str) -> bool:
        checks = (
            issued.is_live(self._clock()),
            self._is_in_scope(issued.scope, app),
            not is_out(record, app, self._classes.of_app(app)),
        )
        return all(checks)

    def _is_in_scope(self, scope: Scope, app: str) -> bool:
        if scope.granularity == Granularity.APP:
            return scope.name == app
        return scope.granularity == Granularity.TERMINAL or self._classes.has(scope.name, app)
