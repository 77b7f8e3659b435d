"""Bodies of the provider API; the OpenAPI document is made from these types. No secret is ever a field of an answer
but the key shown once, and no device id or address is a field at all."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from gateway.api.media import ErrorDetail
from gateway.model.condition import Condition

Milliseconds = Annotated[int, Meta(ge=0, le=86_400_000, description="milliseconds; 0 = the gateway's default")]
Seconds = Annotated[int, Meta(ge=0, le=2_419_200, description="seconds; 0 = the gateway's default")]
Channel = Annotated[str, Meta(min_length=1, max_length=32, pattern="^[a-z0-9_-]+$")]
Chain = Annotated[list[Channel], Meta(max_length=8, description="notifiers in order; empty = never leave the channel")]
OneNotifier = dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=8_192)]]
Settings = Annotated[
    dict[Channel, OneNotifier],
    Meta(max_length=16, description="settings of each notifier by its name; a secret one given as *** stays as it is"),
]
SettingsPatch = Annotated[
    dict[Channel, OneNotifier | None],
    Meta(
        max_length=16,
        description="settings of a notifier by its name, all of them: they take the place of those it has; a secret "
        "one given as *** stays as it is; null takes the notifier away; notifiers left out stay as they are",
    ),
]
Label = Annotated[str, Meta(max_length=128)]
AppName = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
ReceiptsUrl = Annotated[str, Meta(max_length=2_048, pattern=r"^(https?://[^\s]+)?$")]
ReceiptsSecret = Annotated[str, Meta(max_length=256, description="signs receipts posted to receipts_url; write-only")]
Token = Annotated[str, Meta(description="null where the registration is gone")]
UnixMs = Annotated[int, Meta(description="Unix milliseconds")]
UnixS = Annotated[int, Meta(description="Unix seconds")]
NewKey = Annotated[str, Meta(description="shown once, kept only as a hash")]
StateName = Annotated[
    Literal[
        "accepted",
        "sent",
        "notified",
        "waiting",
        "announced",
        "acked",
        "expired",
        "recalled",
        "replaced",
        "rejected",
        "limited",
        "noticed",
        "failed",
    ],
    Meta(description="final: acked, expired, recalled, replaced, rejected, limited; of a download: noticed, failed"),
]
NextOffset = Annotated[int, Meta(description="offset of the next page; null where there is none")]


WebPush = Annotated[
    Literal["off", "open", "vapid"],
    Meta(description="the Web Push door: closed; whoever knows a token; whoever signs (RFC 8292)"),
]
ApnsTopic = Annotated[
    str, Meta(max_length=255, pattern=r"^[A-Za-z0-9._-]*$", description="apns-topic of the app; empty: no APNs door")
]
Fingerprint = Annotated[str, Meta(pattern="^[0-9a-f]{64}$", description="SHA-256 of a client certificate's DER, hex")]
Fingerprints = Annotated[list[Fingerprint], Meta(max_length=16)]


class ApnsKeyIn(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A key that signs provider tokens at the APNs door."""

    key_id: Annotated[str, Meta(min_length=1, max_length=64, description="the token's kid")]
    team_id: Annotated[str, Meta(min_length=1, max_length=64, description="the token's iss")]
    public_key: Annotated[str, Meta(max_length=2_048, description="PEM, P-256")]


ApnsKeys = Annotated[list[ApnsKeyIn], Meta(max_length=16)]


