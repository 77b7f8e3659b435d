"""Which node a partition should live on, and what one node does about it now; must hold no I/O, no clock and no memory.

Every node decides for itself from what it sees. Two that see different things may both want a partition: changes by
compare-and-set let one of them have it, and the order of preference together with the wait of those behind makes that
rare.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from hashlib import blake2b
from typing import NamedTuple

from gateway.cluster.fleet_records import Holding

#: a node gets something that nobody has after so many beats that were heard of it, …
SETTLED_BEATS = 3
#: … and something that another one gives up for it after so many: a node that dies again and again moves nothing
STEADY_BEATS = 8
#: where nobody has any partition none is given away before so many beats were heard of each node: nodes that are
#: started together share at once, and nothing has to move afterwards …
GATHERED_BEATS = 4
#: … but not for longer than this after our own first, for one that dies again and again must not hold it up
GATHERING_BEATS = 16


def rank(partition: int, names: Iterable[str]) -> list[str]:
    """Names of nodes, who should have the partition first (rendezvous hashing): without one of them, the others stand
    in the same order."""
    salt = partition.to_bytes(4, "big")
    return sorted(names, key=lambda name: (blake2b(name.encode(), salt=salt, digest_size=8).digest(), name))


class Ranks:
    """Remembers the order for the nodes asked for last."""

    def __init__(self) -> None:
        self._names: tuple[str, ...] = ()
        self._ranks: dict[int, list[str]] = {}

    def of(self, partition: int, names: tuple[str, ...]) -> list[str]:
        if names != self._names:
            self._names, self._ranks = names, {}
        found = self._ranks.get(partition)
        if found is None:
            found = self._ranks[partition] = rank(partition, names)
        return found


class Picture(NamedTuple):
    """What a node sees at one moment."""

    me: int
    name: str
    is_draining: bool
    partitions: int
    live: Mapping[int, str]  # names of the live ones by number, this one too
    eligible: tuple[str, ...]  # settled and not draining, by name; this one too where it is
    steady: Collection[str]  # those heard of for longer
    holdings: Mapping[int, Holding]  # of partitions that ever had an owner
    owned: Collection[int]
    busy: Collection[int]  # adopted or released right now
    orphan_since: Mapping[int, float]  # partitions without a live owner, since when
    unserved_since: Mapping[int, float]  # the same, and those whose owner has not opened them yet
    avoided: Mapping[int, Collection[str]]  # who could not open a partition lately
    now: float
    stagger_s: float  # how long the second in the order waits for the first
    patience_s: float  # what is unserved for longer holds up no hand-over
    handovers: int
    standbys: int
    waits_for_others: bool = False  # nobody has anything, and nodes are still coming


class Plan(NamedTuple):
    adopt: list[int]
    #: the record says that they are this node's; it has them no more and may not take them
    disown: list[int]
    release: list[int]
    follow: set[int]


def decide(see: Picture, ranks: Ranks) -> Plan:
    plan = Plan([], [], [], set())
    unserved = sum(1 for since in see.unserved_since.values() if see.now - since < see.patience_s)
    releasing = len(set(see.busy) & set(see.owned))
    room = see.handovers - unserved - releasing
    for partition in range(see.partitions):
        if partition in see.busy:
            continue
        order = ranks.of(partition, see.eligible)
        if avoided := see.avoided.get(partition):
            order = [name for name in order if name not in avoided]
        if partition in see.owned:
            wanted_by = order[0] if order else see.name
            if wanted_by != see.name and room > 0 and (see.is_draining or wanted_by in see.steady):
                plan.release.append(partition)
                room -= 1
            continue
        holding = see.holdings.get(partition)
        if holding is not None and holding.node == see.me:
            (plan.adopt if see.name in order else plan.disown).append(partition)
            continue
        is_orphan = holding is None or holding.node not in see.live
        if is_orphan and see.name in order and not see.waits_for_others:
            since = see.orphan_since.get(partition, see.now)
            if see.now >= since + order.index(see.name) * see.stagger_s:
                plan.adopt.append(partition)
        if _follows(see, order, holding, is_orphan=is_orphan):
            plan.follow.add(partition)
    return plan


def _follows(see: Picture, order: list[str], holding: Holding | None, *, is_orphan: bool) -> bool:
    """Is this node among the next in the order? Who is about to adopt goes on following until it does."""
    if holding is None or (holding.epoch == 1 and not holding.ready):
        return False  # there is no journal yet
    if is_orphan:
        return see.name in order[: see.standbys + 1]
    owner = see.live[holding.node]
    return see.name in [name for name in order if name != owner][: see.standbys]
