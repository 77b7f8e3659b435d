"""Which partitions nobody serves, since when and why, as one node sees it; must hold no clock of its own, and forget
nothing that is still so.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from gateway.cluster.fleet_records import Holding
from gateway.cluster.journal_past import Lack, Past, lack_key, parse_lack, parse_lack_key, parse_past, parse_past_key
from gateway.cluster.leases import Entry
from gateway.model.cluster import Stranded

#: who has had no owner for so many leases does not get one in the usual course: a fail-over takes one and a little
STRANDED_LEASES = 3
_NOBODY = "no node has taken it over; heliograph_partition_moves_total and the logs of the nodes say why"

_LAPSED = "this node's lease is over and it does not hear of the others: see cluster status whether they serve it"


class Unserved:
    def __init__(self, partitions: int, lease_s: float) -> None:
        self._partitions = partitions
        self._patience_s = STRANDED_LEASES * lease_s
        #: partitions without a live owner, since when
        self.orphan_since: dict[int, float] = {}
        #: the same, and those whose owner has not opened them yet
        self.since: dict[int, float] = {}
        self._distrusted_at: float | None = None
        self._pasts: dict[int, Past] = {}
        #: by partition and node, with the revision of the record
        self._lacks: dict[int, dict[str, tuple[Lack, int]]] = {}

    def note(self, now: float, holdings: Mapping[int, tuple[Holding, int]], live: Mapping[int, str]) -> None:
        for partition in range(self._partitions):
            holding, _ = holdings.get(partition, (Holding(0, 0), 0))
            is_orphan = holding.node not in live
            for since, holds in ((self.orphan_since, is_orphan), (self.since, is_orphan or not holding.ready)):
                if not holds:
                    since.pop(partition, None)
                else:
                    since.setdefault(partition, now)

    def distrust(self, now: float) -> None:
        """This node's lease is over: whom it takes for an owner may be none."""
        if self._distrusted_at is None:
            self._distrusted_at = now

    def trust(self) -> None:
        self._distrusted_at = None

    def hear(self, entry: Entry) -> int:
        """A record of another kind is not looked at. The partition whose journal is another one by now, so that who
        could not open it may try again; -1: none. BadRecord."""
        if (partition := parse_past_key(entry.key)) >= 0:
            if not entry.value:
                self._pasts.pop(partition, None)
                return -1
            before, past = self._pasts.get(partition), parse_past(entry.value)
            self._pasts[partition] = past
            is_other = before is not None and (before.created, before.recovery) != (past.created, past.recovery)
            return partition if is_other and not past.recovery else -1
        partition, node = parse_lack_key(entry.key)
        if node and entry.value:
            self._lacks.setdefault(partition, {})[node] = parse_lack(entry.value), entry.revision
        elif node and partition in self._lacks:
            self._lacks[partition].pop(node, None)
            if not self._lacks[partition]:
                del self._lacks[partition]
        return -1

    def stranded(self, now: float) -> list[Stranded]:
        """Those that will not be served by waiting, it seems, by number; while this node can not know, all."""
        since = dict(self.since)
        if self._distrusted_at is not None:
            since = {each: min(since.get(each, now), self._distrusted_at) for each in range(self._partitions)}
        return [
            Stranded(partition, round(now - at, 3), self._reason(partition))
            for partition, at in sorted(since.items())
            if now - at > self._patience_s
        ]

    def refused(self) -> int:
        """How many of them nobody takes over because of their journal."""
        return len(self.since.keys() & self._lacks.keys())

    def _reason(self, partition: int) -> str:
        if self._distrusted_at is not None and partition not in self.since:
            return _LAPSED
        past = self._pasts.get(partition)
        if past is not None and past.recovery:
            return "it is being recovered, or that ended in the middle"
        lacks = self._lacks.get(partition)
        if not lacks:
            return _NOBODY
        return lacks[min(lacks)][0].reason

    def settled(self, owned: Collection[int]) -> tuple[str, int] | None:
        """(key, revision) of a record that says why one of these partitions, which are served, is not."""
        for partition in self._lacks.keys() & set(owned):
            for node, (_, revision) in self._lacks[partition].items():
                return lack_key(partition, node), revision
        return None
