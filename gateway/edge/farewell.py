"""What devices are told that are sent away: one GOAWAY for each node they may go to, and the turns these frames take.

The turns are interleaved by weight, so of any stretch of devices each node gets its share, never a burst. Must never
make an object for each device: reactors give the frames out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil
from typing import NamedTuple

from gateway.edge.plane import build_goaway
from gateway.model.device_address import DeviceAddress
from gateway.model.errors import Draining, Overloaded

#: as ext/farewell.pxd has them
FRAMES_MAX = 64
TURNS_MAX = 1024
#: share of a node's login rate that a drain may take: others come to it too
DRAIN_SHARE = 0.5


class Refuge(NamedTuple):
    """A node that takes devices, and how many of them, in proportion to the others."""

    address: DeviceAddress
    weight: int = 1


#: asked when devices are sent away; empty: nobody else takes them, or nobody is known
Elsewhere = Callable[[], Sequence[Refuge]]


def nowhere() -> Sequence[Refuge]:
    return ()


class Farewell(NamedTuple):
    frames: list[bytes]
    turns: bytes

    def turned(self, index: int, count: int) -> bytes:
        """For one reactor of several, which do not begin with the same node."""
        at = len(self.turns) * index // max(count, 1)
        return self.turns[at:] + self.turns[:at]


def take_turns(weights: Sequence[int], most: int = TURNS_MAX) -> bytes:
    """An order of places in `weights`, each as often as its weight says (once at least), spread evenly; at most `most`
    long."""
    total = sum(weights)
    counts = [max(1, weight * (most - len(weights)) // total) if total > most else weight for weight in weights]
    length = sum(counts)
    credit = [0] * len(counts)
    order = bytearray()
    for _ in range(length):
        for place, count in enumerate(counts):
            credit[place] += count
        chosen = max(range(len(credit)), key=credit.__getitem__)
        credit[chosen] -= length
        order.append(chosen)
    return bytes(order)


def choose(refuges: Sequence[Refuge]) -> list[Refuge]:
    """Those that count: with a weight, the heaviest FRAMES_MAX."""
    useful = [refuge for refuge in refuges if refuge.weight > 0]
    return sorted(useful, key=lambda refuge: -refuge.weight)[:FRAMES_MAX]


def farewell_of_drain(refuges: Sequence[Refuge], over_s: float, links: int, logins_per_s: int) -> Farewell:
    """Where other nodes take the devices these come at once, and so spread that no node gets more than half the logins
    a second it lets in; else they come back here, over the time of the drain once more."""
    chosen = choose(refuges)
    if not chosen:
        jitter_ms = int(over_s * 1000) + Draining.after_ms
        return Farewell([build_goaway(Draining, after_ms=Draining.after_ms, jitter_ms=jitter_ms)], b"\0")
    share = max(refuge.weight for refuge in chosen) / sum(refuge.weight for refuge in chosen)
    spread_s = links * share / (logins_per_s * DRAIN_SHARE) - over_s if logins_per_s else 0.0
    jitter_ms = max(Draining.after_ms, ceil(spread_s * 1000))
    frames = [build_goaway(Draining, after_ms=0, jitter_ms=jitter_ms, to=refuge.address) for refuge in chosen]
    return Farewell(frames, take_turns([refuge.weight for refuge in chosen]))


def farewell_of_overload(refuges: Sequence[Refuge]) -> Farewell:
    """No frames where nobody else has room: the usual words."""
    chosen = choose(refuges)
    if not chosen:
        return Farewell([], b"\0")
    after_ms = Overloaded.after_ms // 5
    frames = [
        build_goaway(Overloaded, after_ms=after_ms, jitter_ms=Overloaded.after_ms, to=refuge.address)
        for refuge in chosen
    ]
    return Farewell(frames, take_turns([refuge.weight for refuge in chosen]))
