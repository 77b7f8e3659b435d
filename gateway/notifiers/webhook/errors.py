"""What an answer of the app's server means for the delivery; must never carry the address or the answer's text."""

from __future__ import annotations

from collections.abc import Mapping
from email.utils import parsedate_to_datetime

from gateway.model.ports import NotifierResult

#: for these the same call may work later
_LATER = frozenset((408, 425, 429))


def parse_status(status: int, headers: Mapping[str, str], now_ms: int) -> NotifierResult:
    """2xx: taken. 408, 425, 429, 5xx: later. All else, redirects too: never for this registration."""
    detail = f"HTTP {status}"
    if 200 <= status < 300:
        return NotifierResult(ok=True, detail=detail)
    if status in _LATER or status >= 500:
        return NotifierResult(
            ok=False, retry_after_ms=parse_retry_after(headers.get("retry-after", ""), now_ms), detail=detail
        )
    return NotifierResult(ok=False, dead=True, detail=detail)


def parse_retry_after(value: str, now_ms: int) -> int:
    """RFC 9110 §10.2.3: seconds or a date → milliseconds from now; 0 where absent or not valid."""
    value = value.strip()
    if value.isascii() and value.isdigit() and len(value) < 10:
        return int(value) * 1000
    try:
        return max(0, int(parsedate_to_datetime(value).timestamp() * 1000) - now_ms)
    except (ValueError, TypeError, OverflowError):
        return 0
