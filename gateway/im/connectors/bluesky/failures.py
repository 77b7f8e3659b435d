"""What goes wrong with a PDS, in the words of connectors; must never quote what a server said."""

from __future__ import annotations

import time

from atproto_client.exceptions import RateLimitExceededError, RequestErrorBase

from gateway.im.connectors.pinned import TooLarge
from gateway.model.im import AuthFailed, CursorForgotten, Rejected, Transient

_GONE = frozenset({"AccountTakedown", "AccountDeactivated", "AccountSuspended"})
_TOKENS = frozenset({"ExpiredToken", "InvalidToken"})
#: a server may not keep us out for longer by a header
_LONGEST_S = 86_400.0


def classify(failure: BaseException, *, is_login: bool = False) -> AuthFailed | Transient | Rejected:
    if isinstance(failure, AuthFailed | Transient | Rejected):
        return failure
    if isinstance(failure, CursorForgotten):  # never from here
        return Transient("the cursor is of no use")
    if isinstance(failure, TooLarge) or isinstance(failure.__cause__, TooLarge):
        return Rejected("the server's answer is too large")
    response = failure.response if isinstance(failure, RequestErrorBase) else None
    if response is None:
        return Transient("the server does not answer as it should")
    status, error = response.status_code, str(getattr(response.content, "error", ""))
    if isinstance(failure, RateLimitExceededError) or status == 429:
        return Transient("the server wants this slower", _find_pause(failure))
    if error in _GONE:
        return AuthFailed("the account is closed, or was taken down")
    if error == "AuthFactorTokenRequired":
        return AuthFailed("password: the account wants a second factor; use an app password")
    if is_login and status in (401, 403):
        return AuthFailed("the server does not take handle and password")
    if error in _TOKENS or status == 401:
        return Transient("the server has ended the session")
    if status >= 500 or status in (408, 425):
        return Transient("the server has trouble of its own")
    return Rejected("the server does not take this")


def _find_pause(failure: BaseException) -> float:
    if not isinstance(failure, RateLimitExceededError):
        return 0.0
    pause = failure.retry_after
    try:
        if pause is None and failure.reset_at is not None:
            pause = failure.reset_at.timestamp() - time.time()
    except (ValueError, OverflowError, OSError):
        pause = None
    return min(max(pause or 0.0, 0.0), _LONGEST_S)
