"""A TCP proxy that behaves as a bad network on demand: it passes, delays, stalls, cuts; needs no root; must never pass
a byte that it said was cut.
"""

from __future__ import annotations

import asyncio
import contextlib
from enum import Enum
from typing import Self

#: a direction of a connection holds so much at most; past it the sender is not read any more
_HELD_BYTES = 1 << 20
_READ_BYTES = 1 << 16


class Mode(Enum):
    PASS = "everything goes through"
    STALL = "connections stay and are taken, and nothing goes through: a network that drops"
    CUT = "connections end, and none is taken"


class _Way:
    """One direction of one connection: what was read waits here for its time."""

    def __init__(self, proxy: FaultProxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._proxy = proxy
        self._reader = reader
        self._writer = writer

    async def run(self) -> None:
        """Until one of the ends is gone; half-closed ends count as gone."""
        loop = asyncio.get_running_loop()
        while True:
            data = await self._reader.read(_READ_BYTES)
            came = loop.time()
            while True:
                await self._proxy.passing()
                left = came + self._proxy.delay_s - loop.time()
                if left <= 0:
                    break
                await asyncio.sleep(left)
            if not data:
                return
            self._writer.write(data)
            await self._writer.drain()


class FaultProxy:
    """`async with FaultProxy(host, port) as proxy`: listens at `proxy.port`, on loopback."""

    def __init__(self, host: str, port: int) -> None:
        self._upstream = host, port
        self._mode = Mode.PASS
        self._is_passing = asyncio.Event()
        self._is_passing.set()
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self.port = 0
        #: seconds that each piece is held back
        self.delay_s = 0.0
        self.taken = 0

    @property
    def mode(self) -> Mode:
        return self._mode

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._take, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
        await self._end_connections()
        if self._server is not None:
            await self._server.wait_closed()
            self._server = None

    async def set(self, mode: Mode) -> None:
        if mode is self._mode:
            return
        before, self._mode = self._mode, mode
        if mode is Mode.PASS:
            self._is_passing.set()
        else:
            self._is_passing.clear()
        if mode is Mode.CUT:
            assert self._server is not None
            self._server.close()
            await self._end_connections()
            await self._server.wait_closed()
        elif before is Mode.CUT:
            self._server = await asyncio.start_server(self._take, "127.0.0.1", self.port)

    async def passing(self) -> None:
        await self._is_passing.wait()

    async def _end_connections(self) -> None:
        tasks = list(self._connections)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.taken += 1
        task = asyncio.create_task(self._serve(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = [writer]
        try:
            await self.passing()
            far_reader, far_writer = await asyncio.open_connection(*self._upstream, limit=_HELD_BYTES)
            ends.append(far_writer)
            ways = [
                asyncio.create_task(_Way(self, reader, far_writer).run()),
                asyncio.create_task(_Way(self, far_reader, writer).run()),
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        except OSError:
            pass  # the far end is not there: so is this one
        finally:
            for end in ends:
                if self._mode is Mode.PASS:
                    end.close()
                else:
                    end.transport.abort()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await asyncio.gather(*(end.wait_closed() for end in ends), return_exceptions=True)
