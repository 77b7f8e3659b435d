"""What a fleet stands on, by itself: a stream with three copies keeps each message it acked, once and in order, while
its servers are killed, paused, cut off and filled up. Where this fails, nothing above can be right.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import nats
import pytest
from chaos_disks import CAN_MOUNT, SmallDisk, mounted
from fleet_faults import Ruins, plan, possible, strike
from fleet_history import History
from fleet_network import CAN_MAKE_NETWORKS, Network
from nats.errors import Error as NatsError
from nats.js.client import JetStreamContext
from nats.js.errors import APIError

from gateway.tour.fleet_home import FleetHome
from gateway.tour.nats_servers import AGREE_S, NatsServers

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(400)]

_T = TypeVar("_T")
FAULTS = 8
#: a stream whose leader was killed has another after 4 to 9 s, on a quiet machine
ELECTION_S = 60.0
DISK_BYTES = 128 << 20
#: NATS refuses an append behind another message than the one named
WRONG_LAST = 10_071


class Writer:
    """Appends numbered messages one after the other; one that got no answer is looked for before it is sent again."""

    def __init__(self, stream: JetStreamContext) -> None:
        self._stream = stream
        self.acked: list[bytes] = []
        self._last = 0
        self.doubts = 0

    async def run(self) -> None:
        while True:
            await self.append(b"%d " % len(self.acked) + b"x" * 2_000)

    async def append(self, body: bytes) -> None:
        while True:
            try:
                headers = {"Nats-Expected-Last-Sequence": str(self._last)}
                ack = await self._stream.publish("log.x", body, headers=headers, timeout=1.0)
                self._took(body, ack.seq)
                return
            except APIError as error:
                if error.err_code == WRONG_LAST and await self._is_there(body):
                    return
            except (NatsError, TimeoutError):
                pass
            self.doubts += 1
            await asyncio.sleep(0.02)

    async def _is_there(self, body: bytes) -> bool:
        """The one before got no answer, and was taken."""
        with contextlib.suppress(NatsError, TimeoutError):
            found = await self._stream.get_msg("log", self._last + 1)
            assert found.data == body
            self._took(body, self._last + 1)
            return True
        return False

    def _took(self, body: bytes, seq: int) -> None:
        self.acked.append(body)
        self._last = seq


async def _quiet(_: Exception) -> None:
    """Connections end all the time here."""


async def test_a_stream_with_three_copies_keeps_what_it_acked(tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    history = History(tmp_path / "history.jsonl")
    async with contextlib.AsyncExitStack() as stack:
        names = ["n1", "n2", "n3"]
        network = stack.enter_context(Network(names)) if CAN_MAKE_NETWORKS else None
        disks = {}
        for name in names if CAN_MOUNT else ():
            folder = tmp_path / "nats" / name / "jetstream"
            disks[name] = SmallDisk(stack.enter_context(mounted(folder, DISK_BYTES)))
        home = FleetHome(tmp_path, nodes=0, ground=network)
        await stack.enter_async_context(home)
        servers = home.nats
        assert servers is not None
        link = await nats.connect(
            servers.urls.split(","), error_cb=_quiet, max_reconnect_attempts=-1, reconnect_time_wait=0.1
        )
        stack.push_async_callback(link.close)
        stream = link.jetstream()
        await stream.add_stream(name="log", subjects=["log.>"], num_replicas=3)
        writer = Writer(stream)
        writing = asyncio.create_task(writer.run())
        ruins = Ruins(home, history, random.Random(seed), 1.0, network, disks=disks)
        kinds = [kind for kind in possible(ruins) if kind.targets == "nats"]
        for planned in plan(kinds, FAULTS, random.Random(seed), gateways=1, nats=3):
            before = len(writer.acked)
            await strike(ruins, planned)
            await _goes_on(writer, before)
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        await _check(servers, writer)
    history.close()
    print(f"{len(writer.acked)} acked, {writer.doubts} in doubt")
    assert len(writer.acked) > 100


async def _goes_on(writer: Writer, before: int) -> None:
    async with asyncio.timeout(60):
        while len(writer.acked) <= before:
            await asyncio.sleep(0.05)


async def _check(servers: NatsServers, writer: Writer) -> None:
    """Each server has the whole stream: it is asked for it where it leads."""
    await servers.wait_until_healthy(AGREE_S)
    link = await nats.connect(servers.servers[0].url)
    stream = link.jetstream()
    info = await _answered(lambda: stream.stream_info("log"))
    # the last append may have been cut off when the writer was stopped, and be there
    assert info.state.messages - len(writer.acked) in (0, 1)
    consumer = await _answered(lambda: stream.subscribe("log.>", ordered_consumer=True))
    for body in writer.acked:
        message = await consumer.next_msg(timeout=ELECTION_S)
        assert message.data == body
    await link.close()


async def _answered(ask: Callable[[], Awaitable[_T]]) -> _T:
    """Servers that are healthy may still elect who leads a stream."""
    async with asyncio.timeout(ELECTION_S):
        while True:
            with contextlib.suppress(NatsError, TimeoutError):
                return await ask()
            await asyncio.sleep(0.1)
