"""What must be on disk before anybody hears of it: pushes with an idempotency key, and recalls."""

from __future__ import annotations

import asyncio

import pytest
from house import House

from gateway.delivery.accept import Accepted
from gateway.delivery.request import PushRequest, TargetRequest
from gateway.model.errors import StoreUnavailable, UnknownPush
from gateway.model.outcome import State
from gateway.model.registration import build_token


def push_durable_first(house: House, target: TargetRequest) -> Accepted:
    app = house.directory.app("shop")
    assert app
    return house.acceptor.push(app, PushRequest(target=target), house.clock.now_ms, durable_first=True)


@pytest.mark.parametrize("kind", ["token", "alias", "everyone"])
async def test_nothing_of_it_leaves_before_the_commit_not_even_to_who_asks(house: House, kind: str) -> None:
    device, other = house.directory.add(alias="ann"), house.directory.add(alias="ann")
    house.edge.connect(device.number)
    target = {
        "token": TargetRequest(token=build_token(device.token)),
        "alias": TargetRequest(alias="ann"),
        "everyone": TargetRequest(everyone=True),
    }[kind]
    house.journal.hold = True
    taken = push_durable_first(house, target)
    house.edge.disconnect(device.number)
    house.edge.connect(device.number, other.number)
    assert house.dispatcher.on_fetch(device.number, []) == (0, False)
    await house.settle_down()
    assert not house.edge.frames
    assert not taken.done.done()
    house.journal.commit()
    await taken.done
    await house.settle_down()
    assert len(house.frames(device)) == 1
    assert len(house.frames(other)) == (kind != "token")


async def test_where_its_commit_fails_no_device_hears_of_it(house: House) -> None:
    device = house.directory.add()
    house.edge.connect(device.number)
    house.journal.fail = True
    taken = push_durable_first(house, TargetRequest(token=build_token(device.token)))
    with pytest.raises(StoreUnavailable):
        await taken.done
    assert not house.edge.frames
    assert not house.edge.recalled
    assert not house.dispatcher.release(taken.seq)


async def test_a_recall_returns_after_its_commit(house: House) -> None:
    device = house.directory.add()
    seq = await house.accepted(device)
    house.journal.hold = True
    recall = asyncio.create_task(house.dispatcher.recall("shop", seq))
    await house.settle_down()
    assert house.state(seq) is State.RECALLED
    assert not recall.done()
    house.journal.commit()
    assert await recall == 1


async def test_a_recall_that_can_not_be_kept_says_so_and_holds_meanwhile(house: House) -> None:
    device = house.directory.add()
    seq = await house.accepted(device)
    house.journal.writable = False
    with pytest.raises(StoreUnavailable):
        await house.dispatcher.recall("shop", seq)
    assert house.state(seq) is State.RECALLED


async def test_a_recall_of_what_is_over_still_waits_for_the_commit(house: House) -> None:
    house.journal.hold = True
    recall = asyncio.create_task(house.dispatcher.recall("shop", 4711))
    await house.settle_down()
    assert not recall.done()
    house.journal.commit()
    with pytest.raises(UnknownPush):
        await recall
