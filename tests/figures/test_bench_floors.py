"""The floors do what the gateway does, as far as a figure needs it; and the loops over the core find what is there."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from gateway._load.core_loops import Timers, Tokens

from bench.system.appends import appended_rows_per_s
from bench.system.floor_door import FloorDoor
from gateway.model.frames import FrameReader, FrameType, Hello, Notify, Register, Welcome, build_frame, parse_body


class Caller:
    """A connection to the floor."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self.writer = reader, writer
        self._frames = FrameReader()
        self._waiting: list[tuple[int, bytes]] = []

    async def next(self) -> tuple[int, bytes]:
        while not self._waiting:
            async with asyncio.timeout(60):
                data = await self._reader.read(65_536)
            assert data, "the floor closed the connection"
            self._waiting += self._frames.feed(data)
        return self._waiting.pop(0)


@contextlib.asynccontextmanager
async def callers(port: int, count: int) -> AsyncIterator[list[Caller]]:
    made = [Caller(*await asyncio.open_connection("127.0.0.1", port)) for _ in range(count)]
    try:
        yield made
    finally:
        for caller in made:
            caller.writer.close()


async def log_in(caller: Caller) -> None:
    login = build_frame(FrameType.HELLO, Hello(v=1)) + build_frame(
        FrameType.REGISTER, Register(req=1, app="bench", version="1.0")
    )
    caller.writer.write(login)
    kind, body = await caller.next()
    assert kind == FrameType.WELCOME
    assert parse_body(body, Welcome).heartbeat == 7
    assert (await caller.next())[0] == FrameType.TOKEN


async def test_the_floor_answers_logins_and_heartbeats_and_counts_them() -> None:
    async with FloorDoor(heartbeat_s=7) as floor, callers(floor.port, 20) as devices:
        for device in devices:
            await log_in(device)
        for device in devices:
            device.writer.write(build_frame(FrameType.PING))
            assert await device.next() == (FrameType.PONG, b"")
        counts = await floor.counts()
        assert (counts["accepted"], counts["answered"], counts["heartbeats"], counts["links"]) == (20, 20, 20, 20)
        assert floor.cpu_seconds() >= 0


@pytest.mark.parametrize("doors", [1, 3])
async def test_a_provider_s_push_goes_to_every_link_of_the_floor_once(doors: int) -> None:
    async with FloorDoor(heartbeat_s=7, doors=doors) as floor, callers(floor.port, 21) as (provider, *devices):
        for device in devices:
            await log_in(device)
        provider.writer.write(build_frame(FrameType.HELLO, {"v": 1, "role": "provider", "key": "hk"}))
        assert (await provider.next())[0] == FrameType.WELCOME
        pushes = [{"target": {"everyone": True}, "data": {"stamp": 5}}, {"target": {"everyone": True}, "text": "b"}]
        provider.writer.write(build_frame(FrameType.PUSH, {"req": 9, "pushes": pushes}))
        for device in devices:
            notes = [parse_body(body, Notify) for _, body in (await device.next(), await device.next())]
            assert [note.text for note in notes] == ["", "b"]
            assert b"stamp" in bytes(notes[0].data)
            # a confirmation is read and dropped
            device.writer.write(build_frame(FrameType.ACK, [note.id for note in notes]))
        kind, _ = await provider.next()
        assert kind == FrameType.PUSHED
        counts = await floor.counts()
        assert (counts["sent"], counts["refused"], counts["heartbeats"]) == (20, 0, 0)


async def test_links_that_end_are_forgotten_by_the_floor() -> None:
    async with FloorDoor(heartbeat_s=7) as floor:
        async with callers(floor.port, 5) as devices:
            for device in devices:
                await log_in(device)
        while (await floor.counts())["links"]:
            await asyncio.sleep(0)
        assert (await floor.counts())["ended"] == 5


def test_rows_are_appended() -> None:
    assert appended_rows_per_s(seconds=0.01) > 0


def test_the_wheel_s_loop_leaves_all_timers_armed() -> None:
    timers = Timers(1_000, 500)
    assert timers.arm_and_cancel(5_000) == 1_000
    assert timers.rearm_each(1_000, 5_000) == 1_000


@pytest.mark.parametrize("batch", [1, 7, 512])
def test_the_index_s_loops_find_every_token_and_no_other(batch: int) -> None:
    tokens = Tokens(1_000)
    asked = tokens.random_tokens(300, 3)
    assert len(asked) == 300 * 16
    assert tokens.find_batched(asked, batch) == tokens.find_each(asked) == 300
    strangers = Tokens(2_000).token(1_999) + tokens.token(5)
    assert tokens.find_batched(strangers, batch) == 1
