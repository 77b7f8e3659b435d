"""Reads a stream from one sequence on, in order and without gaps, for ever or up to a place; must never skip a message,
nor hold more than the server's flow control lets come.

The consumer lives on one server and in its memory; where it falls silent, or something is missing, another is made that
goes on where this one stopped.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

import structlog

from gateway.cluster.jetstream import JetStream, JetStreamError

if TYPE_CHECKING:
    from nats.aio.msg import Msg

log = structlog.get_logger(__name__)

HEARTBEAT_S = 1.0
#: nothing was heard for so long, or nothing but that there is nothing, where there is something: another consumer
SILENT_S = 3.0
#: between two tries to have one
PAUSE_S, MOST_PAUSE_S = 0.1, 2.0
_STATUS = "Status"
_STALLED = "Nats-Consumer-Stalled"
_LAST_STREAM = "Nats-Last-Stream"
_ACK_PREFIX = "$JS.ACK."


class Message(NamedTuple):
    seq: int
    headers: dict[str, str] | None
    body: bytes


class StreamPurged(Exception):
    """The next message was removed already: what it said has to be had from a snapshot."""

    def __init__(self, wanted: int, first: int) -> None:
        super().__init__(f"the stream begins at {first}, {wanted} was wanted")
        self.first = first


class StreamReplaced(Exception):
    """It is not the stream any more that was read before, but one of the same name."""


def sequence_of(reply: str) -> int:
    """The stream's sequence in the reply subject of a delivered message; 0 where it is none."""
    tokens = reply.split(".")
    # $JS.ACK.<stream>.<consumer>.<delivered>.<sequence>.… or, since later, $JS.ACK.<domain>.<account>.<stream>.…
    place = 5 if len(tokens) == 9 else 7 if len(tokens) >= 11 else 0
    if not reply.startswith(_ACK_PREFIX) or not place or not tokens[place].isdecimal():
        return 0
    return int(tokens[place])


class _Inbox:
    """What one consumer sent and was not taken yet."""

    def __init__(self) -> None:
        self.messages: list[Msg] = []
        self.woken = asyncio.Event()

    async def on_message(self, message: Msg) -> None:
        self.messages.append(message)
        self.woken.set()


class JournalReader:
    """Control thread only."""

    def __init__(self, js: JetStream, stream: str) -> None:
        self._js = js
        self._stream = stream

    async def read(self, start: int, end: int = 0, created: str = "") -> AsyncGenerator[list[Message], None]:
        """Lists of messages, from `start` on, up to and with `end` (0: for ever). Close it, or use it up.
        StreamPurged where the stream begins later, StreamReplaced where it was made at another time than `created`
        (empty: whichever)."""
        wanted = start
        pause_s = PAUSE_S
        while not end or wanted <= end:
            try:
                async for batch in self._from(wanted, created):
                    pause_s = PAUSE_S
                    if end and batch[-1].seq >= end:
                        batch = [message for message in batch if message.seq <= end]
                    wanted = batch[-1].seq + 1
                    yield batch
                    if end and wanted > end:
                        return
            except JetStreamError as exc:
                log.debug("journal_not_read", stream=self._stream, reason=str(exc))
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, MOST_PAUSE_S)

    async def _from(self, wanted: int, created: str) -> AsyncGenerator[list[Message], None]:
        """With one consumer, until it falls silent or something is missing."""
        if not self._js.link.is_up:
            return
        client = self._js.link.nats
        state = await self._js.state(self._stream)
        if state is None:
            return
        if created and state.created != created:
            raise StreamReplaced
        if state.first > wanted:
            raise StreamPurged(wanted, state.first)
        inbox = _Inbox()
        subject = client.new_inbox()
        consumer = ""
        subscription = await client.subscribe(subject, cb=inbox.on_message)
        try:
            consumer = await self._js.consume(self._stream, subject, wanted, heartbeat_s=HEARTBEAT_S)
            loop = asyncio.get_running_loop()
            came_s = loop.time()
            while True:
                try:
                    async with asyncio.timeout(SILENT_S):
                        await inbox.woken.wait()
                except TimeoutError:
                    return
                if wanted <= state.last and loop.time() - came_s > SILENT_S:
                    return  # its server has not what the stream had already
                inbox.woken.clear()
                messages, inbox.messages = inbox.messages, []
                batch: list[Message] = []
                for message in messages:
                    headers = message.headers
                    if not message.data and headers and _STATUS in headers:
                        answer = message.reply or headers.get(_STALLED, "")
                        last = headers.get(_LAST_STREAM, "")
                        if answer:
                            # the server sends more once this is answered: not before what came was taken
                            if batch:
                                wanted = batch[-1].seq + 1
                                yield batch
                                batch = []
                            await client.publish(answer, b"")
                        if last.isdecimal() and int(last) >= wanted + len(batch):
                            if batch:
                                yield batch
                            return
                        continue
                    seq = sequence_of(message.reply)
                    expected = wanted + len(batch)
                    if seq != expected:
                        if batch:
                            yield batch
                        return
                    batch.append(Message(seq, headers, message.data))
                if batch:
                    wanted = batch[-1].seq + 1
                    yield batch
                    came_s = loop.time()
        finally:
            with suppress(Exception):
                await subscription.unsubscribe()
                if consumer and self._js.link.is_up:
                    await self._js.end_consumer(self._stream, consumer)
