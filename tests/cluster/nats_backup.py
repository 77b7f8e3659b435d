"""`nats account backup` and `restore` of single streams, as JetStream's own requests."""

from __future__ import annotations

import asyncio
import json
from typing import Any, NamedTuple

from nats.aio.msg import Msg
from nats.errors import NoRespondersError

from gateway.cluster.jetstream import JetStream, NatsConnection


class Backup(NamedTuple):
    stream: str
    config: dict[str, Any]
    state: dict[str, Any]
    chunks: list[bytes]


async def back_up(link: NatsConnection, stream: str) -> Backup:
    nats, chunks, done = link.nats, [], asyncio.Event()

    async def take(message: Msg) -> None:
        if message.data:
            chunks.append(message.data)
        else:
            done.set()
        if message.reply:
            await nats.publish(message.reply, b"")

    inbox = nats.new_inbox()
    subscription = await nats.subscribe(inbox, cb=take)
    try:
        said = await JetStream(link, timeout_s=10.0).api(
            f"STREAM.SNAPSHOT.{stream}", {"deliver_subject": inbox, "no_consumers": True, "chunk_size": 65_536}
        )
        async with asyncio.timeout(60):
            await done.wait()
    finally:
        await subscription.unsubscribe()
    return Backup(stream, said["config"], said["state"], chunks)


async def restore(link: NatsConnection, backup: Backup) -> None:
    """In the place of a stream that is gone."""
    said = await JetStream(link, timeout_s=10.0).api(
        f"STREAM.RESTORE.{backup.stream}", {"config": backup.config, "state": backup.state}
    )
    for chunk in [*backup.chunks, b""]:
        answer = await _give(link, said["deliver_subject"], chunk)
    error = json.loads(answer.data).get("error")
    assert error is None, error


async def _give(link: NatsConnection, subject: str, chunk: bytes) -> Msg:
    """The server that restores says where it listens before all servers know of it."""
    async with asyncio.timeout(60):
        while True:
            try:
                return await link.nats.request(subject, chunk, timeout=20)
            except NoRespondersError:
                await asyncio.sleep(0.02)
