"""The bus over NATS: each node listens to a subject of its number; must never wait for NATS in the caller's turn."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import structlog

from gateway.cluster.message_bus import MARK_S, MessageBus
from gateway.cluster.nats_link import NatsLink
from gateway.metrics import Metrics
from gateway.metrics.names import Metric

if TYPE_CHECKING:
    from nats.aio.msg import Msg
    from nats.aio.subscription import Subscription

_log = structlog.get_logger(__name__)

#: a larger bundle goes in parts, and so does one above the servers' max_payload
MESSAGE_BYTES = 1_048_576
#: unsent bytes in the client at which sending waits for the server
_UNSENT_BYTES = 2_097_152
_FLUSH_S = 2
#: messages that came and were not looked at yet; past it the client drops them, and the gap is seen
_UNREAD = 65_536


class NatsBus(MessageBus):
    """Of one node, from `start` to `close`. `name`: of the fleet."""

    def __init__(
        self, link: NatsLink, name: str, number: int, metrics: Metrics, *, outbox_bytes: int, mark_s: float = MARK_S
    ) -> None:
        super().__init__(number, metrics, outbox_bytes=outbox_bytes, mark_s=mark_s)
        self._link = link
        self._prefix = f"{name}.node."
        self._subscription: Subscription | None = None
        self._life = 0
        self._wake = asyncio.Event()
        self._marks: dict[int, None] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._unwatch = link.watch(self._on_change)

    @property
    def is_up(self) -> bool:
        return self._link.is_up and not self._is_closed

    async def start(self) -> None:
        await self._subscribe()
        await super().start()
        self._metrics.set(Metric.CLUSTER_UP, float(self._link.is_up))
        self._spawn(self._send())

    async def close(self) -> None:
        if self.is_up and (self._dirty or self._own):  # last words: answers, goodbyes
            self._flush()
            for _ in range(3):
                await asyncio.sleep(0)
        await super().close()
        self._unwatch()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._subscription is not None:
            with suppress(Exception):
                await self._subscription.unsubscribe()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _subscribe(self) -> None:
        self._life = self._link.life
        subject = f"{self._prefix}{self.number}"
        self._link.hear_directly(subject, self._take)
        self._subscription = await self._link.nats.subscribe(
            subject,
            cb=self._hear,
            pending_msgs_limit=_UNREAD,
            pending_bytes_limit=2 * self._outbox_bytes,
        )
        await self._link.nats.flush(_FLUSH_S)  # nobody knows of us before the server does

    async def _subscribe_again(self) -> None:
        while self._life != self._link.life and not self._is_closed:
            try:
                await self._subscribe()
            except Exception as exc:
                self._life = 0
                _log.warning("bus_not_subscribed", error=type(exc).__name__)
                await asyncio.sleep(0.25)

    async def _hear(self, message: Msg) -> None:
        self._take(message.data)

    def _take(self, message: bytes) -> None:
        self._metrics.count(Metric.BUS_MESSAGES, label="in")
        self.receive(message)

    def _on_change(self, up: bool) -> None:
        self._metrics.set(Metric.CLUSTER_UP, float(up))
        if not up:
            self._metrics.count(Metric.CLUSTER_LOST)
            return
        if self._life not in (0, self._link.life):
            self._spawn(self._subscribe_again())
        self.mark_all()
        self._wake.set()

    # --- out

    def _flush_others(self) -> None:
        self._wake.set()

    def _carry(self, node: int, message: bytes) -> None:  # noqa: ARG002 - it is built when it goes
        self._marks[node] = None
        self._wake.set()

    async def _send(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._dirty and self.is_up:
                node = next(iter(self._dirty))
                del self._dirty[node]
                outbox = self._outboxes[node]
                for message in outbox.take(min(self._link.nats.max_payload, MESSAGE_BYTES)):
                    await self._publish(node, message)
                if outbox:
                    self._dirty[node] = None  # behind the others
            for node in list(self._marks):
                if self.is_up:
                    await self._publish(node, self._outboxes[node].mark())
            self._marks.clear()

    async def _publish(self, node: int, message: bytes) -> None:
        try:
            client = self._link.nats
            await client.publish(f"{self._prefix}{node}", message)
            while client.pending_data_size > _UNSENT_BYTES and self.is_up and client is self._link.nats:
                with suppress(TimeoutError):
                    await client.flush(_FLUSH_S)
        except Exception as exc:  # the receiver sees the gap
            self._drop("down", 1)
            _log.debug("bus_unsent", error=type(exc).__name__)
        else:
            self._metrics.count(Metric.BUS_MESSAGES, label="out")
