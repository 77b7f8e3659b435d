"""What is sent to one partition reaches its owners in order, and each is told once what became of it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest

from gateway.fleet import lane as lane_module
from gateway.fleet import owners as owners_module
from gateway.fleet.lane import Lane
from gateway.fleet.owners import Owners
from gateway.metrics import Metrics
from gateway.model.cluster import Owner, Reply
from gateway.model.errors import GatewayError, LogFenced, NodeUnreachable, UnknownApp

P = 3


class _Members:
    partitions = 16

    def __init__(self) -> None:
        self.node = 1

    def owner(self, partition: int) -> Owner:
        assert partition == P
        return Owner(self.node, 1)


class _Bus:
    number = 9

    def serve(self, kind: str, handler: Any) -> None: ...


class Scene:
    """Loads are numbers; `asked` has what reached which node, `replies` how to answer it."""

    def __init__(self, timeout_s: float = 5.0) -> None:
        self.members = _Members()
        owners: Any = Owners(_Bus(), self.members, {}, Metrics(process=False), timeout_s=timeout_s)  # type: ignore[arg-type]
        self.owners = owners
        self.asked: list[tuple[int, int]] = []
        self.replies: dict[int, Reply] = {}
        self.told: dict[int, list[bytes | GatewayError]] = {}
        self.raises: dict[int, Exception] = {}  # by node
        self.lane: Lane[int] = Lane(owners, P, self._send, self._settle)

    def _send(self, load: int, node: int, reply: Reply) -> None:
        if node in self.raises:
            raise self.raises[node]
        self.asked.append((node, load))
        self.replies[load] = reply

    def _settle(self, load: int, node: int, answer: bytes | GatewayError) -> None:
        self.told.setdefault(load, []).append(answer)

    def move(self, node: int) -> None:
        self.members.node = node
        self.owners.owner_changed(P)


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not true():
            await asyncio.sleep(0.002)


async def test_with_an_owner_each_goes_at_once() -> None:
    scene = Scene()
    for load in range(3):
        scene.lane.put(load)
    assert scene.asked == [(1, 0), (1, 1), (1, 2)]
    assert scene.lane.under_way == 3
    for load in (1, 0, 2):
        scene.replies[load](b"%d" % load)
        scene.replies[load](b"once more")
    assert scene.told == {0: [b"0"], 1: [b"1"], 2: [b"2"]}
    await scene.lane.close()


async def test_those_that_wait_longer_than_a_look_go_before_those_that_came_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(owners_module, "LOOK_AGAIN_S", 0.02)
    scene = Scene()
    scene.move(0)
    scene.lane.put(1)
    await asyncio.sleep(0.03)
    scene.lane.put(2)
    await asyncio.sleep(0.03)
    scene.lane.put(3)
    scene.move(2)
    await until(lambda: len(scene.asked) == 3)
    assert scene.asked == [(2, 1), (2, 2), (2, 3)]
    await scene.lane.close()


async def test_what_the_owner_before_refused_goes_to_the_next_before_what_came_later() -> None:
    scene = Scene()
    scene.lane.put(1)
    scene.lane.put(2)
    scene.move(2)
    scene.lane.put(3)  # the first two are still at the node before
    await asyncio.sleep(0.01)
    assert scene.asked == [(1, 1), (1, 2)]
    scene.replies[2](LogFenced())
    await asyncio.sleep(0.01)
    assert len(scene.asked) == 2  # the first is still there
    scene.replies[1](LogFenced())
    await until(lambda: len(scene.asked) == 5)
    assert scene.asked[2:] == [(2, 1), (2, 2), (2, 3)]
    await scene.lane.close()


async def test_a_node_that_has_it_again_is_asked_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owners_module, "LOOK_AGAIN_S", 0.05)
    scene = Scene()
    scene.lane.put(1)
    scene.replies[1](LogFenced())
    scene.lane.put(2)  # the same node still counts as the owner, and refused just now
    await until(lambda: len(scene.asked) == 3)
    assert scene.asked[1:] == [(1, 1), (1, 2)]
    await scene.lane.close()


async def test_it_goes_without_waiting_again_as_soon_as_the_first_was_sent() -> None:
    scene = Scene()
    scene.move(0)
    scene.lane.put(1)
    scene.move(2)
    await until(lambda: scene.asked)
    scene.lane.put(2)  # nothing was answered yet
    assert scene.asked == [(2, 1), (2, 2)]
    await scene.lane.close()


async def test_whoever_finds_no_owner_in_time_is_told_that_nothing_was_done() -> None:
    scene = Scene(timeout_s=0.05)
    scene.move(0)
    scene.lane.put(1)
    scene.lane.put(2)
    await until(lambda: len(scene.told) == 2)
    assert all(isinstance(answers[0], NodeUnreachable) and answers[0].nothing_done for answers in scene.told.values())
    scene.move(2)
    scene.lane.put(3)
    assert scene.asked == [(2, 3)]
    await scene.lane.close()


async def test_whoever_is_held_up_by_another_node_is_told_in_time() -> None:
    scene = Scene(timeout_s=0.05)
    scene.lane.put(1)
    scene.move(2)
    scene.lane.put(2)
    await until(lambda: 2 in scene.told)
    answer = scene.told[2][0]
    assert isinstance(answer, NodeUnreachable)
    assert answer.nothing_done
    scene.replies[1](b"late")
    scene.lane.put(3)
    await until(lambda: (2, 3) in scene.asked)
    await scene.lane.close()


@pytest.mark.parametrize("error", [UnknownApp(), RuntimeError("no")])
async def test_what_can_not_be_sent_is_told_and_costs_the_next_nothing(error: Exception) -> None:
    scene = Scene()
    scene.raises[1] = error
    scene.lane.put(1)
    assert isinstance(scene.told[1][0], GatewayError)
    scene.raises.clear()
    scene.lane.put(2)
    assert scene.asked == [(1, 2)]
    await scene.lane.close()


async def test_too_many_that_wait_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane_module, "MOST_WAITING", 2)
    scene = Scene()
    scene.move(0)
    for load in range(3):
        scene.lane.put(load)
    assert list(scene.told) == [2]
    await scene.lane.close()
    assert sorted(scene.told) == [0, 1, 2]
    scene.lane.put(3)
    assert isinstance(scene.told[3][0], NodeUnreachable)


@pytest.mark.parametrize("seed", range(20))
async def test_whatever_happens_each_is_told_once_and_no_owner_sees_another_order(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Owners change, refuse, raise and answer by chance; a node takes a load only while it is the owner."""
    monkeypatch.setattr(owners_module, "LOOK_AGAIN_S", 0.005)
    chance = random.Random(seed)
    scene = Scene(timeout_s=30)
    taken: list[int] = []
    open_: list[tuple[int, int]] = []  # (node, load), not answered yet

    def send(load: int, node: int, reply: Reply) -> None:
        scene.replies[load] = reply
        if node == 3 and node != scene.members.node:
            raise LogFenced
        open_.append((node, load))

    scene.lane._send = send
    sent = 0
    while sent < 200 or open_ or scene.lane._waiting:
        step = chance.random()
        if step < 0.4 and sent < 200:
            scene.lane.put(sent)
            sent += 1
        elif step < 0.5:
            # whoever gets the partition back has answered what reached it before
            node = chance.choice([0, 1, 2, 3] if sent < 200 else [1, 2, 3])
            if all(at != node for at, _ in open_):
                scene.move(node)
        elif step < 0.8 and open_:
            node, load = open_.pop(0)  # a node handles what comes in its order
            if node != scene.members.node:
                scene.replies[load](LogFenced())
            else:
                taken.append(load)
                scene.replies[load](b"taken")
        else:
            await asyncio.sleep(0)
    await scene.lane.close()
    assert {load: len(answers) for load, answers in scene.told.items()} == dict.fromkeys(range(200), 1)
    assert taken == sorted(taken)
    assert len(taken) == 200
