"""Which figures there are, what each must reach, and how a measurement becomes a verdict; must measure nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

AT_LEAST, AT_MOST = "≥", "≤"


@dataclass(frozen=True, slots=True)
class Target:
    """One condition of a figure. `name` is "ratio", "value", or one of the further numbers of the measurement."""

    name: str
    sense: str
    bound: float
    unit: str = ""

    def holds(self, number: float) -> bool:
        return number >= self.bound if self.sense == AT_LEAST else number <= self.bound

    def __str__(self) -> str:
        number = f"{self.bound:,.2f}".rstrip("0").rstrip(".")
        named = "" if self.name in ("ratio", "value") else self.name.replace("_", " ") + " "
        return f"{named}{self.sense} {number}{' ' + self.unit if self.unit else ''}"


@dataclass(frozen=True, slots=True)
class Figure:
    """One row of the table."""

    id: str
    what: str
    module: str
    targets: tuple[Target, ...]

    def load(self) -> Callable[[Run], Awaitable[Measured]]:
        taken: Callable[[Run], Awaitable[Measured]] = import_module(f"bench.system.{self.module}").take
        return taken


@dataclass(slots=True)
class Measured:
    """What a run gave. `ratio` is None where floor or peer were not there to be measured; `more` has the numbers that
    further targets ask for, and whatever else is worth reading in JSON."""

    value: float | None
    unit: str
    n: int
    floor: float | None = None
    peer: float | None = None
    ratio: float | None = None
    note: str = ""
    more: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Run:
    """How a figure is to be taken, and where it says how far it is."""

    quick: bool = False
    say: Callable[[str], None] = lambda _: None
    only: str = ""  # the figure of a module that has several

    def size(self, full: int, quick: int) -> int:
        return quick if self.quick else full


FIGURES = (
    Figure("P1", "user memory of an idle device", "memory", (Target("value", AT_MOST, 256, "bytes"),)),
    Figure("P2", "devices held at once", "scale", (Target("value", AT_LEAST, 2_000_000, "devices"),)),
    Figure("P3", "logins ÷ accepts of the floor", "logins", (Target("ratio", AT_LEAST, 0.5),)),
    Figure("P4", "fan-out of one ÷ bare send loop", "fanout", (Target("ratio", AT_LEAST, 0.95),)),
    Figure("P5", "fan-out of 20 queued ÷ mosquitto", "fanout", (Target("ratio", AT_LEAST, 5),)),
    Figure(
        "P6",
        "push → ack, p99 ÷ mosquitto's",
        "directed",
        (Target("ratio", AT_MOST, 0.5), Target("rate_ratio", AT_LEAST, 1.0)),
    ),
    Figure(
        "P7",
        "durable accepts ÷ appended rows",
        "accepts",
        (Target("ratio", AT_LEAST, 0.5), Target("http_ratio", AT_LEAST, 0.5)),
    ),
    Figure(
        "P8",
        "token look-ups",
        "index",
        (Target("value", AT_LEAST, 5_000_000, "/s"), Target("bytes_an_entry", AT_MOST, 32)),
    ),
    Figure("P9", "arm + cancel a timer, times call_later", "wheel", (Target("ratio", AT_LEAST, 20),)),
    Figure("P10", "restart until the first push", "restart", (Target("value", AT_MOST, 10, "s"),)),
    Figure(
        "P11",
        "storm ÷ first connect",
        "storm",
        (Target("ratio", AT_MOST, 1.2), Target("others_p99_ms", AT_MOST, 1000), Target("lost", AT_MOST, 0)),
    ),
    Figure("P12", "CPU of idle devices ÷ echo floor", "idle_cpu", (Target("ratio", AT_MOST, 1.25),)),
    Figure("P13", "user memory of an idle TLS device", "tls_memory", (Target("value", AT_MOST, 768, "bytes"),)),
    Figure(
        "P14",
        "pushes through the doors ÷ bare HTTP",
        "doors",
        (Target("ratio", AT_LEAST, 0.33), Target("apns_ratio", AT_LEAST, 0.5)),
    ),
    Figure(
        "O1",
        "CAT_TP answers ÷ recvmmsg floor",
        "card_links",
        (Target("ratio", AT_LEAST, 0.6), Target("cpu_ratio", AT_LEAST, 0.6)),
    ),
    Figure("O2", "user memory of an idle CAT_TP link", "card_links", (Target("value", AT_MOST, 192, "bytes"),)),
    Figure(
        "O3",
        "a campaign of many cards, 5 % loss",
        "card_campaign",
        (Target("value", AT_MOST, 900, "s"), Target("incomplete", AT_MOST, 0), Target("wrong", AT_MOST, 0)),
    ),
    Figure("K1", "cross-node push, p99 ÷ same node's", "fleet_routes", (Target("ratio", AT_MOST, 3),)),
    Figure(
        "K2",
        "a fleet's accepts ÷ bare appends to NATS",
        "fleet_accepts",
        (Target("ratio", AT_LEAST, 0.7), Target("nats_cpu_ratio", AT_LEAST, 0.7)),
    ),
    Figure("K3", "a node is killed until a push comes again", "fail_over", (Target("value", AT_MOST, 5, "s"),)),
    Figure(
        "K4",
        "memory of a registration for being in a fleet",
        "far_entries",
        (Target("value", AT_MOST, 48, "bytes"), Target("owner_bytes", AT_MOST, 48)),
    ),
    Figure(
        "D1",
        "memory of an idle XMPP account",
        "im_accounts",
        (
            Target("value", AT_MOST, 65_536, "bytes"),
            Target("ratio", AT_MOST, 0.25),
            Target("gateway_bytes", AT_MOST, 65_536),
            Target("tls_bytes", AT_MOST, 65_536),
        ),
    ),
    Figure(
        "D2",
        "all accounts connect at the set pace",
        "im_storm",
        (
            Target("ratio", AT_MOST, 1.1),
            # 0.05 s may be caught up with, and a late turn lets what was begun in turn come to the server together
            Target("most_in_1s_ratio", AT_MOST, 1.25),
            Target("most_at_once", AT_MOST, 32),
            Target("lag_p99_ms", AT_MOST, 50),
            Target("account_bytes", AT_MOST, 65_536),
        ),
    ),
    Figure(
        "D3",
        "messages of a network ÷ plain pushes",
        "im_messages",
        (Target("ratio", AT_LEAST, 0.33), Target("cpu_ratio", AT_LEAST, 0.33), Target("lost", AT_MOST, 0)),
    ),
)
BY_ID = {figure.id: figure for figure in FIGURES}


class UnknownFigure(ValueError):
    """The text says which there are."""


def select(names: Sequence[str]) -> list[Figure]:
    """The named figures in the order of the table, all for none; `P4` and `p4` are the same."""
    wanted = {name.upper() for name in names}
    unknown = sorted(wanted - set(BY_ID))
    if unknown:
        raise UnknownFigure(f"there is no figure {unknown[0]!r}; there are P1 … P14, O1 … O3, K1 … K4 and D1 … D3")
    return [figure for figure in FIGURES if not wanted or figure.id in wanted]


def number_of(measured: Measured, name: str) -> float | None:
    if name == "value":
        return measured.value
    if name == "ratio":
        return measured.ratio
    return measured.more.get(name)


def judge(figure: Figure, measured: Measured, quick: bool = False) -> bool | None:
    """True: all targets are met; False: one is missed; None: one could not be measured and none is missed."""
    verdicts: list[bool | None] = []
    for target in figure.targets:
        number = number_of(measured, target.name)
        verdicts.append(None if number is None else target.holds(number))
    if False in verdicts:
        # A short run can not reach a number of devices; it says what it held.
        return None if quick and figure.id == "P2" and not measured.more.get("lost") else False
    return None if None in verdicts else True


def build_record(figure: Figure, measured: Measured, quick: bool = False) -> dict[str, Any]:
    """The JSON of one figure."""
    first, *further = figure.targets
    record: dict[str, Any] = {
        "what": figure.what,
        "value": rounded(measured.value),
        "unit": measured.unit,
        "floor": rounded(measured.floor),
        "peer": rounded(measured.peer),
        "ratio": rounded(measured.ratio),
        "target": first.bound,
        "ok": judge(figure, measured, quick),
        "n": measured.n,
        "note": measured.note,
        "wants": str(first),
    }
    if further:
        record["further"] = [_build_further(target, number_of(measured, target.name)) for target in further]
    if measured.more:
        record["more"] = {name: rounded(number) for name, number in measured.more.items()}
    return record


def _build_further(target: Target, number: float | None) -> dict[str, Any]:
    ok = None if number is None else target.holds(number)
    return {"name": target.name, "value": rounded(number), "target": target.bound, "wants": str(target), "ok": ok}


def build_failure(figure: Figure, why: str) -> dict[str, Any]:
    """The JSON of a figure that could not be taken though it should."""
    first = figure.targets[0]
    empty = dict.fromkeys(("value", "floor", "peer", "ratio"))
    kept = {"target": first.bound, "ok": False, "n": 0, "note": why, "wants": str(first)}
    return {"what": figure.what, "unit": "", **empty, **kept}


def rounded(number: Any) -> Any:
    """Four figures are more than any run repeats."""
    if isinstance(number, dict):
        return {name: rounded(inner) for name, inner in number.items()}
    if isinstance(number, list):
        return [rounded(inner) for inner in number]
    if not isinstance(number, float):
        return number
    if number == 0 or abs(number) >= 1_000:
        return round(number)
    return float(f"{number:.4g}")
