"""A node dies: how long until pushes go out again from the partitions it owned. Drawn many times from a fixed seed:
when its last beat was, when others look, which node adopts what; must draw nothing whose bounds are not parameters.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from bench.curves import Chart, Line
from bench.simulator.parameters import Parameters
from bench.simulator.result import Result, quantile

DRAWS = 400
SEED = 8
LEASES_S = (1.0, 3.0, 10.0)
PARTITION_SIZES = (1e5, 1e6, 1e7)
K3_S = 5.0


@dataclass(frozen=True, slots=True)
class Adoptions:
    """Seconds from the death, ascending: of every partition, until its first push went out again, and until all its
    devices were known to be connected."""

    first_s: list[float]
    last_s: list[float]


def adopt(p: Parameters, lease_s: float, registrations: float, draws: int = DRAWS, seed: int = SEED) -> Adoptions:
    random_ = random.Random(f"{seed}/{registrations:g}")
    owned = max(1, round(p.partitions / p.nodes))
    others = int(p.nodes) - 1
    recover = registrations * (1 + p.pending) * p.recover_us / 1e6
    attach = registrations * p.online * p.attach_us / 1e6
    claim = 2 * p.publish_ms / 1e3  # the lease is taken, and the epoch's record is in the journal
    first, last = [], []
    for _ in range(draws):
        # it died some time after a beat; the others look as often as they beat
        silent = lease_s - random_.random() * p.beat_s + random_.random() * p.beat_s
        free: dict[int, float] = {}
        for _ in range(owned):
            heir = random_.randrange(others)
            # a node's control thread opens its partitions one after another
            opened = free.get(heir, silent) + claim + recover
            first.append(opened + 2 * p.turn_s)
            last.append(opened + attach)
            free[heir] = opened + attach
    return Adoptions(sorted(first), sorted(last))


def run(p: Parameters) -> Result:
    rows = []
    facts: dict[str, float | str] = {"partitions_of_a_node": round(p.partitions / p.nodes)}
    points: dict[float, list[tuple[float, float]]] = {lease: [] for lease in LEASES_S}
    for lease in LEASES_S:
        for registrations in PARTITION_SIZES:
            took = adopt(p, lease, registrations)
            p50, p99 = quantile(took.first_s, 0.5), quantile(took.first_s, 0.99)
            rows.append((lease, registrations, p50, p99, took.first_s[-1], quantile(took.last_s, 0.5), took.last_s[-1]))
            points[lease].append((registrations, round(p99, 3)))
    usual = adopt(p, p.lease_s, p.devices / p.partitions)
    facts["p50_s"] = quantile(usual.first_s, 0.5)
    facts["p99_s"] = quantile(usual.first_s, 0.99)
    facts["max_s"] = usual.first_s[-1]
    return Result(
        "adoption",
        "A node dies, others adopt its partitions",
        (
            "lease, s",
            "registrations of a partition",
            "first push again p50, s",
            "p99, s",
            "longest, s",
            "all devices known p50, s",
            "longest of these, s",
        ),
        rows,
        facts,
        Chart(
            "First push again after a node died, p99",
            "registrations of a partition",
            "seconds",
            [Line(f"lease {lease:g} s", points[lease]) for lease in LEASES_S],
            log_y=True,
            target=K3_S,
        ),
    )
