"""Bodies in and out as JSON or msgpack, bounded and validated; an error always names the field and why.

Must never hold more of a body than its limit, and must never repeat a body in an error.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from gateway.model.errors import BadRequest, GatewayError, PayloadTooLarge, RequestTimeout, UnsupportedMedia

JSON = "application/json"
MSGPACK = "application/msgpack"
NDJSON = "application/x-ndjson"
EVENTS = "text/event-stream"
_MSGPACK_NAMES = frozenset({MSGPACK, "application/x-msgpack", "application/vnd.msgpack"})
_JSON_NAMES = frozenset({JSON, "text/json"})
_NDJSON_NAMES = frozenset({NDJSON, "application/ndjson", "application/jsonl"})
#: a single body must be here by then
BODY_S = 30.0
#: a body of a streamed batch may take longer in all, but not between two pieces
PIECE_S = 10.0

_T = TypeVar("_T")
_decoders: dict[tuple[str, Any], Any] = {}


class ErrorDetail(msgspec.Struct, kw_only=True):
    """The one error shape; `docs/errors.md` lists every code."""

    code: int
    name: str
    message: str
    #: offending input field, dotted
    field: str | None = None
    #: present where trying again may help
    retry_after_ms: int | None = None


class ErrorBody(msgspec.Struct, kw_only=True):
    error: ErrorDetail


def describe(error: GatewayError) -> ErrorDetail:
    return ErrorDetail(
        code=error.code,
        name=error.name,
        message=error.message,
        field=error.field or None,
        retry_after_ms=error.after_ms if error.retryable else None,
    )


def content_kind(content_type: str | None, *, allowed: frozenset[str] = frozenset({JSON, MSGPACK})) -> str:
    """JSON, MSGPACK or NDJSON for a Content-Type; none at all is taken as JSON. Raises UnsupportedMedia."""
    name = (JSON if content_type is None else content_type).partition(";")[0].strip().lower()
    kind = JSON if name in _JSON_NAMES else MSGPACK if name in _MSGPACK_NAMES else ""
    kind = NDJSON if name in _NDJSON_NAMES else kind
    if kind not in allowed:
        raise UnsupportedMedia(f"Send the body as {' or '.join(sorted(allowed))}, and say so in Content-Type.")
    return kind


def wants_msgpack(request: Request) -> bool:
    """By Accept; where that does not say, the answer comes in the kind of the request body."""
    best: dict[bool, float] = {True: 0.0, False: 0.0}
    for item in request.headers.get("accept", "").split(","):
        name, *params = (part.strip().lower() for part in item.split(";"))
        weight = 1.0
        for param in params:
            if param.startswith("q="):
                try:
                    weight = float(param[2:])
                except ValueError:
                    weight = 0.0
        if name in _MSGPACK_NAMES:
            best[True] = max(best[True], weight)
        elif name in _JSON_NAMES or name in _NDJSON_NAMES:
            best[False] = max(best[False], weight)
    if best[True] == best[False]:
        return request.headers.get("content-type", "").partition(";")[0].strip().lower() in _MSGPACK_NAMES
    return best[True] > best[False]


def encode(value: Any, *, as_msgpack: bool) -> bytes:
    return msgspec.msgpack.encode(value) if as_msgpack else msgspec.json.encode(value)


def build_response(
    request: Request, value: Any, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    packed = wants_msgpack(request)
    return Response(
        encode(value, as_msgpack=packed),
        status_code=status,
        headers={"cache-control": "no-store", **(headers or {})},
        media_type=MSGPACK if packed else JSON,
    )


def build_error(request: Request, error: GatewayError, *, headers: Mapping[str, str] | None = None) -> Response:
    extra = dict(headers or {})
    if error.retryable:
        # Rounded up: coming back early would only be refused again.
        extra["retry-after"] = str(-(-error.after_ms // 1000))
    if error.status == 401:
        extra["www-authenticate"] = 'Bearer realm="heliograph"'
    if error.status == 408:
        extra["connection"] = "close"
    return build_response(request, ErrorBody(error=describe(error)), status=error.status, headers=extra)


async def read_body(request: Request, limit: int, *, timeout_s: float = BODY_S) -> bytes:
    """The whole body, at most `limit` bytes: past it reading stops and PayloadTooLarge is raised."""
    too_large = PayloadTooLarge(f"The body is larger than {limit} bytes.")
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:18]) > limit:
        raise too_large
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(timeout_s):
            async for part in request.stream():
                size += len(part)
                if size > limit:
                    raise too_large
                parts.append(part)
    except TimeoutError:
        raise RequestTimeout from None
    return b"".join(parts)


def decode(body: bytes | memoryview, as_type: type[_T], *, kind: str = JSON) -> _T:
    """Validated value of a body; raises BadRequest with field and reason."""
    decoder = _decoders.get((kind, as_type))
    if decoder is None:
        factory: Any = msgspec.msgpack.Decoder if kind == MSGPACK else msgspec.json.Decoder
        decoder = _decoders[kind, as_type] = factory(as_type)
    try:
        return decoder.decode(body)  # type: ignore[no-any-return]
    except msgspec.ValidationError as exc:
        raise explain(exc) from None
    except (msgspec.DecodeError, UnicodeDecodeError, OverflowError, ValueError) as exc:
        name = "msgpack" if kind == MSGPACK else "JSON"
        detail = str(exc) if isinstance(exc, msgspec.DecodeError) else "bad text or number"
        raise BadRequest(f"The body is not valid {name}: {detail}") from None
    except RecursionError:
        raise BadRequest("The body is nested too deeply.") from None


#: what a pattern asks for, in words
_WORDS = {
    r"^[A-Za-z0-9][A-Za-z0-9._-]*$": "expected a name of A-Z a-z 0-9 . _ - that begins with a letter or digit",
    "^[a-z0-9_-]+$": "expected a name of a-z 0-9 _ -",
    "^[A-Za-z]{1,8}(-[A-Za-z0-9]{1,8})*$": "expected a language tag, such as pt-BR",
    r"^[A-Za-z0-9._-]*$": "expected A-Z a-z 0-9 . _ - only",
    "^[0-9a-f]{64}$": "expected a SHA-256 in lower-case hex, 64 characters",
    "^([0-9a-fA-F]{2})*$": "expected bytes in hex",
    "^[0-9a-fA-F]{6}$": "expected three bytes in hex",
    "^card_[0-9a-f]{32}$": "expected the id of a card, card_ and 32 hex digits",
    r"^[^\x00-\x1f\x7f]*$": "expected no control characters",
    r"^(https?://[^\s]+)?$": "expected a URL that begins with http:// or https://",
}
_PATTERN = re.compile(r"matching regex '(.*)'", re.DOTALL)


def explain(exc: msgspec.ValidationError) -> BadRequest:
    """msgspec's text names the place as a path; ours is the dotted field."""
    reason, _, path = str(exc).partition(" - at ")
    # "`$.tags[1]`", or "`key` in `$.addresses`" where the name of an entry is wrong
    place = path.rpartition(" in ")[2].strip("`").removeprefix("$").lstrip(".")
    quoted = reason.split("`")
    if "unknown field" in reason or "missing required field" in reason:
        name = quoted[1] if len(quoted) > 1 else ""
        place = f"{place}.{name}" if place else name
    pattern = _PATTERN.search(reason)
    if pattern is not None:
        reason = _WORDS.get(pattern[1], reason)
    message = f"{reason} (at {place})" if place else reason
    return BadRequest(message, field=place)


async def parse_body(request: Request, as_type: type[_T], limit: int, *, optional: bool = False) -> _T:
    """Read, check the content type and validate. `optional`: an empty body stands for {}."""
    if optional and request.headers.get("content-type") is None:
        body, kind = await read_body(request, limit), JSON
    else:
        kind = content_kind(request.headers.get("content-type"))
        body = await read_body(request, limit)
    if optional and not body:
        body = b"\x80" if kind == MSGPACK else b"{}"
    return decode(body, as_type, kind=kind)
