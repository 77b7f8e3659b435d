"""The switches of the bus in one process: what networks do to nodes, on demand."""

from __future__ import annotations

import asyncio

import pytest

from gateway.cluster.local_bus import LocalBus, LocalNetwork
from gateway.model.errors import NodeUnreachable


async def pair() -> tuple[LocalNetwork, LocalBus, LocalBus, list[bytes], list[int]]:
    """(network, one, other, what the other heard, gaps it saw)"""
    network = LocalNetwork()
    one, other = network.bus(1), network.bus(2)
    heard: list[bytes] = []
    gaps: list[int] = []
    other.serve("told", lambda _sender, body: heard.append(body) or b"")
    other.serve("echo", lambda _sender, body: body)
    other.on_gap(gaps.append)
    await one.start()
    await other.start()
    return network, one, other, heard, gaps


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_dropped_message_is_a_gap_before_the_next() -> None:
    network, one, other, heard, gaps = await pair()
    network.drop(1, 2)
    one.tell(2, "told", b"lost")
    await settle()
    assert heard == []
    assert gaps == []
    one.tell(2, "told", b"next")
    await settle()
    assert heard == [b"next"]
    assert gaps == [1]
    await one.close()
    await other.close()


async def test_what_is_told_in_one_turn_is_one_message() -> None:
    network, one, other, heard, gaps = await pair()
    network.drop(1, 2)
    for n in range(10):
        one.tell(2, "told", b"%d" % n)
    await settle()
    one.tell(2, "told", b"next")
    await settle()
    assert heard == [b"next"]
    assert gaps == [1]
    await one.close()
    await other.close()


async def test_a_cut_pair_hears_nothing_until_it_is_healed() -> None:
    network, one, other, heard, gaps = await pair()
    network.cut(1, 2)
    one.tell(2, "told", b"x")
    with pytest.raises(NodeUnreachable):
        await one.ask(2, "echo", b"y", timeout_s=0.05)
    network.heal()
    assert await one.ask(2, "echo", b"z", timeout_s=1) == b"z"
    assert heard == []
    assert gaps == [1]
    await one.close()
    await other.close()


async def test_an_answer_that_does_not_come_back_was_carried_out_all_the_same() -> None:
    network, one, other, _heard, _gaps = await pair()
    done: list[bytes] = []
    other.serve("do", lambda _sender, body: done.append(body) or b"")
    network.cut_one_way(2, 1)
    with pytest.raises(NodeUnreachable):
        await one.ask(2, "do", b"y", timeout_s=0.05)
    assert done == [b"y"]
    await one.close()
    await other.close()


async def test_delays_keep_the_order() -> None:
    network, one, other, heard, gaps = await pair()
    network.delay(1, 2, 0.03)
    one.tell(2, "told", b"1")
    await settle()
    network.delay(1, 2, 0.0)
    one.tell(2, "told", b"2")
    while len(heard) < 2:
        await asyncio.sleep(0.005)
    assert heard == [b"1", b"2"]
    assert gaps == []
    await one.close()
    await other.close()


async def test_a_node_that_is_down_keeps_what_it_has_to_say() -> None:
    _network, one, other, heard, gaps = await pair()
    one.switch(up=False)
    one.tell(2, "told", b"1")
    with pytest.raises(NodeUnreachable):
        await one.ask(2, "echo", b"", timeout_s=1)
    await settle()
    assert heard == []
    one.switch(up=True)
    await settle()
    assert heard == [b"1"]
    assert gaps == []
    await one.close()
    await other.close()
