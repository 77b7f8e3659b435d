"""The provider door's part of the spool: which pushes are kept there, how they are answered and looked up, on any node;
must never keep a push that may have been accepted, unless its key makes a repetition harmless.

Put around the handlers of the door: `push` around POST /v1/push, `shown` around the look-up and the recall.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
from starlette.responses import Response

from gateway.api.call import Call
from gateway.api.door import ERROR
from gateway.api.media import content_kind, decode, describe, read_body
from gateway.api.once import with_header
from gateway.api.wire import BatchResult, PushAccepted, Recalled, SpoolView
from gateway.delivery.push_ids import PushIds
from gateway.delivery.request import PushRequest
from gateway.fleet.spool import Spool, is_certain
from gateway.fleet.spool_record import Fate, Kept, build_fate, parse_fate, parse_number
from gateway.model.cluster import Bus, Members
from gateway.model.errors import (
    ERRORS,
    AcceptTimeout,
    BadRequest,
    GatewayError,
    LogFenced,
    LogUnavailable,
    NodeUnreachable,
    UnknownPush,
)
from gateway.model.registration import App

#: messages between nodes: what became of a number, and take it back
LOOK, RECALL = "spool.look", "spool.recall"
Handler = Callable[[Call], Awaitable[Response]]

#: errors of an answer that an owner gave, with which a push may be kept here
_REFUSALS: dict[str, type[GatewayError]] = {
    kind.name: kind for kind in (LogFenced, LogUnavailable, NodeUnreachable, AcceptTimeout)
}

_encode = msgspec.msgpack.Encoder().encode
_asked = msgspec.msgpack.Decoder(tuple[str, int]).decode


def spool_ids_of(push_ids: PushIds) -> PushIds:
    """They look like push ids, and none is one."""
    return PushIds(push_ids.derive(b"spool"))


def may_keep(error: GatewayError, request: PushRequest) -> bool:
    """Nothing was accepted, for certain; or it has a key by which a second is the first. Not what is now or never."""
    if request.ttl == 0:
        return False
    return is_certain(error) or is_harmless_again(error, request)


def is_harmless_again(error: GatewayError, request: PushRequest) -> bool:
    """Perhaps it was accepted, and then its key finds it."""
    return isinstance(error, NodeUnreachable | AcceptTimeout) and bool(request.idempotency_key)


class SpoolSide:
    """Control thread only. `spool` None: this node keeps nothing, but knows whom to ask."""

    def __init__(
        self,
        spool: Spool | None,
        bus: Bus,
        members: Members,
        push_ids: PushIds,
        clock: Callable[[], int],
        *,
        fates_s: int,
        timeout_s: float,
    ) -> None:
        self._spool = spool
        self._bus = bus
        self._members = members
        self._push_ids = push_ids
        self._ids = spool_ids_of(push_ids)
        self._clock = clock
        self._fates_ms = fates_s * 1000
        self._timeout_s = timeout_s
        bus.serve(LOOK, self._on_look)
        bus.serve(RECALL, self._on_recall)

    @property
    def is_there(self) -> bool:
        return self._spool is not None

    # --- POST /v1/push

    def push(self, inner: Handler) -> Handler:
        """Asks `inner` (which finds the owner), and keeps what can not be taken now."""
        spool = self._spool
        if spool is None:
            return inner

        async def handle(call: Call) -> Response:
            body = await read_body(call.request, call.max_body_bytes)
            call.request._body = body  # whoever reads it next gets it again
            if not self._bus.is_up or spool.waiting:
                request = self._parse(call, body)
                if not self._bus.is_up or spool.is_behind(call.app.name, request):
                    return await self._kept(call, request)
            try:
                answer = await inner(call)
            except GatewayError as error:
                return await self._keep_or(call, body, error)
            refusal = _REFUSALS.get(call.request.scope.get(ERROR, ""))
            if refusal is not None and may_keep(refusal(), request := self._parse(call, body)):
                return await self._kept(call, request)
            return answer

        return handle

    def _parse(self, call: Call, body: bytes) -> PushRequest:
        kind = content_kind(call.request.headers.get("content-type"))
        return with_header(decode(body, PushRequest, kind=kind), call.request.headers.get("idempotency-key"))

    async def _keep_or(self, call: Call, body: bytes, error: GatewayError) -> Response:
        request = self._parse(call, body)
        if not may_keep(error, request):
            raise error
        return await self._kept(call, request)

    async def _kept(self, call: Call, request: PushRequest) -> Response:
        assert call.provider is not None
        push_id = await self.keep(call.app, call.provider.key_id, request)
        return call.answer(
            PushAccepted(id=push_id, spooled=True), status=202, headers={"location": f"/v1/push/{push_id}"}
        )

    async def keep(self, app: App, key_id: str, request: PushRequest) -> str:
        """Its id, once it is on disk. LogUnavailable without a spool; what Spool.keep raises."""
        if self._spool is None:
            raise LogUnavailable
        return self._ids.build(app.name, await self._spool.keep(app, key_id, request))

    async def keep_item(
        self, index: int, app: App, key_id: str, request: PushRequest, error: GatewayError
    ) -> BatchResult | None:
        """Of a batch, refused with this error: its line of the answer; None: the error stands."""
        if self._spool is None or not may_keep(error, request):
            return None
        try:
            push_id = await self.keep(app, key_id, request)
        except GatewayError as refusal:
            return BatchResult(index=index, status=refusal.status, error=describe(refusal))
        return BatchResult(index=index, status=202, id=push_id, spooled=True)

    def must_keep(self, app: App, request: PushRequest) -> bool:
        """For a batch: do not even ask the owner."""
        return self._spool is not None and (not self._bus.is_up or self._spool.is_behind(app.name, request))

    # --- GET and DELETE /v1/push/{id}

    def shown(self, inner: Handler) -> Handler:
        async def handle(call: Call) -> Response:
            text, app = call.path("id"), call.app.name
            number = None if self._push_ids.parse(text, app) is not None else self._ids.parse(text, app)
            if number is None:
                return await inner(call)
            fate = await self._look(app, number)
            if fate.what == "spooled" and call.request.method == "DELETE":
                fate = await self._recall(app, number)
                if fate.what == "recalled":
                    return call.answer(Recalled(recalled=1, too_late=0))
            if fate.what == "pushed":
                self._rename(call, text, self._push_ids.build(app, fate.seq))
                return await inner(call)
            if call.request.method == "DELETE":
                return call.answer(Recalled(recalled=0, too_late=0))
            return call.answer(_view(text, number, fate), status=202)

        return handle

    def _rename(self, call: Call, old: str, new: str) -> None:
        """The request is for the push that it became."""
        request = call.request
        request.path_params["id"] = new
        request.scope["path"] = request.scope["path"].replace(f"/{old}", f"/{new}", 1)
        raw = request.scope.get("raw_path")
        if raw:
            request.scope["raw_path"] = raw.replace(f"/{old}".encode(), f"/{new}".encode(), 1)

    async def _look(self, app: str, number: int) -> Fate:
        """UnknownPush; NodeUnreachable where the node that keeps it is not there now."""
        return await self._find(LOOK, app, number, self._look_here(app, number))

    async def _recall(self, app: str, number: int) -> Fate:
        return await self._find(RECALL, app, number, await self._recall_here(app, number))

    async def _find(self, kind: str, app: str, number: int, here: Fate | None) -> Fate:
        if here is not None:
            return here
        others = [member.number for member in self._members.all() if member.number != self._bus.number]
        body = _encode((app, number))
        asks = (self._bus.ask(node, kind, body, timeout_s=self._timeout_s) for node in others)
        answers = await asyncio.gather(*asks, return_exceptions=True)
        for answer in answers:
            if isinstance(answer, bytes) and answer:
                return parse_fate(answer)
            if isinstance(answer, BaseException) and not isinstance(answer, GatewayError):
                raise answer
        if not any(isinstance(answer, GatewayError) for answer in answers) and self._is_old(number):
            raise UnknownPush
        raise NodeUnreachable("the node that keeps this push can not be reached now")

    def _is_old(self, number: int) -> bool:
        """What became of it is not told any more."""
        return parse_number(number).ms < self._clock() - self._fates_ms

    def _look_here(self, app: str, number: int) -> Fate | None:
        found = None if self._spool is None else self._spool.look(app, number)
        if isinstance(found, Kept):
            return Fate(app, found.accepted_ms, "spooled", deadline_ms=found.deadline_ms)
        return found

    async def _recall_here(self, app: str, number: int) -> Fate | None:
        if self._spool is None or self._look_here(app, number) is None:
            return None
        await self._spool.recall(app, number)
        found = self._look_here(app, number)
        if found is not None and found.what == "spooled":
            raise NodeUnreachable("the fleet takes this push in at this moment; ask again", after_ms=1_000)
        return found

    # --- what other nodes ask

    def _on_look(self, sender: int, body: bytes) -> bytes:  # noqa: ARG002
        found = self._look_here(*_parse(body))
        return b"" if found is None else build_fate(found)

    async def _on_recall(self, sender: int, body: bytes) -> bytes:  # noqa: ARG002
        found = await self._recall_here(*_parse(body))
        return b"" if found is None else build_fate(found)


def _parse(body: bytes) -> tuple[str, int]:
    try:
        app, number = _asked(body)
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
        raise BadRequest("this names no push of a spool") from error
    if not 0 < number < 1 << 64:
        raise BadRequest("this names no push of a spool")
    return app, number


def _view(text: str, number: int, fate: Fate) -> SpoolView:
    error = None
    if fate.what == "refused":
        error = describe(ERRORS.get(fate.code, GatewayError)(fate.message))
    return SpoolView(
        id=text,
        state=fate.what,  # type: ignore[arg-type]
        accepted_at_ms=parse_number(number).ms,
        expires_at=-(-fate.deadline_ms // 1000) if fate.what == "spooled" else None,
        error=error,
    )
