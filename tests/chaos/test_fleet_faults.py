"""A fleet of three gateways on three NATS servers while they are killed, paused, cut off, filled up and set wrong in a
random order, under load; then everything is healed, and what was seen is judged by the rules of fleet_checks.

The order comes from a seed, printed; CHAOS_SEED repeats one, CHAOS_FAULTS says how many
there are.
"""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import pytest
from fleet_checks import verdict
from fleet_run import FleetRun, Load, Result

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.timeout(1_500),
    # a connection that a fault cut off while it was made leaves its writer to the collector (Python 3.11)
    pytest.mark.filterwarnings("ignore:Exception ignored in.*StreamWriter:pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:loop is closed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]

FAULTS = 12
REPORTS = Path("build/chaos")


@pytest.fixture
def seed() -> int:
    given = os.environ.get("CHAOS_SEED")
    seed = int(given) if given else random.SystemRandom().randrange(1 << 32)
    print(f"CHAOS_SEED={seed}")
    return seed


def judge(result: Result, name: str, folder: Path) -> None:
    REPORTS.mkdir(parents=True, exist_ok=True)
    result.write(REPORTS / f"{name}-{result.seed}.json")
    print(result.table())
    if result.broken:
        history = REPORTS / f"{name}-{result.seed}.history.jsonl"
        shutil.copyfile(folder / "history.jsonl", history)
        print(f"what was seen is in {history}")
        pytest.fail(f"seed {result.seed}, broken rules:\n{verdict(result.broken)}", pytrace=False)
    # The run must have been one: else the rules were kept by doing nothing.
    assert result.figures["answered 201"] > 20 * result.figures["faults"]
    assert result.figures["receipts acked"] > 20 * result.figures["faults"]
    assert result.figures["shown twice"] == 0


async def test_a_fleet_loses_nothing_whatever_breaks(tmp_path: Path, seed: int) -> None:
    faults = int(os.environ.get("CHAOS_FAULTS", FAULTS))
    result = await FleetRun(tmp_path, seed, faults=faults).run()
    judge(result, "fleet", tmp_path)
    assert result.figures["faults"] == faults


async def test_a_fleet_behind_a_bad_network_loses_nothing(tmp_path: Path, seed: int) -> None:
    """As where there is no root: a proxy that fails between gateways and NATS, all on loopback."""
    load = Load(devices=30, workers=3)
    result = await FleetRun(tmp_path, seed, faults=6, lanes=1, load=load, networks=False).run()
    judge(result, "proxies", tmp_path)


async def test_a_fleet_with_spools_keeps_what_it_took_while_nats_was_away(tmp_path: Path, seed: int) -> None:
    load = Load(devices=30, workers=3)
    result = await FleetRun(tmp_path, seed, faults=6, lanes=1, load=load, spool=True).run()
    judge(result, "spool", tmp_path)


async def test_a_gateway_alone_keeps_the_same_rules(tmp_path: Path, seed: int) -> None:
    load = Load(devices=30, workers=3)
    result = await FleetRun(tmp_path, seed, faults=6, lanes=1, load=load, nodes=1, nats=0).run()
    judge(result, "alone", tmp_path)
