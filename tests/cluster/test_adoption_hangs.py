"""Real nodes over real NATS servers, one of which gets no answer while it adopts: others serve its partitions, and it
leaves nothing open.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from test_fleet_providers import PARTITIONS, Real, fleet, until

from gateway.cluster import adoption_deadline
from gateway.cluster.assignment import rank
from gateway.fleet.node import FleetNode
from gateway.metrics import Metric

__all__ = ["fleet"]

pytestmark = pytest.mark.slow
TIMEOUT_S = 1.5


class Silence:
    """Takes questions and never answers, until it is over."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer
        self.asked = 0
        self.over = asyncio.Event()

    async def __call__(self, *words: Any, **named: Any) -> Any:
        if not self.over.is_set():
            self.asked += 1
        await self.over.wait()
        return await self._answer(*words, **named)


def overdue(node: FleetNode) -> float:
    return node.metrics.value(Metric.PARTITION_MOVES, "overdue")


@pytest.mark.parametrize("where", ["find", "get", "ask"])
async def test_a_node_that_gets_no_answer_gives_its_partitions_to_others(
    fleet: Real, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adoption_deadline, "_CLOSE_S", 1.0)
    first, second, gone = fleet.nodes
    moving = set(gone.cores)
    # who is next in the order of one of them hangs
    order = {p: rank(p, [node.members.me().name for node in (first, second)])[0] for p in moving}
    hanging = next(node for node in (first, second) if node.members.me().name in order.values())
    other = second if hanging is first else first
    device = fleet.device(0)
    await device.join()
    stores = hanging._stores
    hanging.members._deadline._timeout_s = TIMEOUT_S
    if where == "find":  # the snapshot
        silence = Silence(stores._snapshots.find)
        monkeypatch.setattr(stores._snapshots, "find", silence)
    elif where == "get":  # the record of the journal's past
        silence = Silence(stores._pasts.get)
        monkeypatch.setattr(stores._pasts, "get", silence)
    else:  # behind the journal: the fleet's apps, while the store is open already
        silence = Silence(hanging._providers.copies.welcome)
        monkeypatch.setattr(hanging._providers.copies, "welcome", silence)
    fleet.nodes.remove(gone)
    await gone.stop()
    theirs = {p for p, name in order.items() if name == hanging.members.me().name}
    await until(lambda: theirs <= set(other.members.owned()))
    assert silence.asked >= len(theirs)
    await until(lambda: all(first.members.owner(p).node and second.members.owner(p).node for p in range(PARTITIONS)))
    assert overdue(hanging) >= len(theirs)
    assert overdue(other) == 0
    assert not theirs & set(hanging.cores)
    async with fleet.client(1) as http:
        for _ in range(4):
            answer = await http.get("/v1/registrations?alias=nobody")
            assert answer.status_code == 200, answer.text
    # it gets answers again, and takes its part once it may
    silence.over.set()
    hanging.members._failures._pauses.clear()
    other.members._failures._pauses.clear()
    await until(lambda: theirs <= set(hanging.cores))
    device.close()
