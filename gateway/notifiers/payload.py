"""What a message to an outside push service says: who it is for, and as much text as fits; must never hold a device id
or the message body (the app fetches it over its own channel)."""

from __future__ import annotations

from collections.abc import Callable

from gateway.model.notification import Notification
from gateway.model.registration import Registration, build_token

#: what a text that was cut ends with
ELLIPSIS = "…"


def build_ids(push_id: str, registration: Registration) -> dict[str, str]:
    """What the app needs to match the message with the one on its own channel, and to ack it."""
    return {"push": push_id, "token": build_token(registration.token)}


def cut(text: str, characters: int) -> str:
    return text if len(text) <= characters else text[: max(0, characters - 1)] + ELLIPSIS if characters > 0 else ""


def fit(notification: Notification, most_bytes: int, build: Callable[[str, str], bytes]) -> bytes:
    """`build(title, text)` with as much of the text, then of the title, as `most_bytes` takes. Where not even empty
    ones fit the result is larger all the same: what else there is has a fixed size."""
    title, text = notification.content.title, notification.content.text
    whole = build(title, text)
    if len(whole) <= most_bytes:
        return whole
    if len(build(title, "")) <= most_bytes:
        return build(title, cut(text, _longest(len(text), most_bytes, lambda n: build(title, cut(text, n)))))
    return build(cut(title, _longest(len(title), most_bytes, lambda n: build(cut(title, n), ""))), "")


def _longest(most: int, most_bytes: int, build: Callable[[int], bytes]) -> int:
    """Largest n ≤ most whose message fits; 0 where none does. A longer text never makes a shorter message."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        if len(build(middle)) <= most_bytes:
            low = middle
        else:
            high = middle - 1
    return low
