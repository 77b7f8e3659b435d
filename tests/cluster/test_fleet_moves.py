"""Pushes while partitions of a real fleet change their owners: who is connected gets them there, who is away by its
notifier, each once.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import Any

import pytest
from bare_device import BareDevice
from test_fleet_providers import PARTITIONS, Real, fleet, until

from gateway.cluster import far_edge
from gateway.model.cluster import partition_of
from gateway.model.registration import parse_token
from gateway.notifiers.stub.client import StubNotifier

__all__ = ["fleet"]


@pytest.mark.slow
async def test_a_partition_that_moves_asks_no_notifier_for_those_who_are_connected(
    fleet: Real, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(far_edge, "SETTLE_MS", 3_600_000)  # every node has to say that it told of all
    stub = StubNotifier()
    for node in fleet.nodes:
        node._notifiers["stub"] = stub  # type: ignore[index]
    gone = fleet.nodes.pop()
    theirs = set(gone.cores)
    there = [fleet.device(at % 2) for at in range(12)]
    tokens = [await device.join() for device in there]
    away = fleet.device(0)
    lone = ""
    while not lone or partition_of(parse_token(lone) or b"", PARTITIONS) not in theirs:
        lone = await away.join() if not lone else await away.register(account=secrets.token_hex(4), keep=True)
    away.close()
    moved = [partition_of(parse_token(token) or b"", PARTITIONS) in theirs for token in tokens]
    assert any(moved)
    got: list[set[int]] = [set() for _ in there]

    async def read(device: BareDevice, mine: set[int]) -> None:
        while True:
            # one whose ack found no owner comes again under its id, and is dropped by who has seen it
            mine.add((await device.note(ack=True, timeout_s=60.0))["id"])

    readers = [asyncio.create_task(read(device, mine)) for device, mine in zip(there, got, strict=True)]
    leaving = asyncio.create_task(gone.stop())
    ids: dict[str, list[str]] = {token: [] for token in tokens}

    async def push(at: int, token: str, **fields: Any) -> str:
        body = {"target": {"token": token}, "title": "on the move", "idempotency_key": f"{at}-{token}", **fields}
        async with fleet.client(at % 2) as http:

            async def accepted() -> bool:
                answer = await http.post("/v1/push", json=body)
                if answer.status_code in (200, 201):
                    body["id"] = answer.json()["id"]
                return answer.status_code in (200, 201)

            await until(accepted)
        return str(body["id"])

    async def push_on(token: str) -> None:
        at = 0
        while not leaving.done() or at < 8:
            ids[token].append(await push(at, token, fallback=["stub"], ack_ms=60_000))
            at += 1

    await asyncio.gather(*[push_on(token) for token in tokens])
    await leaving
    owners = fleet.nodes[0].members.owner
    await until(lambda: all(owners(partition).node for partition in range(PARTITIONS)))
    for mine, token in zip(got, tokens, strict=True):
        wanted = ids[token]
        await until(lambda mine=mine, wanted=wanted: len(mine) >= len(wanted))  # type: ignore[misc]
    for reader in readers:
        reader.cancel()
    await asyncio.gather(*readers, return_exceptions=True)
    assert not stub.calls
    await push(0, lone, fallback=["stub"])
    await until(lambda: bool(stub.calls))
    assert [call.title for call in stub.calls] == ["on the move"]
    for device in there:
        device.close()
