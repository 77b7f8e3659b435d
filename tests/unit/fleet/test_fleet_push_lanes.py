"""What a partition is asked to take in at once: what comes while it has enough to answer goes together, in order, and
nobody waits longer than an answer may take."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from gateway.fleet.pushes import ASKED_AT_ONCE, Answer, ManyPushes, PlainBounds, Sent, parse_pushes
from gateway.model.cluster import Body, whole_of
from gateway.model.errors import GatewayError, NodeUnreachable, QueueFull
from gateway.model.registration import build_token

TOKEN = build_token(bytes(16))
BOUNDS = PlainBounds(push_bytes=60_000, inline_bytes=4_096, most_ttl_s=1_000)
TIMEOUT_S = 5.0


class SlowOwners:
    """fleet.owners.Owners of one partition, which answers when the test says."""

    partitions = 1
    timeout_s = TIMEOUT_S

    def __init__(self) -> None:
        self.asked: list[tuple[list[str], float, asyncio.Future[bytes]]] = []
        self.most = 0
        self._open = 0

    def serve(self, kind: str, answerer: Any) -> None:
        pass

    async def ask(self, partition: int, kind: str, body: Body, *, timeout_s: float) -> bytes:
        pushes = msgspec.msgpack.decode(parse_pushes(whole_of(body)).pushes)
        answered: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.asked.append(([push["title"] for push in pushes], timeout_s, answered))
        self._open += 1
        self.most = max(self.most, self._open)
        try:
            return await answered
        finally:
            self._open -= 1

    @property
    def titles(self) -> list[list[str]]:
        return [titles for titles, _, _ in self.asked]

    async def answer(self, place: int, first: int | Exception) -> None:
        if isinstance(first, Exception):
            self.asked[place][2].set_exception(first)
        else:
            self.asked[place][2].set_result(msgspec.msgpack.encode(first))
        await turns()


async def turns() -> None:
    for _ in range(6):
        await asyncio.sleep(0)


@pytest.fixture
def owners() -> SlowOwners:
    return SlowOwners()


@pytest.fixture
async def pushes(owners: SlowOwners) -> AsyncIterator[ManyPushes]:
    made = ManyPushes(owners, 5.0, BOUNDS)  # type: ignore[arg-type]
    yield made
    await made.close()


async def push(pushes: ManyPushes, *titles: str, **fields: Any) -> Sent:
    """A batch of a turn of its own."""
    batch = msgspec.msgpack.encode([{"target": {"token": TOKEN}, "title": title, **fields} for title in titles])
    (sent,) = pushes.send("shop", pushes.split("shop", batch))
    await turns()
    return sent


async def test_what_comes_while_a_partition_has_enough_to_answer_goes_together(
    pushes: ManyPushes, owners: SlowOwners
) -> None:
    sent = [await push(pushes, str(place)) for place in range(ASKED_AT_ONCE + 3)]
    assert owners.titles == [[str(place)] for place in range(ASKED_AT_ONCE)]
    await owners.answer(0, 100)
    assert owners.titles[ASKED_AT_ONCE:] == [[str(ASKED_AT_ONCE + place) for place in range(3)]]
    await owners.answer(ASKED_AT_ONCE, 200)
    assert sent[0].answer.result() == Answer(100)
    assert [each.answer.result() for each in sent[ASKED_AT_ONCE:]] == [Answer(200), Answer(201), Answer(202)]
    assert not sent[1].answer.done()
    assert owners.most == ASKED_AT_ONCE


async def test_a_part_that_is_looked_at_alone_waits_for_its_turn_and_goes_alone(
    pushes: ManyPushes, owners: SlowOwners
) -> None:
    for place in range(ASKED_AT_ONCE):
        await push(pushes, str(place))
    await push(pushes, "before")
    await push(pushes, "alone", idempotency_key="k")
    await push(pushes, "behind")
    await push(pushes, "behind it")
    for place in range(ASKED_AT_ONCE + 3):
        await owners.answer(place, [1, 2][: len(owners.titles[place])])
    assert owners.titles[ASKED_AT_ONCE:] == [["before"], ["alone"], ["behind", "behind it"]]


async def test_an_error_is_told_of_its_part_and_the_next_are_asked(pushes: ManyPushes, owners: SlowOwners) -> None:
    sent = [await push(pushes, str(place)) for place in range(ASKED_AT_ONCE + 1)]
    await owners.answer(0, QueueFull())
    (refused,) = (await sent[0].answer).results
    assert isinstance(refused, QueueFull)
    await owners.answer(ASKED_AT_ONCE, 7)
    assert sent[ASKED_AT_ONCE].answer.result() == Answer(7)


async def test_what_waited_as_long_as_an_answer_may_take_is_not_asked(
    pushes: ManyPushes, owners: SlowOwners, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    now, began = loop.time(), loop.time
    monkeypatch.setattr(loop, "time", lambda: now)
    sent = [await push(pushes, str(place)) for place in range(ASKED_AT_ONCE + 1)]
    assert owners.asked[0][1] == TIMEOUT_S
    now += 2
    later = await push(pushes, "later", idempotency_key="of a load of its own")
    now += 3
    await owners.answer(0, 1)
    (error,) = (await sent[ASKED_AT_ONCE].answer).results
    assert isinstance(error, NodeUnreachable)
    assert error.nothing_done
    assert owners.titles[ASKED_AT_ONCE:] == [["later"]]
    assert owners.asked[ASKED_AT_ONCE][1] == pytest.approx(2)
    assert not later.answer.done()
    monkeypatch.setattr(loop, "time", began)


async def test_who_waits_at_the_end_is_told_whether_it_may_have_been_done(
    pushes: ManyPushes, owners: SlowOwners
) -> None:
    sent = [await push(pushes, str(place)) for place in range(ASKED_AT_ONCE + 1)]
    await pushes.close()
    errors: list[GatewayError | Any] = [each.answer.result().results[0] for each in sent]
    assert [isinstance(error, NodeUnreachable) for error in errors] == [True] * len(sent)
    assert [error.nothing_done for error in errors] == [False] * ASKED_AT_ONCE + [True]
    assert len(owners.asked) == ASKED_AT_ONCE


async def test_a_lane_without_anything_is_not_kept(pushes: ManyPushes, owners: SlowOwners) -> None:
    sent = await push(pushes, "one")
    await owners.answer(0, 1)
    assert sent.answer.done()
    assert not pushes._lanes
