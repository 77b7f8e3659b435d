"""How long a refusal takes says nothing of its reason: times of thousands of them, by turns, compared by ranks. What is
not compared is how long anything takes: a slow machine is as good as a fast one (docs/identity.md, Privacy)."""

from __future__ import annotations

import math
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from statistics import median
from typing import NamedTuple

import pytest
from open_house import House, until
from refused_ids import APPS, Refused, refused_settings

from gateway.paging.sms.local import LocalSmsc

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

REASONS = (
    "unknown",
    "unknown, too",
    "lapsed",
    "lapsed, and swept",
    "revoked, after a push",
    "of another app",
    "of another app's class",
    "of another gateway",
    "opted out",
    "opted out, after a push",
)
ROUNDS = 1_000
#: what somebody on the network could see among its own jitter
EFFECT, LEAST_P = 0.2, 1e-6
#: a difference that is there is there each time; one that the machine made is not
RUNS = 3

Samples = dict[str, list[int]]


class Difference(NamedTuple):
    effect: float  # of the medians, in parts of the first
    p: float

    @property
    def tells(self) -> bool:
        return abs(self.effect) > EFFECT and self.p < LEAST_P


def compare(ours: list[int], theirs: list[int]) -> Difference:
    """Mann and Whitney's test, two-sided, by the normal distribution: right for hundreds of samples and more."""
    ranked = sorted([(value, 0) for value in ours] + [(value, 1) for value in theirs])
    ranks, at = 0.0, 0
    while at < len(ranked):
        end = at
        while end < len(ranked) and ranked[end][0] == ranked[at][0]:
            end += 1
        mean = (at + 1 + end) / 2
        ranks += mean * sum(1 for _, whose in ranked[at:end] if whose == 0)
        at = end
    n, m = len(ours), len(theirs)
    u = ranks - n * (n + 1) / 2
    z = (u - n * m / 2) / math.sqrt(n * m * (n + m + 1) / 12)
    return Difference(median(theirs) / median(ours) - 1, math.erfc(abs(z) / math.sqrt(2)))


async def sample(ids: dict[str, str], ask: Callable[[str], Awaitable[object]], rounds: int, seed: int) -> Samples:
    """Times in ns, each reason once a round, each round in another order."""
    order, chance = list(ids.items()), random.Random(seed)
    times: Samples = {reason: [] for reason in ids}
    for turn in range(-20, rounds):  # the first ones fill caches
        chance.shuffle(order)
        for reason, opaque in order:
            began = time.perf_counter_ns()
            await ask(opaque)
            took = time.perf_counter_ns() - began
            if turn >= 0:
                times[reason].append(took)
    return times


async def differences(
    ids: dict[str, str], ask: Callable[[str], Awaitable[object]], rounds: int, seed: int
) -> tuple[dict[str, Difference], Samples]:
    times = await sample(ids, ask, rounds, seed)
    return {reason: compare(times["unknown"], times[reason]) for reason in ids if reason != "unknown"}, times


async def check_alike(
    what: str, ids: dict[str, str], ask: Callable[[str], Awaitable[object]], rounds: int = ROUNDS
) -> Samples:
    """Fails where a reason tells in each of the runs; prints the last."""
    telling = set(ids)
    for seed in range(RUNS):
        found, times = await differences(ids, ask, rounds, seed)
        print(f"\n{what}: {median(times['unknown']) / 1000:.0f} us for one that is unknown, {rounds} of each")
        for reason, each in found.items():
            print(f"  {reason:30} {each.effect:+7.2%}  p = {each.p:.2g}")
        telling &= {reason for reason, each in found.items() if each.tells}
        if not telling:
            return times
    raise AssertionError(f"{what}: {sorted(telling)} can be told from an unknown id by the time")


@pytest.fixture
async def refused(tmp_path: Path) -> AsyncIterator[Refused]:
    smsc = LocalSmsc()
    async with House(tmp_path, await refused_settings(smsc, tmp_path), apps=APPS) as house:
        await until(lambda: smsc.is_bound)
        refused = Refused(house, smsc)
        await refused.make()
        yield refused
    await smsc.close()


async def test_over_http(refused: Refused) -> None:
    ids = {reason: refused.ids[reason] for reason in REASONS}
    # its record is longer and takes some microseconds more, which is nothing beside the request
    ids["of somebody with the most ids"] = await refused.make_crowded()
    times = await check_alike("push", ids, refused.doors["push"])
    # and it would be seen: the same times, half as long again
    assert compare(times["unknown"], [took * 3 // 2 for took in times["unknown, too"]]).tells


async def test_in_the_index_itself(refused: Refused) -> None:
    """Without the network and HTTP around it, where a difference is a far greater part of the whole."""
    ids = {reason: refused.ids[reason] for reason in REASONS}
    reach = refused.house.gateway.store.directory.reach

    async def ask(opaque: str) -> object:
        return reach(opaque, "shop")

    await check_alike("index", ids, ask, 5_000)


def test_ranks_find_what_is_there_and_nothing_else() -> None:
    chance = random.Random(7)
    ours, theirs = ([int(chance.lognormvariate(13, 0.3)) for _ in range(2_000)] for _ in range(2))
    assert not compare(ours, theirs).tells
    assert compare(ours, theirs).p > 1e-3
    assert compare(ours, [each * 5 // 4 for each in theirs]).tells
    assert compare([5] * 400, [5] * 400).p == 1.0
