"""Bodies of the kinds schemathesis does not know; it loads this by name (SCHEMATHESIS_HOOKS)."""

from __future__ import annotations

from typing import Any

import msgspec
import schemathesis


@schemathesis.serializer("application/msgpack")
def build_msgpack(_: Any, value: Any) -> bytes:
    try:
        return msgspec.msgpack.encode(value)
    except (OverflowError, TypeError, ValueError):  # a number past 64 bits
        return msgspec.json.encode(str(value))


@schemathesis.serializer("application/x-ndjson")
def build_ndjson(_: Any, value: Any) -> bytes:
    items = value if isinstance(value, list) else [value]
    return b"\n".join(msgspec.json.encode(item) for item in items)


@schemathesis.serializer("application/octet-stream", "application/offset+octet-stream")
def build_bytes(_: Any, value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogateescape")
