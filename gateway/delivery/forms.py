"""The two forms of a NOTIFY (B2): light, and whole; must never put a device id or an account into a frame."""

from __future__ import annotations

import msgspec

from gateway.model.frames import FrameType, Notify, build_frame
from gateway.model.notification import Body, Notification, language_of


def goes_light(notification: Notification, inline_bytes: int) -> bool:
    """True where the first frame goes without its body, which waits for a FETCH."""
    size = len(notification.content.data)
    if not size or notification.body is Body.AT_ONCE:
        return False
    return notification.body is Body.ON_DEMAND or size > inline_bytes


def build_notify(notification: Notification, seq: int, token: str, *, light: bool, locale: str = "") -> bytes:
    """One NOTIFY frame; `token` is empty for a broadcast, then the frame names the app. `locale`: the device's."""
    content = notification.content
    language = language_of(content, locale)
    words = content.localized[language] if language else content
    at_s = notification.accepted_ms // 1000
    body = Notify(
        id=seq,
        token=token,
        app="" if token else notification.app,
        title=words.title,
        text=words.text,
        more=light,
        urgency=notification.urgency,
        at=at_s,
        # TTL 0 means now or never, not "hide it at once": such a frame carries no expiry.
        expires=notification.expires_s if notification.expires_s > at_s else 0,
        collapse=notification.collapse_key,
    )
    if content.data and not light:
        body.data = msgspec.Raw(content.data)
    return build_frame(FrameType.NOTIFY, body)
