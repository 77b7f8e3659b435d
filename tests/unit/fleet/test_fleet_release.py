"""A partition that is given up: the next owner waits until nothing is written any more, and for nothing else."""

from __future__ import annotations

import asyncio
from typing import Any

from gateway.config.sections import Config
from gateway.fleet.node import FleetNode

PARTITION = 3


class Closing:
    """A core that is quiet, and still has a folder to sync."""

    partition = PARTITION

    def __init__(self, quiet: asyncio.Event) -> None:
        self._quiet = quiet
        self.may_end = asyncio.Event()
        self.has_drained = False

    async def drain(self, seconds: float) -> None:
        assert 0 < seconds <= 2
        assert not self._quiet.is_set()  # it serves still
        self.has_drained = True

    async def close(self) -> None:
        assert self.has_drained  # else the next owner calls again what is cut off
        await asyncio.sleep(0)
        self._quiet.set()
        await self.may_end.wait()


async def test_a_partition_is_given_up_when_it_is_quiet_and_taken_again_when_it_is_closed() -> None:
    node: Any = object.__new__(FleetNode)
    quiet = asyncio.Event()
    core = Closing(quiet)
    node.config = Config()
    node.cores, node._closings, node._quiet = {PARTITION: core}, {}, {PARTITION: quiet}
    async with asyncio.timeout(60):
        await node.release(PARTITION)
    assert quiet.is_set()
    assert PARTITION not in node.cores
    again = asyncio.ensure_future(node._closed(PARTITION))
    await asyncio.sleep(0)
    assert not again.done()
    core.may_end.set()
    await again
