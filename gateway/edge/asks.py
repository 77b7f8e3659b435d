"""What users ask for over device links: UP in, DOWN out; must never hold up what else its device asks for.

An answer may take as long as a network of others does, so it is waited for beside the link's other requests, and
answers may come in another order than the questions: `req` tells.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec
import structlog

from gateway.model.errors import Forbidden, GatewayError, NotConfigured, PayloadTooLarge, QueueFull
from gateway.model.frames import FRAME_BYTES, Down, FrameType, Up, build_frame
from gateway.model.ports import ImDoor

if TYPE_CHECKING:
    from gateway.edge.server import EdgeServer

_log = structlog.get_logger(__name__)
#: questions of one link without an answer; past it one more is refused (queue_full)
MAX_ASKS = 32
#: room for what stands around an answer in its frame
_FRAME_BYTES = FRAME_BYTES - 64


class Asks:
    """A link that asks nothing has nothing here."""

    def __init__(self, edge: EdgeServer) -> None:
        self._edge = edge
        self.door: ImDoor | None = None
        #: the app whose registrations may ask
        self.app = ""
        self._running: dict[int, set[asyncio.Task[None]]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._running.values()))

    def take(self, link: int, ask: Up, token: bytes, app: str) -> None:
        """`token` of this app is bound on the link. GatewayError where it can not be asked."""
        if self.door is None:
            raise NotConfigured("there is no IM here (im.app)")
        if app != self.app:
            raise Forbidden("this token's app has no IM: register the one that has")
        running = self._running.setdefault(link, set())
        if len(running) >= MAX_ASKS:
            raise QueueFull(f"at most {MAX_ASKS} questions of one connection wait for their answers", after_ms=1_000)
        # Tasks begin in the order in which they are made, so what was asked first is looked at first.
        task = asyncio.get_running_loop().create_task(self._answer(self.door, link, ask, token))
        running.add(task)
        task.add_done_callback(lambda done: self._over(link, done))

    def _over(self, link: int, task: asyncio.Task[None]) -> None:
        running = self._running.get(link)
        if running is not None:
            running.discard(task)
            if not running:
                del self._running[link]

    async def _answer(self, door: ImDoor, link: int, ask: Up, token: bytes) -> None:
        try:
            body = await door.ask(token, ask.op, bytes(ask.body))
            if len(body) > _FRAME_BYTES:
                raise PayloadTooLarge("the answer does not fit a frame: ask for less at a time")
        except GatewayError as exc:
            # no answer ends the link: its other apps have no part in this
            self._edge.refuse(link, Forbidden(exc.message, field=exc.field) if exc.fatal else exc, ask.req)
        except Exception as exc:
            # its class alone: the text could quote what was asked
            _log.error("ask_failed", op=ask.op, kind=type(exc).__name__)
            self._edge.refuse(link, GatewayError(), ask.req)
        else:
            self._edge.send(link, build_frame(FrameType.DOWN, Down(req=ask.req, body=msgspec.Raw(body))))

    def tell(self, link: int, token: str, body: bytes) -> None:
        """What nobody asked for, and nobody keeps."""
        self._edge.send(link, build_frame(FrameType.DOWN, Down(token=token, body=msgspec.Raw(body))))

    async def close(self) -> None:
        tasks = [task for running in self._running.values() for task in running]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
