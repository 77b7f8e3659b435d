"""Leases over a JetStream key-value bucket: replicated, the last value of each key alone; must never take a value from
a copy that may be old where it says "as the majority has it".
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import structlog

from gateway.cluster.jetstream import JetStream, JetStreamError
from gateway.cluster.leases import BucketGone, Changed, End, Entry, Hear, InDoubt
from gateway.cluster.nats_link import NatsLink
from gateway.config.cluster_section import Cluster
from gateway.model.errors import ConfigError, NodeUnreachable

if TYPE_CHECKING:
    from nats.aio.msg import Msg
    from nats.js import JetStreamContext

_log = structlog.get_logger(__name__)

#: JetStream: the last sequence of the subject is another one
_WRONG_LAST = (10071, 10164)
_NO_MESSAGE, _NO_STREAM = 10037, 10059
_OPERATION = "KV-Operation"
_EXPECTED = "Nats-Expected-Last-Subject-Sequence"
#: of one operation; past it it is in doubt
_TIMEOUT_MIN_S, _TIMEOUT_MAX_S = 0.25, 1.0
_SETTLE_S = 30.0
_AGAIN_S = 0.25
#: a consumer that nobody reads any more is removed by the servers
_INACTIVE_S = 60.0
#: what a deleted record leaves goes after so long, so that names of nodes that never come again do not pile up
_MARKER_TTL = "86400s"


def bucket_of(name: str) -> str:
    return f"{name}_FLEET"


class KvLeases:
    """The bucket of a fleet, over one connection and in its loop."""

    def __init__(self, link: NatsLink, settings: Cluster) -> None:
        self._link = link
        self._replicas = settings.replicas
        #: a beat that was lost leaves time for others before the lease is over
        self._timeout_s = min(max(settings.lease_s / 4, _TIMEOUT_MIN_S), _TIMEOUT_MAX_S)
        self._stream = f"KV_{bucket_of(settings.name)}"
        self._prefix = f"$KV.{bucket_of(settings.name)}."
        self._hear: Hear | None = None
        self._subscription: JetStreamContext.PushSubscription | None = None
        self._lock = asyncio.Lock()
        self._heard = 0  # number of the last message of the watch's consumer; -1: one was lost, nothing more is heard
        self._mending: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Makes the bucket where there is none; waits for its leader. ConfigError where the servers can not keep it."""
        from nats.js import api

        wanted = api.StreamConfig(
            name=self._stream,
            subjects=[f"{self._prefix}>"],
            max_msgs_per_subject=1,
            discard=api.DiscardPolicy.NEW,
            storage=api.StorageType.FILE,
            num_replicas=self._replicas,
            allow_direct=False,  # a copy may be old
            allow_rollup_hdrs=True,
            allow_msg_ttl=True,
            deny_delete=True,
            duplicate_window=0,
        )
        loop = asyncio.get_running_loop()
        end = loop.time() + _SETTLE_S
        while True:
            try:
                await self._link.js.stream_info(self._stream)
                return
            except Exception as exc:
                if _code(exc) == _NO_STREAM:
                    try:
                        await self._link.js.add_stream(wanted)
                        continue
                    except Exception as second:
                        exc = second
                if loop.time() > end:
                    raise ConfigError(
                        f"the fleet's records can not be kept: {_words(exc)}", field="cluster.replicas"
                    ) from None
            await asyncio.sleep(_AGAIN_S)

    async def made(self) -> str:
        try:
            state = await JetStream(self._link, timeout_s=self._timeout_s).state(self._stream)
        except (JetStreamError, NodeUnreachable) as exc:
            raise InDoubt(f"no answer: {type(exc).__name__}") from None
        if state is None:
            raise BucketGone("there is no such bucket")
        return state.created

    async def get(self, key: str) -> Entry | None:
        try:
            async with asyncio.timeout(self._timeout_s):
                found = await self._link.js.get_last_msg(self._stream, self._prefix + key, direct=False)
        except Exception as exc:
            if _code(exc) == _NO_MESSAGE:
                return None
            raise _doubt(exc) from None
        if found.headers and _OPERATION in found.headers:
            return None
        return Entry(key, found.data or b"", found.seq or 0)

    async def all(self) -> list[Entry]:
        found: dict[str, Entry] = {}
        done = asyncio.Event()
        last = 0

        async def take(message: Msg) -> None:
            entry = self._entry(message)
            found[entry.key] = entry
            if message.metadata.num_pending == 0:
                done.set()

        try:
            async with asyncio.timeout(4 * self._timeout_s):
                state = (await self._link.js.stream_info(self._stream)).state
                last = state.messages
                if last == 0:
                    return []
                subscription = await self._consume(take)
                try:
                    await done.wait()
                finally:
                    await _end(subscription)
        except Exception as exc:
            raise _doubt(exc) from None
        return [entry for entry in found.values() if entry.value]

    async def create(self, key: str, value: bytes) -> int:
        try:
            return await self._put(key, value, 0)
        except Changed:
            marker = await self._marker(key)
            if marker is None:
                raise
            return await self._put(key, value, marker)

    async def update(self, key: str, value: bytes, revision: int) -> int:
        return await self._put(key, value, revision)

    async def delete(self, key: str, revision: int) -> None:
        await self._put(key, b"", revision, {_OPERATION: "DEL", "Nats-TTL": _MARKER_TTL})

    async def watch(self, hear: Hear) -> End:
        self._hear = hear
        await self.watch_again()

        async def end() -> None:
            self._hear = None
            if self._mending is not None:
                await asyncio.gather(self._mending, return_exceptions=True)
            async with self._lock:
                if self._subscription is not None:
                    await _end(self._subscription)
                    self._subscription = None

        return end

    async def watch_again(self) -> None:
        async with self._lock:
            if self._hear is None:
                return
            if self._subscription is not None:
                await _end(self._subscription)
                self._subscription = None
            try:
                async with asyncio.timeout(4 * self._timeout_s):
                    self._subscription = await self._consume(self._take)
            except Exception as exc:
                raise _doubt(exc) from None

    async def _consume(self, take: Any) -> JetStreamContext.PushSubscription:
        from nats.js import api

        return await self._link.js.subscribe(
            f"{self._prefix}>",
            stream=self._stream,
            cb=take,
            ordered_consumer=True,
            deliver_policy=api.DeliverPolicy.LAST_PER_SUBJECT,
            inactive_threshold=_INACTIVE_S,
        )

    async def _take(self, message: Msg) -> None:
        """The client looks for gaps now and then alone. What came behind one would not be in order, so it is dropped,
        and all is told again by a consumer that counts from 1."""
        number = message.metadata.sequence.consumer
        if self._hear is None or (number != 1 and self._heard < 0):
            return
        if number not in (1, self._heard + 1):
            self._heard = -1
            _log.info("watch_torn", number=number)
            if self._mending is None or self._mending.done():
                self._mending = asyncio.get_running_loop().create_task(self._mend())
            return
        self._heard = number
        self._hear(self._entry(message))

    async def _mend(self) -> None:
        with suppress(InDoubt):  # else whoever misses its own records makes the watch again
            await self.watch_again()

    def _entry(self, message: Msg) -> Entry:
        headers = message.headers or {}
        gone = _OPERATION in headers or "Nats-Marker-Reason" in headers
        return Entry(
            message.subject.removeprefix(self._prefix),
            b"" if gone else message.data,
            message.metadata.sequence.stream,
        )

    async def _marker(self, key: str) -> int | None:
        """Where a deleted record left one: its revision."""
        try:
            async with asyncio.timeout(self._timeout_s):
                found = await self._link.js.get_last_msg(self._stream, self._prefix + key, direct=False)
        except Exception as exc:
            raise _doubt(exc) from None
        return found.seq if found.headers and _OPERATION in found.headers else None

    async def _put(self, key: str, value: bytes, expected: int, headers: dict[str, str] | None = None) -> int:
        try:
            async with asyncio.timeout(self._timeout_s):
                ack = await self._link.js.publish(
                    self._prefix + key,
                    value,
                    timeout=self._timeout_s,
                    headers={_EXPECTED: str(expected), **(headers or {})},
                )
        except Exception as exc:
            if _code(exc) in _WRONG_LAST:
                raise Changed from None
            raise _doubt(exc) from None
        return ack.seq


async def _end(subscription: JetStreamContext.PushSubscription) -> None:
    with suppress(Exception):
        await subscription.unsubscribe()


def _code(error: Exception) -> int:
    """JetStream's number of an error; 0 of others."""
    return getattr(error, "err_code", 0) or 0


def _doubt(error: Exception) -> InDoubt:
    return (BucketGone if _code(error) == _NO_STREAM else InDoubt)(f"no answer: {_words(error)}")


def _words(error: Exception) -> str:
    """Only what JetStream itself says: others may have an address in their words."""
    return getattr(error, "description", "") or type(error).__name__
