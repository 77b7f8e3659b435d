"""What an exposure function's answer to a trigger means for the delivery; must never carry a word that was not in this
file before: a problem's text may name a subscriber.

Source: 3GPP TS 29.122 §5.2.6 (ProblemDetails, RFC 9457), table 5.2.6-1; RFC 6749 §5.2 for tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from gateway.notifiers.upstream import GARBAGE, Answer, Fault, Row, Verdict, parse_retry_after

_DEAD, _RETRY = Verdict.DEAD, Verdict.RETRY
_ADDRESS, _MESSAGE, _UPSTREAM, _CREDENTIAL = Fault.ADDRESS, Fault.MESSAGE, Fault.UPSTREAM, Fault.CREDENTIAL

OK = Row(0, "ok", Verdict.OK, Fault.NONE, "the network took the trigger; its report says later what became of it")
NOT_LISTENING = Row(
    0, "not_listening", _RETRY, _UPSTREAM, "the listener for reports is not open (see the log): free `callback_port`"
)
BAD_ID = Row(400, "bad_id", _DEAD, _ADDRESS, "the network finds the device's id wrong: check `trigger.identify`")
BAD_REQUEST = Row(400, "bad_request", _DEAD, _MESSAGE, "the network finds the request wrong")
UNAUTHORIZED = Row(401, "unauthorized", _RETRY, _CREDENTIAL, "no token, or one that is refused: check `trigger.auth`")
QUOTA = Row(403, "quota", _RETRY, Fault.THROTTLE, "the gateway's quota of triggers there is used up", 60)
FORBIDDEN = Row(
    403, "forbidden", _DEAD, _CREDENTIAL, "the network allows this gateway no triggers, or not of the device"
)
UNKNOWN_DEVICE = Row(404, "unknown_device", _DEAD, _ADDRESS, "the network knows no such device")
NO_API = Row(404, "no_api", _RETRY, _UPSTREAM, "no such API there: check `trigger.t8` and `trigger.scs_as_id`")
TOO_LARGE = Row(413, "too_large", _DEAD, _MESSAGE, "more than the network takes: lower `trigger.payload_bytes`")
THROTTLED = Row(429, "throttled", _RETRY, Fault.THROTTLE, "too fast: the lane rests", 5)
UNREACHABLE = Row(504, "unreachable", _RETRY, Fault.ABSENT, "the device can not be reached now")
OVERLOADED = Row(503, "overloaded", _RETRY, _UPSTREAM, "the network can not take it now", 5)
FAILED = Row(500, "server_error", _RETRY, _UPSTREAM, "the network has an error of its own (any other 5xx too)")
REFUSED = Row(0, "refused", _DEAD, _MESSAGE, "another status from 400 to 499")
REDIRECTED = Row(307, "redirected", _RETRY, _UPSTREAM, "sent to another server, or round and round: it is not followed")
TOKEN_REFUSED = Row(0, "token_refused", _RETRY, _CREDENTIAL, "the token endpoint refuses the client: check its secret")
TOKEN_FAILED = Row(0, "token_failed", _RETRY, _UPSTREAM, "the token endpoint has an error, or answers no token")
ROWS = (
    OK,
    NOT_LISTENING,
    BAD_ID,
    BAD_REQUEST,
    UNAUTHORIZED,
    QUOTA,
    FORBIDDEN,
    UNKNOWN_DEVICE,
    NO_API,
    TOO_LARGE,
    THROTTLED,
    UNREACHABLE,
    OVERLOADED,
    FAILED,
    REFUSED,
    REDIRECTED,
    TOKEN_REFUSED,
    TOKEN_FAILED,
)
_BY_STATUS = {
    400: BAD_REQUEST,
    401: UNAUTHORIZED,
    403: FORBIDDEN,
    405: NO_API,
    413: TOO_LARGE,
    429: THROTTLED,
    503: OVERLOADED,
}
#: (status, `cause` of the problem) → row; vendors' own causes are not among them (TS 29.500 §5.2.7.2, TS 29.122)
_BY_CAUSE = {
    (403, "QUOTA_EXCEEDED"): QUOTA,
    (403, "RATE_EXCEEDED"): QUOTA,
    (403, "USER_UNKNOWN"): UNKNOWN_DEVICE,
    (403, "UE_NOT_REACHABLE"): UNREACHABLE,
    (404, "RESOURCE_URI_STRUCTURE_NOT_FOUND"): NO_API,
    (404, "UE_NOT_REACHABLE"): UNREACHABLE,
    (500, "UE_NOT_REACHABLE"): UNREACHABLE,
    (503, "UE_NOT_REACHABLE"): UNREACHABLE,
    (504, "UE_NOT_REACHABLE"): UNREACHABLE,
}
_IDS = ("msisdn", "externalid")


class _Param(msgspec.Struct):
    param: str = ""


class _Problem(msgspec.Struct):
    """As much of it as is looked at."""

    cause: str = ""
    invalidParams: list[_Param] = []


def _parse_problem(headers: Mapping[str, str], body: bytes) -> _Problem | None:
    """None: it is none."""
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in ("application/problem+json", "application/json"):
        return None
    try:
        return msgspec.json.decode(body, type=_Problem)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def parse_refusal(status: int, headers: Mapping[str, str], body: bytes, now_ms: int) -> Answer:
    """The row of an answer that is not the one hoped for. Never raises, whatever comes."""
    retry_after_ms = parse_retry_after(headers.get("retry-after", ""), now_ms)
    if 300 <= status < 400:
        return Answer(REDIRECTED, detail=f"{status} redirected")
    if status < 400 or status > 599:
        return Answer(GARBAGE, retry_after_ms, detail=f"HTTP {status}")
    problem = _parse_problem(headers, body)
    row = _BY_CAUSE.get((status, problem.cause)) if problem is not None else None
    if row is None and status == 404:
        # A server without this API has its own 404 page; the API itself says what it misses.
        row = UNKNOWN_DEVICE if problem is not None else NO_API
    if row is None and status == 400 and problem is not None:
        named = [each.param.lower() for each in problem.invalidParams]
        row = BAD_ID if any(name in each for each in named for name in _IDS) else None
    row = row or _BY_STATUS.get(status) or (FAILED if status >= 500 else REFUSED)
    return Answer(row, retry_after_ms, detail=f"{status} {row.reason}")


class _Token(msgspec.Struct):
    access_token: str
    token_type: str = "Bearer"  # noqa: S105 - a kind of token
    expires_in: int = 3_600  # seconds


def parse_token(status: int, headers: Mapping[str, str], body: bytes, now_ms: int) -> tuple[str, int] | Answer:
    """(token, seconds it holds) of the token endpoint's answer, or why there is none. Never raises."""
    if status != 200:
        row = TOKEN_REFUSED if 400 <= status < 500 and status != 429 else TOKEN_FAILED
        retry_after_ms = parse_retry_after(headers.get("retry-after", ""), now_ms)
        return Answer(row, retry_after_ms, detail=f"token endpoint: HTTP {status}")
    found: Any = None
    try:
        found = msgspec.json.decode(body, type=_Token)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        found = None
    # It goes into a header as it is.
    if (
        found is None
        or found.token_type.lower() != "bearer"
        or found.expires_in <= 0
        or not 0 < len(found.access_token) <= 8_192
        or any(not "!" <= char <= "~" for char in found.access_token)
    ):
        return Answer(TOKEN_FAILED, detail="token endpoint: no token in its answer")
    return found.access_token, min(found.expires_in, 86_400)
