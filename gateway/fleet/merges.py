"""Answers of several partitions put together as one gateway would give them; must hold no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from gateway.api.wire import Counts, PushView, Statistics

_SUMS = tuple(name for name in Counts.__struct_fields__)
#: how a push to many stands where its parts stand differently: the first of these that any part says
_STATES = ("scheduled", "live", "pending", "recalled", "expired", "rejected", "done")


class Slice(NamedTuple):
    """What to ask one partition for."""

    partition: int
    offset: int
    limit: int


def cut(counts: Mapping[int, int], offset: int, limit: int) -> list[Slice]:
    """One page of rows that lie in partitions one after the other: which of whose."""
    slices: list[Slice] = []
    for partition, count in sorted(counts.items()):
        if offset < count and limit > 0:
            taken = min(limit, count - offset)
            slices.append(Slice(partition, offset, taken))
            offset, limit = 0, limit - taken
        else:
            offset = max(0, offset - count)
    return slices


def next_offset(total: int, offset: int, limit: int) -> int | None:
    return offset + limit if offset + limit < total else None


def targeted(view: PushView) -> int:
    """Deliveries that a partition has of a push."""
    if view.state not in ("pending", "done"):
        return 0
    by_state = sum(count for name, count in view.figures.items() if name not in ("targeted", "pending"))
    return view.figures.get("targeted", by_state)


def _figures(view: PushView) -> dict[str, int]:
    """A partition with a single delivery says but its state; here as those with many say it."""
    if view.state not in ("pending", "done") or "targeted" in view.figures:
        return view.figures
    count = targeted(view)
    if view.state == "done":
        return {"targeted": count, "pending": 0, **view.figures}
    return {"targeted": count, "pending": count}


def merge_views(views: Sequence[PushView], pages: Iterable[PushView], offset: int, limit: int) -> PushView:
    """`views`: what each partition knows of the push, never none; `pages`: those with the deliveries of this page."""
    figures: dict[str, int] = {}
    for view in views:
        for name, count in _figures(view).items():
            figures[name] = figures.get(name, 0) + count
    states = {view.state for view in views}
    first = min(views, key=lambda view: view.accepted_at_ms)
    first.figures = figures
    first.state = next(state for state in _STATES if state in states)
    first.deliveries = [delivery for page in pages for delivery in page.deliveries]
    first.next_offset = next_offset(sum(map(targeted, views)), offset, limit)
    return first


def merge_statistics(found: Sequence[Statistics]) -> Statistics:
    total = Statistics(versions={}, complete=True)
    for part in found:
        total.complete = total.complete and part.complete
        _add(part, total)
        for version, counts in part.versions.items():
            _add(counts, total.versions.setdefault(version, Counts()))
    return total


def _add(part: Counts, total: Counts) -> None:
    for name in _SUMS:
        setattr(total, name, getattr(total, name) + getattr(part, name))
