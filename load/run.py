"""Runs the load test against a gateway of its own: `python -m load.run --users 200`; exits 1 on any failure."""

from __future__ import annotations

import argparse
import asyncio
import csv
import os
import sys
from pathlib import Path

from gateway.tour.stage import Stage

ROOT = Path(__file__).resolve().parents[1]


async def run(users: int, seconds: int, scenario: str, folder: Path) -> int:
    async with Stage("edge.reactors=2", "edge.device_logins_per_minute=0") as stage:
        assert stage._http is not None
        key = stage._http.headers["authorization"].removeprefix("Bearer ")
        command = [sys.executable, "-m", "locust", "-f", "load/locustfile.py", "--headless", "--only-summary"]
        command += ["--host", f"http://127.0.0.1:{stage.api_port}", "--device-port", str(stage.device_port)]
        command += ["--scenario", scenario, "--full-users", str(users), "--full-seconds", str(seconds)]
        command += ["--html", str(folder / "load.html"), "--csv", str(folder / "load"), "--exit-code-on-error", "1"]
        command += ["--stop-timeout", "15"]
        process = await asyncio.create_subprocess_exec(
            *command, cwd=ROOT, env={**os.environ, "HELIOGRAPH_KEY": key, "PYTHONWARNINGS": "ignore"}
        )
        try:
            code = await asyncio.wait_for(process.wait(), seconds + 120)
        except TimeoutError:
            process.kill()
            print("load: the run did not end by itself", file=sys.stderr)
            return 1
    return code or check(folder / "load_stats.csv")


def check(stats: Path) -> int:
    """0 where each kind of event happened and none failed; says what is missing."""
    with stats.open() as file:
        rows = {row["Name"]: row for row in csv.DictReader(file)}
    wanted = {"login", "heartbeat", "notification", "acked by its device", "push: batch", "push: tag", "push: version"}
    missing = sorted(name for name in wanted if name not in rows)
    failed = sorted(name for name, row in rows.items() if int(row["Failure Count"]) and name != "Aggregated")
    for name in missing:
        print(f"load: {name} never happened; run longer or with more users", file=sys.stderr)
    for name in failed:
        print(f"load: {name} failed {rows[name]['Failure Count']} times", file=sys.stderr)
    print(f"load: page {stats.with_name('load.html').relative_to(ROOT)}, figures {stats.relative_to(ROOT)}")
    return 1 if missing or failed else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=2_000)
    parser.add_argument("--seconds", type=int, default=180)
    parser.add_argument("--scenario", choices=("day", "storm", "burst"), default="day")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "load")
    options = parser.parse_args()
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("load*"):
        old.unlink()
    sys.exit(asyncio.run(run(options.users, options.seconds, options.scenario, folder)))


if __name__ == "__main__":
    main()
