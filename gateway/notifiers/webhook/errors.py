"""What an answer of the app's server means for the delivery; must never carry the address or the answer's text."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.notifiers.upstream import Answer, Fault, Row, Verdict, parse_retry_after

OK = Row(200, "ok", Verdict.OK, Fault.NONE, "2xx: taken")
THROTTLED = Row(429, "throttled", Verdict.RETRY, Fault.THROTTLE, "429: later; Retry-After is kept to")
LATER = Row(503, "later", Verdict.RETRY, Fault.UPSTREAM, "408, 425, 5xx: later; Retry-After is kept to")
REFUSED = Row(400, "refused", Verdict.DEAD, Fault.ADDRESS, "anything else, redirects too: never for this registration")
ROWS = (OK, THROTTLED, LATER, REFUSED)

#: for these the same call may work later
_LATER = frozenset((408, 425))


def parse_status(status: int, headers: Mapping[str, str], now_ms: int) -> Answer:
    """The app's server speaks in statuses alone."""
    detail = f"HTTP {status}"
    if 200 <= status < 300:
        return Answer(OK, detail=detail)
    if status == 429 or status in _LATER or status >= 500:
        row = THROTTLED if status == 429 else LATER
        return Answer(row, parse_retry_after(headers.get("retry-after", ""), now_ms), detail=detail)
    return Answer(REFUSED, detail=detail)
