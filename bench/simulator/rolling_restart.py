"""Every node is restarted in turn: its devices go to the others over the drain, it comes back empty, the next one
follows. Where its devices are sent decides how full the others get, and how long it takes. Must not let a node take
more logins a second than it can.
"""

from __future__ import annotations

from dataclasses import dataclass

from bench.curves import Chart, Line
from bench.simulator.parameters import Parameters
from bench.simulator.region_loss import capacity
from bench.simulator.result import Result

DRAINS_S = (10.0, 60.0, 300.0)
AT_ONCE = (1, 4)
#: "even": to all others alike; "free room": by how much each is below the mean, the same part to each beside
EVEN, ROOM = "to all alike", "by free room"
#: of a drained node's devices that go by free room; the rest goes to all alike, so that no door is alone
BY_ROOM = 0.75
#: of the logins that a node takes a second, for devices that are sent to it
WELCOME_PART = 0.5


@dataclass(frozen=True, slots=True)
class Restarted:
    """`most`: devices of the fullest node at any time, in shares of the mean; `moves`: logins a device; `busiest`:
    logins a second at the node that got most."""

    hours: float
    most: float
    last: float
    moves: float
    busiest: float
    series: list[tuple[float, float]]
    devices: float


def restart(p: Parameters, drain_s: float, at_once: int, where: str) -> Restarted:
    nodes = int(p.nodes)
    if at_once >= nodes:
        raise ValueError("some nodes must stay")
    mean = p.devices * p.online / nodes
    held = [mean] * nodes
    most, moves, busiest, now = mean, 0.0, 0.0, 0.0
    series = [(0.0, 1.0)]
    recover = p.devices / p.partitions * (1 + p.pending) * p.recover_us / 1e6
    hand_over = p.partitions / nodes / p.handovers * (2 * p.publish_ms / 1e3 + recover)
    for first in range(0, nodes, at_once):
        leaving = range(first, min(nodes, first + at_once))
        staying = [node for node in range(nodes) if node not in leaving]
        gone = sum(held[node] for node in leaving)
        shares = _shares(held, staying, mean, where)
        largest = gone * max(shares)
        # the drain is stretched where a door would get more than it takes beside its own work
        took = max(drain_s, largest / (WELCOME_PART * capacity(p)))
        busiest = max(busiest, largest / took)
        for node, share in zip(staying, shares, strict=True):
            held[node] += gone * share
        for node in leaving:
            held[node] = 0.0
        moves += gone
        most = max(most, *held)
        now += took + hand_over + p.restart_s
        series.append((now / 3_600, round(max(held) / mean, 4)))
    total = sum(held)
    return Restarted(now / 3_600, most / mean, max(held) / mean, moves / (mean * nodes), busiest, series, total)


def _shares(held: list[float], staying: list[int], mean: float, where: str) -> list[float]:
    even = 1 / len(staying)
    room = [max(0.0, mean - held[node]) for node in staying]
    free = sum(room)
    if where == EVEN or free <= 0:
        return [even] * len(staying)
    return [BY_ROOM * part / free + (1 - BY_ROOM) * even for part in room]


def run(p: Parameters) -> Result:
    rows = []
    facts: dict[str, float | str] = {}
    for where in (EVEN, ROOM):
        for at_once in AT_ONCE:
            for drain_s in DRAINS_S:
                took = restart(p, drain_s, at_once, where)
                rows.append((where, at_once, drain_s, took.hours, took.most, took.busiest, took.moves))
                facts[f"fullest, {where}, {at_once} at once, {drain_s:g} s"] = took.most
                facts[f"hours, {where}, {at_once} at once, {drain_s:g} s"] = took.hours
    lines = [Line(f"{where}, {n}", restart(p, 60, n, where).series) for where in (EVEN, ROOM) for n in AT_ONCE]
    return Result(
        "rolling-restart",
        f"All {p.nodes:g} nodes are restarted in turn",
        (
            "devices of a drained node go",
            "nodes at once",
            "drain, s",
            "hours in all",
            "fullest node, times the mean",
            "logins/s at the busiest",
            "moves a device",
        ),
        rows,
        facts,
        Chart(
            "The fullest node while all are restarted, drain 60 s",
            "hours",
            "times the mean",
            lines,
            log_x=False,
            marks=False,
        ),
    )
