"""What is still told to a link after the data plane has stopped: a commit that ends last answers nobody."""

from __future__ import annotations

import asyncio

from gateway.config.sections import Edge
from gateway.edge.plane import Plane
from gateway.metrics import Metrics

LINK = 5


async def test_a_command_for_a_link_of_a_stopped_plane_is_done_with_and_not_kept() -> None:
    plane = Plane(Edge(port=0, reactors=1), Metrics(process=False), lambda acks, others: None)
    plane.start(asyncio.get_running_loop())
    await plane.stop()
    plane.insist(plane.of(LINK).send, LINK, b"\x00")
    plane.insist(plane.of(LINK).set_silence, LINK, 1_000)
    assert plane.sent(plane.of(LINK).welcome(LINK, 0, 1_000, 1, b""))
    assert not plane._unsent
