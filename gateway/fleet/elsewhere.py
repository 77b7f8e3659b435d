"""Which nodes take the devices that this one sends away, and how many of them each; must hold no I/O and no clock.

The emptiest nodes first, until all would hold as many devices: so a drain leaves the others level, whatever they held.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gateway.edge.farewell import Refuge
from gateway.model.cluster import Member, Members
from gateway.model.device_address import parse_device_address


def choose_refuges(me: Member, members: Sequence[Member], links: int) -> list[Refuge]:
    """Nodes for so many devices of `me`. Draining nodes, and those that do not say where devices find them, take
    none."""
    takers: list[tuple[int, Refuge]] = []
    for member in members:
        if member.number == me.number or member.name == me.name or member.draining or not member.devices:
            continue
        try:
            takers.append((member.links, Refuge(parse_device_address(member.devices))))
        except ValueError:
            continue  # of a version that writes addresses otherwise
    takers.sort(key=lambda taker: taker[0])
    level, count = 0, 0
    left = max(links, len(takers))
    for count, (held, _) in enumerate(takers, start=1):
        # what is left when all before this one are filled up to it
        if count > 1 and (held - level) * (count - 1) >= left:
            count -= 1
            break
        left -= (held - level) * (count - 1) if count > 1 else 0
        level = held
    level += -(-left // count) if count else 0
    return [refuge._replace(weight=level - held) for held, refuge in takers[:count] if level > held]


def elsewhere_of(members: Members, links: Callable[[], int]) -> Callable[[], list[Refuge]]:
    """What EdgeServer.elsewhere asks; `links`: how many devices are connected here."""
    return lambda: choose_refuges(members.me(), members.all(), links())
