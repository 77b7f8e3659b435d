"""What a push service's answer means for the delivery; must never carry the endpoint.

Sources: RFC 8030 §5 (201; 202 with a receipt), §7.3 (404: gone; 410 is what services send), RFC 8291 §4 (413), RFC 8292
§4.2 (401, 403), RFC 6585 §4 (429).
"""

from __future__ import annotations

from collections.abc import Mapping

from gateway.notifiers.upstream import Answer, Fault, Row, Verdict, parse_retry_after

_DEAD, _GONE, _RETRY = Verdict.DEAD, Verdict.GONE, Verdict.RETRY

OK = Row(201, "ok", Verdict.OK, Fault.NONE, "taken (200, 201, 202, 204)")
BAD_REQUEST = Row(400, "bad_request", _DEAD, Fault.MESSAGE, "the service does not take the request")
# The device names the service: were this held against the lane, one subscription could stop all others of its origin.
UNAUTHORIZED = Row(401, "unauthorized", _DEAD, Fault.ADDRESS, "401, 403: made under another VAPID key than `vapid_key`")
NOT_FOUND = Row(404, "not_found", _GONE, Fault.ADDRESS, "there is no such subscription")
GONE = Row(410, "gone", _GONE, Fault.ADDRESS, "the subscription has ended")
TOO_LARGE = Row(413, "too_large", _DEAD, Fault.MESSAGE, "too large: sent once more without text; refused then too")
THROTTLED = Row(429, "throttled", _RETRY, Fault.EITHER, "429: a rate of the subscription, or of the origin", 60)
FAILED = Row(500, "failed", _RETRY, Fault.UPSTREAM, "5xx: later; Retry-After is kept to")
REDIRECT = Row(307, "redirect", _DEAD, Fault.ADDRESS, "3xx: never followed")
OTHER = Row(400, "other_4xx", _DEAD, Fault.MESSAGE, "another 4xx")
ODD = Row(0, "odd_status", _RETRY, Fault.UPSTREAM, "a status that HTTP does not give a request like this")
NOT_ALLOWED = Row(
    0, "private_address", _DEAD, Fault.ADDRESS, "the endpoint leads into a private network (delivery.webpush_private)"
)
ROWS = (
    OK, BAD_REQUEST, UNAUTHORIZED, NOT_FOUND, GONE, TOO_LARGE, THROTTLED, FAILED, REDIRECT, OTHER, ODD, NOT_ALLOWED,
)  # fmt: skip

_BY_STATUS = {
    400: BAD_REQUEST,
    401: UNAUTHORIZED,
    403: UNAUTHORIZED,
    404: NOT_FOUND,
    410: GONE,
    413: TOO_LARGE,
    429: THROTTLED,
}


def parse_status(status: int, headers: Mapping[str, str], now_ms: int) -> Answer:
    """Push services agree on statuses alone; their bodies are not read."""
    if status in (200, 201, 202, 204):
        return Answer(OK, detail=f"{status} ok")
    row = _BY_STATUS.get(status)
    if row is None:
        row = FAILED if status >= 500 else OTHER if status >= 400 else REDIRECT if status >= 300 else ODD
    return Answer(row, parse_retry_after(headers.get("retry-after", ""), now_ms), detail=f"{status} {row.reason}")
