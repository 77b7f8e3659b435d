"""A node that is killed while it keeps pushes, or while it takes them in: none is lost, none is made twice."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(120)]
CHILD = Path(__file__).with_name("spool_child.py")


@contextmanager
def child(work: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Opened its spool."""
    process = subprocess.Popen(
        [sys.executable, CHILD, work, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        assert process.stdout.readline() == "open\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stdin.close()


def lines(process: subprocess.Popen[str]) -> Iterator[str]:
    assert process.stdout is not None
    while line := process.stdout.readline():
        yield line.strip()


@pytest.mark.parametrize("seed", range(2))
def test_pushes_survive_kills_and_are_one_push_each(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    with child("keep", tmp_path) as process:
        answered = []
        until = chance.randrange(30, 90)
        for title in lines(process):
            answered.append(title)
            if len(answered) == until:
                process.kill()  # what was answered and not read yet comes still
    keys: dict[str, int] = {}
    titles: list[str] = []
    kills = 0
    while True:
        with child("drain", tmp_path) as process:
            assert process.stdin is not None
            left = chance.randrange(1, 40) if kills < 4 else 1 << 30
            for line in lines(process):
                if line == "done":
                    break
                key, title = line.split()
                if key not in keys:
                    keys[key] = len(keys) + 1
                    titles.append(title)
                left -= 1
                if not left:  # the fleet has it, and the node never hears of it
                    process.kill()
                    kills += 1
                    break
                process.stdin.write(f"{keys[key]}\n")
                process.stdin.flush()
            else:
                raise AssertionError("the node ended by itself")
            if line == "done":
                break
    assert kills == 4
    assert len(titles) == len(set(titles))
    assert set(answered) <= set(titles)
    for target in range(5):
        mine = [int(title) for title in titles if int(title) % 5 == target]
        assert mine == sorted(mine)
