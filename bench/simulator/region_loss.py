"""A region is lost and its devices come to the nodes that are left: a queue of logins at each, in steps of a tenth of
a second. Devices behave as docs/frames.md says: they wait, draw, and come again. All nodes left are alike, so one is
calculated.

The door ends a link whose login was not decided in time (overloaded), but its HELLO lies in the queue already and is
decided for nobody: so a storm without a limit feeds itself. The reactors' mailboxes bound the queue; while they are
full nothing is accepted, and a device's kernel knocks again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.curves import Chart, Line
from bench.simulator.parameters import Parameters
from bench.simulator.result import Result

STEP_S = 0.1
MOST_S = 3_600.0
#: devices less than this of a node are all of them
REST = 0.5
#: cases of which the picture shows the logins
SHOWN = ("at once", "at once, limit", "with a heartbeat", "GOAWAY, 300 s")
PICTURE_S = 400
#: parts of the fleet that are lost, to see how much room the others need
HEAD_ROOM = (0.1, 0.2, 1 / 3, 0.5)
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
    ended: float = 0.0
    came: float = 0.0

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


class Arrivals:
    """How many come in which step."""

    def __init__(self) -> None:
        self.due: dict[int, float] = {}

    def spread(self, first_s: float, last_s: float, devices: float) -> None:
        """Evenly over the steps from the first to the last."""
        first = round(first_s / STEP_S)
        last = max(first + 1, round(last_s / STEP_S))
        part = devices / (last - first)
        for step in range(first, last):
            self.due[step] = self.due.get(step, 0.0) + part

    def sent_away(self, p: Parameters, now_s: float, devices: float) -> None:
        """`overloaded`: it names a wait and as much again at random."""
        self.spread(now_s + p.refused_after_s, now_s + 2 * p.refused_after_s, devices)


def storm(p: Parameters, devices: float, case: Case, logins_per_s: float | None = None) -> Storm:
    """`devices` come to one node."""
    rate = capacity(p) if logins_per_s is None else logins_per_s
    seen = Storm(devices, rate)
    arrivals = Arrivals()
    if case.spread_s > 0:
        arrivals.spread(0, case.spread_s, devices)
    else:
        # a cut: the device's own first wait
        arrivals.spread(p.backoff_s * (1 - p.backoff_spread), p.backoff_s * (1 + p.backoff_spread), devices)
    queue = _Queue(seen, arrivals, p)
    let_in = case.limit * rate * STEP_S if case.limited else float("inf")
    step = 0
    while seen.came < devices - REST and step * STEP_S < MOST_S:
        came = arrivals.due.pop(step, 0.0)
        turned = max(0.0, came - let_in)
        if turned:
            seen.refused += turned
            arrivals.sent_away(p, step * STEP_S, turned)
        let = min(came - turned, queue.room())
        if came - turned > let:
            now = step * STEP_S
            arrivals.spread(now + p.syn_again_s, now + 4 * p.syn_again_s, came - turned - let)
        queue.put(step, let)
        queue.end_late(step)
        back = queue.serve(rate * STEP_S)
        seen.came += back
        seen.connected.append(back)
        seen.queued.append(queue.waiting)
        step += 1
    return seen


class _Queue:
    """Logins in the order they came; who came in one step is one item, [step, how many]."""

    def __init__(self, seen: Storm, arrivals: Arrivals, p: Parameters) -> None:
        self._items: list[list[float]] = []
        self._first = 0
        self._ended = 0  # links of items before this one are gone
        self._seen, self._arrivals, self._p = seen, arrivals, p
        self._most = round(p.login_timeout_s / STEP_S)
        self._room = p.reactors * p.mailbox_bytes / p.hello_bytes
        self.waiting = 0.0

    def room(self) -> float:
        return max(0.0, self._room - self.waiting)

    def put(self, step: int, number: float) -> None:
        if number > 0:
            self._items.append([step, number])
            self.waiting += number

    def end_late(self, now: int) -> None:
        """Links that waited too long are ended; their HELLO stays in the queue."""
        self._ended = max(self._ended, self._first)
        while self._ended < len(self._items) and self._items[self._ended][0] + self._most <= now:
            number = self._items[self._ended][1]
            self._seen.ended += number
            self._arrivals.sent_away(self._p, now * STEP_S, number)
            self._ended += 1

    def serve(self, most: float) -> float:
        """As many as there is time for; returns those whose link was still there."""
        served = 0.0
        while most > 1e-9 and self._first < len(self._items):
            item = self._items[self._first]
            gone = self._first < self._ended
            cost = self._p.hello_part if gone else 1.0
            taken = min(most / cost, item[1])
            if gone:
                self._seen.wasted += taken
            else:
                served += taken
            most -= taken * cost
            self.waiting -= taken
            item[1] -= taken
            if item[1] <= 1e-9:
                self._first += 1
        return served


def cases(p: Parameters) -> tuple[Case, ...]:
    return (
        Case("at once", 0),
        Case("at once, limit", 0, limited=True),
        Case("with a heartbeat", p.heartbeat_s),
        Case("with a heartbeat, limit", p.heartbeat_s, limited=True),
        Case("GOAWAY, 60 s", 60),
        Case("GOAWAY, 60 s, limit", 60, limited=True),
        Case("GOAWAY, 300 s", 300),
        Case("GOAWAY, 600 s", 600),
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
    # as short as it may be for the control thread to be busy with logins for no more than seven parts in ten
    facts["shortest even spread, s"] = each / (0.7 * capacity(p))
    for lost in HEAD_ROOM:
        nodes = round(lost * p.nodes)
        more = p.devices * p.online / p.nodes * nodes / (p.nodes - nodes)
        all_back = storm(p, more, Case("", 0, limited=True)).until(1.0)
        facts[f"{nodes} lost: devices of a node, times before"] = p.nodes / (p.nodes - nodes)
        facts[f"{nodes} lost: all back at once with a limit, s"] = all_back
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
