"""FCM's answers and what each means for the delivery; must never carry a registration token.

Sources: Firebase, "FCM ErrorCode reference" (`details[].errorCode` of an FcmError) and "Scale messages" (429 without
Retry-After: 60 seconds); google.rpc.Code for answers without an FcmError; RFC 6749 §5.2 for the token endpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from gateway.notifiers.upstream import GARBAGE, Answer, Fault, Row, Verdict, agrees, parse_retry_after

_DEAD, _GONE, _RETRY = Verdict.DEAD, Verdict.GONE, Verdict.RETRY
_ADDRESS, _MESSAGE, _CREDENTIAL, _UPSTREAM = Fault.ADDRESS, Fault.MESSAGE, Fault.CREDENTIAL, Fault.UPSTREAM

OK = Row(200, "ok", Verdict.OK, Fault.NONE, "Google took it; no proof that the phone shows it")
UNAUTHENTICATED = Row(
    401, "UNAUTHENTICATED", _RETRY, _CREDENTIAL, "the access token was refused: renewed once, repeated"
)
UNKNOWN_REFUSAL = Row(400, "other_4xx", _DEAD, _MESSAGE, "an error that is not in the table, with a 4xx status")
UNKNOWN_THROTTLE = Row(429, "other_429", _RETRY, Fault.EITHER, "429 without an error of the table", 60)
UNKNOWN_FAILURE = Row(500, "other_5xx", _RETRY, _UPSTREAM, "an error that is not in the table, with a 5xx status")
TOKEN_REFUSED = Row(
    400,
    "token_refused",
    _RETRY,
    _CREDENTIAL,
    "the token endpoint refuses the service account: deleted, or the clock is off",
)
TOKEN_FAILED = Row(503, "token_failed", _RETRY, _UPSTREAM, "the token endpoint failed or said something else")
TOKEN_THROTTLED = Row(429, "token_throttled", _RETRY, Fault.THROTTLE, "the token endpoint was asked too often", 60)

ROWS = (
    OK,
    Row(400, "INVALID_ARGUMENT", _DEAD, _ADDRESS, "no registration token, or a field of the message is not valid"),
    Row(404, "UNREGISTERED", _GONE, _ADDRESS, "the app was removed, or the token has expired"),
    Row(403, "SENDER_ID_MISMATCH", _DEAD, _ADDRESS, "the token belongs to another Firebase project"),
    Row(429, "QUOTA_EXCEEDED", _RETRY, Fault.EITHER, "a rate was exceeded, of the device or of the project", 60),
    Row(503, "UNAVAILABLE", _RETRY, _UPSTREAM, "overloaded; Retry-After is kept to"),
    Row(500, "INTERNAL", _RETRY, _UPSTREAM, "Google's fault"),
    Row(
        401,
        "THIRD_PARTY_AUTH_ERROR",
        _RETRY,
        _ADDRESS,
        "the APNs key or Web Push key kept at Firebase is not valid; Android devices go on",
    ),
    Row(500, "UNSPECIFIED_ERROR", _RETRY, _UPSTREAM, "Google says no more"),
    UNAUTHENTICATED,
    Row(403, "PERMISSION_DENIED", _RETRY, _CREDENTIAL, "the service account may not send for this project"),
    Row(404, "NOT_FOUND", _DEAD, _ADDRESS, "404 without an FcmError: no such project, or no such token"),
    Row(429, "RESOURCE_EXHAUSTED", _RETRY, Fault.EITHER, "429 without an FcmError: a rate was exceeded", 60),
    UNKNOWN_REFUSAL,
    UNKNOWN_THROTTLE,
    UNKNOWN_FAILURE,
    TOKEN_REFUSED,
    TOKEN_FAILED,
    TOKEN_THROTTLED,
)
BY_REASON = {row.reason: row for row in ROWS if row.reason.isupper()}


class _Error(msgspec.Struct):
    status: str = ""
    details: list[Any] = []


class _Refused(msgspec.Struct):
    error: _Error


class _Taken(msgspec.Struct):
    name: str


class _Token(msgspec.Struct):
    access_token: str
    expires_in: int = 3_600  # seconds


def parse_answer(status: int, headers: Mapping[str, str], body: bytes, now_ms: int) -> Answer:
    """Never raises, whatever comes. A body that is no answer of FCM is GARBAGE."""
    try:
        if status == 200:
            msgspec.json.decode(body, type=_Taken)
            return Answer(OK)
        error = msgspec.json.decode(body, type=_Refused).error
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Answer(GARBAGE, parse_retry_after(headers.get("retry-after", ""), now_ms), detail=f"HTTP {status}")
    if status < 400:
        return Answer(GARBAGE, detail=f"HTTP {status}")
    codes = [detail.get("errorCode") for detail in error.details if isinstance(detail, dict)]
    row = next((BY_REASON[code] for code in codes if isinstance(code, str) and code in BY_REASON), None)
    row = row or BY_REASON.get(error.status)
    retry_after_ms = parse_retry_after(headers.get("retry-after", ""), now_ms)
    if row is None or not agrees(row, status):
        other = UNKNOWN_FAILURE if status >= 500 else UNKNOWN_THROTTLE if status == 429 else UNKNOWN_REFUSAL
        return Answer(other, retry_after_ms, detail=f"{status}, an error unknown here")
    return Answer(row, retry_after_ms)


def parse_token(status: int, headers: Mapping[str, str], body: bytes, now_ms: int) -> tuple[str, int] | Answer:
    """(access token, seconds it holds) of the token endpoint's answer, or why there is none. Never raises."""
    if status == 200:
        try:
            token = msgspec.json.decode(body, type=_Token)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return Answer(TOKEN_FAILED, detail="token endpoint: no token in its answer")
        # It goes into a header as it is.
        if not token.access_token.isascii() or not token.access_token.isprintable() or " " in token.access_token:
            return Answer(TOKEN_FAILED, detail="token endpoint: no token in its answer")
        if not token.access_token or token.expires_in <= 0:
            return Answer(TOKEN_FAILED, detail="token endpoint: no token in its answer")
        return token.access_token, min(token.expires_in, 86_400)
    row = TOKEN_THROTTLED if status == 429 else TOKEN_REFUSED if 400 <= status < 500 else TOKEN_FAILED
    retry_after_ms = parse_retry_after(headers.get("retry-after", ""), now_ms)
    return Answer(row, retry_after_ms, detail=f"token endpoint: HTTP {status}")
