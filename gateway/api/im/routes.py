"""A route for each operation of IM; must know no operation by name: a field in {braces} comes from the path, those of a
GET from the query, all others from the body."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import msgspec
import msgspec.inspect as mi
from starlette.responses import Response

from gateway.api.call import Call
from gateway.api.im.ports import ImRest
from gateway.api.media import JSON, MSGPACK, content_kind, read_body
from gateway.api.ports import Backend
from gateway.api.route import ANYBODY, USER, Query, Route
from gateway.im.operation import Ask, Caller, Operation
from gateway.model.errors import (
    AcceptTimeout,
    BadRequest,
    Conflict,
    Forbidden,
    NotFound,
    NotSignedIn,
    PayloadTooLarge,
    QueueFull,
    StoreUnavailable,
    TooManyRequests,
    UnsupportedMedia,
)

_STORE = (StoreUnavailable, AcceptTimeout, QueueFull, TooManyRequests)
_BODY = (PayloadTooLarge, UnsupportedMedia)
_IN_PATH = re.compile(r"{(\w+)}")
_BOOLS = {"true": True, "false": False}


def im_routes(backend: Backend, im: ImRest) -> list[Route]:
    return [*(_build_route(backend, im, operation) for operation in im.asking.operations), *im.media]


class _Fields:
    """Fields of an ask that come as text, and what they are."""

    def __init__(self, operation: Operation) -> None:
        info = mi.type_info(operation.ask)
        assert isinstance(info, mi.StructType)
        self.kinds = {field.encode_name: field.type for field in info.fields}
        self.required = {field.encode_name for field in info.fields if field.required}

    def parse(self, name: str, text: str) -> Any:
        """BadRequest."""
        kind = self.kinds.get(name)
        if isinstance(kind, mi.IntType):
            if not re.fullmatch(r"-?[0-9]{1,19}", text, re.ASCII):
                raise BadRequest("expected a whole number", field=name)
            return int(text)
        if isinstance(kind, mi.BoolType):
            if text not in _BOOLS:
                raise BadRequest("expected true or false", field=name)
            return _BOOLS[text]
        return text


def _build_route(backend: Backend, im: ImRest, operation: Operation) -> Route:
    in_path = _IN_PATH.findall(operation.path)
    fields = _Fields(operation)
    assert set(in_path) <= set(fields.kinds), operation.name
    has_body = operation.method not in ("GET", "DELETE") and set(fields.kinds) > set(in_path)

    async def handle(call: Call) -> Response:
        user = im.user_of(call.request.headers.get("authorization"))
        if operation.needs_user and user is None:
            raise NotSignedIn("no session key, or one that is not valid: Authorization: Bearer usk_…")
        if user is None and has_body:
            _admit(im, call)
        values = await _read_values(call, has_body=has_body)
        if not has_body:
            values = {name: fields.parse(name, text) for name, text in call.request.query_params.items()}
        for name in in_path:
            if name in values:
                raise BadRequest("it stands in the path, and must not be said twice", field=name)
            values[name] = fields.parse(name, call.path(name))
        caller = Caller(user, None, backend.now_ms())
        return call.answer(await call.committed(im.asking.run(operation, caller, values)))

    query = () if has_body else tuple(_query(fields, name) for name in fields.kinds if name not in in_path)
    return Route(
        method=operation.method,
        path=operation.path,
        handle=handle,
        caller=USER if operation.needs_user else ANYBODY,
        summary=operation.summary,
        group="im",
        takes=_body_type(operation.ask, tuple(in_path)) if has_body else None,
        takes_optional=not (fields.required - set(in_path)),
        gives=operation.reply,
        params=query,
        errors=(
            BadRequest,
            NotFound,
            Conflict,
            Forbidden,
            *_STORE,
            *(_BODY if has_body else ()),
            *((NotSignedIn,) if operation.needs_user else ()),
        ),
    )


def _admit(im: ImRest, call: Call) -> None:
    """Who is nobody yet may not ask for codes, or try some, as often as they like."""
    client = call.request.client
    after_ms = im.stranger(client.host if client is not None else "")
    if after_ms:
        raise TooManyRequests("too much was asked from this address without a session", after_ms=after_ms)


async def _read_values(call: Call, *, has_body: bool) -> dict[str, Any]:
    """A map. BadRequest, UnsupportedMedia, PayloadTooLarge."""
    if not has_body:
        return {}
    kind = content_kind(call.request.headers.get("content-type"))
    body = await read_body(call.request, call.max_body_bytes)
    if not body:
        return {}
    try:
        values = msgspec.msgpack.decode(body) if kind == MSGPACK else msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError, RecursionError):
        raise BadRequest(f"The body is not valid {'JSON' if kind == JSON else 'msgpack'}.") from None
    if not isinstance(values, dict):
        raise BadRequest("The body is no map of fields.")
    return values


def _query(fields: _Fields, name: str) -> Query:
    kind = fields.kinds[name]
    if isinstance(kind, mi.IntType):
        return Query(name, "", low=kind.ge, high=kind.le, required=name in fields.required)
    text = "boolean" if isinstance(kind, mi.BoolType) else "string"
    return Query(name, "", kind=text, required=name in fields.required)


@cache  # one type for operations that take the same
def _body_type(ask: type[Ask], in_path: tuple[str, ...]) -> type:
    """The ask without what stands in the path, for the description."""
    if not in_path:
        return ask
    fields: list[Any] = []
    for field in msgspec.structs.fields(ask):
        if field.encode_name in in_path:
            continue
        if field.default is not msgspec.NODEFAULT:
            fields.append((field.name, field.type, field.default))
        elif field.default_factory is not msgspec.NODEFAULT:
            fields.append((field.name, field.type, msgspec.field(default_factory=field.default_factory)))
        else:
            fields.append((field.name, field.type))
    name = f"{ask.__name__}Body"
    return msgspec.defstruct(name, fields, kw_only=True, forbid_unknown_fields=True)
