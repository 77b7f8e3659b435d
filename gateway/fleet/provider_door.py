"""The provider door of a node: the routes of one gateway, each led to where the table of places says; must never decide
itself what a core can decide, and never answer for a partition that it could not ask.

Who asks is checked here, with the node's book of apps, so that a wrong key costs nobody else anything; the owner's door
checks it again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import TypeVar
from urllib.parse import parse_qsl, urlencode

import msgspec
from starlette.applications import Starlette
from starlette.responses import Response

from gateway.api.apns.headers import parse_device_token
from gateway.api.apns.reasons import Refused
from gateway.api.call import Call
from gateway.api.door import APP, ERROR
from gateway.api.media import JSON, MSGPACK, ErrorBody, content_kind, decode, read_body
from gateway.api.ports import Backend
from gateway.api.push import MAX_PAGE, PAGE
from gateway.api.route import Route
from gateway.api.server import build_app_of, build_routes
from gateway.api.webpush.resources import Names
from gateway.api.wire import PushView, RegistrationPage, ScheduledPage, Statistics
from gateway.fleet import merges
from gateway.fleet.calls import Answered, Asked, Calls, Relayed
from gateway.fleet.places import Place, place_of
from gateway.model.cluster import home_of, is_imported_seq, partition_of, partition_of_seq
from gateway.model.errors import ERRORS, BadRequest, GatewayError, UnknownPush
from gateway.model.registration import parse_token

Handler = Callable[[Call], Awaitable[Response]]
_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})
_Page = TypeVar("_Page", RegistrationPage, ScheduledPage)
_Any = TypeVar("_Any")
#: most of an offset
_FAR = 1 << 31
#: a push of before the fleet was imported: all are asked
ANYWHERE = -1


class _Target(msgspec.Struct):
    token: str = ""


class _Push(msgspec.Struct):
    """As little of a push as says where it belongs."""

    target: _Target


class _Identity(msgspec.Struct):
    id: str


def token_partition(text: str, partitions: int) -> int | None:
    """None where it is no token: nobody has it."""
    token = parse_token(text)
    return None if token is None else partition_of(token, partitions)


class ProviderDoor:
    """Handlers for all places but those that have files of their own (batches, feeds)."""

    def __init__(
        self,
        backend: Backend,
        calls: Calls,
        partitions: int,
        others: dict[Place, Handler],
        around: Mapping[Place, Callable[[Handler], Handler]] | None = None,
    ) -> None:
        """`others`: places whose handlers have files of their own; `around`: what is put around a handler."""
        self._backend = backend
        self._calls = calls
        self._partitions = partitions
        self._names = Names(backend.push_ids.derive(b"webpush"))
        self._handlers: dict[Place, Handler] = {
            Place.APPS: self._first,
            Place.OPERATOR: self._first,
            Place.HOME: self._home,
            Place.TOKEN: self._token,
            Place.DEVICE: self._device,
            Place.TARGET: self._target,
            Place.IDENTITY: self._identity,
            Place.PUSH: self._push,
            Place.VIEW: self._view,
            Place.MESSAGE: self._message,
            Place.LABELS: self._labels,
            Place.SCHEDULED: self._scheduled,
            **others,
        }
        for place, wrap in (around or {}).items():
            self._handlers[place] = wrap(self._handlers[place])

    def build_app(self) -> Starlette:
        """The ASGI application of this node."""
        return build_app_of([self._placed(route) for route in build_routes(self._backend)], self._backend)

    def _placed(self, route: Route) -> Route:
        place = place_of(route.method, route.path)
        return route if place is Place.HERE else replace(route, handle=self._handlers[place])

    # --- led to one partition

    async def _first(self, call: Call) -> Response:
        return await self._relay(call, 0)

    async def _home(self, call: Call) -> Response:
        return await self._relay(call, self._home_of(call))

    async def _token(self, call: Call) -> Response:
        return await self._relay(call, token_partition(call.path("token"), self._partitions) or 0)

    async def _device(self, call: Call) -> Response:
        try:
            partition = partition_of(parse_device_token(call.path("token")), self._partitions)
        except Refused:
            partition = 0  # whose door says so, in its own order of checks
        return await self._relay(call, partition)

    async def _target(self, call: Call) -> Response:
        token, body = await self._read(call, _Push, lambda push: push.target.token)
        partition = token_partition(token, self._partitions) if token else None
        return await self._relay(call, self._home_of(call) if partition is None else partition, body)

    async def _identity(self, call: Call) -> Response:
        token, body = await self._read(call, _Identity, lambda request: request.id)
        return await self._relay(call, token_partition(token, self._partitions) or 0, body)

    async def _push(self, call: Call) -> Response:
        partition = self._partition_of_push(call)
        if partition == ANYWHERE:
            views = await self._values(self._about(call), PushView, absent=404)
            if not views:
                raise UnknownPush
            # one to many is taken back by the home, which tells all that have it
            one = len(views) == 1
            partition = next(iter(views)) if one else self._home_of(call)
        return await self._relay(call, partition)

    async def _message(self, call: Call) -> Response:
        message = self._names.parse_message(call.path("id"))
        if message is not None and is_imported_seq(message.seq):
            found = await self._calls.each(build_asked(call, b""))  # one at most has it
            answers = [answered for answered in found.answers.values() if answered.status != 404]
            if not answers and found.error is not None:
                raise found.error
            return relayed(call, answers[0] if answers else next(iter(found.answers.values())))
        partition = -1 if message is None else partition_of_seq(message.seq)
        return await self._relay(call, partition if 0 <= partition < self._partitions else 0)

    async def _read(self, call: Call, as_type: type[_Any], pick: Callable[[_Any], str]) -> tuple[str, bytes]:
        """(what the body says, the body). What can not be read here is told by the core, as one gateway would."""
        kind = content_kind(call.request.headers.get("content-type"))
        body = await read_body(call.request, call.max_body_bytes)
        try:
            return pick(decode(body, as_type, kind=kind)), body
        except BadRequest:
            return "", body

    def _home_of(self, call: Call) -> int:
        return home_of(call.app.name, self._partitions)

    def _partition_of_push(self, call: Call) -> int:
        """Where it was accepted, or ANYWHERE; UnknownPush."""
        seq = self._backend.push_ids.parse(call.path("id"), call.app.name)
        if seq is None:
            raise UnknownPush
        if is_imported_seq(seq):
            return ANYWHERE
        partition = partition_of_seq(seq)
        if partition >= self._partitions:
            raise UnknownPush
        return self._home_of(call) if partition < 0 else partition

    async def _relay(self, call: Call, partition: int, body: bytes | None = None) -> Response:
        if body is None:
            body = await self._body(call)
        return relayed(call, await self._calls.ask(partition, build_asked(call, body)))

    async def _body(self, call: Call) -> bytes:
        if call.request.method not in _WITH_BODY:
            return b""
        return await read_body(call.request, call.max_body_bytes)

    # --- put together from several

    async def _view(self, call: Call) -> Response:
        """Where is my push? One to a token is known to its partition alone, others to all that have deliveries."""
        partition = self._partition_of_push(call)
        asked = build_asked(call, b"")
        if partition == ANYWHERE:
            views = await self._values(self._about(call), PushView, absent=404)
            if not views:
                raise UnknownPush
            partition = next(iter(views))
        if not asked.path.endswith("/statistics"):
            answered = await self._calls.ask(partition, asked)
            view = value_of(answered, PushView)
            # what is no view is an error of the request itself, or a push that this partition does not know
            if view is None or view.target.token:
                return relayed(call, answered)
            return await self._merged_view(call, asked)
        view = value_of(await self._calls.ask(partition, self._about(call)), PushView)
        if view is not None and view.target.token:
            return relayed(call, await self._calls.ask(partition, asked))
        return await self._merged_statistics(call, asked)

    def _about(self, call: Call) -> Asked:
        """Of the push in the path, without its deliveries."""
        return packed(_get(build_asked(call, b"")), "limit=0", path=f"/v1/push/{call.path('id')}")

    async def _merged_view(self, call: Call, asked: Asked) -> Response:
        offset = call.query("offset", 0, 0, _FAR)
        limit = call.query("limit", PAGE, 0, MAX_PAGE)
        views = await self._values(packed(asked, "limit=0"), PushView, absent=404)
        if not views:
            raise UnknownPush
        counts = {partition: merges.targeted(view) for partition, view in views.items()}
        pages = [
            await self._value(piece.partition, packed(asked, f"offset={piece.offset}&limit={piece.limit}"), PushView)
            for piece in merges.cut(counts, offset, limit)
        ]
        return call.answer(merges.merge_views(list(views.values()), pages, offset, limit))

    async def _merged_statistics(self, call: Call, asked: Asked) -> Response:
        found = await self._values(packed(asked, ""), Statistics, absent=404)
        if not found:
            raise UnknownPush
        return call.answer(merges.merge_statistics(list(found.values())))

    async def _labels(self, call: Call) -> Response:
        params = call.request.query_params
        if bool(params.get("alias", "")) == bool(params.get("tag", "")):
            return await self._home(call)  # which says what is wrong
        total, pages, after = await self._paged(call, RegistrationPage)
        rows = [row for page in pages for row in page.registrations]
        return call.answer(RegistrationPage(count=total, registrations=rows, next_offset=after))

    async def _scheduled(self, call: Call) -> Response:
        total, pages, after = await self._paged(call, ScheduledPage)
        rows = [row for page in pages for row in page.scheduled]
        return call.answer(ScheduledPage(count=total, scheduled=rows, next_offset=after))

    async def _paged(self, call: Call, as_type: type[_Page]) -> tuple[int, list[_Page], int | None]:
        offset = call.query("offset", 0, 0, _FAR)
        limit = call.query("limit", PAGE, 0, MAX_PAGE)
        asked = build_asked(call, b"")
        counts = await self._values(_at(asked, 0, 0), as_type)
        total = sum(page.count for page in counts.values())
        pages = [
            await self._value(piece.partition, _at(asked, piece.offset, piece.limit), as_type)
            for piece in merges.cut({partition: page.count for partition, page in counts.items()}, offset, limit)
        ]
        return total, pages, merges.next_offset(total, offset, limit)

    async def _value(self, partition: int, asked: Asked, as_type: type[_Any]) -> _Any:
        answered = await self._calls.ask(partition, asked)
        value = value_of(answered, as_type)
        if value is None:
            raise error_of(answered)
        return value

    async def _values(self, asked: Asked, as_type: type[_Any], *, absent: int = 0) -> dict[int, _Any]:
        """What all partitions say, without those that answer with the status `absent`."""
        found = await self._calls.each(asked)
        if found.error is not None:
            raise found.error
        values: dict[int, _Any] = {}
        for partition, answered in found.answers.items():
            value = value_of(answered, as_type)
            if value is not None:
                values[partition] = value
            elif answered.status != absent:
                raise error_of(answered)
        return values


def error_of(answered: Answered) -> GatewayError:
    """The error of an answer that was asked for in msgpack."""
    try:
        error = msgspec.msgpack.decode(answered.body, type=ErrorBody).error
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError):
        return GatewayError()
    known = ERRORS.get(error.code, GatewayError)
    return known(error.message, field=error.field or "", after_ms=error.retry_after_ms)


def build_asked(call: Call, body: bytes) -> Asked:
    request = call.request
    scope = request.scope
    tls = (scope.get("extensions") or {}).get("tls", {})
    return Asked(
        method=request.method,
        path=scope["path"],
        raw_path=scope.get("raw_path") or scope["path"].encode(),
        query=scope.get("query_string", b""),
        headers=[(bytes(name), bytes(value)) for name, value in scope["headers"]],
        body=body,
        scheme=scope.get("scheme", "http"),
        certificates=list(tls.get("client_cert_chain", ())),
    )


def _get(asked: Asked) -> Asked:
    return msgspec.structs.replace(asked, method="GET")


def packed(asked: Asked, query: str, *, path: str = "") -> Asked:
    """The same, to be answered in msgpack, with another query."""
    headers = [(name, value) for name, value in asked.headers if name.lower() != b"accept"]
    return msgspec.structs.replace(
        asked,
        path=path or asked.path,
        raw_path=path.encode() or asked.raw_path,
        query=query.encode(),
        headers=[*headers, (b"accept", MSGPACK.encode())],
    )


def _at(asked: Asked, offset: int, limit: int) -> Asked:
    params = [(n, v) for n, v in parse_qsl(asked.query.decode("latin-1"), True) if n not in ("offset", "limit")]
    return packed(asked, urlencode([*params, ("offset", offset), ("limit", limit)]))


def value_of(answered: Answered, as_type: type[_Any]) -> _Any | None:
    """None where it is no success."""
    if answered.status != 200:
        return None
    kind = next((value for name, value in answered.headers if name == b"content-type"), b"").decode("latin-1")
    return decode(answered.body, as_type, kind=MSGPACK if kind.startswith(MSGPACK) else JSON)


def relayed(call: Call, answered: Answered) -> Response:
    for key, said in ((APP, answered.app), (ERROR, answered.error)):
        if said:
            call.request.scope[key] = said
    return Relayed(answered)
