"""Pushes that go to every partition, between nodes: asks the owners, and answers for the cores that live here; must
never take an owner for asked whose answer did not come.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import Any, Protocol

import msgspec
import structlog

from gateway.metrics import Metric, Metrics
from gateway.model.cluster import Bus, Owner
from gateway.model.errors import ERRORS, BadRequest, GatewayError, NodeUnreachable
from gateway.model.notification import Notification

_log = structlog.get_logger(__name__)

TAKE, RECALL = "spread.take", "spread.recall"
Results = dict[int, int | GatewayError]


class TakesPushes(Protocol):
    """A core that lives here (fleet.core_pushes.CorePushes)."""

    @property
    def partition(self) -> int: ...

    async def take(self, kept: Notification) -> int: ...

    async def recall(self, kept: Notification) -> int: ...


class Owners(Protocol):
    """The part of model.cluster.Members needed here."""

    @property
    def partitions(self) -> int: ...

    def owner(self, partition: int) -> Owner: ...


class Ask(msgspec.Struct, array_like=True, frozen=True):
    partitions: list[int]
    notification: Notification


class Answer(msgspec.Struct, array_like=True, frozen=True):
    """Of one partition: how many, or the number of an error."""

    partition: int
    count: int
    error: int = 0
    message: str = ""


_encode = msgspec.msgpack.Encoder().encode
_decode_ask: Any = msgspec.msgpack.Decoder(Ask).decode
_decode_answers: Any = msgspec.msgpack.Decoder(list[Answer]).decode


def parse_ask(raw: bytes) -> Ask:
    """BadRequest where it is none, or of a version that says it otherwise."""
    try:
        ask: Ask = _decode_ask(raw)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise BadRequest("another node of the fleet said what this version does not understand") from error
    return ask


def parse_answers(raw: bytes) -> list[Answer]:
    """BadRequest where it is none, or of a version that says it otherwise."""
    try:
        answers: list[Answer] = _decode_answers(raw)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise BadRequest("another node of the fleet said what this version does not understand") from error
    return answers


class Spread:
    """One node's. Loop thread only."""

    def __init__(self, bus: Bus, owners: Owners, metrics: Metrics, *, ask_timeout_s: float) -> None:
        self._bus = bus
        self._owners = owners
        self._metrics = metrics
        self._ask_timeout_s = ask_timeout_s
        self._cores: dict[int, TakesPushes] = {}
        bus.serve(TAKE, self._on_take)
        bus.serve(RECALL, self._on_recall)

    @property
    def partitions(self) -> int:
        return self._owners.partitions

    def join(self, core: TakesPushes) -> None:
        self._cores[core.partition] = core

    def leave(self, partition: int) -> None:
        self._cores.pop(partition, None)

    # --- asking

    async def ask(self, kind: str, kept: Notification, partitions: Collection[int]) -> Results:
        """Of each of these, by their owners, at once: how many, or why not."""
        by_node: dict[int, list[int]] = {}
        for partition in sorted(partitions):
            by_node.setdefault(self._owners.owner(partition).node, []).append(partition)
        results: Results = {partition: NodeUnreachable() for partition in by_node.pop(0, ())}
        asked = [self._ask_node(node, kind, kept, theirs) for node, theirs in by_node.items()]
        for found in await asyncio.gather(*asked):
            results |= found
        for result in results.values():
            said = "taken" if kind == TAKE else "recalled"
            if isinstance(result, GatewayError):
                said = "unreachable" if isinstance(result, NodeUnreachable) else "refused"
            self._metrics.count(Metric.FLEET_SPREADS, label=said)
        return results

    async def _ask_node(self, node: int, kind: str, kept: Notification, partitions: list[int]) -> Results:
        try:
            raw = await self._bus.ask(node, kind, _encode(Ask(partitions, kept)), timeout_s=self._ask_timeout_s)
            answers = parse_answers(raw)
        except GatewayError as error:
            return dict.fromkeys(partitions, error)
        found: Results = dict.fromkeys(partitions, NodeUnreachable())
        for answer in answers:
            if answer.partition in found:
                found[answer.partition] = _result(answer)
        return found

    # --- answering

    async def _on_take(self, sender: int, body: bytes) -> bytes:  # noqa: ARG002 - the bus's
        return await self._answer(body, lambda core, kept: core.take(kept))

    async def _on_recall(self, sender: int, body: bytes) -> bytes:  # noqa: ARG002
        return await self._answer(body, lambda core, kept: core.recall(kept))

    async def _answer(self, body: bytes, work: Callable[[TakesPushes, Notification], Any]) -> bytes:
        ask = parse_ask(body)

        async def one(partition: int) -> Answer:
            core = self._cores.get(partition)
            try:
                if core is None:
                    raise NodeUnreachable
                return Answer(partition, await work(core, ask.notification))
            except GatewayError as error:
                return Answer(partition, 0, error.code, error.message)
            except Exception:
                _log.exception("spread_failed", partition=partition)
                return Answer(partition, 0, GatewayError.code)

        return _encode(await asyncio.gather(*map(one, ask.partitions)))


def _result(answer: Answer) -> int | GatewayError:
    if not answer.error:
        return answer.count
    return ERRORS.get(answer.error, GatewayError)(answer.message)
