"""Which numbers of an address book are users' (D9): found by keyed hashes in the store, for users who agreed to be
found. Must never keep or log a number that was asked for.

Somebody who is no user, one who is hidden, and one who has blocked the asker are the same: not in the answer, after the
same look-ups and the same time. Who asks must have proved a number of their own, and what they ask is counted by user
and by each of their addresses, so that a user who is removed and made again goes on where they were.

What it can not prevent: somebody with many numbers of their own asks that many times as much, a day at a time, and so
finds out over time who of a range agreed to be found; and the gateway itself sees the numbers while it looks them up.
Counts are in RAM: a restart gives everybody a new day.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from typing import NamedTuple

from gateway.config.im_section import Im
from gateway.im.ust.addresses import is_number, is_region, parse_number
from gateway.im.ust.even_pace import even_pace
from gateway.im.ust.rates import PersonRate
from gateway.metrics.names import Metric
from gateway.metrics.sink import Metrics
from gateway.model.errors import BadRequest, Forbidden, NotFound, TooManyRequests
from gateway.model.im_people import USER_BYTES, FriendState
from gateway.model.im_ports import UserRecords

#: numbers looked up in one turn of the loop
_SLICE = 64


class Found(NamedTuple):
    #: its place among those that were asked for
    place: int
    user: bytes


class Discovery:
    """Loop thread only."""

    def __init__(self, users: UserRecords, *, settings: Im, metrics: Metrics) -> None:
        self._users = users
        self._settings = settings
        self._metrics = metrics
        self._asked = PersonRate("numbers", settings.discovery_per_day, metrics)
        #: nobody's id: looked at where a number is nobody's
        self._nobody = secrets.token_bytes(USER_BYTES)

    async def find(self, me: bytes, numbers: Sequence[str], region: str, now_ms: int) -> tuple[list[Found], list[int]]:
        """Users among them, and the places of those that are no numbers. `region`: how to read those without a
        country code. Nothing is looked up where more is asked for than may be."""
        if region and not is_region(region):
            raise BadRequest("expected a country as ISO 3166 has it: two capital letters", field="region")
        if len(numbers) > self._settings.discovery_batch:
            raise BadRequest(f"up to {self._settings.discovery_batch} numbers at once", field="numbers")
        self._count(me, len(numbers), now_ms)
        answers: dict[str, bytes | None] = {}
        found: list[Found] = []
        unreadable: list[int] = []
        async with even_pace(self._settings.answer_step_s):
            for at in range(0, len(numbers), _SLICE):
                for place, number in enumerate(numbers[at : at + _SLICE], at):
                    address = _read(number, region)
                    if address is None:
                        unreadable.append(place)
                        continue
                    # once, however often it is there: many times one number would take measurably longer
                    if address not in answers:
                        answers[address] = self._look_up(me, address)
                    user = answers[address]
                    if user is not None:
                        found.append(Found(place, user))
                await asyncio.sleep(0)
        self._metrics.count(Metric.IM_DISCOVERY, len(found), "found")
        self._metrics.count(Metric.IM_DISCOVERY, len(unreadable), "unreadable")
        return found, unreadable

    def _count(self, me: bytes, count: int, now_ms: int) -> None:
        """TooManyRequests where this user, or an address of theirs, has asked for too many today."""
        user = self._users.user(me)
        if user is None:
            raise NotFound("this user is no longer there")
        if not any(map(is_number, user.addresses)):
            raise Forbidden("only who has a number of their own may ask whose numbers these are: add one")
        after_ms = self._asked.take(user, now_ms, count)
        if after_ms:
            self._metrics.count(Metric.IM_DISCOVERY, count, "limit")
            raise TooManyRequests("too many numbers were asked for today", after_ms=after_ms)
        self._metrics.count(Metric.IM_DISCOVERY, count, "asked")

    def _look_up(self, me: bytes, address: str) -> bytes | None:
        at = self._users.find_user(address)
        other = at if at is not None else self._nobody
        user, theirs = self._users.user(other), self._users.friend(other, me)
        is_blocked = theirs is not None and theirs.state is FriendState.BLOCKED
        return other if user is not None and user.is_discoverable and not is_blocked and other != me else None


def _read(number: str, region: str) -> str | None:
    try:
        return parse_number(number, region)
    except BadRequest:
        return None
