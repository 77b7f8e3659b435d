"""A region is lost and its devices come to the nodes that are left: a queue of logins at each, in steps of a tenth of
a second. Devices behave as docs/frames.md says: they wait and draw, hang up where no WELCOME comes, and come again. All
nodes left are alike, so one is calculated.

A queue serves in order and does not know who has hung up: a login that nobody waits for any more costs as much as one
that is wanted. That is what makes a storm without a limit feed itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.curves import Chart, Line
from bench.simulator.parameters import Parameters
from bench.simulator.result import Result

STEP_S = 0.1
MOST_S = 7_200.0
#: devices less than this of a node are all of them
REST = 0.5
#: cases of which the picture shows the logins
SHOWN = ("at once", "at once, limit", "with a heartbeat", "GOAWAY over 300 s")
PICTURE_S = 600
PICTURE_STEP_S = 5


@dataclass(frozen=True, slots=True)
class Case:
    """How devices notice (spread evenly over `spread_s`), and whether the door has a limit of logins."""

    name: str
    spread_s: float
    limited: bool = False
    #: part of the capacity that the limit lets in, where there is one
    limit: float = 0.95


@dataclass(slots=True)
class Storm:
    """What one node saw. `connected` has the devices that came back in each step."""

    devices: float
    capacity: float
    connected: list[float] = field(default_factory=list)
    queued: list[float] = field(default_factory=list)
    wasted: float = 0.0
    refused: float = 0.0
    hung_up: float = 0.0

    @property
    def came(self) -> float:
        return sum(self.connected)

    @property
    def lasted_s(self) -> float:
        return len(self.connected) * STEP_S

    def until(self, part: float) -> float:
        """Seconds until this part of them was back."""
        wanted, so_far = part * self.devices - REST, 0.0
        for step, number in enumerate(self.connected):
            so_far += number
            if so_far >= wanted:
                return (step + 1) * STEP_S
        return float("inf")

    def busy(self) -> float:
        """Part of the busiest ten seconds that the control thread spends on logins."""
        width = int(10 / STEP_S)
        peak = max((sum(self.connected[at : at + width]) for at in range(0, len(self.connected), width)), default=0.0)
        return peak / (self.capacity * 10)


def capacity(p: Parameters) -> float:
    """Logins a second of a node of a fleet: what one machine does, and an ask and its answer over the bus for each,
    of which half is this node's for its own devices and half for those of others that it owns."""
    return 1 / (1 / p.logins_per_s + 2 * p.message_us / 1e6)


def backoff_s(p: Parameters, attempt: int) -> tuple[float, float]:
    """Earliest and latest wait before the next try."""
    middle = min(p.backoff_most_s, p.backoff_s * p.backoff_factor**attempt)
    return middle * (1 - p.backoff_spread), middle * (1 + p.backoff_spread)


class Doors:
    """Who comes when, by attempt: `due[step][attempt]` devices."""

    def __init__(self) -> None:
        self.due: dict[int, dict[int, float]] = {}

    def spread(self, first_s: float, last_s: float, attempt: int, devices: float) -> None:
        """Evenly over the steps from the first to the last."""
        first = int(first_s / STEP_S + 0.5)
        last = max(first + 1, int(last_s / STEP_S + 0.5))
        part = devices / (last - first)
        for step in range(first, last):
            here = self.due.setdefault(step, {})
            here[attempt] = here.get(attempt, 0.0) + part


def storm(p: Parameters, devices: float, case: Case, logins_per_s: float | None = None) -> Storm:
    """`devices` come to one node."""
    rate = capacity(p) if logins_per_s is None else logins_per_s
    seen = Storm(devices, rate)
    doors = Doors()
    if case.spread_s > 1:
        doors.spread(0, case.spread_s, 0, devices)
    else:
        doors.spread(*backoff_s(p, 0), 0, devices)
    queue = _Queue(seen, doors, p)
    let_in = case.limit * rate * STEP_S if case.limited else float("inf")
    step = 0
    while seen.came < devices - REST and step * STEP_S < MOST_S:
        arrived = doors.due.pop(step, {})
        total = sum(arrived.values())
        share = 1.0 if total <= let_in else let_in / total
        for attempt, number in arrived.items():
            queue.put(step, attempt, number * share)
            if share < 1:
                turned = number * (1 - share)
                seen.refused += turned
                now = step * STEP_S
                # the refusal names a wait and as much again at random; the device starts no new count of tries
                doors.spread(now + p.refused_after_s, now + 2 * p.refused_after_s, attempt, turned)
        queue.hang_up(step)
        seen.connected.append(queue.serve(rate * STEP_S))
        seen.queued.append(queue.waiting)
        step += 1
    return seen


