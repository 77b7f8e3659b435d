"""How a push of a spool becomes one of the fleet, at the owner of its partition; must never begin one whose time is
over, nor a second one for the same key.

It has waited: what is left of its time to live goes with it, and what was to be sent later is sent now where that time
has come. The key stands for what the provider asked, not for what is left of it, so a repetition is the same push.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

import msgspec

from gateway.api.once import Once, Push, as_push, settle
from gateway.api.ports import Backend
from gateway.delivery.request import PushRequest
from gateway.fleet.spool_record import DOUBT_S, Kept, build_kept, parse_kept, parse_request
from gateway.model.cluster import home_of, partition_of
from gateway.model.errors import (
    AcceptTimeout,
    BadRequest,
    GatewayError,
    NodeUnreachable,
    StoreUnavailable,
    UnknownApp,
    UnknownFrame,
)
from gateway.model.registration import parse_token

#: messages to an owner: take it in, and was it taken in before?
TAKE, KNOWN = "spool.take", "spool.known"
#: a partition that nobody had is asked once in so long: what waits for others must not wait for its time limits
REST_S = 5.0
#: a request or a batch begins its pushes some turns of the loop after it was read: what is not there is looked for once
#: more after so long, for a question behind it may have been read in the same turn
BEGIN_S = 0.25


class IntakeCore(Protocol):
    """The part of a core that takes pushes in."""

    @property
    def backend(self) -> Backend: ...

    @property
    def once(self) -> Once: ...


#: asks the owner of a partition (gateway.fleet.owners.Owners.ask)
Ask = Callable[[int, str, bytes], Awaitable[bytes]]


def left_of(kept: Kept, now_ms: int) -> PushRequest:
    """What is asked of it now."""
    request = parse_request(kept.request)
    if (request.deliver_at or 0) * 1000 > now_ms:
        return request
    ttl_s = max(1, -(-(kept.deadline_ms - now_ms) // 1000))
    return msgspec.structs.replace(request, deliver_at=None, ttl=ttl_s, over=min(request.over, ttl_s))


def answer_take(core: IntakeCore, body: bytes) -> Awaitable[bytes]:
    """At the owner: its sequence, once it is durable. It begins in this turn: a question after it may be read in the
    same one. What refuses it is raised, here or where it is awaited."""
    kept = parse_kept(body)
    backend = core.backend
    app = backend.directory.app(kept.app)
    if app is None:
        raise UnknownApp
    now_ms = backend.now_ms()

    def begin() -> Push:
        if now_ms >= kept.deadline_ms:  # what was begun in time is found by its key before
            raise BadRequest("its time to live is over", field="ttl")
        return as_push(backend.acceptor.push(app, left_of(kept, now_ms), now_ms, durable_first=True))

    push = core.once.start_keyed(
        app,
        kept.key,
        kept.body_hash,
        begin=begin,
        find=lambda seq: Push(seq, None),
        until_s=-(-kept.deadline_ms // 1000) + DOUBT_S,  # so long it may be asked for again
    )
    return _settled(push, backend.config.accept_timeout_s)


def answer_known(core: IntakeCore, body: bytes) -> bytes | Awaitable[bytes]:
    """At the owner: its sequence where it was taken in, 0 where it was not. One under way is waited for: AcceptTimeout
    where it is not known what becomes of it."""
    kept = parse_kept(body)
    push = _known(core, kept)
    if push is not None:
        return _settled_or_none(push, core.backend.config.accept_timeout_s)
    return bytes(8) if core.backend.now_ms() >= kept.deadline_ms else _look_again(core, kept)


def _known(core: IntakeCore, kept: Kept) -> Push | None:
    app = core.backend.directory.app(kept.app)
    return None if app is None else core.once.known(app, kept.key, kept.body_hash)


async def _look_again(core: IntakeCore, kept: Kept) -> bytes:
    await asyncio.sleep(BEGIN_S)
    push = _known(core, kept)
    return bytes(8) if push is None else await _settled_or_none(push, core.backend.config.accept_timeout_s)


async def _settled(push: Push, timeout_s: float) -> bytes:
    await settle(push, timeout_s)
    return push.seq.to_bytes(8, "big")


async def _settled_or_none(push: Push, timeout_s: float) -> bytes:
    try:
        return await _settled(push, timeout_s)
    except StoreUnavailable:
        return bytes(8)  # its commit failed, for certain; LogFenced goes on, and the next owner is asked
    except AcceptTimeout:
        raise AcceptTimeout("It is not known yet whether this push was accepted; ask again.") from None


def partition_chooser(partitions: int) -> Callable[[str, PushRequest], int]:
    """Of the token, where it is one; else the app's home: as the door has it."""

    def choose(app: str, request: PushRequest) -> int:
        token = parse_token(request.target.token) if request.target.token else None
        return home_of(app, partitions) if token is None else partition_of(token, partitions)

    return choose


class Intake:
    """What the spool drains through: the owner of the partition is asked."""

    def __init__(self, ask: Ask, partition_for: Callable[[str, PushRequest], int], clock: Callable[[], float]) -> None:
        """`clock`: seconds of any monotonic clock."""
        self._ask_owner = ask
        self._partition_for = partition_for
        self._clock = clock
        #: partition → until when it is not asked
        self._resting: dict[int, float] = {}

    async def take(self, kept: Kept) -> int:
        """Its sequence; any GatewayError of the owner, NodeUnreachable."""
        return await self._ask(TAKE, kept)

    async def known(self, kept: Kept) -> int:
        """Its sequence where it was taken in before, else 0; NodeUnreachable, AcceptTimeout and the like where that can
        not be said."""
        try:
            return await self._ask(KNOWN, kept)
        except UnknownFrame as error:
            raise NodeUnreachable("the owner of this push is too old to say whether it has it") from error

    async def _ask(self, kind: str, kept: Kept) -> int:
        partition = self._partition_for(kept.app, parse_request(kept.request))
        if partition in self._resting:
            if self._clock() < self._resting[partition]:
                error = NodeUnreachable("nobody has this part of the fleet now")
                error.nothing_done = True
                raise error
            self._resting[partition] = self._clock() + REST_S  # this one looks
        try:
            answer = await self._ask_owner(partition, kind, build_kept(kept))
        except NodeUnreachable as error:
            if error.nothing_done:
                self._resting[partition] = self._clock() + REST_S
            raise
        except GatewayError:
            self._resting.pop(partition, None)  # somebody answered
            raise
        self._resting.pop(partition, None)
        if len(answer) != 8:
            raise NodeUnreachable("a node answered with something that is no sequence")
        return int.from_bytes(answer, "big")
