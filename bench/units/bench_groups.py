"""Groups beside a set in a dict: members come and go, and all of them are walked."""

from __future__ import annotations

from typing import Any

from bench.units.pairs import PEER, UNIT, take
from gateway._native.group import Group

MEMBERS = 20_000
COME_AND_GO = "groups: members come and go, beside dict and set"


def test_group(benchmark: Any) -> None:
    def work() -> None:
        group = Group()
        for slot in range(MEMBERS):
            group.add(slot, slot)
        for position in range(MEMBERS - 1, -1, -1):
            group.remove(position)

    take(benchmark, COME_AND_GO, UNIT, work)


def test_dict_of_sets(benchmark: Any) -> None:
    def work() -> None:
        groups: dict[int, set[tuple[int, int]]] = {}
        for slot in range(MEMBERS):
            groups.setdefault(7, set()).add((slot, slot))
        for slot in range(MEMBERS):
            groups[7].discard((slot, slot))

    take(benchmark, COME_AND_GO, PEER, work)
