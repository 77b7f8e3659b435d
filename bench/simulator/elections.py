"""NATS servers are killed: streams whose leader was there take nothing until another is elected, and pushes wait or are
refused. An hour of accepts, drawn from a fixed seed.

A follower that hears nothing stands for election after a time of its own choice; the first of the two wins. The
picture has the measured ones beside (bench.simulator.nats_figures).
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.curves import Chart, Line
from bench.simulator.parameters import Parameters
from bench.simulator.result import Result, quantile

MEASURED = Path(__file__).resolve().parents[2] / "docs" / "nats-figures.json"
HOUR_S = 3_600.0
DRAWS = 200_000
ELECTIONS = 20_000
SEED = 8
#: servers killed in the hour: none, one that crashed, all three in turn without being told to hand over
KILLS = (0, 1, 3)
#: of the streams, those that the killed server led
LED = 1 / 3
#: of an answer's time: p99 of a standard normal
_Z99 = 2.326


@dataclass(frozen=True, slots=True)
class Hour:
    """Parts of the hour's pushes that met an election, waited more than a second and were answered, and were refused
    (503, to be sent again); and the answered ones' milliseconds, ascending."""

    met: float
    waited: float
    refused: float
    answer_ms: list[float]


def gap_s(p: Parameters, random_: random.Random) -> float:
    """How long one stream has no leader."""
    width = p.election_most_s - p.election_least_s
    return p.election_least_s + width * min(random_.random(), random_.random())


def hour(p: Parameters, kills: int, draws: int = DRAWS, seed: int = SEED) -> Hour:
    random_ = random.Random(seed)
    sigma = math.log(p.publish_p99_ms / p.publish_ms) / _Z99
    met = waited = refused = 0
    answers = []
    for _ in range(draws):
        # a push waits for the commit before its own, then for its own
        took = random_.random() * (p.commit_ms + p.publish_ms) + p.publish_ms * math.exp(sigma * random_.gauss(0, 1))
        gap = since = 0.0
        moment = random_.random() * HOUR_S
        for kill in range(kills):
            # kills lie far apart, so at most one is met
            began = (kill + 0.5) * HOUR_S / kills
            if began <= moment < began + p.election_most_s and random_.random() < LED:
                drawn = gap_s(p, random_)
                if moment < began + drawn:
                    gap, since = drawn, moment - began
        if gap:
            met += 1
            if since > p.stall_s:
                refused += 1
                continue
            took += (gap - since) * 1e3
            waited += took > 1e3
        answers.append(took)
    return Hour(met / draws, waited / draws, refused / draws, sorted(answers))


def gaps(p: Parameters, draws: int = ELECTIONS, seed: int = SEED) -> list[float]:
    random_ = random.Random(seed)
    return sorted(gap_s(p, random_) for _ in range(draws))


def measured_gaps() -> list[float]:
    """Seconds, ascending."""
    return sorted(json.loads(MEASURED.read_text(encoding="utf-8"))["elections"]["gaps_s"])


def _percent(ordered: Sequence[float]) -> list[tuple[float, float]]:
    """How many of them are over by when."""
    return [(quantile(ordered, part / 50), part * 2.0) for part in range(50)] + [(ordered[-1], 100.0)]


def run(p: Parameters) -> Result:
    rows = []
    facts: dict[str, float | str] = {}
    for kills in KILLS:
        seen = hour(p, kills)
        rows.append(
            (
                kills,
                seen.met * 100,
                seen.waited * 100,
                seen.refused * 100,
                *(quantile(seen.answer_ms, part) for part in (0.5, 0.99, 0.999)),
                seen.answer_ms[-1],
            )
        )
        facts[f"p99_ms, {kills} kills"] = quantile(seen.answer_ms, 0.99)
        facts[f"refused %, {kills} kills"] = seen.refused * 100
    drawn = gaps(p)
    facts["gap p50, s"], facts["gap p99, s"] = quantile(drawn, 0.5), quantile(drawn, 0.99)
    taken = measured_gaps()
    facts["measured gap p50, s"], facts["measured streams"] = quantile(taken, 0.5), len(taken)
    lines = [Line("calculated", _percent(drawn)), Line("measured", _percent(taken))]
    return Result(
        "elections",
        "An hour of accepts while NATS servers are killed",
        (
            "servers killed",
            "% of pushes that met an election",
            "% that waited > 1 s",
            "% refused (503)",
            "answer p50, ms",
            "p99, ms",
            "p99.9, ms",
            "longest, ms",
        ),
        rows,
        facts,
        Chart(
            "Streams that have a leader again",
            "seconds after the server was killed",
            "% of the streams it led",
            lines,
            log_x=False,
            marks=False,
        ),
    )
