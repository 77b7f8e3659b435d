"""Finds whose a partition is and asks there; must never carry out anything for a partition that this node does not own,
nor ask a second node where the first may have carried it out.

A message begins with its partitions. An owner refuses those it does not have (LogFenced), and then nothing was done, so
the next owner is asked, for whom it waits. Where no answer came it may have been done: NodeUnreachable, and the
provider decides.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterable
from struct import Struct
from typing import Any

import msgspec

from gateway.fleet.error_rows import build_error_row, parse_error_row
from gateway.fleet.ports import Core, Cores
from gateway.metrics import Metric, Metrics
from gateway.model.cluster import Body, Bus, Members, Reply, whole_of
from gateway.model.errors import BadRequest, GatewayError, LogFenced, NodeUnreachable

#: what a partition answers; called at once, in the order of arrival, and what it returns may be awaited
Answerer = Callable[[Core, bytes], bytes | Awaitable[bytes]]
#: the same of a kind whose messages are large and many: it is given what came, without a copy
ViewAnswerer = Callable[[Core, memoryview, Reply], None]

_NUMBER = Struct(">H")
#: questions that may wait for an owner at once; past it they are refused
MOST_WAITING = 10_000
#: and look for one again after this time in any case
LOOK_AGAIN_S = 1.0
#: kinds of messages to many partitions of one node
_EACH = ".each"
_encode = msgspec.msgpack.Encoder().encode
_decode_asked = msgspec.msgpack.Decoder(tuple[list[int], bytes]).decode
_decode_answers = msgspec.msgpack.Decoder(list[tuple[int, bytes | list[Any]]]).decode


class Owners:
    """Control thread only."""

    def __init__(self, bus: Bus, members: Members, cores: Cores, metrics: Metrics, *, timeout_s: float) -> None:
        self.bus = bus
        self.members = members
        self.cores = cores
        self._metrics = metrics
        self.timeout_s = timeout_s
        self._answerers: dict[str, Answerer] = {}
        #: questions that wait for an owner of their partition
        self._waiters: dict[int, list[asyncio.Future[None]]] = {}
        self._waiting = 0

    @property
    def partitions(self) -> int:
        return self.members.partitions

    def serve(self, kind: str, answerer: Answerer) -> None:
        """What partitions of this node answer to messages of this kind; before the bus starts."""
        self._answerers[kind] = answerer

        def on_one(sender: int, body: bytes) -> bytes | Awaitable[bytes]:  # noqa: ARG001
            return answerer(self.own(_number_of(body)), body[_NUMBER.size :])

        def on_each(sender: int, body: bytes) -> Awaitable[bytes]:  # noqa: ARG001
            try:
                partitions, rest = _decode_asked(body)
            except (msgspec.DecodeError, ValueError) as error:
                raise BadRequest("a message without partitions") from error
            # each begins now, in the order of arrival
            begun = [(partition, self._begin(kind, partition, rest)) for partition in partitions]
            return self._collect(begun)

        self.bus.serve(kind, on_one)
        self.bus.serve(kind + _EACH, on_each)

    def serve_views(self, kind: str, answerer: ViewAnswerer) -> None:
        """What a partition answers to a kind that other nodes ask with `ask_soon`; for this node it is a call."""

        def on_one(sender: int, body: bytes, reply: Reply) -> None:  # noqa: ARG001
            answerer(self.own(_number_of(body)), memoryview(body)[_NUMBER.size :], reply)

        self.bus.serve_replies(kind, on_one)

    def own(self, partition: int) -> Core:
        """The core of a partition of this node; LogFenced where it is not (any more, or yet)."""
        core = self.cores.get(partition)
        if core is None or partition not in self.members.owned():
            raise LogFenced("This node does not own this part of the fleet; ask again.")
        return core

    def _begin(self, kind: str, partition: int, body: bytes) -> bytes | Awaitable[bytes] | GatewayError:
        try:
            return self._answerers[kind](self.own(partition), body)
        except GatewayError as error:
            return error

    async def _collect(self, begun: list[tuple[int, bytes | Awaitable[bytes] | GatewayError]]) -> bytes:
        answers = await asyncio.gather(*(_settle(answer) for _, answer in begun))
        return _encode(
            [
                (partition, build_error_row(answer) if isinstance(answer, GatewayError) else answer)
                for (partition, _), answer in zip(begun, answers, strict=True)
            ]
        )

    # --- asking

    async def ask(self, partition: int, kind: str, body: Body, *, timeout_s: float | None = None) -> bytes:
        """The owner's answer; any GatewayError it raised, NodeUnreachable where there is none now."""
        until_s = asyncio.get_running_loop().time() + (timeout_s or self.timeout_s)
        refused = 0
        while True:
            node = await self.find(partition, refused, until_s)
            try:
                if node == self.bus.number:
                    answer = self._answerers[kind](self.own(partition), whole_of(body))
                    return await answer if inspect.isawaitable(answer) else answer
                return await self.bus.ask(node, kind, _message(partition, body), timeout_s=timeout_s or self.timeout_s)
            except LogFenced:
                refused = node
            except NodeUnreachable:
                raise self.unanswered() from None

    def ask_soon(self, node: int, partition: int, kind: str, body: Body, reply: Reply) -> None:
        """Another node that is thought to own it, as `Bus.ask_soon`. LogFenced as the reply: it does not, and
        `find` looks for who does; NodeUnreachable: `unanswered` says so to a provider."""
        self.bus.ask_soon(node, kind, _message(partition, body), reply, timeout_s=self.timeout_s)

    def unanswered(self) -> NodeUnreachable:
        """It may have been done, or not."""
        return self._unreachable("no answer", certain=False)

    def unowned(self, why: str) -> NodeUnreachable:
        """Nobody was asked, and nothing was done. `why`: for the metric."""
        return self._unreachable(why, certain=True)

    async def find(self, partition: int, refused: int, until_s: float) -> int:
        """Who owns it, and did not refuse just now; waits for one as long as a question may take. NodeUnreachable:
        nothing was done."""
        loop = asyncio.get_running_loop()
        while (node := self.members.owner(partition).node) in (0, refused):
            left_s = until_s - loop.time()
            if left_s <= 0 or self._waiting >= MOST_WAITING:
                raise self.unowned("nobody's" if node == 0 else "refused")
            changed: asyncio.Future[None] = loop.create_future()
            self._waiters.setdefault(partition, []).append(changed)
            self._waiting += 1
            try:
                async with asyncio.timeout(min(left_s, LOOK_AGAIN_S)):
                    await changed
            except TimeoutError:
                refused = 0  # it may have it by now, under the same number
                if changed in (waiters := self._waiters.get(partition, [])):
                    waiters.remove(changed)
            finally:
                self._waiting -= 1
        return node

    def owner_changed(self, partition: int) -> None:
        """Who waits for its owner looks again."""
        for waiter in self._waiters.pop(partition, ()):
            if not waiter.done():
                waiter.set_result(None)

    async def each(
        self, kind: str, body: bytes, partitions: Iterable[int] | None = None, *, timeout_s: float | None = None
    ) -> dict[int, bytes | GatewayError]:
        """The same of many partitions, all where none are named, with one message a node; an error where one did not
        answer."""
        by_node: dict[int, list[int]] = {}
        found: dict[int, bytes | GatewayError] = {}
        until_s = asyncio.get_running_loop().time() + (timeout_s or self.timeout_s) / 2
        for partition in range(self.partitions) if partitions is None else partitions:
            try:
                node = self.members.owner(partition).node or await self.find(partition, 0, until_s)
                by_node.setdefault(node, []).append(partition)
            except NodeUnreachable as error:
                found[partition] = error
        asked = [self._ask_many(node, kind, theirs, body, timeout_s) for node, theirs in by_node.items()]
        for answers in await asyncio.gather(*asked):
            found.update(answers)
        return dict(sorted(found.items()))

    async def _ask_many(
        self, node: int, kind: str, partitions: list[int], body: bytes, timeout_s: float | None
    ) -> dict[int, bytes | GatewayError]:
        if node == self.bus.number:
            begun = [self._begin(kind, partition, body) for partition in partitions]
            return dict(zip(partitions, await asyncio.gather(*map(_settle, begun)), strict=True))
        message = _encode((partitions, body))
        try:
            raw = await self.bus.ask(node, kind + _EACH, message, timeout_s=timeout_s or self.timeout_s)
            answers = _decode_answers(raw)
        except NodeUnreachable:
            return dict.fromkeys(partitions, self.unanswered())
        except GatewayError as error:
            return dict.fromkeys(partitions, error)
        except (msgspec.DecodeError, ValueError):
            return dict.fromkeys(partitions, NodeUnreachable("a node answered with something that is no answer"))
        found: dict[int, bytes | GatewayError] = dict.fromkeys(partitions, NodeUnreachable())
        for partition, answer in answers:
            found[partition] = answer if isinstance(answer, bytes) else parse_error_row(answer)
        return found

    def _unreachable(self, why: str, *, certain: bool) -> NodeUnreachable:
        self._metrics.count(Metric.FLEET_UNREACHABLE, label=why)
        if certain:
            error = NodeUnreachable("The part of the fleet that has to answer this changes its node; nothing was done.")
            error.nothing_done = True
            return error
        return NodeUnreachable(
            "A node of the fleet gave no answer in time; it may still be done, so repeat a push with the same "
            "idempotency key."
        )


def _number_of(body: bytes) -> int:
    if len(body) < _NUMBER.size:
        raise BadRequest("a message without a partition")
    number: int = _NUMBER.unpack_from(body)[0]
    return number


def _message(partition: int, body: Body) -> Body:
    return (_NUMBER.pack(partition), *((body,) if isinstance(body, bytes) else body))


async def _settle(answer: bytes | Awaitable[bytes] | GatewayError) -> bytes | GatewayError:
    if isinstance(answer, bytes | GatewayError):
        return answer
    try:
        return await answer
    except GatewayError as error:
        return error
