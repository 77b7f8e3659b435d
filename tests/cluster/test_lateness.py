"""A REGISTER that comes when nobody waits for it any more: known without a common clock, and not carried out."""

from __future__ import annotations

import msgspec
import pytest
from far_scene import Open

from gateway.cluster import far_wire
from gateway.cluster.far_door import REGISTER
from gateway.cluster.far_wire import AskRegister, Registered, build_body, parse_body
from gateway.cluster.lateness import WINDOW_S, Lateness
from gateway.model.errors import NodeUnreachable

#: what the asking node's clock is behind ours
BEHIND_MS = 123_456_789


class Ways:
    def __init__(self) -> None:
        self.now_ms = 10**9
        self.lateness = Lateness(lambda: self.now_ms)

    def comes(self, way_ms: int, node: int = 1) -> int:
        """A question of `node` that was so long on its way."""
        return self.lateness.waited_ms(node, self.now_ms - way_ms - BEHIND_MS)


def test_what_is_longer_on_its_way_than_the_shortest_has_waited() -> None:
    ways = Ways()
    assert [ways.comes(way) for way in (5, 5, 1_005, 3, 1_003)] == [0, 0, 1_000, 0, 1_000]
    assert ways.comes(1_003, node=2) == 0  # nothing to compare with


def test_one_that_does_not_say_has_not_waited() -> None:
    ways = Ways()
    ways.comes(1)
    assert ways.lateness.waited_ms(1, 0) == 0


def test_a_clock_that_stood_is_forgotten_with_its_node_or_in_time() -> None:
    ways = Ways()
    ways.comes(1)
    assert ways.comes(60_000) == 59_999  # its clock stands 60 s further behind
    ways.lateness.forget(1)
    assert ways.comes(60_000) == 0
    ways.comes(1)
    for _ in range(2):
        ways.now_ms += int(WINDOW_S * 1000) + 1
        waited = ways.comes(60_000)
    assert waited == 0


@pytest.mark.parametrize("waited_ms", [0, 999, 1_000, 60_000])
async def test_a_register_past_its_nodes_patience_is_not_carried_out(open_fleet: Open, waited_ms: int) -> None:
    fleet = await open_fleet(nodes=2, owners=dict.fromkeys(range(4), 2))
    device = fleet.nodes[1].device()
    token = await device.join()
    core = fleet.core_of(token)
    fleet.nodes[2].door._lateness = lateness = Lateness(lambda: 10**9)
    lateness.waited_ms(1, 10**9 - BEHIND_MS)
    ask = AskRegister(
        version=far_wire.WIRE_VERSION,
        partition=core.partition,
        epoch=core.edge.epoch,
        device="another",
        app="shop",
        app_version="1.0",
        account="",
        alias=None,
        tags=None,
        addresses=None,
        fallback=None,
        os=None,
        locale=None,
        timezone=None,
        quiet=None,
        vapid_key=None,
        pages=False,
        asked_ms=10**9 - BEHIND_MS - waited_ms,
        wait_ms=1_000,
    )
    known = len(core.edge.registry)
    asked = fleet.nodes[1].bus.ask(2, REGISTER, build_body(ask), timeout_s=5.0)
    if waited_ms < ask.wait_ms:
        assert parse_body(await asked, Registered).created
        assert len(core.edge.registry) == known + 1
        return
    with pytest.raises(NodeUnreachable):
        await asked
    assert fleet.nodes[2].dropped("late") == 1
    assert len(core.edge.registry) == known


def test_a_node_of_the_version_before_does_not_say_when_it_asked() -> None:
    said = ["", 0, 0, "d", "shop", "1", "", None, None, None, None, None, None, None, None, None, False]
    said[0] = far_wire.WIRE_VERSION
    ask = parse_body(msgspec.msgpack.encode(said), AskRegister)
    assert (ask.asked_ms, ask.wait_ms) == (0, 0)
    # and understands one that says it
    assert len(msgspec.msgpack.decode(build_body(ask))) == len(said) + 2
