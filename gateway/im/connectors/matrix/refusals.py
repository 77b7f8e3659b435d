"""What a homeserver's answer means that is no success: AuthFailed, Transient or Rejected; must never let its words
through, for they may hold anything."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from gateway.model.im import AuthFailed, Rejected, Transient

#: longest wait that a server may ask for
MAX_RETRY_S = 86_400.0

_AUTH = {
    "M_UNKNOWN_TOKEN": "the token is no longer valid",
    "M_MISSING_TOKEN": "the token is no longer valid",
    "M_USER_DEACTIVATED": "the account is deactivated",
    "M_USER_LOCKED": "the account is locked",
    "M_USER_SUSPENDED": "the account is suspended",
}
_REJECTED = {
    "M_FORBIDDEN": "the server does not allow it",
    "M_NOT_FOUND": "the server knows no such thing",
    "M_TOO_LARGE": "it is too large for the server",
    "M_BAD_JSON": "the server does not take this content",
    "M_INVALID_PARAM": "the server does not take this name",
    "M_INVALID_USERNAME": "the server does not take this name",
    "M_UNSUPPORTED_ROOM_VERSION": "the server can not join rooms of this version",
    "M_INCOMPATIBLE_ROOM_VERSION": "the server can not join rooms of this version",
    "M_GUEST_ACCESS_FORBIDDEN": "guests may not do it",
    "M_CONSENT_NOT_GIVEN": "the server wants its terms agreed to first",
    "M_RESOURCE_LIMIT_EXCEEDED": "the server takes no more from this account",
    "M_UNRECOGNIZED": "the server does not know this request",
}


class Refusal(Rejected):
    """With what else a caller may want to tell by."""

    def __init__(self, reason: str, status: int, code: str) -> None:
        super().__init__(reason)
        self.status = status
        self.code = code


def classify(status: int, headers: Mapping[str, str], body: bytes) -> AuthFailed | Transient | Refusal:
    """Of a status that is not 2xx."""
    answer = _decode(body)
    code = answer.get("errcode")
    code = code if isinstance(code, str) else ""
    if code in _AUTH:
        return AuthFailed(_AUTH[code])
    if status == 401:
        return AuthFailed("the server does not take the credentials")
    if status == 429 or code == "M_LIMIT_EXCEEDED":
        return Transient("the server asks to go slower", _retry_after_s(headers, answer))
    if status >= 500 or status == 408:
        return Transient("the server is in trouble", _retry_after_s(headers, answer), is_in_doubt=True)
    if 300 <= status < 400 or status < 200:
        return Transient("the server sends its callers elsewhere")
    known = code if code in _REJECTED else ""
    return Refusal(_REJECTED.get(code, "the server does not take it"), status, known)


def classify_login(error: AuthFailed | Transient | Refusal) -> AuthFailed | Transient | Refusal:
    """The same at a login, where what is forbidden is the password."""
    if isinstance(error, Refusal):
        if error.status == 403 or error.code in ("M_FORBIDDEN", "M_INVALID_USERNAME"):
            return AuthFailed("user or password is wrong")
        if error.status in (404, 405):
            return Refusal("homeserver: there is no Matrix server, or it has no logins by password", error.status, "")
    return error


def _decode(body: bytes) -> dict[str, object]:
    try:
        answer = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, ValueError):
        return {}
    return answer if isinstance(answer, dict) else {}


def _retry_after_s(headers: Mapping[str, str], answer: dict[str, object]) -> float:
    after_ms = answer.get("retry_after_ms")
    if isinstance(after_ms, int | float) and not isinstance(after_ms, bool) and after_ms >= 0:
        return min(after_ms / 1_000, MAX_RETRY_S)
    text = headers.get("retry-after", "")
    return min(float(text), MAX_RETRY_S) if text.isascii() and text.isdigit() and len(text) < 9 else 0.0
