"""What a provider asks for: one push with its options; must never take a field it does not name."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from gateway.model.condition import Condition
from gateway.model.frames import Urgency
from gateway.model.notification import Body
from gateway.model.service_page import MOST_AID, MOST_PARAMS, MOST_SERVERS

Channel = Annotated[str, Meta(min_length=1, max_length=32, pattern="^[a-z0-9_-]+$")]
Data = Annotated[Any, Meta(description="the message itself: any JSON value; whole numbers of at most 64 bits")]
# delivery.max_ttl_s is the bound that counts; this one keeps numbers away that fit into no field
Seconds = Annotated[
    int, Meta(ge=0, le=2**32 - 1, description="seconds it is kept for a device that is away; 0: now or never")
]
UrgencyName = Annotated[
    Literal["very-low", "low", "normal", "high"],
    Meta(description="a device that saves power may ask for the more urgent ones only; the others wait"),
]
CollapseKey = Annotated[
    str, Meta(max_length=64, description="replaces an older pending push to the same token that has this key")
]
BodyName = Annotated[
    Literal["auto", "at_once", "on_demand"],
    Meta(description="data goes out with the push, when the app asks for it, or as its size tells"),
]
AckMs = Annotated[
    int, Meta(ge=1, le=86_400_000, description="wait for the device's ack this long, then ask a notifier (B3)")
]
NotifierAckMs = Annotated[
    int, Meta(ge=1, le=86_400_000, description="wait for an ack this long after a notifier took it, then recheck (B5)")
]
Chain = Annotated[
    list[Channel],
    Meta(
        max_length=8,
        description="notifiers in order; [] = never leave the channel, the default for versions and everyone",
    ),
]
IdempotencyKey = Annotated[
    str,
    Meta(
        max_length=128,
        pattern=r"^[^\x00-\x1f\x7f]*$",
        description="a second push with this key is answered as the first",
    ),
]


DeliverAt = Annotated[
    int,
    Meta(
        ge=0, le=2**32 - 1, description="Unix seconds: kept until then, its time to live begins then; recall cancels it"
    ),
]
Over = Annotated[
    int, Meta(ge=0, le=86_400, description="seconds over which it is sent to a large audience, evenly; 0: at once")
]
Language = Annotated[str, Meta(min_length=2, max_length=35, pattern="^[A-Za-z]{1,8}(-[A-Za-z0-9]{1,8})*$")]


class WordsRequest(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    title: Annotated[str, Meta(max_length=4_096)] = ""
    text: Annotated[str, Meta(max_length=16_384)] = ""


Localized = Annotated[
    dict[Language, WordsRequest],
    Meta(
        max_length=64, description="language tag → words said instead, to registrations with such a locale (RFC 4647)"
    ),
]


class TargetRequest(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Exactly one of these; `where` may narrow versions or everyone."""

    token: Annotated[
        str, Meta(max_length=512, description="what the device got when it registered, or a subscriber's opaque id")
    ] = ""
    alias: Annotated[str, Meta(max_length=256, description="your own name for a user or device")] = ""
    tag: Annotated[str, Meta(max_length=128, description="all registrations that have it")] = ""
    versions: Annotated[str, Meta(max_length=256, description="PEP 440 set of app versions: `>=2.0,<3`")] = ""
    everyone: Annotated[bool, Meta(description="true: every registration of the app")] = False
    where: Annotated[Condition | None, Meta(description="a condition; alone, or narrows versions or everyone")] = None

    def kinds(self) -> list[str]:
        """The fields that are set."""
        kinds = [name for name in ("token", "alias", "tag", "versions", "everyone") if getattr(self, name)]
        return kinds or (["where"] if self.where is not None else [])


class ServiceRequest(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """What pager service asks the terminal to start (C13); left out = the app's own settings."""

    aid: (
        Annotated[str, Meta(max_length=MOST_AID, description="application id; empty: whatever is there for the token")]
        | None
    ) = None
    server: Annotated[
        int,
        Meta(ge=0, le=MOST_SERVERS - 1, description="place in the list of servers that the terminal has for the AID"),
    ] = 0
    params: Annotated[
        str, Meta(max_length=MOST_PARAMS, description=f"for the app, opaque; at most {MOST_PARAMS} bytes of UTF-8")
    ] = ""


class PushRequest(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """One push. Left out = the registration's, the app's or the gateway's default, in this order."""

    target: TargetRequest
    title: Annotated[str, Meta(max_length=4_096)] = ""
    text: Annotated[str, Meta(max_length=16_384)] = ""
    data: Data = None
    ttl: Seconds | None = None
    urgency: UrgencyName = "normal"
    collapse_key: CollapseKey = ""
    body: BodyName = "auto"
    ack_ms: AckMs | None = None
    notifier_ack_ms: NotifierAckMs | None = None
    fallback: Chain | None = None
    idempotency_key: IdempotencyKey = ""
    deliver_at: DeliverAt | None = None
    over: Over = 0
    localized: Localized = {}
    service: Annotated[ServiceRequest | None, Meta(description="for the notifier service: what it starts")] = None


URGENCIES = {"very-low": Urgency.VERY_LOW, "low": Urgency.LOW, "normal": Urgency.NORMAL, "high": Urgency.HIGH}
BODIES = {body.value: body for body in Body}
