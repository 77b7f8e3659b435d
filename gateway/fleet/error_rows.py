"""A GatewayError as four values of a message between nodes, and back; must never raise anything but BadRequest."""

from __future__ import annotations

from typing import Any

from gateway.model.errors import ERRORS, BadRequest, GatewayError

#: code, message, field, after_ms
ErrorRow = tuple[int, str, str, int]


def build_error_row(error: GatewayError) -> ErrorRow:
    return (error.code, error.message, error.field, error.after_ms)


def parse_error_row(row: Any) -> GatewayError:
    """An error of a newer version that is not known here is an internal one, with its own words."""
    match row:
        case [int(code), str(message), str(field), int(after_ms)]:
            return ERRORS.get(code, GatewayError)(message, field=field, after_ms=after_ms)
    raise BadRequest("a node answered with something that is no error")
