"""What a provider asks for: one push with its options; must never take a field it does not name."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from gateway.model.frames import Urgency
from gateway.model.notification import Body

Text = Annotated[str, msgspec.Meta(max_length=4_096)]
Milliseconds = Annotated[int, msgspec.Meta(ge=1, le=86_400_000)]
Channel = Annotated[str, msgspec.Meta(min_length=1, max_length=32, pattern="^[a-z0-9_-]+$")]


class TargetRequest(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Exactly one of these."""

    token: Annotated[str, msgspec.Meta(max_length=64)] = ""
    alias: Annotated[str, msgspec.Meta(max_length=256)] = ""
    tag: Annotated[str, msgspec.Meta(max_length=128)] = ""
    #: PEP 440 specifier set on the app version: ">=2.0,<3"
    versions: Annotated[str, msgspec.Meta(max_length=256)] = ""
    everyone: bool = False

    def kinds(self) -> list[str]:
        """The fields that are set."""
        return [name for name in ("token", "alias", "tag", "versions", "everyone") if getattr(self, name)]


class PushRequest(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """One push. Left out = the registration's, the app's or the gateway's default, in this order."""

    target: TargetRequest
    title: Text = ""
    text: Annotated[str, msgspec.Meta(max_length=16_384)] = ""
    #: message body, any JSON value
    data: Any = None
    #: seconds the push is kept for a device that is away; 0: now or never
    ttl: Annotated[int, msgspec.Meta(ge=0)] | None = None
    urgency: Literal["very-low", "low", "normal", "high"] = "normal"
    #: a newer push with the same key replaces an older pending one of the same token
    collapse_key: Annotated[str, msgspec.Meta(max_length=64)] = ""
    body: Literal["auto", "at_once", "on_demand"] = "auto"
    #: wait for the device's ack this long before the first notifier (B3)
    ack_ms: Milliseconds | None = None
    #: wait for an ack this long after a notifier took it, then recheck (B5)
    notifier_ack_ms: Milliseconds | None = None
    #: notifiers in order; [] = never leave the channel; for versions and everyone the default is []
    fallback: Annotated[list[Channel], msgspec.Meta(max_length=8)] | None = None
    #: a second push with this key is answered as the first
    idempotency_key: Annotated[str, msgspec.Meta(max_length=128)] = ""


URGENCIES = {"very-low": Urgency.VERY_LOW, "low": Urgency.LOW, "normal": Urgency.NORMAL, "high": Urgency.HIGH}
BODIES = {body.value: body for body in Body}
