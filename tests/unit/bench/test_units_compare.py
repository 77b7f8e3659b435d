"""Unit benchmarks are compared by ratio: regressions are found, noise is not, a broken baseline says how to mend it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.units.compare import Broken, compare, merge_best, ratios_of, read_stored

STORED = {"index": {"ratio": 10.0}, "journal": {"ratio": 2.0, "tolerance": 0.5}}


def report(**times: dict[str, float]) -> dict[str, Any]:
    return {
        "benchmarks": [
            {"group": pair, "extra_info": {"side": side}, "stats": {"min": time}}
            for pair, sides in times.items()
            for side, time in sides.items()
        ]
    }


def test_a_ratio_is_the_time_of_the_alternative_by_that_of_the_unit() -> None:
    assert ratios_of(report(index={"unit": 0.5, "peer": 2.0})) == {"index": 4.0}
    with pytest.raises(Broken, match="index: only its unit"):
        ratios_of(report(index={"unit": 0.5}))


@pytest.mark.parametrize(
    ("ratio", "ok", "word"),
    [
        (10.0, True, "ok"),
        (8.1, True, "ok"),
        (7.9, False, "regression"),
        (12.1, True, "renewed"),
        (0.1, False, "below 8"),
    ],
)
def test_worse_by_a_fifth_is_a_regression_and_better_is_said(ratio: float, ok: bool, word: str) -> None:
    (verdict,) = compare({"index": ratio}, {"index": STORED["index"]})
    assert verdict.ok is ok
    assert word in verdict.word


def test_a_pair_may_have_a_tolerance_of_its_own() -> None:
    assert compare({"journal": 1.1}, {"journal": STORED["journal"]})[0].ok
    assert not compare({"journal": 0.9}, {"journal": STORED["journal"]})[0].ok


def test_a_new_pair_passes_and_one_that_was_not_run_fails() -> None:
    verdicts = {verdict.pair: verdict for verdict in compare({"index": 10.0, "new": 1.0}, STORED)}
    assert verdicts["new"].ok
    assert verdicts["new"].word.startswith("new")
    assert not verdicts["journal"].ok
    assert verdicts["journal"].word == "was not run"


def test_repeated_runs_count_by_their_best() -> None:
    assert merge_best([{"a": 1.0, "b": 5.0}, {"a": 3.0, "b": 2.0}]) == {"a": 3.0, "b": 5.0}


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"pairs": {"a": {}}}', '{"pairs": {"a": {"ratio": 0}}}', '{"pairs": {"a": {"ratio": "x"}}}'],
)
def test_a_damaged_baseline_says_how_to_make_it_again(tmp_path: Path, text: str) -> None:
    path = tmp_path / "baseline.json"
    path.write_text(text)
    with pytest.raises(Broken, match=r"baseline.json"):
        read_stored(path)


def test_a_missing_baseline_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(Broken, match="make bench-units-baseline"):
        read_stored(tmp_path / "baseline.json")


def test_the_stored_baseline_can_be_used_and_has_every_unit_the_issue_names() -> None:
    path = Path(__file__).parents[3] / "bench" / "units" / "baseline.json"
    stored = read_stored(path)
    assert json.loads(path.read_text())["pairs"] == stored
    assert {pair.partition(":")[0] for pair in stored} == {
        "index",
        "wheel",
        "frames",
        "groups",
        "outbox",
        "journal",
        "policy",
    }
