"""Apple's table of errors, as far as this door gives them, and how they are answered; docs/apns-door.md has the rest.

Source: "Handling notification responses from APNs". A library looks at the status and at `reason`, nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from gateway.api.route import Dialect
from gateway.model.errors import (
    BadRequest,
    GatewayError,
    Gone,
    MethodNotAllowed,
    NotFound,
    PayloadTooLarge,
    RequestTimeout,
    TooManyRequests,
)

JSON = "application/json"
#: reason → HTTP status
REASONS = {
    "BadCollapseId": 400,
    "BadDeviceToken": 400,
    "BadExpirationDate": 400,
    "BadMessageId": 400,
    "BadPriority": 400,
    "BadTopic": 400,
    "DeviceTokenNotForTopic": 400,
    "DuplicateHeaders": 400,
    "IdleTimeout": 400,
    "InvalidPushType": 400,
    "MissingDeviceToken": 400,
    "MissingTopic": 400,
    "PayloadEmpty": 400,
    "TopicDisallowed": 400,
    "BadCertificate": 403,
    "ExpiredProviderToken": 403,
    "InvalidProviderToken": 403,
    "MissingProviderToken": 403,
    "UnrelatedKeyIdInToken": 403,
    "BadPath": 404,
    "MethodNotAllowed": 405,
    "ExpiredToken": 410,
    "Unregistered": 410,
    "PayloadTooLarge": 413,
    "TooManyRequests": 429,
    "InternalServerError": 500,
    "ServiceUnavailable": 503,
    "Shutdown": 503,
}
#: what the rooms below raise
_OF_ERRORS: dict[type[GatewayError], str] = {
    BadRequest: "PayloadEmpty",
    PayloadTooLarge: "PayloadTooLarge",
    RequestTimeout: "IdleTimeout",
    NotFound: "BadPath",
    MethodNotAllowed: "MethodNotAllowed",
    Gone: "Unregistered",
    TooManyRequests: "TooManyRequests",
}


class ApnsError(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Body of every answer but 200."""

    reason: str
    #: Unix ms from which the token was known not to be valid; with 410
    timestamp: int | None = None


class Refused(Exception):
    """This request gets this reason."""

    def __init__(self, reason: str, *, timestamp_ms: int | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = REASONS[reason]
        self.timestamp_ms = timestamp_ms


def reason_of(error: GatewayError) -> str:
    for cls, reason in _OF_ERRORS.items():
        if isinstance(error, cls):
            return reason
    return "ServiceUnavailable" if error.status == 503 else "InternalServerError"


def answer_reason(reason: str, apns_id: str, *, timestamp_ms: int | None = None, retry_s: int = 0) -> Response:
    headers = {"apns-id": apns_id} if apns_id else {}
    if retry_s:
        headers["retry-after"] = str(retry_s)
    body = msgspec.json.encode(ApnsError(reason=reason, timestamp=timestamp_ms))
    return Response(body, status_code=REASONS[reason], headers=headers, media_type=JSON)


def answer_error(request: Request, error: GatewayError, headers: Mapping[str, str] | None = None) -> Response:
    """Errors that come from outside the handlers; aioapns wants its apns-id back with every answer."""
    retry_s = -(-error.after_ms // 1000) if error.retryable else 0
    answer = answer_reason(reason_of(error), request.headers.get("apns-id", "")[:64], retry_s=retry_s)
    answer.headers.update({name: value for name, value in (headers or {}).items() if name.lower() == "allow"})
    return answer


DIALECT = Dialect(prefix="/3/", answer=answer_error, media=JSON, shape=ApnsError)
