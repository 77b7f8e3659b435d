"""A server that does as a NATS server does until it is connected to, and then what a test wants."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from nats.aio.client import Client

from gateway.cluster.nats_transport import read_natively
from gateway.tour.nats_servers import HOST

INFO = b'INFO {"server_id":"x","version":"2.11.0","proto":1,"headers":true,"max_payload":1048576}\r\n'


async def heard(queue: asyncio.Queue[Any], count: int) -> list[Any]:
    async with asyncio.timeout(60):
        return [await queue.get() for _ in range(count)]


@contextlib.asynccontextmanager
async def connected(
    answer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]],
    **options: Any,
) -> AsyncIterator[tuple[Any, asyncio.Queue[BaseException]]]:
    """(client, its errors) of a server that does as a NATS server does until it is connected to, and then `answer`."""
    errors: asyncio.Queue[BaseException] = asyncio.Queue()
    over = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(INFO)
            while await reader.readline() != b"PING\r\n":
                pass
            writer.write(b"PONG\r\n")
            await answer(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            over.set()

    server = await asyncio.start_server(serve, HOST, 0)
    client = Client()
    assert read_natively(client) is not None

    async def on_error(error: BaseException) -> None:
        errors.put_nowait(error)

    port = server.sockets[0].getsockname()[1]
    await client.connect(f"nats://{HOST}:{port}", allow_reconnect=False, error_cb=on_error, **options)
    try:
        yield client, errors
    finally:
        await client.close()
        async with asyncio.timeout(60):
            await over.wait()
        server.close()
        await server.wait_closed()
