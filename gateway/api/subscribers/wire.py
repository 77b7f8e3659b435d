"""Bodies of the subscribers' routes. A network id stands in bodies alone, never in a path or query, for paths are known
to proxies; and only the operator is ever answered with one."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from gateway.api.wire import AppName

KindName = Literal["imsi", "imei", "impi", "msisdn", "impu", "nai", "ip", "mac"]
OpaqueName = Literal["o-tmsi", "o-tmsn", "app-uid"]
OpaqueText = Annotated[str, Meta(min_length=1, max_length=512, description="an opaque id in any of its forms")]
ClassName = Annotated[str, Meta(max_length=80, description="a class of identity.classes, as in apn:internet")]
UnixMs = Annotated[int, Meta(description="Unix milliseconds")]
Until = Annotated[int, Meta(description="Unix milliseconds; null: permanent")]


class NetworkIdBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What the network knows a subscriber by."""

    kind: KindName
    value: Annotated[str, Meta(min_length=1, max_length=253)]

    def __repr__(self) -> str:
        return "NetworkIdBody(hidden)"


class _In(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    pass


class TriggerBody(_In):
    """Neither app nor class: ids of the terminal, for any app that is given one."""

    network_ids: Annotated[list[NetworkIdBody], Meta(min_length=1, max_length=64)]
    trigger: Annotated[
        Literal["attach", "location_update", "session", "service", "terminal", "app_server", "source_ip"],
        Meta(description="app_server and source_ip ask about a subscriber; the others tell of one, who may be new"),
    ]
    app: AppName | None = None
    class_: ClassName | None = msgspec.field(name="class", default=None)
    kinds: Annotated[list[OpaqueName], Meta(max_length=3, description="empty: all that can be made")] = []
    replace: (
        Annotated[
            bool,
            Meta(
                description="true: fresh ids, the old ones end at once; false: the old ones stay as they are; null: as "
                "the trigger has it"
            ),
        ]
        | None
    ) = None
    together: Annotated[bool, Meta(description="one id for both, where there is one IMSI and one MSISDN")] = False
    further: Annotated[bool, Meta(description="one more beside those there are")] = False
    validity_s: Annotated[int, Meta(ge=0, le=315_360_000, description="0: permanent")] | None = None
    move: Annotated[bool, Meta(description="network ids that are another subscriber's now are this one's")] = False


class ByNetworkId(_In):
    network_id: NetworkIdBody


class OpaqueView(msgspec.Struct, kw_only=True):
    id: Annotated[str, Meta(description="local@host")]
    url: str
    kinds: list[OpaqueName]
    app: Annotated[str, Meta(description="the id selects this app; null: an application id goes beside it")] | None
    class_: str | None = msgspec.field(name="class")
    from_ms: UnixMs
    until_ms: Until | None


class IdsView(msgspec.Struct, kw_only=True):
    ids: list[OpaqueView]


class TriggerAnswer(IdsView, kw_only=True):
    drawn: Annotated[int, Meta(description="how many of them are new")]
    replaced: Annotated[bool, Meta(description="were older ones ended?")]


class RevokeBody(_In):
    """Either one id, or all of a subscriber."""

    id: OpaqueText | None = None
    network_id: NetworkIdBody | None = None
    forget: Annotated[bool, Meta(description="the subscriber too, opt-outs included; history stays")] = False


class Revoked(msgspec.Struct, kw_only=True):
    revoked: int


class OptOutBody(_In):
    """Neither app nor class: out of everything."""

    network_id: NetworkIdBody
    app: AppName | None = None
    class_: ClassName | None = msgspec.field(name="class", default=None)
    out: Annotated[bool, Meta(description="false: takes part again")] = True


class OptOuts(msgspec.Struct, kw_only=True):
    out: Annotated[list[str], Meta(description="`*`, `app:…`, `class:…`")]


class ResolveBody(_In):
    id: OpaqueText
    app: Annotated[AppName, Meta(description="as which app it is looked up")]


class NetworkIdView(msgspec.Struct, kw_only=True):
    kind: KindName
    value: str

    def __repr__(self) -> str:
        return "NetworkIdView(hidden)"


class Resolved(msgspec.Struct, kw_only=True):
    """`elsewhere`: it is another gateway's, found there."""

    network_ids: list[NetworkIdView]
    kinds: list[OpaqueName]
    elsewhere: str | None = None


class HistoryBody(_In):
    id: OpaqueText


class PastView(msgspec.Struct, kw_only=True):
    network_ids: list[NetworkIdView]
    from_ms: UnixMs
    until_ms: Until | None
    why: Annotated[str, Meta(description="of the end; empty: it lapsed, or is live")]


class HistoryView(msgspec.Struct, kw_only=True):
    history: list[PastView]


class AskBody(_In):
    """Without a class: an id of the app's own."""

    nai: Annotated[str, Meta(min_length=1, max_length=253, description="user@realm (RFC 7542)")]
    class_: ClassName | None = msgspec.field(name="class", default=None)

    def __repr__(self) -> str:
        return "AskBody(hidden)"


class NewsView(OpaqueView, kw_only=True):
    cursor: int
    replaces: Annotated[list[str], Meta(description="ids of the same user that were told before")]


class NewsPage(msgspec.Struct, kw_only=True):
    ids: list[NewsView]
    cursor: Annotated[int, Meta(description="give it as `after` the next time")]


class LocateBody(_In):
    id: OpaqueText


class Located(msgspec.Struct, kw_only=True):
    gateway: Annotated[str, Meta(description="URL of the gateway the id names")]