class _In(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    pass


class _Out(msgspec.Struct, kw_only=True, omit_defaults=False):
    pass


# --- operator ---


class LimitsBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """0 = no limit."""

    per_s: Annotated[int, Meta(ge=0, le=10_000_000, description="pushes a second, on average")] = 0
    burst: Annotated[int, Meta(ge=0, le=100_000_000, description="pushes at once, with per_s; 0: as many as per_s")] = 0
    per_day: Annotated[int, Meta(ge=0, le=1 << 53, description="pushes a day (UTC)")] = 0


PerDevice = Annotated[
    int,
    Meta(ge=0, le=1_000_000, description="pushes below high urgency to one registration; 0: no limit"),
]


class AppCreate(_In):
    name: AppName
    ack_ms: Milliseconds = 0
    notifier_ack_ms: Milliseconds = 0
    ttl: Seconds = 0
    fallback: Chain = []
    notifiers: Settings = {}
    receipts_url: ReceiptsUrl = ""
    receipts_secret: ReceiptsSecret = ""
    limits: LimitsBody = LimitsBody()
    device_per_hour: PerDevice = 0
    device_per_day: PerDevice = 0
    webpush: WebPush = "vapid"
    apns_topic: ApnsTopic = ""
    apns_keys: ApnsKeys = []
    apns_certificates: Fingerprints = []


class AppPatch(_In):
    """Fields left out stay as they are."""

    ack_ms: Milliseconds | UnsetType = UNSET
    notifier_ack_ms: Milliseconds | UnsetType = UNSET
    ttl: Seconds | UnsetType = UNSET
    fallback: Chain | UnsetType = UNSET
    notifiers: SettingsPatch | UnsetType = UNSET
    receipts_url: ReceiptsUrl | UnsetType = UNSET
    receipts_secret: ReceiptsSecret | UnsetType = UNSET
    limits: LimitsBody | UnsetType = UNSET
    device_per_hour: PerDevice | UnsetType = UNSET
    device_per_day: PerDevice | UnsetType = UNSET
    webpush: WebPush | UnsetType = UNSET
    apns_topic: ApnsTopic | UnsetType = UNSET
    apns_keys: ApnsKeys | UnsetType = UNSET
    apns_certificates: Fingerprints | UnsetType = UNSET


class ApnsKeyView(_Out):
    key_id: str
    team_id: str
    public_key: str


class AppView(_Out):
    name: str
    ack_ms: int
    notifier_ack_ms: int
    ttl: int
    fallback: list[str]
    notifiers: Annotated[
        dict[str, dict[str, str]], Meta(description="settings of each one; secret values show as *** and nothing else")
    ]
    receipts_url: str
    receipts_signed: Annotated[bool, Meta(description="is a receipts secret set?")]
    limits: LimitsBody
    device_per_hour: int
    device_per_day: int
    keys: int
    created_at: UnixS
    webpush: WebPush
    apns_topic: str
    apns_keys: list[ApnsKeyView]
    apns_certificates: list[str]


class AppCreated(_Out):
    app: AppView
    key: NewKey


class AppList(_Out):
    apps: list[AppView]


class KeyCreate(_In):
    label: Label = ""
    limits: LimitsBody = LimitsBody()


class KeyPatch(_In):
    """Fields left out stay as they are."""

    label: Label | UnsetType = UNSET
    limits: LimitsBody | UnsetType = UNSET


class KeyCreated(_Out):
    id: str
    key: NewKey
    label: str
    created_at: UnixS


class KeyView(_Out):
    id: str
    label: str
    limits: LimitsBody
    created_at: UnixS


class KeyList(_Out):
    keys: list[KeyView]


# --- pushes ---


class PushAccepted(msgspec.Struct, kw_only=True, omit_defaults=True):
    id: str
    targeted: Annotated[int, Meta(description="deliveries made of it; absent for broadcasts")] | None = None
    spooled: Annotated[
        bool, Meta(description="202: kept on the node's disk for now, and taken in when the fleet can be reached")
    ] = False


class BatchResult(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One line of the answer to a batch. The stream ends early with an error where the rest could not be read."""

    index: int
    status: int
    id: str | None = None
    targeted: int | None = None
    error: ErrorDetail | None = None
    #: with status 202
    spooled: bool = False


class SpoolView(_Out):
    """A push that a node keeps, or kept, in its spool and that is no push of the fleet."""

    id: str
    state: Annotated[
        Literal["spooled", "refused", "expired", "recalled"],
        Meta(description="spooled: it waits; refused: `error` says why the fleet did not take it"),
    ]
    accepted_at_ms: UnixMs
    expires_at: Annotated[UnixS, Meta(description="while it waits")] | None
    error: ErrorDetail | None


class StepView(_Out):
    at_ms: UnixMs
    what: Annotated[str, Meta(description="accepted, sent, acked, shown, ack_timeout, notified, recheck, …")]
    channel: Annotated[str, Meta(description="`edge` is the device's own connection, else a notifier; empty: neither")]
    detail: str


class DeliveryView(_Out):
    token: Token | None
    state: StateName
    at_ms: UnixMs
    steps: list[StepView]


class TargetView(msgspec.Struct, omit_defaults=True, kw_only=True):
    token: str = ""
    alias: str = ""
    tag: str = ""
    versions: str = ""
    everyone: bool = False
    where: Condition | None = None


class PushView(_Out):
    id: str
    target: TargetView
    state: Annotated[
        Literal["scheduled", "pending", "done", "live", "expired", "recalled", "rejected"],
        Meta(
            description="scheduled: kept for its time, or its audience is looked for; pending until every delivery has "
            "a final state, then done; a broadcast: live until it ends"
        ),
    ]
    accepted_at_ms: UnixMs
    expires_at: UnixS
    deliver_at: Annotated[UnixS, Meta(description="while it is scheduled")] | None
    over: Annotated[int, Meta(description="seconds over which it is sent")]
    urgency: Literal["very-low", "low", "normal", "high"]
    collapse_key: str
    body: Literal["auto", "at_once", "on_demand"]
    ack_ms: int
    notifier_ack_ms: int
    fallback: Annotated[list[str], Meta(description="null: each registration's or the app's own chain")] | None
    deliveries: Annotated[list[DeliveryView], Meta(description="one page, see offset and limit; none for a broadcast")]
    figures: Annotated[dict[str, int], Meta(description="deliveries by state; a broadcast: targeted, sent, acked")]
    next_offset: NextOffset | None


class Counts(_Out, kw_only=True):
    targeted: int = 0
    sent: Annotated[int, Meta(description="put on the device's own connection")] = 0
    acked: int = 0
    shown: int = 0
    notified: Annotated[int, Meta(description="taken by a notifier")] = 0
    expired: int = 0
    recalled: int = 0
    replaced: int = 0
    rejected: int = 0
    limited: int = 0
    pending: int = 0


class Statistics(Counts, kw_only=True):
    versions: Annotated[dict[str, Counts], Meta(description="by app version; `*`: those past the first hundred")]
    complete: Annotated[bool, Meta(description="false: sent, shown, notified and versions are of the first 100,000")]


class ScheduledView(_Out):
    id: str
    deliver_at: UnixS


class ScheduledPage(_Out):
    count: Annotated[int, Meta(description="of all of this app that wait")]
    scheduled: list[ScheduledView]
    next_offset: NextOffset | None


class DeadToken(_Out):
    cursor: int
    token: str
    at_ms: UnixMs
    why: Annotated[
        Literal["revoked", "gone"],
        Meta(description="revoked: forget the token; gone: the notifier's address of it is dead, the token lives on"),
    ]
    channel: Annotated[str, Meta(description="the notifier; empty where the token itself is dead")]


class DeadTokenPage(_Out):
    dead_tokens: list[DeadToken]
    cursor: Annotated[int, Meta(description="give it as `after` the next time")]


class Recalled(_Out):
    recalled: Annotated[int, Meta(description="deliveries that end with it")]
    too_late: Annotated[int, Meta(description="deliveries that had ended already")]


class ReceiptView(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The end of a delivery, or of a download to a card: `download` stands in its line alone."""

    cursor: int
    push: Annotated[str, Meta(description="id of the push it belongs to; null: it is of a download")] | None
    download: Annotated[str, Meta(description="id of the download whose end it is; null: it is of a push")] | None = (
        None
    )
    delivery: Annotated[int, Meta(description="which of the push's deliveries; (push, delivery) is unique")]
    token: Token | None
    state: StateName
    at_ms: UnixMs
    steps: list[StepView]


class ReceiptPage(_Out):
    receipts: list[ReceiptView]
    cursor: Annotated[int, Meta(description="give it as `after` the next time")]


# --- registrations ---


class RegistrationView(_Out):
    token: str
    app: str
    version: str
    account: str
    alias: str
    tags: list[str]
    os: str
    locale: str
    timezone: str
    quiet: Annotated[str, Meta(description="local hours in which only urgent pushes come; empty: none")]
    connected: Annotated[bool, Meta(description="is its device connected now? (B1)")]
    created_at: UnixS


class RegistrationPage(_Out):
    count: Annotated[int, Meta(description="of all registrations with the alias or tag")]
    registrations: list[RegistrationView]
    next_offset: NextOffset | None


class RegistrationUpdate(_In):
    """Fields left out or null stay as they are; "" and [] take away."""

    alias: Annotated[str, Meta(max_length=128)] | None = None
    tags: Annotated[list[Annotated[str, Meta(min_length=1, max_length=64)]], Meta(max_length=100)] | None = None
    addresses: (
        Annotated[
            dict[Channel, Annotated[str, Meta(min_length=1, max_length=1_024)]],
            Meta(max_length=8, description="where each notifier reaches the device; write-only"),
        ]
        | None
    ) = None
    fallback: Chain | None = None
    os: (
        Annotated[str, Meta(max_length=32, pattern=r"^[^\x00-\x1f\x7f]*$", description="android, ios, …: lower case")]
        | None
    ) = None
    locale: Annotated[str, Meta(max_length=35, description="language tag (BCP 47): chooses localised words")] | None = (
        None
    )
    timezone: Annotated[str, Meta(max_length=64, description="IANA name: Europe/Berlin")] | None = None
    quiet: (
        Annotated[str, Meta(max_length=11, description="local hours in which only urgent pushes come: 22:00-07:00")]
        | None
    ) = None


# --- operations ---


class Health(_Out):
    status: Literal["alive"] = "alive"


class UnservedPartition(_Out):
    partition: int
    for_s: Annotated[float, Meta(description="nobody has served it for so long")]
    reason: str


class Readiness(_Out):
    ready: bool
    reasons: list[str]
    unserved: Annotated[
        list[UnservedPartition] | msgspec.UnsetType,
        Meta(description="of a fleet, where there are any: parts that no node has served for a while"),
    ] = msgspec.UNSET
