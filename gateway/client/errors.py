"""Errors of the SDK: the gateway's own, rebuilt from their numbers, and the ends of a Device; never holds a secret."""

from __future__ import annotations

from gateway.model.errors import ERRORS, GatewayError


class DeviceClosed(ConnectionError):
    """The Device was closed, so nothing more can be asked of it."""


class LinkLost(ConnectionError):
    """The gateway could not be reached, or the connection went without a word; the SDK comes back by itself."""


class PushUncertain(ConnectionError):
    """The link was cut before the answer: the push may have been accepted. One with an idempotency_key is repeated."""


class RegistrationEnded(Exception):
    """The registration was unregistered, or another account of its app took its place (A5)."""


def build_error(
    code: int, name: str = "", message: str = "", *, retry: bool = False, after_ms: int = 0
) -> GatewayError:
    """The exception for an ERROR or GOAWAY frame; what the frame says about retrying wins over the table.

    A number this version does not know becomes a GatewayError with that number and name.
    """
    known = ERRORS.get(code)
    error = (known or GatewayError)(message, after_ms=after_ms)
    if known is None:
        error.code, error.name = code, name or "unknown"  # type: ignore[misc]
    error.retryable = retry  # type: ignore[misc]
    return error
