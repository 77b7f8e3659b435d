"""What a campaign does next: who comes when, how fast, and whether the canaries did well; pure, must read no clock and
touch no store.
"""

from __future__ import annotations

import hashlib
import math
from enum import Enum
from typing import NamedTuple

from gateway.model.cards import Campaign, CampaignState

#: 2^64 divided by the golden ratio
_GOLDEN = 0x9E3779B97F4A7C15
#: so much of a second's releases may come in one burst
BURST_S = 0.25
#: without room, it is looked again after so long
LOOK_S = 1.0
#: most releases in one go
MOST_AT_A_TIME = 256
#: a figure a second is averaged over about so long
_RATE_S = 30.0


class Order:
    """The order in which participants are released: a walk through all of them in steps of about n divided by the
    golden ratio. Any first part of it, so the canaries too, is spread evenly over the whole list, whatever batches it
    is made of. Nothing of it is kept: it follows from the number of the campaign.
    """

    __slots__ = ("_back", "_count", "_offset", "_stride")

    def __init__(self, count: int, seed: int) -> None:
        self._count = count
        stride = max(count * _GOLDEN >> 64, 1)
        while count and math.gcd(stride, count) != 1:
            stride += 1
        self._stride = stride
        self._back = pow(stride, -1, count) if count > 1 else 0
        digest = hashlib.blake2b(seed.to_bytes(8, "big"), digest_size=8, person=b"campaign").digest()
        self._offset = int.from_bytes(digest, "big") % count if count else 0

    def at(self, place: int) -> int:
        """Index of the participant that is released as number `place`."""
        return (place * self._stride + self._offset) % self._count

    def place(self, index: int) -> int:
        """When the participant with this index is released."""
        return (index - self._offset) * self._back % self._count


def count_canaries(campaign: Campaign) -> int:
    """How many go first; 0: there is no such share."""
    if campaign.canary_share <= 0 or not campaign.participants:
        return 0
    # rounded before: 0.07 * 100 is a little more than 7
    return min(max(math.ceil(round(campaign.canary_share * campaign.participants, 9)), 1), campaign.participants)


def is_good(succeeded: int, canaries: int, success: float) -> bool:
    return succeeded >= success * canaries - 1e-9


class Pace:
    """A token bucket: releases a second, fractions too; 0: no limit. Times are seconds of any clock that only grows."""

    __slots__ = ("_burst", "_per_s", "_since_s", "_tokens")

    def __init__(self, per_s: float, now_s: float) -> None:
        self._per_s = per_s
        self._burst = max(per_s * BURST_S, 1.0)
        self._tokens = min(1.0, self._burst)
        self._since_s = now_s

    def free(self, now_s: float) -> int:
        """How many may go now."""
        if self._per_s <= 0:
            return MOST_AT_A_TIME
        self._tokens = min(self._tokens + max(now_s - self._since_s, 0.0) * self._per_s, self._burst)
        self._since_s = now_s
        return int(self._tokens + 1e-9)

    def take(self, count: int) -> None:
        if self._per_s > 0:
            self._tokens -= count

    def wait_s(self) -> float:
        """Until the next one may go, from the last `free` on."""
        return max((1.0 - self._tokens) / self._per_s, 0.0) if self._per_s > 0 else 0.0


class Rate:
    """How many a second lately; starts true, not at nothing."""

    __slots__ = ("_begun_s", "_since_s", "_weight")

    def __init__(self, now_s: float) -> None:
        self._begun_s = self._since_s = now_s
        self._weight = 0.0

    def add(self, now_s: float) -> None:
        self._decay(now_s)
        self._weight += 1.0

    def per_s(self, now_s: float) -> float:
        self._decay(now_s)
        seen = 1.0 - math.exp(-max(now_s - self._begun_s, 1.0) / _RATE_S)
        return self._weight / (_RATE_S * seen)

    def _decay(self, now_s: float) -> None:
        self._weight *= math.exp(-max(now_s - self._since_s, 0.0) / _RATE_S)
        self._since_s = now_s


class Do(Enum):
    """What comes next."""

    RELEASE = "release"
    #: until something changes, at most `wait_s`
    WAIT = "wait"
    #: the canary share did not do well enough
    FAIL_CANARY = "fail canary"
    #: its time is over: what was not released expires
    EXPIRE = "expire"
    #: somebody stopped it
    STOP = "stop"
    #: everybody is over
    END = "end"


class Standing(NamedTuple):
    """How far a campaign is."""

    #: participants that are over
    over: int
    #: released, not over, and not seen waiting for another try
    under_way: int
    canaries: int
    canaries_over: int
    canaries_good: int


class Step(NamedTuple):
    do: Do
    releases: int = 0
    #: 0: as long as nothing changes
    wait_s: float = 0.0
    #: of a WAIT: canary, at_once, engine, pace, out, asked
    why: str = ""


def decide(campaign: Campaign, standing: Standing, *, room: int, pace: Pace, now_ms: int, now_s: float) -> Step:
    """`room`: how many more the engine takes."""
    if campaign.state == CampaignState.STOPPING:
        return Step(Do.END if standing.over >= campaign.participants else Do.STOP)
    if standing.over >= campaign.participants:
        return Step(Do.END)
    left = campaign.participants - campaign.released
    if now_ms >= campaign.expires_ms:
        return Step(Do.EXPIRE) if left else Step(Do.WAIT, why="out")
    if campaign.state != CampaignState.RUNNING:
        return Step(Do.WAIT, why="asked")
    if standing.canaries and not campaign.waived:
        if campaign.released < standing.canaries:
            left = standing.canaries - campaign.released
        elif standing.canaries_over < standing.canaries:
            return Step(Do.WAIT, why="canary")
        elif not is_good(standing.canaries_good, standing.canaries, campaign.canary_success):
            return Step(Do.FAIL_CANARY)
    if not left:
        return Step(Do.WAIT, why="out")
    if campaign.at_once and standing.under_way >= campaign.at_once:
        return Step(Do.WAIT, wait_s=LOOK_S, why="at_once")
    if room <= 0:
        return Step(Do.WAIT, wait_s=LOOK_S, why="engine")
    count = min(left, room, MOST_AT_A_TIME)
    if campaign.at_once:
        count = min(count, campaign.at_once - standing.under_way)
    free = pace.free(now_s)
    if free <= 0:
        return Step(Do.WAIT, wait_s=pace.wait_s(), why="pace")
    return Step(Do.RELEASE, releases=min(count, free))
