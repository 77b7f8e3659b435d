"""The fleet's broadcasts as one JetStream stream (model.reach.BroadcastLog); must never skip a message that is there,
nor hand one out twice.

It is read by places, from its leader: there is no consumer whose state a dying server could take along. The stream says
by a subject of its own that something was stored, and once a second a reader looks without being told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import structlog

from gateway.cluster.jetstream import placed
from gateway.config.cluster_section import Cluster
from gateway.model.errors import GatewayError, LogUnavailable

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.aio.msg import Msg
    from nats.js import JetStreamContext

_log = structlog.get_logger(__name__)
_T = TypeVar("_T")

#: the same message within this time is one
ONCE_S = 600.0
#: a reader looks by itself so often
LOOK_S = 1.0
#: a stream that somebody removed is made again after so long: longer than its servers know less for a moment, and than
#: a node stays where they have lost all (beats.GONE_S)
GONE_S = 30.0
#: of one answer of the servers
ANSWER_S = 5.0
#: a message is read as base64 inside JSON, which must be below the servers' max_payload as a commit must be
_GROWTH = 1.4
_NOT_FOUND, _NO_STREAM = 10_037, 10_059
_HEADER_SPACE = 4_096


class StreamLink(Protocol):
    """A connection to NATS (cluster.nats_link.NatsLink)."""

    @property
    def nats(self) -> Client: ...

    @property
    def js(self) -> JetStreamContext: ...

    @property
    def life(self) -> int:
        """Rises with each fresh client: subscriptions are to be made again."""
        ...


class BroadcastStream:
    """One node's end of it. `begins`: the first place of a stream that is made now. A node takes the second of the
    clock: where a stream is lost, partitions and devices know places of it, and those of the next have to lie above.
    There is less than a broadcast a second on the long run, so no stream has come so far by then."""

    def __init__(self, link: StreamLink, settings: Cluster, *, begins: Callable[[], int] = lambda: 1) -> None:
        self._link = link
        self._replicas = settings.replicas
        self._begins = begins
        self._most_bytes = settings.journal_bytes
        self._name = f"{settings.name}_BROADCASTS"
        self._subject = f"{settings.name}.broadcasts"
        self._stored = f"{settings.name}.broadcasts_stored"
        self._message_bytes = int(settings.message_bytes / _GROWTH) - _HEADER_SPACE
        self._hear: Callable[[int, bytes], Any] = lambda _, __: None
        self._place = 0
        self._reading = asyncio.Lock()
        self._woken = asyncio.Event()
        self._life = -1
        self._missed_since: float | None = None  # when the servers first said that there is no stream
        self._is_closing = False
        self._task: asyncio.Task[None] | None = None
        self._errors: tuple[type[Exception], ...] = (OSError, TimeoutError, GatewayError)

    @property
    def most_bytes(self) -> int:
        return self._message_bytes

    # --- life

    async def start(self, hear: Callable[[int, bytes], Any]) -> None:
        """LogUnavailable where the stream can not be made or read to its end now."""
        import nats.errors

        self._errors = (OSError, TimeoutError, GatewayError, nats.errors.Error)
        self._hear = hear
        await self._ask(self._make_stream)
        await self.catch_up()
        self._task = asyncio.get_running_loop().create_task(self._follow(), name="broadcast-stream")

    async def close(self) -> None:
        self._is_closing = True
        self._woken.set()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _make_stream(self) -> None:
        from nats.js.api import RePublish, StorageType, StreamConfig
        from nats.js.errors import APIError, NotFoundError

        wanted = StreamConfig(
            name=self._name,
            subjects=[self._subject],
            storage=StorageType.FILE,
            num_replicas=self._replicas,
            max_bytes=self._most_bytes,
            discard="new",  # type: ignore[arg-type]
            duplicate_window=ONCE_S,
            allow_msg_ttl=True,
            first_seq=max(self._begins(), self._place + 1),
            republish=RePublish(src=self._subject, dest=self._stored, headers_only=True),
        )
        with suppress(NotFoundError):
            await self._link.js.stream_info(self._name)
            return
        try:
            await placed(lambda: self._link.js.add_stream(wanted), APIError)
        except APIError:
            await self._link.js.stream_info(self._name)  # another node was faster

    async def _ask(self, ask: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        try:
            async with asyncio.timeout(ANSWER_S):
                return await ask()
        except self._errors as error:
            raise LogUnavailable from error

    # --- writing

    async def append(self, message: bytes, *, once: str, ttl_s: int) -> int:
        headers = {"Nats-Msg-Id": once, "Nats-TTL": str(max(1, ttl_s))}

        async def publish() -> int:
            # The client keeps what is published while it is not connected; better an error at once.
            if not self._link.nats.is_connected:
                raise LogUnavailable
            js = self._link.js
            answer = await js.publish(self._subject, message, timeout=ANSWER_S, stream=self._name, headers=headers)
            return answer.seq

        return await self._ask(publish)

    # --- reading

    async def catch_up(self) -> int:
        info = await self._ask(lambda: self._link.js.stream_info(self._name))
        last = info.state.last_seq
        async with self._reading:
            while self._place < last:
                if not await self._read_next():
                    self._place = last  # what was there is over
            return self._place

    async def _read_next(self) -> bool:
        """Hand the next one out. False: its leader has none."""
        from nats.js.errors import NotFoundError

        async def ask() -> Any:
            try:
                return await self._link.js.get_msg(self._name, self._place + 1, self._subject, next=True)
            except NotFoundError as error:
                if error.err_code != _NOT_FOUND:
                    raise
                return None

        found = await self._ask(ask)
        if found is None:
            return False
        self._place = found.seq
        try:
            self._hear(found.seq, found.data or b"")
        except Exception:
            # It is one broadcast; those behind it must come all the same.
            _log.exception("broadcast_not_heard", place=found.seq)
        return True

    async def _follow(self) -> None:
        while not self._is_closing:  # the client may swallow a cancellation
            try:
                await self._listen()
                self._woken.clear()
                async with self._reading:
                    while await self._read_next():
                        pass
                self._missed_since = None
            except LogUnavailable as error:
                self._woken.clear()
                await self._look_for_stream(error)
            except Exception:
                _log.exception("broadcast_stream_failed")
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._woken.wait()

    async def _look_for_stream(self, error: LogUnavailable) -> None:
        """What the lost one still held is lost to partitions that had not heard it; what comes is not."""
        if getattr(error.__cause__, "err_code", 0) != _NO_STREAM:
            self._missed_since = None
            return
        now = asyncio.get_running_loop().time()
        if self._missed_since is None:
            self._missed_since = now
            _log.warning(
                "broadcast_stream_gone",
                consequence="pushes to everyone wait; one that is under way does not reach partitions that move now",
                remedy=f"it is made again in {GONE_S:g} s",
            )
        elif now - self._missed_since >= GONE_S:
            with suppress(LogUnavailable):
                await self._ask(self._make_stream)
                _log.warning("broadcast_stream_made_anew")

    async def _listen(self) -> None:
        """For what the stream says it has stored."""
        if self._life == self._link.life:
            return
        life = self._link.life

        async def on_stored(message: Msg) -> None:  # noqa: ARG001
            self._woken.set()

        await self._ask(lambda: self._link.nats.subscribe(self._stored, cb=on_stored))
        self._life = life
