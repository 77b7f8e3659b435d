"""The proxy of faults before a server that echoes: what it says of the network is so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from fault_proxy import FaultProxy, Mode


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()
    writer.close()


@pytest.fixture
async def proxy() -> AsyncIterator[FaultProxy]:
    server = await asyncio.start_server(_echo, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    async with FaultProxy(host, port) as proxy:
        yield proxy
    server.close()
    await server.wait_closed()


class Caller:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def call(cls, proxy: FaultProxy) -> Caller:
        return cls(*await asyncio.open_connection("127.0.0.1", proxy.port))

    async def hears_nothing(self, seconds: float = 0.1) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self.reader.readexactly(1)
        except TimeoutError:
            return True
        return False

    async def close(self) -> None:
        self.writer.close()
        await asyncio.gather(self.writer.wait_closed(), return_exceptions=True)


async def test_passing_it_changes_nothing(proxy: FaultProxy) -> None:
    caller = await Caller.call(proxy)
    sent = bytes(range(256)) * 4_096
    caller.writer.write(sent)
    assert await caller.reader.readexactly(len(sent)) == sent
    await caller.close()


async def test_what_was_sent_while_it_stalls_arrives_afterwards(proxy: FaultProxy) -> None:
    caller = await Caller.call(proxy)
    caller.writer.write(b"before")
    assert await caller.reader.readexactly(6) == b"before"
    await proxy.set(Mode.STALL)
    caller.writer.write(b"during")
    late = await Caller.call(proxy)
    late.writer.write(b"late")
    assert await caller.hears_nothing()
    assert await late.hears_nothing()
    await proxy.set(Mode.PASS)
    assert await caller.reader.readexactly(6) == b"during"
    assert await late.reader.readexactly(4) == b"late"
    await caller.close()
    await late.close()


async def test_a_cut_ends_who_is_there_and_takes_nobody(proxy: FaultProxy) -> None:
    caller = await Caller.call(proxy)
    caller.writer.write(b"x")
    await caller.reader.readexactly(1)
    await proxy.set(Mode.CUT)
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await caller.reader.readexactly(1)
    with pytest.raises(ConnectionError):
        await Caller.call(proxy)
    await proxy.set(Mode.PASS)
    again = await Caller.call(proxy)
    again.writer.write(b"again")
    assert await again.reader.readexactly(5) == b"again"
    await caller.close()
    await again.close()


async def test_a_delay_holds_back_both_ways(proxy: FaultProxy) -> None:
    caller = await Caller.call(proxy)
    proxy.delay_s = 0.1
    loop = asyncio.get_running_loop()
    began = loop.time()
    caller.writer.write(b"x")
    assert await caller.reader.readexactly(1) == b"x"
    assert loop.time() - began >= 0.2
    await caller.close()


async def test_a_far_end_that_is_not_there_ends_the_caller() -> None:
    gone = await asyncio.start_server(_echo, "127.0.0.1", 0)
    port = gone.sockets[0].getsockname()[1]
    gone.close()
    await gone.wait_closed()
    async with FaultProxy("127.0.0.1", port) as proxy:
        caller = await Caller.call(proxy)
        assert await caller.reader.read() == b""
        await caller.close()
