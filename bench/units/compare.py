"""Ratios of a run against those stored: worse by more than a pair's tolerance fails. `python -m bench.units` asks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

#: how much smaller a ratio may be than the stored one
TOLERANCE = 0.20


class Broken(Exception):
    """The stored ratios can not be used; the text says why and how to renew them."""


class Verdict(NamedTuple):
    pair: str
    ratio: float  # work a second of the unit ÷ of its alternative
    stored: float | None
    ok: bool
    word: str


def ratios_of(report: dict[str, Any]) -> dict[str, float]:
    """Pair → time of the alternative ÷ time of the unit, from pytest-benchmark's JSON. Broken: a side is missing."""
    times: dict[str, dict[str, float]] = {}
    for benchmark in report["benchmarks"]:
        times.setdefault(benchmark["group"], {})[benchmark["extra_info"]["side"]] = benchmark["stats"]["min"]
    for pair, sides in times.items():
        if set(sides) != {"unit", "peer"}:
            raise Broken(f"{pair}: only its {', '.join(sides)} was run")
    return {pair: sides["peer"] / sides["unit"] for pair, sides in times.items()}


def read_stored(path: Path) -> dict[str, dict[str, float]]:
    """Pair → {"ratio", and "tolerance" where it has its own}."""
    try:
        stored = json.loads(path.read_text())["pairs"]
        for pair, entry in stored.items():
            if not entry["ratio"] > 0 or not 0 < entry.get("tolerance", TOLERANCE) < 1:
                raise Broken(f"{path.name}: {pair} has no usable ratio")
    except FileNotFoundError:
        raise Broken(f"{path.name} is missing; make it with: make bench-units-baseline") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Broken(f"{path.name} is damaged ({error}); make it again with: make bench-units-baseline") from None
    return dict(stored)


def compare(ratios: dict[str, float], stored: dict[str, dict[str, float]]) -> list[Verdict]:
    verdicts = []
    for pair, ratio in ratios.items():
        entry = stored.get(pair)
        if entry is None:
            verdicts.append(Verdict(pair, ratio, None, True, "new: renew the baseline"))
            continue
        least = entry["ratio"] * (1 - entry.get("tolerance", TOLERANCE))
        if ratio < least:
            verdicts.append(Verdict(pair, ratio, entry["ratio"], False, f"regression: below {least:.2f}"))
        elif ratio > entry["ratio"] * (1 + TOLERANCE):
            verdicts.append(Verdict(pair, ratio, entry["ratio"], True, "better: the baseline can be renewed"))
        else:
            verdicts.append(Verdict(pair, ratio, entry["ratio"], True, "ok"))
    verdicts += [
        Verdict(pair, 0.0, stored[pair]["ratio"], False, "was not run") for pair in stored if pair not in ratios
    ]
    return verdicts


def merge_best(runs: list[dict[str, float]]) -> dict[str, float]:
    """The best ratio of each pair over repeated runs: noise makes a run worse, seldom better."""
    best: dict[str, float] = {}
    for run in runs:
        for pair, ratio in run.items():
            best[pair] = max(best.get(pair, 0.0), ratio)
    return best
