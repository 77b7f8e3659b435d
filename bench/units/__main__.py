"""Runs the unit benchmarks and compares their ratios: `python -m bench.units [--renew] [--json FILE]`.

Exit code 1: a ratio is worse than the stored one by more than its tolerance, in three runs of its pair; 2: wrong usage,
or the stored ratios can not be used.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.units.compare import TOLERANCE, Broken, Verdict, compare, merge_best, ratios_of, read_stored

FOLDER = Path(__file__).parent
STORED = FOLDER / "baseline.json"
TRIES = 3
RENEW_RUNS = 5


def own_tolerance(pair: str) -> float:
    """Where both sides do not lean on the same thing: a disk may sync slowly and write fast, or the other way round."""
    return 0.6 if pair.startswith("journal:") else 0.45 if pair.startswith("outbox:") else 0.0


def run_once() -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="heliograph-units-") as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pytest", "-q", "-c", str(FOLDER / "pytest.ini"), str(FOLDER)]
        command += [f"--benchmark-json={report}", f"--basetemp={folder}/tmp", "-p", "no:cacheprovider"]
        done = subprocess.run(command, cwd=FOLDER.parents[1], capture_output=True, text=True, check=False)
        if done.returncode or not report.exists():
            print(done.stdout[-4000:] + done.stderr[-2000:], file=sys.stderr)
            raise Broken("the benchmarks themselves failed")
        return ratios_of(json.loads(report.read_text()))


def print_table(verdicts: list[Verdict]) -> None:
    width = max(len(verdict.pair) for verdict in verdicts)
    print(f"{'pair':<{width}}  {'ratio':>8}  {'stored':>8}")
    for pair, ratio, stored, _, word in verdicts:
        print(f"{pair:<{width}}  {ratio:>8.2f}  {'-' if stored is None else format(stored, '8.2f'):>8}  {word}")


def renew() -> None:
    """The median of some runs becomes the baseline; a pair whose runs differ much gets a tolerance of its own."""
    runs = [run_once() for _ in range(RENEW_RUNS)]
    pairs = {}
    for pair in sorted(runs[0]):
        ratios = sorted(run[pair] for run in runs)
        ratio = statistics.median(ratios)
        spread = (ratio - ratios[0]) / ratio
        tolerance = max(TOLERANCE if spread < TOLERANCE / 2 else spread + TOLERANCE, own_tolerance(pair))
        pairs[pair] = {"ratio": round(ratio, 3)} | ({"tolerance": round(tolerance, 2)} if tolerance > TOLERANCE else {})
    STORED.write_text(json.dumps({"about": "make bench-units-baseline wrote this", "pairs": pairs}, indent=2) + "\n")
    print(f"{STORED.name}: {len(pairs)} pairs, the median of {RENEW_RUNS} runs")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--renew", action="store_true", help="store the ratios of this machine")
    parser.add_argument("--json", type=Path, help="write the verdicts here too")
    options = parser.parse_args()
    try:
        if options.renew:
            renew()
            return 0
        stored = read_stored(STORED)
        runs: list[dict[str, float]] = []
        for attempt in range(1, TRIES + 1):
            runs.append(run_once())
            verdicts = compare(merge_best(runs), stored)
            if all(verdict.ok for verdict in verdicts):
                break
            if attempt < TRIES:
                print(f"units: run {attempt} shows a regression, which may be noise: once more", file=sys.stderr)
    except Broken as error:
        print(f"units: {error}", file=sys.stderr)
        return 2
    print_table(verdicts)
    if options.json is not None:
        options.json.write_text(json.dumps([verdict._asdict() for verdict in verdicts], indent=2) + "\n")
    return 0 if all(verdict.ok for verdict in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