class _Queue:
    """Logins in the order they came. Who came in one step is one item: [step, still there, attempts]."""

    def __init__(self, seen: Storm, doors: Doors, p: Parameters) -> None:
        self._items: list[tuple[int, dict[int, float]]] = []
        self._first = 0
        self._left = 0  # items before this one have hung up
        self._seen, self._doors, self._p = seen, doors, p
        self._patience = int(p.login_timeout_s / STEP_S)
        self.waiting = 0.0

    def put(self, step: int, attempt: int, number: float) -> None:
        if number <= 0:
            return
        if not self._items or self._items[-1][0] != step:
            self._items.append((step, {}))
        self._items[-1][1][attempt] = self._items[-1][1].get(attempt, 0.0) + number
        self.waiting += number

    def hang_up(self, now: int) -> None:
        """Those who waited too long are gone, and come again after their wait; their logins stay in the queue."""
        self._left = max(self._left, self._first)
        while self._left < len(self._items) and self._items[self._left][0] + self._patience <= now:
            for attempt, number in self._items[self._left][1].items():
                first, last = backoff_s(self._p, attempt + 1)
                self._seen.hung_up += number
                self._doors.spread(now * STEP_S + first, now * STEP_S + last, attempt + 1, number)
            self._left += 1

    def serve(self, most: float) -> float:
        """As many as there is time for; returns those that were still there."""
        served = 0.0
        while most > 1e-9 and self._first < len(self._items):
            _, attempts = self._items[self._first]
            there = sum(attempts.values())
            taken = min(most, there)
            if self._first < self._left:
                self._seen.wasted += taken
            else:
                served += taken
            most -= taken
            self.waiting -= taken
            if taken >= there:
                self._first += 1
            else:
                keep = 1 - taken / there
                for attempt in attempts:
                    attempts[attempt] *= keep
        return served


def cases(p: Parameters) -> tuple[Case, ...]:
    return (
        Case("at once", 0),
        Case("at once, limit", 0, limited=True),
        Case("with a heartbeat", p.heartbeat_s),
        Case("with a heartbeat, limit", p.heartbeat_s, limited=True),
        Case("GOAWAY over 60 s", 60),
        Case("GOAWAY over 60 s, limit", 60, limited=True),
        Case("GOAWAY over 300 s", 300),
        Case("GOAWAY over 600 s", 600),
    )


def run(p: Parameters) -> Result:
    left = p.nodes - p.lost_nodes
    each = p.devices * p.online / p.nodes * p.lost_nodes / left
    rows: list[Sequence[float | str]] = []
    facts: dict[str, float | str] = {"devices_a_node": each, "logins_per_s": capacity(p)}
    lines = []
    for case in cases(p):
        seen = storm(p, each, case)
        rows.append(
            (
                case.name,
                seen.until(0.5),
                seen.until(0.99),
                seen.until(1.0),
                max(seen.queued) / seen.capacity,
                seen.wasted / each,
                seen.refused / each,
                seen.busy(),
            )
        )
        facts[f"all back, {case.name}"] = seen.until(1.0)
        if case.name in SHOWN:
            lines.append(Line(case.name, _percent(seen)))
    facts["shortest even spread"] = each / (0.7 * capacity(p))
    return Result(
        "region-loss",
        f"{p.lost_nodes:g} of {p.nodes:g} nodes are lost",
        (
            "how devices notice",
            "half back, s",
            "99 %, s",
            "all, s",
            "longest queue, s of logins",
            "logins for nobody, a device",
            "refusals, a device",
            "of the control thread",
        ),
        rows,
        facts,
        Chart(
            "Devices that are back",
            "seconds after the loss",
            "% of the lost region's devices",
            lines,
            log_x=False,
            marks=False,
        ),
    )


def _percent(seen: Storm) -> list[tuple[float, float]]:
    points, so_far = [(0.0, 0.0)], 0.0
    width = int(PICTURE_STEP_S / STEP_S)
    for at in range(0, int(PICTURE_S / STEP_S), width):
        so_far += sum(seen.connected[at : at + width])
        points.append(((at + width) * STEP_S, round(100 * so_far / seen.devices, 2)))
    return points
