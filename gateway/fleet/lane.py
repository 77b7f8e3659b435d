"""What one partition is asked, in order, from one owner to the next; must never let what came later overtake what came
before it, nor say that nothing was done of what an owner may have.

Loads go to the owner that is known now without a task for each. Where there is none, or it is not this one any more,
they wait here in their order, until all that went to the owner before was answered.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Generic, TypeVar

import structlog

from gateway.fleet.owners import Owners
from gateway.model.cluster import Reply
from gateway.model.errors import GatewayError, LogFenced, NodeUnreachable

#: loads of one partition that wait; past it they are refused, and nothing was done
MOST_WAITING = 1_000

_log = structlog.get_logger(__name__)
_L = TypeVar("_L")


class Lane(Generic[_L]):
    """Control thread only. `send` asks a node for one load; what it raises counts as the reply. `settle` is told once
    what became of each, but for LogFenced, after which the next owner is asked; it does not raise."""

    def __init__(
        self,
        owners: Owners,
        partition: int,
        send: Callable[[_L, int, Reply], None],
        settle: Callable[[_L, int, bytes | GatewayError], None],
    ) -> None:
        self._owners = owners
        self._partition = partition
        self._send = send
        self._settle = settle
        self._count = 0
        #: load → its place in the order
        self._under_way: dict[_L, int] = {}
        self._node = 0  # where those are
        self._refused = 0  # a node that said it is not the owner
        #: (place in the order, until when, load)
        self._waiting: deque[tuple[int, float, _L]] = deque()
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._is_closed = False

    @property
    def under_way(self) -> int:
        """Loads that the owner has not answered yet."""
        return len(self._under_way)

    def put(self, load: _L) -> None:
        self._count += 1
        if self._is_closed:
            self._settle(load, 0, NodeUnreachable())
        elif self._waiting or not self._begin(self._count, load):
            self._wait(self._count, load)

    def end(self) -> None:
        """Nobody is asked any more."""
        self._is_closed = True

    async def close(self) -> None:
        """Who waits is told that there is no answer."""
        self.end()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._give_up(NodeUnreachable())
        for load in list(self._under_way):
            self._on_reply(load, self._node, NodeUnreachable())

    # --- on the way

    def _begin(self, place: int, load: _L) -> bool:
        """With the owner that is known now; False where there is none, and nothing was done."""
        node = self._owners.members.owner(self._partition).node
        if node in (0, self._refused) or (self._under_way and node != self._node):
            return False
        self._node = node
        self._under_way[load] = place
        try:
            self._send(load, node, partial(self._on_reply, load, node))
        except LogFenced:
            del self._under_way[load]
            self._refused = node
            return False
        except Exception as exc:
            if not isinstance(exc, GatewayError):
                _log.error("an owner could not be asked", kind=type(exc).__name__)
            self._on_reply(load, node, exc if isinstance(exc, GatewayError) else GatewayError())
        return True

    def _on_reply(self, load: _L, node: int, answer: bytes | GatewayError) -> None:
        place = self._under_way.pop(load, 0)
        if not place:
            return  # it was told before
        if isinstance(answer, LogFenced) and not self._is_closed:
            self._refused = node
            self._wait(place, load)
        else:
            self._settle(load, node, answer)
        self._woken.set()

    # --- where there is no owner

    def _wait(self, place: int, load: _L) -> None:
        if len(self._waiting) >= MOST_WAITING:
            self._settle(load, 0, self._owners.unowned("full"))
            return
        until_s = asyncio.get_running_loop().time() + self._owners.timeout_s
        self._waiting.append((place, until_s, load))
        if len(self._waiting) > 1 and self._waiting[-2][0] > place:  # one that went before those that wait
            self._waiting = deque(sorted(self._waiting, key=lambda waiting: waiting[0]))
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._let_go())
            self._task.add_done_callback(self._on_end)

    async def _let_go(self) -> None:
        """What waits, as soon as there is somebody to ask."""
        while self._waiting:
            _, until_s, load = self._waiting[0]
            try:
                await self._owners.find(self._partition, self._refused, until_s)
                self._refused = 0  # it is another, or may have the partition by now
                while self._waiting:
                    first = self._waiting.popleft()
                    if not self._begin(first[0], first[2]):
                        self._waiting.appendleft(first)
                        break
                if self._waiting and not self._refused:
                    await self._wait_for_answers(until_s)
            except NodeUnreachable as error:
                if self._waiting and self._waiting[0][2] is load:
                    self._waiting.popleft()
                    self._settle(load, 0, error)

    async def _wait_for_answers(self, until_s: float) -> None:
        """Of those that another node than the owner has."""
        self._woken.clear()
        try:
            async with asyncio.timeout_at(until_s):
                await self._woken.wait()
        except TimeoutError:
            raise self._owners.unowned("held up") from None

    def _on_end(self, task: asyncio.Task[None]) -> None:
        if self._task is task:
            self._task = None
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("what waits for an owner could not be sent", kind=type(error).__name__)
            self._give_up(GatewayError())

    def _give_up(self, error: GatewayError) -> None:
        waiting, self._waiting = self._waiting, deque()
        for _, _, load in waiting:
            self._settle(load, 0, error)
