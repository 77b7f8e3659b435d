"""What an app gets from the SDK: notifications, tips, recalls; must never show a token in a repr.

Everything made here came over the device's own authenticated link, so it is the gateway's (B7): `channel` says so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any

from gateway.model.frames import Urgency

#: text of a tip where the notification has none (B3 names the same content)
NEW_MESSAGE = "New message"


class AckPolicy(Enum):
    """When a notification is confirmed (B6)."""

    RECEIPT = "receipt"  # as soon as the SDK has a place for it in the app's queue
    DISPLAY = "display"  # when the app calls shown(); what was not shown is not acked


@dataclass(slots=True, frozen=True)
class WebPushMessage:
    """A message from the Web Push door as it came: still encrypted, or without a body."""

    body: bytes = field(repr=False)
    #: aes128gcm, aesgcm, or empty where there is no body
    content_encoding: str = ""
    #: of aesgcm, whose parameters are not in the body
    encryption: str = field(default="", repr=False)
    crypto_key: str = field(default="", repr=False)


def parse_webpush(data: Any) -> WebPushMessage | None:
    """None where the message body did not come through the Web Push door."""
    message = data.get("webpush") if isinstance(data, dict) and len(data) == 1 else None
    if not isinstance(message, dict) or not isinstance(message.get("body"), bytes):
        return None
    texts = [message.get(name, "") for name in ("content_encoding", "encryption", "crypto_key")]
    if not all(isinstance(text, str) for text in texts):
        return None
    return WebPushMessage(message["body"], *texts)


@dataclass(slots=True, eq=False)
class Notification:
    """One message for one app."""

    id: int  # unique for its token, or for its app where it is a broadcast
    app: str
    account: str = field(repr=False)
    title: str
    text: str
    data: Any  # the message body; None where there is none, or where it is not here yet (light)
    light: bool  # True: only title and text came, the body is fetched when the app is in the foreground (B2)
    broadcast: bool  # for the app and version, not for this token (A3)
    urgency: int
    at: int  # Unix seconds: accepted by the gateway
    expires: int  # Unix seconds: must not be shown after it; 0 = none
    collapse: str  # a newer one with the same key replaces it
    channel: str = "edge"  # B7
    source: str = field(default="", repr=False)  # dedupe scope: the token, or the app of a broadcast
    on_shown: Callable[[Notification], None] | None = field(default=None, repr=False)

    @property
    def webpush(self) -> WebPushMessage | None:
        """The raw message where it came through the Web Push door; Subscription.open opens it."""
        return parse_webpush(self.data)

    @property
    def is_urgent(self) -> bool:
        return self.urgency >= Urgency.HIGH

    def shown(self) -> None:
        """Tell the gateway that the user saw it; implies the ack. More calls do nothing."""
        if self.on_shown is not None:
            self.on_shown(self)


@dataclass(slots=True, eq=False)
class Tip:
    """What to pop up while the app is in the background (B6); the message itself follows in the foreground."""

    title: str
    text: str
    notification: Notification

    @property
    def id(self) -> int:
        return self.notification.id

    @property
    def channel(self) -> str:
        return self.notification.channel

    def shown(self) -> None:
        """The tip was displayed; in AckPolicy.DISPLAY this is its ack."""
        self.notification.shown()


@dataclass(slots=True, frozen=True)
class Recall:
    """The provider took this notification back: remove tip and message if they are still shown."""

    id: int


Item = Notification | Tip | Recall


def build_tip(notification: Notification) -> Tip:
    """A tip from the data (B6); never empty."""
    text = notification.text or ("" if notification.title else NEW_MESSAGE)
    return Tip(notification.title or notification.app, text, notification)


@dataclass(slots=True)
class Counters:
    """What happened on this device since it was made; each bound and each drop has its counter."""

    links: int = 0  # logins that succeeded
    cuts: int = 0  # links lost without a word
    notifications: int = 0  # NOTIFYs taken in, duplicates not counted
    duplicates: int = 0  # seen before: not handed out again, acked again
    unbound: int = 0  # dropped: for a token not bound now (A5)
    discarded: int = 0  # not handed out: queued for an account that was switched away or unregistered (A5)
    expired: int = 0  # held in the background past their end
    recalled: int = 0
    held_full: int = 0  # refused, not acked: too many held for the foreground; they are fetched then
    bodies_gone: int = 0  # light ones whose body was no longer there
    acks: int = 0
    shown: int = 0
    late_confirmations: int = 0  # acks made off line past their bound: the duplicate will be acked
    pings: int = 0
    pongs: int = 0
    unknown_frames: int = 0
    broken_links: int = 0  # the gateway's frames could not be understood
    errors: int = 0  # ERROR frames received
    callback_errors: int = 0
    credentials_unsaved: int = 0  # the credential store failed
    seen_unsaved: int = 0  # the store of what was seen failed: a restarted app may be given it again
    leaves_lost: int = 0  # accounts ended off line of which the gateway is not told: too many of them
    pauses: int = 0  # reading stopped because an app's queue was full

    def as_dict(self) -> dict[str, int]:
        return {f.name: getattr(self, f.name) for f in fields(self)}
