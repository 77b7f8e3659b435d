"""What a provider sends: content, target and options, as the core keeps them."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec

from gateway.model.condition import Condition, is_of_cohort


class Body(StrEnum):
    """When the message body (`data`) goes to the device (B2)."""

    AUTO = "auto"  # at once where it is small (delivery.inline_bytes), else on demand
    AT_ONCE = "at_once"
    ON_DEMAND = "on_demand"  # a light notification first, the body when the device fetches it


class Words(msgspec.Struct, omit_defaults=True):
    """Title and text in one language."""

    title: str = ""
    text: str = ""


class Content(msgspec.Struct, omit_defaults=True):
    title: str = ""
    text: str = ""
    #: message body: any JSON value, packed as msgpack; empty = none
    data: bytes = b""
    #: language tag (BCP 47, lower case) → what is said in it instead
    localized: dict[str, Words] = {}


def language_of(content: Content, locale: str) -> str:
    """Which of the content's languages a locale gets (RFC 4647 §3.4 lookup); empty: the default."""
    wanted = locale.lower()
    while wanted:
        if wanted in content.localized:
            return wanted
        wanted = wanted.rpartition("-")[0]
        if len(wanted) > 1 and wanted[-2] == "-":
            wanted = wanted[:-2]  # a single letter never ends a tag
    return ""


def said_to(notification: Notification, locale: str) -> Notification:
    """The notification as a registration of this locale gets it: words in its language, and no others."""
    content = notification.content
    if not content.localized:
        return notification
    language = language_of(content, locale)
    words = content.localized[language] if language else content
    content = Content(title=words.title, text=words.text, data=content.data)
    return msgspec.structs.replace(notification, content=content)


class Target(msgspec.Struct, omit_defaults=True):
    """Exactly one of token, alias, tag, versions, everyone; `where` narrows the last two, or stands alone."""

    token: str = ""
    alias: str = ""
    tag: str = ""
    #: PEP 440 specifier set on the app version, ">=2.0,<3"
    versions: str = ""
    everyone: bool = False
    where: Condition | None = None

    @property
    def is_broadcast(self) -> bool:
        """Stored once, with a cursor per registration (A3)."""
        if self.where is not None and not is_of_cohort(self.where):
            return False
        return bool(self.versions) or self.everyone or self.where is not None


class Invitation(msgspec.Struct, omit_defaults=True, kw_only=True):
    """What a service page asks a terminal to start (C13); what it does not say is the app's own."""

    #: None: the app's own; empty: whatever the terminal has for the id
    aid: str | None = None
    #: place in the app's list of servers
    server: int = 0
    params: bytes = b""


class Notification(msgspec.Struct, omit_defaults=True, kw_only=True):
    """One accepted notification. `seq` is its place in the journal; the provider sees `push_id`, derived from it."""

    seq: int
    app: str
    target: Target
    content: Content
    accepted_ms: int  # Unix milliseconds
    expires_s: int  # Unix seconds; equal to the acceptance second where TTL was 0
    urgency: int = 2
    collapse_key: str = ""
    body: Body = Body.AUTO
    ack_ms: int  # already resolved: push, else app, else gateway default
    notifier_ack_ms: int
    #: None: the registration's or the app's chain; []: never leave the channel
    fallback: list[str] | None = None
    #: deliveries seq+1 … seq+count; 0: the notification is its own single delivery, or a broadcast
    count: int = 0
    #: sent spread over this time
    over_s: int = 0
    #: for pager service
    service: Invitation | None = None
    #: the sequence it was accepted with, where it waited for its time and became this notification then; 0: this one
    push: int = 0
    #: the broadcast this is the single delivery of, for one that was away or did not ack (B3, B4); 0: of none
    broadcast: int = 0

    @property
    def push_seq(self) -> int:
        """The sequence its provider knows it by."""
        return self.push or self.seq

    @property
    def has_data(self) -> bool:
        return bool(self.content.data)


#: arrays and maps inside each other in a message body. Decoders of devices have a limit of their own: what one can not
#: decode it can never ack, and it would come again on every new link
MAX_DATA_DEPTH = 64


def pack_data(value: Any) -> bytes:
    """JSON value → msgpack bytes for Content.data. ValueError where it is nested too deeply."""
    if value is None:
        return b""
    packed = msgspec.msgpack.encode(value)
    if len(packed) <= MAX_DATA_DEPTH:
        return packed  # each level takes a byte
    level = [value]
    for _ in range(MAX_DATA_DEPTH + 1):
        level = [
            item
            for holder in level
            if isinstance(holder, dict | list)
            for item in (holder.values() if isinstance(holder, dict) else holder)
        ]
        if not level:
            return packed
    raise ValueError(f"data is nested more than {MAX_DATA_DEPTH} levels deep")
