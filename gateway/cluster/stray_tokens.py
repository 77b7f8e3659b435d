"""Tokens that lie elsewhere than their first bits say, as an import left them in the fleet's stream of snapshots; must
never let a node begin with a part of them.

A gateway that was alone spread the tokens of a triple anyhow, and a device looks for its registration where the first
one belongs. Which these are never changes, so each node reads them once, at its start.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from itertools import islice
from struct import Struct

from gateway.cluster.jetstream import JetStream, JetStreamError, NatsConnection, NoAnswer, NobodyThere, NotSent
from gateway.config.cluster_section import Cluster
from gateway.model.cluster import SLOTS
from gateway.model.errors import LogUnavailable

#: tokens in one message: 360 kB
CHUNK = 20_000
_ROW = Struct(">16sH")
_TRIES = 20
_PAUSE_S = 0.25


def build_chunks(strays: Mapping[bytes, int]) -> Iterator[bytes]:
    rows = iter(strays.items())
    while chunk := list(islice(rows, CHUNK)):
        yield b"".join(_ROW.pack(token, slot) for token, slot in chunk)


def parse_chunk(raw: bytes) -> dict[bytes, int]:
    """ValueError where it is none."""
    if len(raw) % _ROW.size:
        raise ValueError("half a row of a stray token")
    found = dict(_ROW.iter_unpack(raw))
    if any(slot >= SLOTS for slot in found.values()):
        raise ValueError("a stray token in no slot")
    return found


class StrayTokens:
    """Of a fleet, in the stream of its snapshots."""

    def __init__(self, link: NatsConnection, settings: Cluster) -> None:
        self._js = JetStream(link, timeout_s=5.0)
        self._stream = f"{settings.name}_S"
        self._subject = f"{settings.name}.snapshot.strays"

    async def write(self, strays: Mapping[bytes, int]) -> int:
        """How many chunks. JetStreamError."""
        count = 0
        for count, chunk in enumerate(build_chunks(strays), 1):
            await self._put(f"{self._subject}.{count}", chunk)
        return count

    async def _put(self, subject: str, body: bytes) -> None:
        for tries_left in range(_TRIES - 1, -1, -1):
            try:
                await self._js.publish(subject, body, {})
                return
            except (NotSent, NobodyThere, NoAnswer):
                if not tries_left:
                    raise
            await asyncio.sleep(_PAUSE_S)

    async def read(self, chunks: int) -> dict[bytes, int]:
        """LogUnavailable where one of them can not be had."""
        found: dict[bytes, int] = {}
        for number in range(1, chunks + 1):
            found |= await self._get(f"{self._subject}.{number}")
        return found

    async def _get(self, subject: str) -> dict[bytes, int]:
        reason = "it is missing"
        for _ in range(_TRIES):
            try:
                message = await self._js.message(self._stream, last_of=subject)
                if message is not None:
                    return parse_chunk(message.body)
            except (JetStreamError, ValueError) as exc:
                reason = str(exc)
            await asyncio.sleep(_PAUSE_S)
        raise LogUnavailable(f"which tokens of the fleet were imported can not be read: {reason}")
